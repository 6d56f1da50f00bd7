//! The model file: `scale`, `backbone`, `neck`, `head`, and `extends` for what it shares with another file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{self, Linked, Resolver};
use super::{Pan, default_anchors, detect, find, ultralytics};
use crate::config::{ConfigError, Located, merge};
use crate::graph::DetectHead;
use crate::{Backbone, Error, Graph, GraphBuilder, Kind, Result, Scale};

/// Classes of a model file that says nothing (COCO's).
const DEFAULT_CLASSES: i64 = 80;

/// A model as its file describes it.
#[derive(Debug, Serialize)]
pub struct ModelConfig {
    /// Number of classes, unless the data say otherwise.
    pub nc: i64,
    /// Channels of the image.
    pub channels: i64,
    /// Depth and width multipliers.
    pub scale: Scale,
    /// Turns the image into maps.
    pub backbone: Box<dyn Backbone>,
    /// Joins the maps.
    pub neck: Pan,
    /// Turns the maps into raw predictions.
    pub head: Head,
}

/// The head's options.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `detect`.
    #[serde(rename = "type")]
    pub kind: HeadKind,
    /// Anchors in pixels, per level `[w, h, w, h, ...]`, finest level first; or how many a level, to be fitted to the training's data.
    /// Without them COCO's are used.
    #[serde(default)]
    pub anchors: Option<Anchors>,
}

/// Anchors of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(
    untagged,
    expecting = "anchors are a list per level, `[w, h, w, h, ...]`, or their number, 1 to 100"
)]
pub enum Anchors {
    /// So many a level, to be fitted to the data.
    Count(std::num::NonZeroU8),
    /// Widths and heights in pixels, per level.
    Given(Vec<Vec<f64>>),
}

/// Name of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum HeadKind {
    /// `detect`.
    #[serde(rename = "detect")]
    Detect,
}

/// The parts of the file that this module reads itself; the others go to their owners.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nc: Option<i64>,
    #[serde(default = "three")]
    channels: i64,
    #[serde(default)]
    scale: Scale,
    #[serde(rename = "backbone")]
    _backbone: Value,
    #[serde(rename = "neck")]
    _neck: Value,
    #[serde(rename = "head")]
    _head: Value,
}

fn three() -> i64 {
    3
}

impl ModelConfig {
    /// Reads a model file whose `extends` has been resolved.
    pub fn read(config: &Located, resolver: &dyn Resolver) -> Result<Self> {
        let file: File = config.read()?;
        let backbone = names::read(resolver, config, "backbone", Kind::Backbone)?;
        let mut config = config.clone();
        only_type(&config, "neck", "pan")?;
        only_type(&config, "head", "detect")?;
        let neck_options: Vec<String> = config
            .get("neck")
            .and_then(Value::as_object)
            .map(|map| map.keys().filter(|key| *key != "type").cloned().collect())
            .unwrap_or_default();
        for option in neck_options {
            names::resolve(&mut config, &format!("neck.{option}"), Kind::NeckBlock, resolver)?;
        }
        Ok(Self {
            nc: file.nc.unwrap_or(DEFAULT_CLASSES),
            channels: file.channels,
            scale: file.scale,
            backbone,
            neck: config.read_at("neck")?,
            head: config.read_at("head")?,
        })
    }

    /// The graph with this number of classes.
    pub fn build(&self, classes: i64) -> Result<Graph> {
        let mut g = GraphBuilder::new(self.channels);
        let image = g.image();
        let maps = self.backbone.build(&mut g, image, self.scale)?;
        maps.check(self.backbone.typetag_name())?;
        let maps = self.neck.build(&mut g, &maps, self.scale)?;
        maps.check("pan")?;
        let anchors = match &self.head.anchors {
            Some(Anchors::Count(count)) => {
                let strides: Vec<i64> = maps.0.iter().map(|feat| feat.stride).collect();
                DetectHead::stand_ins(&strides, usize::from(count.get()))
            }
            Some(Anchors::Given(levels)) => levels
                .iter()
                .enumerate()
                .map(|(level, flat)| pairs(level, flat))
                .collect::<Result<Vec<_>>>()?,
            None => maps
                .0
                .iter()
                .map(|feat| {
                    default_anchors(feat.stride).ok_or_else(|| Error::Build {
                        plugin: "detect".into(),
                        reason: format!(
                            "there are no default anchors for stride {}: give `head.anchors`",
                            feat.stride
                        ),
                    })
                })
                .collect::<Result<_>>()?,
        };
        let (outputs, mut head) = detect(&mut g, &maps.0, classes, &anchors)?;
        head.unfitted = matches!(self.head.anchors, Some(Anchors::Count(_)));
        g.finish(outputs, Some(head))
    }
}

