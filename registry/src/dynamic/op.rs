//! Custom ops of libraries: tensors cross as handles of the one libtorch, and autograd with them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;
use yolo_abi::{YoloOpVt, YoloTensor};
use yolo_core::graph::CustomOp;
use yolo_core::wire::{OpFacts, ShapeReply, ShapeRequest};
use yolo_core::{GraphBuilder, ParamSpec, ValueId};

use super::component::{Component, Refusal, Source};
use super::host::lend;
use super::model::{bad_graph, fragment};

/// Most multiply-adds that an op may claim.
const MAX_MACS: i64 = 1 << 60;

/// A custom op of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicOp {
    component: Component<YoloOpVt>,
    facts: OpFacts,
}

impl TryFrom<Source> for DynamicOp {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        let component = Component::<YoloOpVt>::create(source)?;
        let facts: OpFacts = component.request(component.functions().describe, &Value::Object(Default::default()))?;
        if let Some(spec) = facts.params.iter().find(|spec| !sound(spec)) {
            return Err(component
                .bad_result(&format!("its tensor {spec:.200?} makes no sense"))
                .into());
        }
        Ok(Self { component, facts })
    }
}

/// Whether a tensor that a library asks for makes sense.
pub(super) fn sound(spec: &ParamSpec) -> bool {
    !spec.key.is_empty()
        && spec.key.len() <= 100
        && spec
            .key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
        && spec.shape.len() <= yolo_abi::MAX_RANK
        && spec.shape.iter().all(|size| (1..=1 << 30).contains(size))
}

impl From<DynamicOp> for Source {
    fn from(op: DynamicOp) -> Self {
        op.component.source
    }
}

impl DynamicOp {
    fn reply(&self, inputs: &[&[i64]]) -> yolo_core::Result<ShapeReply> {
        let inputs: Vec<Vec<i64>> = inputs.iter().map(|shape| shape.to_vec()).collect();
        self.component.request(
            self.component.functions().shape,
            &ShapeRequest {
                inputs: Cow::Owned(inputs),
            },
        )
    }
}

#[typetag::serde(name = "@dynamic")]
impl CustomOp for DynamicOp {
    fn name(&self) -> &str {
        &self.facts.label
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.facts.params.clone()
    }

    fn shape(&self, inputs: &[&[i64]]) -> yolo_core::Result<Vec<i64>> {
        Ok(self.reply(inputs)?.shape)
    }

    fn macs(&self, inputs: &[&[i64]], _output: &[i64]) -> i64 {
        self.reply(inputs).map_or(0, |reply| reply.macs.clamp(0, MAX_MACS))
    }

    fn forward(&self, inputs: &[&Tensor], params: &[&Tensor], train: bool) -> yolo_core::Result<Tensor> {
        let component = &self.component;
        let function = component.functions().forward.ok_or_else(|| component.lacks())?;
        let inputs: Vec<YoloTensor> = inputs.iter().map(|tensor| lend(tensor)).collect();
        let params: Vec<YoloTensor> = params.iter().map(|tensor| lend(tensor)).collect();
        let mut out: YoloTensor = std::ptr::null_mut();
        component.call(|raw, error| {
            let (x, p) = (&inputs, &params);
            // SAFETY: handles are lent for the call, the place for the result is ours, the function is of an op.
            unsafe {
                function(
                    raw,
                    x.as_ptr(),
                    x.len(),
                    p.as_ptr(),
                    p.len(),
                    i32::from(train),
                    &raw mut out,
                    error,
                )
            }
        })?;
        if out.is_null() {
            return Err(component.bad_result("it returned no tensor").into());
        }
        // SAFETY: the handle is ours now.
        let out = unsafe { Tensor::from_ptr(out.cast()) };
        if !out.defined() {
            return Err(component.bad_result("it returned a tensor that is not defined").into());
        }
        Ok(out)
    }

    fn lower(&self, g: &mut GraphBuilder, inputs: &[ValueId]) -> Option<yolo_core::Result<ValueId>> {
        let component = &self.component;
        component.functions().lower?;
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|value| g.shape(*value).to_vec()).collect();
        let lowered = component
            .ask(
                component.functions().lower,
                &ShapeRequest {
                    inputs: Cow::Owned(shapes),
                },
            )
            .and_then(|reply| fragment(component, &reply))
            .and_then(|piece| {
                g.graft(&piece, inputs)
                    .map_err(|error| bad_graph(component, &error.to_string()))
            });
        match lowered {
            Ok(outputs) => Some(
                outputs
                    .first()
                    .copied()
                    .ok_or_else(|| bad_graph(component, "no outputs")),
            ),
            Err(error) if unsupported(&error) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn boxed_clone(&self) -> Box<dyn CustomOp> {
        Box::new(self.clone())
    }
}

/// Whether the op just has no such form.
fn unsupported(error: &yolo_core::Error) -> bool {
    matches!(error, yolo_core::Error::Coded(error) if error.code == crate::Code::Unsupported)
}
