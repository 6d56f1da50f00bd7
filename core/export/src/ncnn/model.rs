//! The two files of ncnn: `.param` (text: layers and blobs) and `.bin` (weights in layer order). Writes and parses them;
//! knows nothing of networks.
//!
//! `.param`: the magic number, a line `layers blobs`, then one line per layer: `Type name inputs outputs in.. out.. id=value ..`.
//! Integers have no point, floats have one or an exponent, arrays are `-(23300 + id)=length,value,..`. Every blob has one
//! producer and at most one consumer; [`Net::share`] adds the `Split` layers that this needs.
//!
//! `.bin`: little endian. A tagged weight starts with a word that names its form (f32, f16, int8) and is padded to four
//! bytes; a plain one (bias, scales, statistics) is f32 without a tag.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::{Error, Result};

const MAGIC: &str = "7767517";
const TAG_F32: u32 = 0;
const TAG_F16: u32 = 0x0130_6B47;
const TAG_INT8: u32 = 0x000D_4B38;
const ARRAY: i64 = -23300;

/// Value of a layer parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f32),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
}

/// A tensor of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// Main weight as f32.
    Tagged(Vec<f32>),
    /// Main weight as f16.
    Half(Vec<half::f16>),
    /// Main weight as int8.
    Int8(Vec<i8>),
    /// Bias, scales, statistics, constants.
    Plain(Vec<f32>),
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer {
    /// Type, for example `Convolution`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Blobs that it reads.
    pub inputs: Vec<String>,
    /// Blobs that it makes.
    pub outputs: Vec<String>,
    /// Parameters by id.
    pub params: Vec<(i64, Value)>,
    /// Tensors in the order of the file.
    pub weights: Vec<Weight>,
}

impl Layer {
    /// An integer parameter, or its default.
    pub fn int(&self, id: i64, default: i64) -> i64 {
        match self.param(id) {
            Some(Value::Int(v)) => *v,
            _ => default,
        }
    }

    /// A numeric parameter, or its default.
    pub fn float(&self, id: i64, default: f32) -> f32 {
        match self.param(id) {
            Some(Value::Float(v)) => *v,
            Some(Value::Int(v)) => *v as f32,
            _ => default,
        }
    }

    /// A list of integers, empty when absent.
    pub fn ints(&self, id: i64) -> &[i64] {
        match self.param(id) {
            Some(Value::Ints(v)) => v,
            _ => &[],
        }
    }

    /// A list of numbers; integers count.
    pub fn floats(&self, id: i64) -> Vec<f32> {
        match self.param(id) {
            Some(Value::Floats(v)) => v.clone(),
            Some(Value::Ints(v)) => v.iter().map(|&v| v as f32).collect(),
            _ => Vec::new(),
        }
    }

    fn param(&self, id: i64) -> Option<&Value> {
        self.params.iter().find(|(key, _)| *key == id).map(|(_, value)| value)
    }

    /// Number of elements of each tensor in the file, by the layer's own parameters; `true` where it is tagged.
    fn weight_sizes(&self) -> Vec<(usize, bool)> {
        let n = |id: i64| usize::try_from(self.int(id, 0)).unwrap_or(0);
        let mut sizes = Vec::new();
        match self.kind.as_str() {
            "Convolution" | "ConvolutionDepthWise" | "DeformableConv2D" => {
                sizes.push((n(6), true));
                if n(5) == 1 {
                    sizes.push((n(0), false));
                }
                if self.int(8, 0) != 0 {
                    let scales = if self.kind == "Convolution" { n(0) } else { n(7) };
                    sizes.extend([(scales, false), (1, false)]);
                }
            }
            "InnerProduct" => {
                sizes.push((n(2), true));
                if n(1) == 1 {
                    sizes.push((n(0), false));
                }
            }
            "BatchNorm" => sizes.extend([(n(0), false); 4]),
            "LayerNorm" => sizes.extend([(n(0), false); 2]),
            "MemoryData" => {
                let dims = [n(0), n(1), n(11), n(2)];
                sizes.push((dims.into_iter().filter(|&d| d > 0).product(), false));
            }
            _ => {}
        }
        sizes
    }
}

