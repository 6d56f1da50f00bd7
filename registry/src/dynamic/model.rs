//! Backbones and neck blocks of libraries: what they build crosses as a piece of graph.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yolo_abi::{YoloBackboneVt, YoloNeckBlockVt};
use yolo_core::graph::Fragment;
use yolo_core::plugin::{Arity, BlockRequest};
use yolo_core::wire::{BackboneRequest, InputMap, NeckBlockFacts, NeckBlockRequest};
use yolo_core::{Backbone, Error, Feat, Features, GraphBuilder, Kind, NeckBlock, Scale, ValueId};

use super::component::{Component, Refusal, Source, TAG, Vtable};
use crate::error::{Code, PluginError};

/// A backbone of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicBackbone(Component<YoloBackboneVt>);

/// A neck block of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicNeckBlock {
    component: Component<YoloNeckBlockVt>,
    facts: NeckBlockFacts,
}

impl TryFrom<Source> for DynamicBackbone {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        Ok(Self(Component::create(source)?))
    }
}

impl From<DynamicBackbone> for Source {
    fn from(backbone: DynamicBackbone) -> Self {
        backbone.0.source
    }
}

impl TryFrom<Source> for DynamicNeckBlock {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        let component = Component::<YoloNeckBlockVt>::create(source)?;
        let facts: NeckBlockFacts =
            component.request(component.functions().describe, &Value::Object(Default::default()))?;
        let [min, max] = facts.arity;
        if min < 1 || min > max || facts.layer.is_empty() || facts.layer.len() > 64 {
            let reason = format!("its name in the layer table or its number of inputs make no sense: {facts:.100?}");
            return Err(component.bad_result(&reason).into());
        }
        Ok(Self { component, facts })
    }
}

impl From<DynamicNeckBlock> for Source {
    fn from(block: DynamicNeckBlock) -> Self {
        block.component.source
    }
}

#[typetag::serde(name = "@dynamic")]
impl Backbone for DynamicBackbone {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> yolo_core::Result<Features> {
        let component = &self.0;
        let request = BackboneRequest {
            inputs: vec![InputMap::from(&image)],
            scale,
        };
        let reply = component.ask(component.functions().build, &request)?;
        let piece = fragment(component, &reply)?;
        let bad = |error: Error| bad_graph(component, &error.to_string());
        let outputs = g.graft_layers(&piece, &[image.value], component.name()).map_err(bad)?;
        let maps = outputs
            .into_iter()
            .map(|value| g.feat(value))
            .collect::<yolo_core::Result<_>>()
            .map_err(bad)?;
        let maps = Features(maps);
        maps.check(component.name())?;
        Ok(maps)
    }
}

#[typetag::serde(name = "@dynamic")]
impl NeckBlock for DynamicNeckBlock {
    fn arity(&self) -> Arity {
        self.facts.arity()
    }

    fn layer_name(&self) -> &str {
        &self.facts.layer
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> yolo_core::Result<ValueId> {
        let component = &self.component;
        let reply = component.ask(component.functions().build, &NeckBlockRequest::new(inputs, request))?;
        let piece = fragment(component, &reply)?;
        let values: Vec<ValueId> = inputs.iter().map(|feat| feat.value).collect();
        let outputs = g
            .graft(&piece, &values)
            .map_err(|error| bad_graph(component, &error.to_string()))?;
        match outputs[..] {
            [one] => Ok(one),
            _ => Err(bad_graph(
                component,
                &format!("{} outputs, a neck block has one", outputs.len()),
            )),
        }
    }
}

/// The piece of graph in an answer. Custom ops in it that the library itself provides become ops of that library.
pub(super) fn fragment<V: Vtable>(component: &Component<V>, reply: &str) -> yolo_core::Result<Fragment> {
    let unreadable = |error: serde_json::Error| {
        let message = format!("`{}` returned a graph that can't be read: {error}", component.name());
        let error = PluginError::new(Code::BadGraph, message).detail("library", component.library().path().display());
        Error::from(error.help("docs/plugins/dynamic.md shows a piece of graph; this is a mistake in the plugin"))
    };
    let own_ops = component
        .library()
        .descriptions()
        .iter()
        .any(|about| about.kind == Kind::Op);
    if !own_ops {
        return serde_json::from_str(reply).map_err(unreadable);
    }
    let mut piece: Value = serde_json::from_str(reply).map_err(unreadable)?;
    for node in piece
        .get_mut("nodes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(op) = node
            .get_mut("op")
            .filter(|op| op.get("op").and_then(Value::as_str) == Some("custom"))
            && let Some(Value::Object(custom)) = op.get_mut("custom")
            && let Some(name) = custom.get("type").and_then(Value::as_str).map(str::to_owned)
            && component.library().description(Kind::Op, &name).is_some()
        {
            let mut options = std::mem::take(custom);
            options.remove("type");
            let source = Source {
                plugin: component.source.plugin.clone(),
                name,
                options,
            };
            custom.insert("type".into(), TAG.into());
            if let Value::Object(fields) = serde_json::to_value(source)? {
                custom.extend(fields);
            }
        }
    }
    serde_json::from_value(piece).map_err(unreadable)
}

pub(super) fn bad_graph<V: Vtable>(component: &Component<V>, reason: &str) -> Error {
    let message = format!(
        "`{}` returned a graph that is not well formed: {reason}",
        component.name()
    );
    PluginError::new(Code::BadGraph, message)
        .detail("library", component.library().path().display())
        .help("this is a mistake in the plugin, tell its author")
        .into()
}
