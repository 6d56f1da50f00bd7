//! JSON that crosses to plugins in shared libraries and back, as both sides read and write it. `yolo_abi` says which function takes
//! and gives which.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::distil::{DistilNeeds, Layout};
use crate::graph::Shape;
use crate::plugin::{Arity, BlockRequest};
use crate::prune::{Budget, ChannelGroup, CostModel, Rounding};
use crate::quant::Ranges;
use crate::{Feat, GraphBuilder, ParamSpec, Scale, ValueId};

/// One input map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputMap {
    /// Channels.
    pub channels: i64,
    /// Pixels of the image per cell.
    pub stride: i64,
}

impl From<&Feat> for InputMap {
    fn from(feat: &Feat) -> Self {
        Self {
            channels: feat.channels,
            stride: feat.stride,
        }
    }
}

/// A builder on top of these maps, and the maps.
pub fn builder(inputs: &[InputMap]) -> (GraphBuilder, Vec<Feat>) {
    const PROBE: i64 = crate::graph::PROBE;
    let side = |stride: i64| (PROBE / stride.clamp(1, PROBE)).max(1);
    let shapes: Vec<Shape> = inputs
        .iter()
        .map(|map| vec![1, map.channels, side(map.stride), side(map.stride)])
        .collect();
    let feats = inputs
        .iter()
        .zip(0u32..)
        .map(|(map, id)| Feat {
            value: ValueId(id),
            channels: map.channels,
            stride: map.stride,
        })
        .collect();
    (GraphBuilder::fragment(shapes), feats)
}

/// What a backbone is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneRequest {
    /// The image.
    pub inputs: Vec<InputMap>,
    /// Depth and width multipliers.
    pub scale: Scale,
}

/// What a neck block is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeckBlockRequest {
    /// Its inputs.
    pub inputs: Vec<InputMap>,
    /// As in [`BlockRequest`].
    pub channels: i64,
    /// As in [`BlockRequest`].
    pub repeats: i64,
    /// As in [`BlockRequest`].
    pub shortcut: bool,
}

impl NeckBlockRequest {
    /// For these inputs.
    pub fn new(inputs: &[Feat], request: BlockRequest) -> Self {
        let BlockRequest {
            channels,
            repeats,
            shortcut,
        } = request;
        Self {
            inputs: inputs.iter().map(InputMap::from).collect(),
            channels,
            repeats,
            shortcut,
        }
    }

    /// The request without its inputs.
    pub fn block(&self) -> BlockRequest {
        BlockRequest {
            channels: self.channels,
            repeats: self.repeats,
            shortcut: self.shortcut,
        }
    }
}

/// What is known of a neck block before it builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeckBlockFacts {
    /// Its name in the layer table.
    pub layer: String,
    /// Fewest and most inputs.
    pub arity: [usize; 2],
}

impl NeckBlockFacts {
    /// How many inputs it takes.
    pub fn arity(&self) -> Arity {
        Arity {
            min: self.arity[0],
            max: self.arity[1],
        }
    }
}

/// What is known of a custom op before it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpFacts {
    /// Its name in tables and messages.
    pub label: String,
    /// Its tensors.
    #[serde(default)]
    pub params: Vec<ParamSpec>,
}

/// Shapes of an op's inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeRequest<'a> {
    /// One per input.
    pub inputs: Cow<'a, [Shape]>,
}

/// What an op makes of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeReply {
    /// Shape of its value.
    pub shape: Shape,
    /// Multiply-adds.
    #[serde(default)]
    pub macs: i64,
}

/// What a pruner sees of the model and of what the user wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneFacts<'a> {
    /// Channel groups.
    pub groups: Cow<'a, [ChannelGroup]>,
    /// Cost as a function of widths.
    pub cost: Cow<'a, CostModel>,
    /// What the pruned model may cost.
    pub budget: Budget,
    /// How widths are rounded.
    pub rounding: Rounding,
    /// Seed for everything random.
    pub seed: u64,
}

/// What a quantizer is asked for its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsRequest<'a> {
    /// Name of the model.
    pub model: Cow<'a, str>,
    /// All quantizers of the network.
    pub ranges: Cow<'a, Ranges>,
}

/// What is known of a distiller before it compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilFacts {
    /// What it looks at.
    pub needs: DistilNeeds,
    /// Names of the parts of its loss.
    pub parts: Vec<String>,
}

/// The heads that a distiller compares.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilRequest<'a> {
    /// Of the student.
    pub student: Cow<'a, Layout>,
    /// Of the teacher.
    pub teacher: Cow<'a, Layout>,
}
