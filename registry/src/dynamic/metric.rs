//! Prune metrics of libraries.

use std::mem::size_of;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::Tensor;
use yolo_abi::{FloatRows, TextBuffer, YoloGroup, YoloMetricVt, YoloSelf, YoloStr, YoloTensor, YoloText, needs};
use yolo_core::PruneMetric;
use yolo_core::prune::{GroupTensors, MetricInputs};

use super::component::{Component, Refusal, Source};
use super::fail::Failure;
use super::host::lend;
use super::library::Library;
use crate::error::{Code, PluginError};

/// A metric of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicMetric {
    component: Component<YoloMetricVt>,
    needs: MetricInputs,
}

impl TryFrom<Source> for DynamicMetric {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        let component = Component::<YoloMetricVt>::create(source)?;
        let functions = component.functions();
        let mut bits = 0;
        let function = functions.needs.ok_or_else(|| component.lacks())?;
        // SAFETY: the place for the result is ours, the function is of a metric.
        component.call(|raw, error| unsafe { function(raw, &raw mut bits, error) })?;
        let needs = inputs(bits, component.name())
            .map_err(|error| error.detail("library", component.library().path().display()))?;
        Ok(Self { component, needs })
    }
}

impl From<DynamicMetric> for Source {
    fn from(metric: DynamicMetric) -> Self {
        metric.component.source
    }
}

#[typetag::serde(name = "@dynamic")]
impl PruneMetric for DynamicMetric {
    fn needs(&self) -> MetricInputs {
        self.needs
    }

    fn score(&self, group: &GroupTensors) -> yolo_core::Result<Vec<f32>> {
        let component = &self.component;
        let function = component.functions().score.ok_or_else(|| component.lacks())?;
        let mut rows = FloatRows::with_limit(group.channels);
        let lent = Lent::of(group);
        let raw_group = lent.group();
        // SAFETY: group and rows are good during the call, the function is of a metric.
        component.call(|raw, error| unsafe { function(raw, &raw const raw_group, rows.floats(), error) })?;
        one_row(rows, group, component.name())
            .map_err(|error| error.detail("library", component.library().path().display()).into())
    }
}

/// What the bits of a metric ask for.
fn inputs(bits: u32, name: &str) -> Result<MetricInputs, PluginError> {
    const KNOWN: u32 = needs::WEIGHT | needs::BN | needs::GRAD | needs::GRAD_SQUARE | needs::ACTIVATION;
    if bits & !KNOWN != 0 {
        let message = format!("`{name}` asks for inputs that this yolo does not have (bits {bits:#x})");
        return Err(PluginError::new(Code::BadResult, message));
    }
    Ok(MetricInputs {
        weight: bits & needs::WEIGHT != 0,
        bn: bits & needs::BN != 0,
        grad: bits & needs::GRAD != 0,
        grad_square: bits & needs::GRAD_SQUARE != 0,
        activation: bits & needs::ACTIVATION != 0,
    })
}

/// The one row of scores: as many as there are channels, all finite.
fn one_row(mut rows: FloatRows, group: &GroupTensors, name: &str) -> Result<Vec<f32>, PluginError> {
    let bad = |reason: String| {
        Err(PluginError::new(
            Code::BadResult,
            format!("`{name}` {reason} of `{}`", group.name),
        ))
    };
    let row = match (rows.rows.pop(), rows.rows.len()) {
        (Some(row), 0) => row,
        (last, more) => {
            return bad(format!(
                "gave {} rows of scores, not one, for the channels",
                more + usize::from(last.is_some())
            ));
        }
    };
    if row.len() != group.channels {
        let more = if row.len() > group.channels { "more than " } else { "" };
        return bad(format!(
            "gave {more}{} scores for the {} channels",
            row.len().min(group.channels),
            group.channels
        ));
    }
    match row.iter().position(|score| !score.is_finite()) {
        Some(channel) => bad(format!("gave {} for channel {channel}", row[channel])),
        None => Ok(row),
    }
}

/// Handles of a group's tensors for one call.
struct Lent<'a> {
    group: &'a GroupTensors,
    weights: Vec<YoloTensor>,
    weight_grads: Vec<YoloTensor>,
    gammas: Vec<YoloTensor>,
    betas: Vec<YoloTensor>,
    gamma_grads: Vec<YoloTensor>,
    weight_squares: Vec<YoloTensor>,
    gamma_squares: Vec<YoloTensor>,
    activations: Vec<YoloTensor>,
}