/// A network in the form of the two files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Net {
    /// Layers in the order in which they run.
    pub layers: Vec<Layer>,
}

impl Net {
    /// Adds `Split` layers, so that every blob has one reader.
    pub fn share(&mut self) {
        let mut readers: HashMap<String, usize> = HashMap::new();
        for name in self.layers.iter().flat_map(|layer| &layer.inputs) {
            *readers.entry(name.clone()).or_default() += 1;
        }
        let mut used: HashMap<String, usize> = HashMap::new();
        let mut layers = Vec::with_capacity(self.layers.len());
        for mut layer in std::mem::take(&mut self.layers) {
            for input in &mut layer.inputs {
                if readers[input.as_str()] > 1 {
                    let nth = used.entry(input.clone()).or_default();
                    *input = format!("{input}_splitncnn_{nth}");
                    *nth += 1;
                }
            }
            let outputs = layer.outputs.clone();
            layers.push(layer);
            for output in outputs {
                let n = readers.get(&output).copied().unwrap_or(0);
                if n > 1 {
                    layers.push(Layer {
                        kind: "Split".to_owned(),
                        name: format!("split_{output}"),
                        outputs: (0..n).map(|i| format!("{output}_splitncnn_{i}")).collect(),
                        inputs: vec![output],
                        ..Layer::default()
                    });
                }
            }
        }
        self.layers = layers;
    }

    /// The text of the `.param` file.
    pub fn to_param(&self) -> String {
        let blobs: usize = self.layers.iter().map(|layer| layer.outputs.len()).sum();
        let mut text = format!("{MAGIC}\n{} {blobs}\n", self.layers.len());
        for layer in &self.layers {
            let _ = write!(
                text,
                "{:<24} {:<32} {} {}",
                layer.kind,
                layer.name,
                layer.inputs.len(),
                layer.outputs.len()
            );
            for blob in layer.inputs.iter().chain(&layer.outputs) {
                let _ = write!(text, " {blob}");
            }
            for (id, value) in &layer.params {
                let _ = match value {
                    Value::Int(v) => write!(text, " {id}={v}"),
                    Value::Float(v) => write!(text, " {id}={v:e}"),
                    Value::Ints(v) => {
                        let list: Vec<String> = v.iter().map(i64::to_string).collect();
                        write!(text, " {}={},{}", ARRAY - id, v.len(), list.join(","))
                    }
                    Value::Floats(v) => {
                        let list: Vec<String> = v.iter().map(|v| format!("{v:e}")).collect();
                        write!(text, " {}={},{}", ARRAY - id, v.len(), list.join(","))
                    }
                };
            }
            text.push('\n');
        }
        text
    }

