//! Tuning of a calibrated network: ranges of activations and biases learn to give what the float network predicts, on images without
//! labels.
//!
//! A range that is best for its own tensor, or a bias that is right in the mean, is not what is best for the boxes: nearly all places of a
//! map are background. So the error is counted where it matters, at the predictions: the divergence of what both networks say (objectness;
//! and, as far as the float network sees an object there, class and box), and its gradient reaches every range and bias at once
//! (reconstruction of the whole network, the coarsest of the units that BRECQ compares, arXiv 2102.05426, section 3.2; steps of ranges as
//! in LSQ, arXiv 1902.08153, and LSQ+, arXiv 2004.09576). A few thousand numbers learn, no weight does: too few to learn images by heart.
//!
//! What must not be here: labels, and training of weights (`train`).

use tch::{Kind, Tensor};
use yolo_core::exec::channels_last;
use yolo_core::quant::Method;
use yolo_core::{Graph, Mode, Op, Params, Program, Progress, passes};
use yolo_data::Loader;

use super::{Calibrated, Divergence};
use crate::batch::image_tensor;
use crate::checkpoint::{Checkpoint, HistoryEntry};
use crate::{Error, Result};

/// What a step of Adam moves a range by, as a share of it; zero points by as much of their grid, biases by as much of the step of the
/// quantizer behind them, times the number of its steps.
const RATE: f64 = 2e-3;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Tuned {
    /// Mean divergence of an image before.
    pub before: f64,
    /// The same afterwards; not finite where the steps have led nowhere.
    pub after: f64,
}

impl Tuned {
    /// One line for a person.
    pub fn said(&self) -> String {
        let [before, after] = [self.before, self.after].map(shown);
        match self.after < self.before {
            true => {
                format!("tuned: predictions diverge from those of the float network by {after}, before by {before}")
            }
            false => format!("tuning did not help ({before}, then {after}): ranges stay as they were found"),
        }
    }
}

/// A divergence for a person.
fn shown(nats: f64) -> String {
    match nats.abs() >= 0.1 {
        true => format!("{nats:.3}"),
        false => format!("{nats:.2e}"),
    }
}

/// Tunes `calibrated`, made from `float`, for `epochs` epochs over `images`. Where that does not bring its predictions nearer to those of the
/// float network, it stays as it was. `progress` hears of batches.
///
/// # Errors
/// Those of the networks and the images, and those of `progress`.
pub fn tune(
    calibrated: &mut Calibrated,
    float: &Checkpoint,
    images: &Loader,
    epochs: usize,
    progress: &dyn Progress,
) -> Result<Tuned> {
    let (graph, start) = (&calibrated.model.graph, &calibrated.model.params);
    let (float_graph, float_params) = tch::no_grad(|| passes::for_inference(&float.graph, &float.params))?;
    let pair = Pair {
        float: Program::new(&float_graph, &laid_out(&float_params))?,
        divergence: Divergence::of(graph)?,
        device: start.device(),
    };
    let mut params = laid_out(start);
    let mut adam = Adam::of(graph, &mut params, epochs * images.batches())?;
    let program = Program::new(graph, &params)?;
    let total = (epochs + 2) * images.batches();
    let mut done = 0;
    let mut step = |loss: f64| {
        done += 1;
        progress.step(done, total, &format!("divergence {}", shown(loss)))
    };
    let before = pair.mean(&program, images, &mut step)?;
    if !before.is_finite() {
        return Err(Error::NotFinite);
    }
    for epoch in 0..epochs {
        for batch in images.epoch(epoch) {
            let seen = image_tensor(&batch?, pair.device)?;
            let loss = pair.of_batch(&program, &seen, Mode::Train)?;
            loss.f_backward()?;
            adam.step()?;
            step(loss.f_double_value(&[])?)?;
        }
    }
    let after = pair.mean(&program, images, &mut step)?;
    if after < before {
        let params = on_grid(graph, &params)?;
        calibrated.model.params = params;
        calibrated.model.meta.history.push(HistoryEntry {
            kind: "tune".into(),
            summary: format!(
                "ranges and biases, {epochs} epochs: divergence {} to {}",
                shown(before),
                shown(after)
            ),
            settings: serde_json::json!({"epochs": epochs, "images": images.samples().len()}),
        });
    }
    Ok(Tuned { before, after })
}

/// Own copies, as convolutions like them.
fn laid_out(params: &Params) -> Params {
    params
        .iter()
        .map(|(key, tensor)| (key.to_owned(), channels_last(&tensor.detach().copy())))
        .collect()
}

/// The tensors as a file holds them: zero points are points of their grid, scales positive.
fn on_grid(graph: &Graph, params: &Params) -> Result<Params> {
    let mut own: Params = (params
        .iter()
        .map(|(key, tensor)| (key.to_owned(), tensor.detach().contiguous())))
    .collect();
    for node in &graph.nodes {
        if let Op::FakeQuant { quant } = &node.op {
            let [scale, zero] = ["scale", "zero_point"].map(|end| format!("{}.{end}", node.name));
            let at = own.require(&zero)?.f_round()?.f_clamp(quant.qmin, quant.qmax)?;
            let step = own.require(&scale)?.f_abs()?;
            own.insert(zero, at);
            own.insert(scale, step);
        }
    }
    Ok(own)
}

