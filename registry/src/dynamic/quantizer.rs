//! Quantizers of libraries: a backend as data, and its files.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yolo_abi::YoloQuantizerVt;
use yolo_core::quant::{Artifact, BackendSpec, Ranges};
use yolo_core::wire::ArtifactsRequest;
use yolo_core::{Node, Op, Quantizer, Result};

use super::component::{Component, Refusal, Source};

/// A quantizer of a library.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicQuantizer {
    component: Component<YoloQuantizerVt>,
    backend: BackendSpec,
}

impl fmt::Debug for DynamicQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.component.fmt(f)
    }
}

impl TryFrom<Source> for DynamicQuantizer {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        let component = Component::<YoloQuantizerVt>::create(source)?;
        let backend: BackendSpec =
            component.request(component.functions().describe, &Value::Object(Default::default()))?;
        backend
            .check()
            .map_err(|reason| component.bad_result(&reason.to_string()))?;
        Ok(Self { component, backend })
    }
}

impl From<DynamicQuantizer> for Source {
    fn from(quantizer: DynamicQuantizer) -> Self {
        quantizer.component.source
    }
}

#[typetag::serde(name = "@dynamic")]
impl Quantizer for DynamicQuantizer {
    fn backend(&self) -> BackendSpec {
        self.backend.clone()
    }

    fn quantizes(&self, node: &Node) -> Result<bool> {
        let otherwise = match node.op {
            Op::Conv2d { .. } => true,
            Op::Linear { .. } => self.backend.linear,
            // Nothing else has a weight that can be quantized.
            _ => return Ok(false),
        };
        match self.component.functions().quantizes {
            None => Ok(otherwise),
            function => self.component.request(function, node),
        }
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let function = self.component.functions().artifacts;
        if function.is_none() {
            return Ok(Vec::new());
        }
        let request = ArtifactsRequest {
            model: Cow::Borrowed(model),
            ranges: Cow::Borrowed(ranges),
        };
        let files: Vec<Artifact> = self.component.request(function, &request)?;
        // A name is a name, not a way to somewhere else.
        let plain = |name: &str| {
            !name.is_empty() && name.len() < 200 && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
        };
        match files.iter().find(|file| !plain(&file.name)) {
            Some(file) => Err(self
                .component
                .bad_result(&format!("`{:.80}` is no name of a file", file.name))
                .into()),
            None => Ok(files),
        }
    }
}