    /// The bytes of the `.bin` file.
    pub fn to_bin(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // ncnn's own writers store denormals as zeros: they cost time on every run and carry no information.
        let normal = |v: f32| if v.is_subnormal() { 0.0 } else { v };
        for weight in self.layers.iter().flat_map(|layer| &layer.weights) {
            match weight {
                Weight::Tagged(values) => {
                    bytes.extend(TAG_F32.to_le_bytes());
                    bytes.extend(values.iter().flat_map(|&v| normal(v).to_le_bytes()));
                }
                Weight::Half(values) => {
                    bytes.extend(TAG_F16.to_le_bytes());
                    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                }
                Weight::Int8(values) => {
                    bytes.extend(TAG_INT8.to_le_bytes());
                    bytes.extend(values.iter().map(|v| v.cast_unsigned()));
                }
                Weight::Plain(values) => bytes.extend(values.iter().flat_map(|&v| normal(v).to_le_bytes())),
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// Parses the two files.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the line of `param` that is no layer, counts that are not those of its layers, the layer before whose
    /// weights `bin` ends, or the number of bytes that are left over.
    pub fn parse(param: &str, bin: &[u8]) -> Result<Self> {
        let mut lines = param.lines().enumerate();
        let fail = |line: usize, reason: &str| Error::Unsupported(format!("ncnn .param, line {}: {reason}", line + 1));
        if lines.next().is_none_or(|(_, line)| line.trim() != MAGIC) {
            return Err(fail(0, "it does not start with 7767517"));
        }
        let (at, counts) = lines.next().ok_or_else(|| fail(1, "the counts are absent"))?;
        let counts: Vec<usize> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let mut layers = Vec::new();
        for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            layers.push(parse_layer(line).map_err(|reason| fail(at, &reason))?);
        }
        let blobs = layers.iter().map(|layer: &Layer| layer.outputs.len()).sum::<usize>();
        if counts != [layers.len(), blobs] {
            return Err(fail(
                at,
                &format!("there are {} layers and {blobs} blobs, not {counts:?}", layers.len()),
            ));
        }
        let mut reader = Reader { bytes: bin, at: 0 };
        for layer in &mut layers {
            for (n, tagged) in layer.weight_sizes() {
                let weight = reader.weight(n, tagged).ok_or_else(|| {
                    Error::Unsupported(format!("ncnn .bin: it ends before the weights of `{}`", layer.name))
                })?;
                layer.weights.push(weight);
            }
        }
        if reader.at != bin.len() {
            return Err(Error::Unsupported(format!(
                "ncnn .bin: {} bytes are left over",
                bin.len() - reader.at
            )));
        }
        Ok(Self { layers })
    }
}

fn parse_layer(line: &str) -> Result<Layer, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, name, inputs, outputs, rest @ ..] = words.as_slice() else {
        return Err("a layer needs a type, a name and two counts".to_owned());
    };
    let count = |word: &str| word.parse::<usize>().map_err(|_| format!("`{word}` is no count"));
    let (inputs, outputs) = (count(inputs)?, count(outputs)?);
    let blobs = rest
        .get(..inputs + outputs)
        .ok_or("there are fewer blobs than it says")?;
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let mut layer = Layer {
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
        inputs: owned(&blobs[..inputs]),
        outputs: owned(&blobs[inputs..]),
        ..Layer::default()
    };
    let is_float = |text: &str| text.contains(['.', 'e', 'E']);
    let wrong = |word: &str| format!("`{word}` is no parameter");
    for word in &rest[inputs + outputs..] {
        let (id, value) = word.split_once('=').ok_or_else(|| wrong(word))?;
        let id: i64 = id.parse().map_err(|_| wrong(word))?;
        let value = if id <= ARRAY {
            let mut items = value.split(',');
            let n = count(items.next().unwrap_or_default())?;
            let items: Vec<&str> = items.collect();
            if items.len() != n {
                return Err(wrong(word));
            }
            if items.iter().any(|item| is_float(item)) {
                Value::Floats(
                    items
                        .iter()
                        .map(|v| v.parse())
                        .collect::<Result<_, _>>()
                        .map_err(|_| wrong(word))?,
                )
            } else {
                Value::Ints(
                    items
                        .iter()
                        .map(|v| v.parse())
                        .collect::<Result<_, _>>()
                        .map_err(|_| wrong(word))?,
                )
            }
        } else if is_float(value) {
            Value::Float(value.parse().map_err(|_| wrong(word))?)
        } else {
            Value::Int(value.parse().map_err(|_| wrong(word))?)
        };
        layer.params.push((if id <= ARRAY { ARRAY - id } else { id }, value));
    }
    Ok(layer)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(n)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end.next_multiple_of(4).min(self.bytes.len());
        Some(part)
    }

    fn floats(&mut self, n: usize) -> Option<Vec<f32>> {
        let (words, _) = self.take(n.checked_mul(4)?)?.as_chunks::<4>();
        Some(words.iter().map(|&w| f32::from_le_bytes(w)).collect())
    }

    fn weight(&mut self, n: usize, tagged: bool) -> Option<Weight> {
        if !tagged {
            return self.floats(n).map(Weight::Plain);
        }
        let tag = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        match tag {
            TAG_F32 => self.floats(n).map(Weight::Tagged),
            TAG_F16 => {
                let (halves, _) = self.take(n.checked_mul(2)?)?.as_chunks::<2>();
                Some(Weight::Half(
                    halves.iter().map(|&h| half::f16::from_le_bytes(h)).collect(),
                ))
            }
            TAG_INT8 => Some(Weight::Int8(self.take(n)?.iter().map(|b| b.cast_signed()).collect())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Net {
        let conv = Layer {
            kind: "ConvolutionDepthWise".into(),
            name: "c".into(),
            inputs: vec!["x".into()],
            outputs: vec!["y".into()],
            params: vec![
                (0, Value::Int(3)),
                (5, Value::Int(1)),
                (6, Value::Int(3)),
                (7, Value::Int(3)),
                (8, Value::Int(1)),
                (10, Value::Floats(vec![0.0, 6.0])),
            ],
            weights: vec![
                Weight::Int8(vec![1, -2, 3]),
                Weight::Plain(vec![0.5, 1e-40, -1.0]),
                Weight::Plain(vec![127.0, 12.5, 1.0]),
                Weight::Plain(vec![3.0]),
            ],
        };
        let input = Layer {
            kind: "Input".into(),
            name: "x".into(),
            outputs: vec!["x".into()],
            params: vec![(0, Value::Int(8)), (1, Value::Int(8)), (2, Value::Int(3))],
            ..Layer::default()
        };
        let add = Layer {
            kind: "BinaryOp".into(),
            name: "a".into(),
            inputs: vec!["y".into(), "x".into()],
            outputs: vec!["z".into()],
            params: vec![(0, Value::Int(0))],
            ..Layer::default()
        };
        Net {
            layers: vec![input, conv, add],
        }
    }

    #[test]
    fn both_files_read_back() {
        let mut net = net();
        net.share();
        let (param, bin) = (net.to_param(), net.to_bin());
        assert!(param.starts_with("7767517\n4 5\n"), "{param}");
        assert!(param.contains("-23310=2,0e0,6e0"), "{param}");
        // Tag, three bytes and one of padding, then seven floats.
        assert_eq!(bin.len(), 4 + 4 + 7 * 4);
        let mut back = Net::parse(&param, &bin).unwrap();
        assert_eq!(
            back.layers[2].weights[1],
            Weight::Plain(vec![0.5, 0.0, -1.0]),
            "denormals become zero"
        );
        back.layers[2].weights[1] = Weight::Plain(vec![0.5, 1e-40, -1.0]);
        assert_eq!(back, net);
    }

    #[test]
    fn floats_keep_their_value_and_fit_the_15_characters_that_ncnn_reads() {
        let mut net = net();
        let values = vec![-1.234_567_9e-38, f32::MAX, f32::MIN_POSITIVE, -0.1, 1.0 / 3.0];
        net.layers[1].params = vec![
            (0, Value::Int(3)),
            (5, Value::Int(1)),
            (10, Value::Floats(values.clone())),
        ];
        let param = net.to_param();
        let (_, list) = param.split_once("-23310=5,").unwrap();
        let tokens: Vec<&str> = list.lines().next().unwrap().split(',').collect();
        assert!(tokens.iter().all(|token| token.len() <= 15), "{tokens:?}");
        let back: Vec<f32> = tokens.iter().map(|token| token.parse().unwrap()).collect();
        assert_eq!(back, values);
    }

    #[test]
    fn a_blob_with_two_readers_is_split() {
        let mut net = net();
        net.share();
        let split = &net.layers[1];
        assert_eq!((split.kind.as_str(), split.outputs.len()), ("Split", 2));
        let mut readers = HashMap::new();
        for name in net.layers.iter().flat_map(|layer| &layer.inputs) {
            *readers.entry(name).or_insert(0) += 1;
        }
        assert!(readers.values().all(|&n| n == 1), "{readers:?}");
    }

    #[test]
    fn broken_files_are_errors() {
        let mut net = net();
        net.share();
        let (param, bin) = (net.to_param(), net.to_bin());
        let error = |param: &str, bin: &[u8]| Net::parse(param, bin).unwrap_err().to_string();
        assert!(error("hello", &bin).contains("7767517"));
        assert!(error(&param, &bin[..bin.len() - 4]).contains("`c`"));
        assert!(error(&param, &[bin.as_slice(), &[0; 4]].concat()).contains("left over"));
        assert!(error(&param.replace("BinaryOp ", "BinaryOp x "), &bin).contains("line"));
        assert!(error(&param.replace("4 5", "4 9"), &bin).contains("line 2"));
    }
}