/// `[w, h, w, h]` to `[[w, h], [w, h]]`.
fn pairs(level: usize, flat: &[f64]) -> Result<Vec<[f64; 2]>> {
    if flat.is_empty() || !flat.len().is_multiple_of(2) || flat.iter().any(|v| *v <= 0.0 || v.is_nan()) {
        return Err(Error::Build {
            plugin: "detect".into(),
            reason: format!("the anchors of level {level} must be positive and come in pairs: width, height"),
        });
    }
    Ok(flat.chunks(2).map(|pair| [pair[0], pair[1]]).collect())
}

/// Necks and heads are not plugins: there is one of each.
fn only_type(config: &Located, part: &str, only: &str) -> Result<(), ConfigError> {
    match config.get(part).and_then(|part| part.get("type")) {
        Some(Value::String(name)) if name == only => Ok(()),
        Some(Value::String(name)) => {
            let linked = crate::PluginInfo::linked();
            let help = match linked.iter().find(|info| info.answers_to(name)) {
                Some(info) => format!(
                    "`{}` is a {}: it goes inside of `{{type: {only}, ...}}`",
                    info.name,
                    info.kind.title()
                ),
                None => format!("write `type: {only}`"),
            };
            Err(config.value_error(
                &format!("{part}.type"),
                &format!("there is no {part} `{name}`"),
                Some(&help),
            ))
        }
        _ => Err(config.error(
            part,
            &format!("`{part}` needs a type"),
            Some(&format!("write `type: {only}`")),
        )),
    }
}

/// Lays a configuration over the one that it `extends` (by the name of an embedded model, else by whatever `open` finds), and
/// that over the one that it extends, and so on.
pub fn resolve_extends(mut config: Located, open: &mut dyn FnMut(&str) -> Result<Option<Located>>) -> Result<Located> {
    const MAX_DEPTH: usize = 16;
    for _ in 0..MAX_DEPTH {
        let base = match config.value.as_object_mut().and_then(|map| map.remove("extends")) {
            None => return Ok(config),
            Some(Value::String(base)) => base,
            Some(_) => {
                return Err(config
                    .value_error("extends", "`extends` takes the name of a model file", None)
                    .into());
            }
        };
        let mut below = match open(&base)? {
            Some(located) => located,
            None => match find(&base) {
                Some((name, text)) => Located::parse(&format!("{name}.yaml"), text)?,
                None => {
                    let known = super::published().iter().map(|(name, _)| *name);
                    let help = crate::suggest::did_you_mean(&base, known);
                    return Err(config
                        .value_error("extends", &format!("there is no model file `{base}`"), help.as_deref())
                        .into());
                }
            },
        };
        let top = std::mem::take(&mut config.value);
        let mut value = std::mem::take(&mut below.value);
        merge(&mut value, top);
        config.value = value;
    }
    Err(config
        .error("extends", "the model files extend each other in a circle", None)
        .into())
}

/// Builds a model file, ours or a layer list, with the plugins that are linked. `classes` overrides the file's.
pub fn build(config: &Located, classes: Option<i64>) -> Result<Graph> {
    build_with(config, classes, &Linked)
}

/// As [`build`], with the caller's plugins.
pub fn build_with(config: &Located, classes: Option<i64>, resolver: &dyn Resolver) -> Result<Graph> {
    if ultralytics::is_layer_list(config) {
        return ultralytics::import(config, classes);
    }
    let config = resolve_extends(config.clone(), &mut |_| Ok(None))?;
    let model = ModelConfig::read(&config, resolver)?;
    model.build(classes.unwrap_or(model.nc))
}
