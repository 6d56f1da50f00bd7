//! What a plugin does to a model, computed by building it: nothing here is stored.

use serde_json::{Map, Value, json};
use yolo_core::config::Located;
use yolo_core::model::{self, resolve_extends};
use yolo_core::plugin::BlockRequest;
use yolo_core::{Features, Graph, GraphBuilder, Kind, Scale, nn};
use yolo_registry::{Description, Index};

use crate::error::CliResult;
use crate::ui;

/// Side of the image that shapes are given for.
const IMAGE: i64 = 640;
/// The map that neck blocks are tried on.
const CHANNELS: i64 = 256;
const STRIDE: i64 = 8;

/// Published model files that name a plugin.
pub fn used_by(about: &Description) -> Vec<&'static str> {
    model::published()
        .iter()
        .filter(|(name, text)| names(name, text, about))
        .map(|(name, _)| *name)
        .collect()
}

fn names(file: &str, text: &str, about: &Description) -> bool {
    let Ok(config) = Located::parse(file, text).map_err(yolo_core::Error::from) else {
        return false;
    };
    let Ok(config) = resolve_extends(config, &mut |_| Ok(None)) else {
        return false;
    };
    match about.kind {
        Kind::Backbone => config.value["backbone"]["type"]
            .as_str()
            .is_some_and(|name| about.answers_to(name)),
        Kind::NeckBlock => [&config.value["neck"], &config.value["backbone"]]
            .into_iter()
            .any(|part| mentions(part, about)),
        _ => false,
    }
}

/// Whether a block is named in a part of a model file, alone or as a `type`.
fn mentions(part: &Value, about: &Description) -> bool {
    match part {
        Value::Object(map) => map.values().any(|below| mentions(below, about)),
        Value::Array(items) => items.iter().any(|below| mentions(below, about)),
        Value::String(name) => *name == about.name,
        _ => false,
    }
}

/// One feature map.
pub struct Map2d {
    /// `P3` for stride 8.
    pub level: String,
    pub channels: i64,
    pub stride: i64,
    pub height: i64,
    pub width: i64,
}

/// What a plugin makes of an image or a map.
pub struct Outputs {
    /// In words, what it was given.
    pub given: String,
    pub maps: Vec<Map2d>,
    /// Model or block that parameters and GFLOPs are of.
    pub within: String,
    pub params: i64,
    pub gflops: f64,
    /// The whole network, for drawings.
    pub graph: Graph,
}

impl Outputs {
    pub fn to_json(&self) -> Value {
        let map = |m: &Map2d| json!({"level": m.level, "channels": m.channels, "stride": m.stride, "shape": [1, m.channels, m.height, m.width]});
        json!({
            "given": self.given,
            "maps": self.maps.iter().map(map).collect::<Vec<_>>(),
            "within": self.within, "params": self.params, "gflops": self.gflops,
        })
    }

    pub fn text(&self) -> String {
        let maps: Vec<String> = self
            .maps
            .iter()
            .map(|m| {
                format!(
                    "  {:4} c={:<5} stride {:<3} {}x{}",
                    m.level, m.channels, m.stride, m.height, m.width
                )
            })
            .collect();
        format!(
            "Outputs for {}\n{}\n  {} parameters and {:.2} GFLOPs in {}\n",
            self.given,
            maps.join("\n"),
            ui::thousands(self.params),
            self.gflops,
            self.within
        )
    }
}

/// A component's own part of a configuration: its example, or its name alone.
pub fn example(about: &Description) -> Map<String, Value> {
    let mut example = about.example.as_object().cloned().unwrap_or_default();
    example.insert("type".into(), about.name.as_str().into());
    // `type` comes first, as people write it.
    let rest = example
        .iter()
        .filter(|(key, _)| *key != "type")
        .map(|(key, value)| (key.clone(), value.clone()));
    std::iter::once(("type".to_owned(), example["type"].clone()))
        .chain(rest)
        .collect()
}

