//! The formats, as the READMEs of the plugins describe them: how each is read, and what must stand in it.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use yolo_core::Op;
use yolo_export::onnx::proto::ModelProto;

use super::network::{Grid, Layer, Network};
use super::unique::Unique;

/// Numbers by the name that they stand under.
type Entries = BTreeMap<String, Vec<f64>>;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    TensorRt,
    Snpe,
    PplW8A16,
    PplCuda,
    Nnie,
    Vitis,
    Tengine,
    Stpu,
}

impl Format {
    /// The format of a backend.
    pub fn of(backend: &str) -> Option<Self> {
        Some(match backend {
            "tensorrt" => Self::TensorRt,
            "snpe" => Self::Snpe,
            "ppl-w8a16" => Self::PplW8A16,
            "ppl-cuda" => Self::PplCuda,
            "nnie" => Self::Nnie,
            "vitis" => Self::Vitis,
            "tengine-u8" => Self::Tengine,
            "stpu" => Self::Stpu,
            _ => return None,
        })
    }

    /// Where the entries stand in a JSON file; `None` for lines of text.
    pub fn pointer(self) -> Option<&'static str> {
        Some(match self {
            Self::TensorRt => "/tensorrt/blob_range",
            Self::Snpe => "/activation_encodings",
            Self::PplW8A16 => "/ppl",
            Self::Nnie => "/nnie/gfpq_param_dict",
            Self::Vitis => "/vitis",
            Self::Stpu => "",
            Self::PplCuda | Self::Tengine => return None,
        })
    }

    /// Reads a text and compares it with the network.
    pub fn check(self, text: &str, network: &Network) -> Result<(), String> {
        compare(&self.read(text)?, &self.wanted(network))
    }

    /// Whether a toolchain finds each name of a text in the ONNX file that goes with it: tensors by theirs, layers by the names of nodes.
    pub fn names_stand_in(self, text: &str, file: &ModelProto) -> Result<(), String> {
        let graph = file.graph.as_ref().ok_or("no graph")?;
        let mut names: HashSet<&str> = graph.input.iter().map(|value| value.name.as_str()).collect();
        for node in &graph.node {
            names.extend(node.output.iter().map(String::as_str));
            names.insert(&node.name);
        }
        names.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        for name in self.read(text)?.keys() {
            let made_up = match self {
                Self::Nnie => name.rsplit_once("_permute_").map(|(layer, _)| layer),
                Self::Stpu => name.strip_suffix("_weights").or_else(|| name.strip_suffix("_bias")),
                _ => None,
            };
            if !names.contains(made_up.unwrap_or(name)) {
                return Err(format!("`{name}` is nothing in the ONNX file"));
            }
        }
        Ok(())
    }

    fn read(self, text: &str) -> Result<Entries, String> {
        match self {
            Self::TensorRt => tensorrt(text),
            Self::Snpe => snpe(text),
            Self::PplW8A16 => ppl(text),
            Self::PplCuda => lines(text, ": ", 1),
            Self::Nnie => nnie(text),
            Self::Vitis => vitis(text),
            Self::Tengine => lines(text, " ", 2),
            Self::Stpu => stpu(text),
        }
    }

    fn wanted(self, network: &Network) -> Entries {
        let Network {
            activations,
            weights,
            layers,
        } = network;
        let each = |grids: &[Grid], numbers: &dyn Fn(&Grid) -> Vec<f64>| -> Entries {
            grids.iter().map(|grid| (grid.tensor.clone(), numbers(grid))).collect()
        };
        let both = || [&activations[..], &weights[..]].concat();
        match self {
            Self::TensorRt => each(activations, &|g| vec![127.0 * g.scales[0]]),
            Self::Snpe => each(activations, &|g| [&[8.0][..], &g.limits()].concat()),
            Self::PplW8A16 => each(&both(), &|g| {
                let bits = if g.range[1] > 255.0 { 16.0 } else { 8.0 };
                [&[bits][..], &g.limits(), &g.scales, &g.zero_points].concat()
            }),
            Self::PplCuda => each(activations, &|g| vec![g.limits()[1].max(-g.limits()[0])]),
            Self::Nnie => clips(layers),
            Self::Vitis => {
                let biases: Vec<Grid> = layers.iter().filter_map(|layer| layer.bias.clone()).collect();
                each(&[both(), biases].concat(), &|g| vec![power_of_two(g.scales[0])])
            }
            Self::Tengine => {
                let numbers = |g: &Grid| vec![g.scales[0], g.zero_points[0].round()];
                let mut entries = each(activations, &numbers);
                let outputs = layers
                    .iter()
                    .filter_map(|layer| Some((layer.name.clone(), numbers(layer.output.as_ref()?))));
                entries.extend(outputs);
                entries
            }
            Self::Stpu => min_max(activations, layers),
        }
    }
}