impl<'a> Lent<'a> {
    fn of(group: &'a GroupTensors) -> Self {
        let handles = |tensors: &[Tensor]| tensors.iter().map(lend).collect();
        Self {
            group,
            weights: handles(&group.weights),
            weight_grads: handles(&group.weight_grads),
            gammas: handles(&group.gammas),
            betas: handles(&group.betas),
            gamma_grads: handles(&group.gamma_grads),
            weight_squares: handles(&group.weight_squares),
            gamma_squares: handles(&group.gamma_squares),
            activations: handles(&group.activations),
        }
    }

    fn group(&self) -> YoloGroup {
        YoloGroup {
            struct_size: size_of::<YoloGroup>() as u32,
            _reserved: 0,
            name: YoloStr::new(&self.group.name),
            index: self.group.index.0 as u64,
            count: self.group.index.1 as u64,
            channels: self.group.channels as u64,
            weights: self.weights.as_ptr(),
            weight_count: self.weights.len(),
            weight_grads: self.weight_grads.as_ptr(),
            weight_grad_count: self.weight_grads.len(),
            gammas: self.gammas.as_ptr(),
            gamma_count: self.gammas.len(),
            betas: self.betas.as_ptr(),
            beta_count: self.betas.len(),
            gamma_grads: self.gamma_grads.as_ptr(),
            gamma_grad_count: self.gamma_grads.len(),
            weight_squares: self.weight_squares.as_ptr(),
            weight_square_count: self.weight_squares.len(),
            gamma_squares: self.gamma_squares.as_ptr(),
            gamma_square_count: self.gamma_squares.len(),
            activations: self.activations.as_ptr(),
            activation_count: self.activations.len(),
        }
    }
}

/// A metric that a pruner of a library lends for one call of `scores`.
#[derive(Debug)]
pub(super) struct LentMetric {
    functions: &'static YoloMetricVt,
    raw: YoloSelf,
    library: &'static Library,
    needs: MetricInputs,
}

// SAFETY: the boundary demands that metrics may be used from several threads at once.
unsafe impl Send for LentMetric {}
// SAFETY: as above.
unsafe impl Sync for LentMetric {}

impl LentMetric {
    /// # Safety
    /// `functions` is null or a table that lives for ever; `raw` is good while the metric is used.
    pub unsafe fn new(
        functions: *const YoloMetricVt,
        raw: YoloSelf,
        library: &'static Library,
    ) -> yolo_core::Result<Self> {
        // SAFETY: as for this function.
        let functions = unsafe { functions.as_ref() }
            .filter(|functions| functions.struct_size as usize >= size_of::<YoloMetricVt>())
            .ok_or_else(|| PluginError::new(Code::BadTable, "a pruner passed a metric without functions"))?;
        let mut metric = Self {
            functions,
            raw,
            library,
            needs: MetricInputs::default(),
        };
        let mut bits = 0;
        let function = functions.needs.ok_or_else(|| metric.lacks())?;
        // SAFETY: the place for the result is ours.
        metric.call(|raw, error| unsafe { function(raw, &raw mut bits, error) })?;
        metric.needs = inputs(bits, metric.name())?;
        Ok(metric)
    }

    fn name(&self) -> &'static str {
        self.library.crate_name()
    }

    fn lacks(&self) -> PluginError {
        PluginError::new(
            Code::BadTable,
            format!("a metric of `{}` lacks a function", self.name()),
        )
    }

    fn call(&self, function: impl FnOnce(YoloSelf, YoloText) -> i32) -> yolo_core::Result<()> {
        let mut error = TextBuffer::new();
        let code = function(self.raw, error.text());
        Failure::check(code, &error).map_err(|failure| failure.error(self.name(), self.library.path()))
    }
}

#[typetag::serde(name = "@lent")]
impl PruneMetric for LentMetric {
    fn needs(&self) -> MetricInputs {
        self.needs
    }

    fn score(&self, group: &GroupTensors) -> yolo_core::Result<Vec<f32>> {
        let function = self.functions.score.ok_or_else(|| self.lacks())?;
        let mut rows = FloatRows::with_limit(group.channels);
        let lent = Lent::of(group);
        let raw_group = lent.group();
        // SAFETY: group and rows are good during the call.
        self.call(|raw, error| unsafe { function(raw, &raw const raw_group, rows.floats(), error) })?;
        Ok(one_row(rows, group, self.name())?)
    }
}

impl Serialize for LentMetric {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(
            "a metric that a pruner lends has no form as data",
        ))
    }
}

impl<'de> Deserialize<'de> for LentMetric {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "a metric that a pruner lends has no form as data",
        ))
    }
}