/// The float network, and how its predictions are compared with those of the other.
struct Pair {
    float: Program,
    divergence: Divergence,
    device: tch::Device,
}

impl Pair {
    /// Mean divergence over images.
    fn mean(
        &self,
        program: &Program,
        images: &Loader,
        step: &mut dyn FnMut(f64) -> yolo_core::Result<()>,
    ) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in images.epoch(0) {
            let seen = image_tensor(&batch?, self.device)?;
            let loss = tch::no_grad(|| self.of_batch(program, &seen, Mode::Eval))?.f_double_value(&[])?;
            sum += loss * seen.size()[0] as f64;
            count += seen.size()[0] as f64;
            step(loss)?;
        }
        Ok(sum / f64::max(count, 1.0))
    }

    /// Mean divergence of the images of a batch.
    fn of_batch(&self, program: &Program, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let wanted = tch::no_grad(|| self.float.run(images, Mode::Eval))?;
        let found = program.run(images, mode)?;
        let sum = self.divergence.sum(&wanted, &found)?;
        Ok(sum.f_div_scalar(images.size()[0] as f64)?)
    }
}

/// One tensor that learns.
struct Slot {
    tensor: Tensor,
    rate: f64,
    mean: Tensor,
    square: Tensor,
}

/// Adam (arXiv 1412.6980) with a rate for each tensor, which falls along a cosine.
struct Adam {
    slots: Vec<Slot>,
    done: usize,
    steps: usize,
}

impl Adam {
    /// For what learns of `params`, which is marked so.
    fn of(graph: &Graph, params: &mut Params, steps: usize) -> Result<Self> {
        let mut slots = Vec::new();
        let consumers = graph.consumers();
        let mut learn = |params: &mut Params, key: String, rate: f64| -> Result<()> {
            let tensor = params.require(&key)?.set_requires_grad(true);
            slots.push(Slot {
                rate,
                mean: tensor.f_zeros_like()?.detach(),
                square: tensor.f_zeros_like()?.detach(),
                tensor: tensor.shallow_clone(),
            });
            params.insert(key, tensor);
            Ok(())
        };
        for (value, node) in graph.values().zip(&graph.nodes) {
            match &node.op {
                Op::FakeQuant { quant } if quant.method == Method::Learnable => {
                    let key = format!("{}.scale", node.name);
                    let scale = params.require(&key)?.f_abs()?.f_max()?.f_double_value(&[])?;
                    learn(params, key, RATE * scale)?;
                    if !quant.symmetric {
                        let steps = (quant.qmax - quant.qmin) as f64;
                        learn(params, format!("{}.zero_point", node.name), RATE * steps)?;
                    }
                }
                Op::Conv2d { bias: true, .. } | Op::Linear { bias: true, .. } => {
                    let key = format!("{}.bias", node.name);
                    let behind = consumers[value.index()].iter().find_map(|reader| {
                        let reader = graph.node(*reader);
                        matches!(reader.op, Op::FakeQuant { .. }).then(|| format!("{}.scale", reader.name))
                    });
                    let rate = match behind.and_then(|key| params.get(&key)) {
                        Some(scale) => 255.0 * scale.f_abs()?.f_max()?.f_double_value(&[])?,
                        None => params
                            .require(&key)?
                            .f_abs()?
                            .f_mean(Kind::Double)?
                            .f_double_value(&[])?,
                    };
                    learn(params, key, 0.1 * RATE * rate)?;
                }
                _ => {}
            }
        }
        if slots.is_empty() {
            return Err(Error::Settings("nothing of the network can be tuned".into()));
        }
        Ok(Self { slots, done: 0, steps })
    }

    fn step(&mut self) -> Result<()> {
        const BETAS: [f64; 2] = [0.9, 0.99];
        self.done += 1;
        let share = self.done as f64 / (self.steps + 1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        let [bias, bias2] = BETAS.map(|beta| 1.0 - beta.powi(self.done as i32));
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let mut grad = slot.tensor.grad();
                if !grad.defined() {
                    continue;
                }
                let _ = slot.mean.f_lerp_(&grad, 1.0 - BETAS[0])?;
                let _ = slot.square.f_lerp_(&grad.f_square()?, 1.0 - BETAS[1])?;
                let root = slot.square.f_div_scalar(bias2)?.f_sqrt()?.f_add_scalar(1e-12)?;
                let step = slot.mean.f_div_scalar(bias)?.f_div(&root)?;
                let _ = slot.tensor.f_sub_(&step.f_mul_scalar(cosine * slot.rate)?)?;
                let _ = grad.f_zero_()?;
            }
            Ok(())
        })
    }
}