/// The power of two that a scale lies at or below: what the simulation divides by.
fn power_of_two(scale: f64) -> f64 {
    let exact = scale.log2();
    let nearest = exact.round();
    let exponent = if (exact - nearest).abs() < 1e-5 {
        nearest
    } else {
        exact.ceil()
    };
    exponent.exp2()
}

fn clips(layers: &[Layer]) -> Entries {
    let mut entries = Entries::new();
    let mut upsamples = 0;
    for layer in layers {
        let all = || -> Vec<f64> { layer.inputs.iter().flatten().map(|grid| grid.scales[0]).collect() };
        let own = match &layer.op {
            Op::Conv2d { groups, .. } if *groups != 1 => continue,
            Op::Act { .. }
            | Op::Mul
            | Op::Reshape { .. }
            | Op::Softmax { .. }
            | Op::Reduce { .. }
            | Op::Permute { .. } => {
                continue;
            }
            _ => all(),
        };
        if own.is_empty() {
            continue;
        }
        if matches!(layer.op, Op::Upsample { .. }) {
            entries.insert(format!("{}_permute_{upsamples}", layer.name), own.clone());
            upsamples += 1;
        }
        entries.insert(layer.name.clone(), own);
    }
    entries
}

fn min_max(activations: &[Grid], layers: &[Layer]) -> Entries {
    let of = |grid: &Grid| vec![-127.0 * grid.scales[0], 127.0 * grid.scales[0]];
    let mut entries: Entries = activations.iter().map(|grid| (grid.tensor.clone(), of(grid))).collect();
    for layer in layers {
        if let Some(output) = &layer.output {
            let emin = lowest_exponent(layer, output).into_iter();
            entries.insert(layer.name.clone(), of(output).into_iter().chain(emin).collect());
        }
        if let (Some(weight), Some(Some(input))) = (&layer.weight, layer.inputs.first()) {
            entries.insert(format!("{}_weights", layer.name), of(weight));
            entries.insert(
                format!("{}_bias", layer.name),
                vec![weight.scales[0] * input.scales[0], 0.0],
            );
        }
    }
    entries
}

/// The exponent in the bits of a 32-bit float.
fn exponent(value: f64) -> f64 {
    f64::from((value as f32).to_bits() >> 23)
}

fn lowest_exponent(layer: &Layer, output: &Grid) -> Option<f64> {
    let most = |grid: &Grid| 127.0 * grid.scales[0];
    match (&layer.op, &layer.weight, layer.inputs.first()) {
        (Op::Upsample { .. }, ..) => Some(exponent(most(output)) - 20.0),
        (
            Op::Conv2d {
                cin, kernel, groups, ..
            },
            Some(weight),
            Some(Some(input)),
        ) => {
            let sums = ((cin / groups * kernel[0] * kernel[1]) as f64).sqrt() * most(input) * most(weight);
            Some(exponent(sums.max(most(output))) - 10.0)
        }
        _ => None,
    }
}

