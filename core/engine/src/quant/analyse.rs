//! Which layers of a quantized network its error comes from: each layer alone quantized, and each alone put back into float.
//!
//! What must not be here: which layers stay in float then (`mixed`), and how any of it is shown.

use serde::Serialize;
use tch::{Kind, Tensor};
use yolo_core::exec::channels_last;
use yolo_core::quant::QuantLayer;
use yolo_core::{Graph, Mode, Params, Program, Progress, passes};

use super::{Calibrated, Divergence};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// What one layer does to the raw maps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// The layer.
    #[serde(flatten)]
    pub layer: QuantLayer,
    /// Signal to noise of the raw maps in dB with this layer alone quantized.
    pub alone: f64,
    /// The same with this layer alone in float.
    pub without: f64,
    /// How far the predictions for an image diverge with this layer alone quantized, in nats.
    pub diverges_alone: f64,
    /// The same with this layer alone in float.
    pub diverges_without: f64,
    /// mAP on a sample with this layer alone in float, where it was measured.
    pub map: Option<f64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Images that the raw maps were compared on.
    pub images: usize,
    /// Signal to noise of the raw maps in dB with all layers quantized.
    pub snr: f64,
    /// The same for each map, finest stride first.
    pub levels: Vec<f64>,
    /// How far the predictions for an image diverge from those in float with all layers quantized, in nats.
    pub divergence: f64,
    /// The layers, the one that takes most of the divergence with it first.
    pub layers: Vec<Sensitivity>,
}

impl Analysis {
    /// Names of the layers, the one that takes most of the divergence with it first.
    pub fn order(&self) -> Vec<String> {
        self.layers.iter().map(|own| own.layer.name.clone()).collect()
    }
}

/// Signal to noise that counts as none: equal maps have no noise at all.
const NONE: f64 = 200.0;

/// Power of a signal and of its error.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Power {
    signal: f64,
    noise: f64,
}

impl Power {
    fn of(wanted: &Tensor, found: &Tensor) -> Result<Self> {
        let wanted = wanted.f_to_kind(Kind::Double)?;
        let sum = |x: Tensor| -> Result<f64> { Ok(x.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?) };
        Ok(Self {
            noise: sum(found.f_to_kind(Kind::Double)?.f_sub(&wanted)?)?,
            signal: sum(wanted)?,
        })
    }

    /// `10 log10(signal / noise)`.
    fn decibels(self) -> f64 {
        (10.0 * (self.signal / self.noise).log10()).min(NONE)
    }
}

/// Compares the raw maps of `calibrated` with those of the model that it was made from, `float`, on `images` `[N, C, H, W]`.
///
/// # Errors
/// [`Error::Settings`] where nothing is quantized, [`Error::NotFinite`] where a map is not finite, and those of the network.
pub fn analyse(
    float: &Checkpoint,
    calibrated: &Calibrated,
    images: &Tensor,
    progress: &dyn Progress,
) -> Result<Analysis> {
    let layers = calibrated.layers();
    if layers.is_empty() {
        return Err(Error::Settings("nothing of the network is quantized".into()));
    }
    let wanted = maps(&float.graph, &float.params, images)?;
    let divergence = Divergence::of(&float.graph)?;
    let count = images.size().first().copied().unwrap_or_default();
    let against = |names: &[String]| -> Result<(Vec<Power>, f64)> {
        let (graph, params) = calibrated.network(names)?;
        let found = maps(&graph, &params, images)?;
        let powers: Result<Vec<Power>> = wanted.iter().zip(&found).map(|(a, b)| Power::of(a, b)).collect();
        let apart = tch::no_grad(|| divergence.sum(&wanted, &found))?;
        Ok((powers?, apart.f_double_value(&[])? / count.max(1) as f64))
    };
    let (all, diverges) = against(&[])?;
    let mut found = Vec::with_capacity(layers.len());
    let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
    for (done, layer) in layers.into_iter().enumerate() {
        let own = vec![layer.name.clone()];
        let others: Vec<String> = names.iter().filter(|name| **name != layer.name).cloned().collect();
        let (alone, without) = (against(&others)?, against(&own)?);
        found.push(Sensitivity {
            alone: total(&alone.0),
            without: total(&without.0),
            diverges_alone: alone.1,
            diverges_without: without.1,
            layer,
            map: None,
        });
        progress.step(done + 1, names.len(), "")?;
    }
    found.sort_by(|a, b| a.diverges_without.total_cmp(&b.diverges_without));
    Ok(Analysis {
        images: count as usize,
        snr: total(&all),
        divergence: diverges,
        levels: all.into_iter().map(Power::decibels).collect(),
        layers: found,
    })
}

fn total(levels: &[Power]) -> f64 {
    let add = |a: Power, b: &Power| Power {
        signal: a.signal + b.signal,
        noise: a.noise + b.noise,
    };
    levels.iter().fold(Power::default(), add).decibels()
}

fn maps(graph: &Graph, params: &Params, images: &Tensor) -> Result<Vec<Tensor>> {
    let (graph, params) = passes::for_inference(graph, params)?;
    let params: Params = params
        .iter()
        .map(|(key, tensor)| (key.to_owned(), channels_last(&tensor.detach())))
        .collect();
    let maps = tch::no_grad(|| Program::new(&graph, &params)?.run(images, Mode::Eval))?;
    for map in &maps {
        if !map.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
            return Err(Error::NotFinite);
        }
    }
    Ok(maps)
}
