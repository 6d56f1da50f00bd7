//! Distillers of libraries: maps cross as handles of the one libtorch, and autograd with them.

use std::borrow::Cow;
use std::mem::size_of;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;
use yolo_abi::{YoloDistilBatch, YoloDistillerVt, YoloNamedTensor, YoloStr, YoloTensor};
use yolo_core::distil::{DistilBatch, DistilNeeds, Distiller, Layout};
use yolo_core::wire::{DistilFacts, DistilRequest};
use yolo_core::{ParamSpec, Result};

use super::component::{Component, Refusal, Source};
use super::host::lend;
use super::op::sound;

/// Most parts that a loss may have.
const MAX_PARTS: usize = 64;

/// A distiller of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicDistiller {
    component: Component<YoloDistillerVt>,
    facts: DistilFacts,
}

impl TryFrom<Source> for DynamicDistiller {
    type Error = Refusal;

    fn try_from(source: Source) -> std::result::Result<Self, Refusal> {
        let component = Component::<YoloDistillerVt>::create(source)?;
        let facts: DistilFacts =
            component.request(component.functions().describe, &Value::Object(Default::default()))?;
        // They become tags and columns.
        let plain = |part: &String| {
            let letters = part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            letters && (1..=64).contains(&part.len())
        };
        if facts.parts.is_empty() || facts.parts.len() > MAX_PARTS || !facts.parts.iter().all(plain) {
            return Err(component
                .bad_result(&format!(
                    "the parts of its loss {:.200?} have no usable names",
                    facts.parts
                ))
                .into());
        }
        Ok(Self { component, facts })
    }
}

impl From<DynamicDistiller> for Source {
    fn from(distiller: DynamicDistiller) -> Self {
        distiller.component.source
    }
}

/// Handles of tensors, for a call; null where there are none.
fn handles<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<YoloTensor> {
    tensors.into_iter().map(lend).collect()
}

fn list(handles: &[YoloTensor], levels: usize) -> *const YoloTensor {
    if handles.len() == levels {
        handles.as_ptr()
    } else {
        std::ptr::null()
    }
}

#[typetag::serde(name = "@dynamic")]
impl Distiller for DynamicDistiller {
    fn needs(&self) -> DistilNeeds {
        self.facts.needs
    }

    fn parts(&self) -> Vec<String> {
        self.facts.parts.clone()
    }

    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        let component = &self.component;
        if component.functions().adapters.is_none() {
            return Ok(Vec::new());
        }
        let request = DistilRequest {
            student: Cow::Borrowed(student),
            teacher: Cow::Borrowed(teacher),
        };
        let specs: Vec<ParamSpec> = component.request(component.functions().adapters, &request)?;
        match specs.iter().find(|spec| !sound(spec) || !spec.role.trainable()) {
            Some(spec) => Err(component
                .bad_result(&format!("its adapter {spec:.200?} makes no sense"))
                .into()),
            None => Ok(specs),
        }
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let component = &self.component;
        let function = component.functions().loss.ok_or_else(|| component.lacks())?;
        let request = DistilRequest {
            student: Cow::Borrowed(batch.student_layout),
            teacher: Cow::Borrowed(batch.teacher_layout),
        };
        let layouts = serde_json::to_string(&request)?;
        let levels = batch.student_layout.levels.len();
        let [student_raw, student_neck] = [&batch.student.raw, &batch.student.neck].map(handles);
        let [teacher_raw, teacher_neck] = [&batch.teacher.raw, &batch.teacher.neck].map(handles);
        let head_weights = handles(batch.teacher_head.iter().map(|head| &head.weight));
        let head_biases = handles(batch.teacher_head.iter().map(|head| &head.bias));
        let adapters: Vec<YoloNamedTensor> = batch
            .adapters
            .iter()
            .map(|(key, tensor)| YoloNamedTensor {
                key: YoloStr::new(key),
                tensor: lend(tensor),
            })
            .collect();
        let lent = YoloDistilBatch {
            struct_size: size_of::<YoloDistilBatch>() as u32,
            _reserved: 0,
            layouts: YoloStr::new(&layouts),
            levels,
            student_raw: list(&student_raw, levels),
            student_neck: list(&student_neck, levels),
            teacher_raw: list(&teacher_raw, levels),
            teacher_neck: list(&teacher_neck, levels),
            head_weights: list(&head_weights, levels),
            head_biases: list(&head_biases, levels),
            adapters: adapters.as_ptr(),
            adapter_count: adapters.len(),
        };
        let mut out: YoloTensor = std::ptr::null_mut();
        // SAFETY: the batch and what it points at live during the call, the place for the result is ours, the function is of a distiller.
        component.call(|raw, error| unsafe { function(raw, &raw const lent, &raw mut out, error) })?;
        if out.is_null() {
            return Err(component.bad_result("it returned no tensor").into());
        }
        // SAFETY: the handle is ours now.
        let parts = unsafe { Tensor::from_ptr(out.cast()) };
        let wanted = [self.facts.parts.len() as i64];
        if !parts.defined() || parts.size() != wanted {
            return Err(component
                .bad_result(&format!("it returned no tensor of {} losses", wanted[0]))
                .into());
        }
        (0..wanted[0]).map(|part| Ok(parts.f_select(0, part)?)).collect()
    }
}