/// Same names, and under each the same numbers.
fn compare(found: &Entries, wanted: &Entries) -> Result<(), String> {
    if wanted.len() < 3 {
        return Err("a network of fewer than three tensors proves nothing".into());
    }
    if let Some(name) = wanted.keys().find(|name| !found.contains_key(*name)) {
        return Err(format!("`{name}` is missing"));
    }
    for (name, numbers) in found {
        let wanted = wanted.get(name).ok_or_else(|| format!("there is no tensor `{name}`"))?;
        let alike = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * b.abs();
        if numbers.len() != wanted.len() || !numbers.iter().zip(wanted).all(alike) {
            return Err(format!("`{name}` has {numbers:?}, the network {wanted:?}"));
        }
    }
    Ok(())
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn one(value: f64) -> Vec<f64> {
    vec![value]
}

fn collect<T>(entries: Unique<T>, numbers: impl Fn(T) -> Result<Vec<f64>, String>) -> Result<Entries, String> {
    let each = entries.0.into_iter();
    each.map(|(name, value)| Ok((name, numbers(value)?))).collect()
}

fn tensorrt(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        tensorrt: Inner,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        blob_range: Unique<f64>,
    }
    collect(json::<File>(text)?.tensorrt.blob_range, |amax| Ok(one(amax)))
}

fn snpe(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        activation_encodings: Unique<[Encoding; 1]>,
        param_encodings: Unique<[Encoding; 1]>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Encoding {
        bitwidth: u32,
        min: f64,
        max: f64,
    }
    let file = json::<File>(text)?;
    if !file.param_encodings.0.is_empty() {
        return Err("weights get their ranges from the toolchain".into());
    }
    collect(file.activation_encodings, |[e]| {
        Ok(vec![f64::from(e.bitwidth), e.min, e.max])
    })
}

fn ppl(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        ppl: Unique<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        step: Numbers,
        zero_point: Numbers,
        min: f64,
        max: f64,
        bit: u32,
        r#type: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Numbers {
        One(f64),
        Many(Vec<f64>),
    }
    let list = |numbers: Numbers| match numbers {
        Numbers::One(one) => vec![one],
        Numbers::Many(many) => many,
    };
    collect(json::<File>(text)?.ppl, |entry| {
        if entry.r#type != "biased" {
            return Err(format!("type `{}`", entry.r#type));
        }
        let head = vec![f64::from(entry.bit), entry.min, entry.max];
        Ok([head, list(entry.step), list(entry.zero_point)].concat())
    })
}

fn nnie(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        nnie: Inner,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        gfpq_param_dict: Unique<Vec<f64>>,
    }
    collect(json::<File>(text)?.nnie.gfpq_param_dict, Ok)
}

fn vitis(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        vitis: Unique<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        scale: f64,
    }
    collect(json::<File>(text)?.vitis, |entry| Ok(one(entry.scale)))
}

fn stpu(text: &str) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Range(Range),
        Bias(Bias),
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Range {
        min: f64,
        max: f64,
        emin: Option<f64>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bias {
        alpha: f64,
        zero_point: i64,
    }
    collect(json::<Unique<Entry>>(text)?, |entry| {
        Ok(match entry {
            Entry::Range(range) => [range.min, range.max].into_iter().chain(range.emin).collect(),
            Entry::Bias(bias) => vec![bias.alpha, bias.zero_point as f64],
        })
    })
}

/// Lines of a name and so many numbers.
fn lines(text: &str, separator: &str, numbers: usize) -> Result<Entries, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let mut entries = Entries::new();
    for line in text.lines() {
        let mut parts = line.split(separator);
        let name = parts
            .next()
            .filter(|name| !name.is_empty())
            .ok_or("a line without a name")?;
        let values: Result<Vec<f64>, _> = parts.map(str::parse).collect();
        let values = values.map_err(|error| format!("`{line}`: {error}"))?;
        if values.len() != numbers {
            return Err(format!("`{line}` has {} numbers", values.len()));
        }
        if entries.insert(name.to_owned(), values).is_some() {
            return Err(format!("`{name}` stands twice"));
        }
    }
    Ok(entries)
}