/// Shapes and cost, where the kind has any. `handle` finds the plugin in the index.
pub fn outputs(index: &Index, about: &Description, handle: &str) -> CliResult<Option<Outputs>> {
    let mut options = example(about);
    options.remove("type");
    Ok(match about.kind {
        Kind::Backbone => Some(backbone(index, about, handle, options)?),
        Kind::NeckBlock => Some(neck_block(index, handle, options)?),
        _ => None,
    })
}

/// Maps of the backbone alone at scale l; cost of the first published model with it, else of yolov5l with it put in.
fn backbone(index: &Index, about: &Description, handle: &str, options: Map<String, Value>) -> CliResult<Outputs> {
    let backbone = yolo_registry::backbone(index, handle, options)?;
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let maps = backbone.build(&mut g, image, Scale { depth: 1.0, width: 1.0 })?;
    maps.check(&about.name)?;
    let alone = g.finish(maps.0.iter().map(|map| map.value).collect(), None)?;
    let maps = shapes(&alone, &maps, IMAGE)?;

    let used = used_by(about);
    // The maps are those of scale l, so a model of that scale says most.
    let published = used
        .iter()
        .find(|name| is_large(name))
        .or(used.first())
        .and_then(|name| model::find(name));
    let (within, config) = match published {
        Some((name, text)) => (name.to_owned(), Located::parse(name, text)?),
        None => {
            let config = json!({"extends": "yolov5l", "backbone": example(about)});
            (
                "yolov5l with this backbone".to_owned(),
                Located::from_value(&about.name, config),
            )
        }
    };
    let graph = model::build_with(&config, None, index)?;
    let cost = graph.cost(IMAGE)?;
    let given = format!("a {IMAGE}x{IMAGE} image (scale l)");
    Ok(Outputs {
        given,
        maps,
        within,
        params: cost.params,
        gflops: cost.gflops(),
        graph,
    })
}

fn is_large(name: &str) -> bool {
    name.starts_with("yolov5l")
}

/// The block on a map of stride 8, as the neck of a model of scale l would ask for it.
fn neck_block(index: &Index, handle: &str, options: Map<String, Value>) -> CliResult<Outputs> {
    let block = yolo_registry::neck_block(index, handle, options)?;
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let mut map = image;
    while map.stride < STRIDE {
        map = g.layer("Conv", &[map], |g| nn::conv(g, "conv", map.value, CHANNELS, 3, 2))?;
    }
    let request = BlockRequest {
        channels: CHANNELS,
        repeats: 3,
        shortcut: false,
    };
    let inputs = vec![map; block.arity().min.max(1)];
    let out = g.layer(block.layer_name(), &inputs, |g| block.build(g, &inputs, request))?;
    let graph = g.finish(vec![out.value], None)?;
    let cost = graph.cost(IMAGE)?;
    let own = cost.layers.last().map_or((0, 0), |layer| (layer.params, layer.macs));
    let maps = shapes(&graph, &Features(vec![out]), IMAGE)?;
    let count = if inputs.len() == 1 {
        "one map".to_owned()
    } else {
        format!("{} maps", inputs.len())
    };
    let side = IMAGE / STRIDE;
    let given = format!("{count} of {CHANNELS} channels, {side}x{side}");
    let within = "this block (3 repeats, where it repeats)".to_owned();
    Ok(Outputs {
        given,
        maps,
        within,
        params: own.0,
        gflops: 2.0 * own.1 as f64 / 1e9,
        graph,
    })
}

fn shapes(graph: &Graph, maps: &Features, side: i64) -> CliResult<Vec<Map2d>> {
    let shapes = graph.shapes([1, graph.input_channels(), side, side])?;
    let of = |map: &yolo_core::Feat| {
        let shape = &shapes[map.value.index()];
        let at = |axis: usize| shape.get(axis).copied().unwrap_or(0);
        let level = format!("P{}", map.stride.max(1).ilog2());
        Map2d {
            level,
            channels: at(1),
            stride: map.stride,
            height: at(2),
            width: at(3),
        }
    };
    Ok(maps.0.iter().map(of).collect())
}
