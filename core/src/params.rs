//! The tensors of a model, by name. Holds no structure: the graph says which names there are ([`Graph::param_specs`]).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{Error, Graph, Result};

/// What a tensor is to the optimizer and to the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamRole {
    /// Weight of a convolution, a linear layer or a projection: trained with weight decay.
    Weight,
    /// Bias: trained without decay.
    Bias,
    /// Scale of a normalisation: trained without decay.
    NormWeight,
    /// Shift of a normalisation: trained without decay.
    NormBias,
    /// A table or gate that is trained without decay (relative position bias, fusion weights).
    Table,
    /// Scale or zero point of a fake quantizer.
    Quant,
    /// Statistics and constants: never trained.
    Buffer,
    /// Integer counter (`num_batches_tracked`): never trained.
    Counter,
}

impl ParamRole {
    /// Whether the optimizer may change the tensor.
    pub fn trainable(self) -> bool {
        !matches!(self, Self::Buffer | Self::Counter)
    }
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for convolutions and linear layers.
    FanIn(i64),
    /// Xavier uniform: U(-a, a), a = sqrt(6 / (fan_in + fan_out)).
    Xavier {
        /// Inputs per output.
        fan_in: i64,
        /// Outputs per input.
        fan_out: i64,
    },
    /// Normal, mean 0, truncated at two standard deviations.
    TruncNormal(f64),
    /// A constant.
    Const(f64),
    /// Integers: which row of the bias table each pair of tokens of a window of this side takes (Swin, arXiv 2103.14030).
    RelativePositionIndex(i64),
}

/// One tensor that a graph needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// State-dict key, for example `model.4.m.0.cv1.conv.weight`.
    pub key: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// What it is.
    pub role: ParamRole,
    /// How it starts.
    pub init: Init,
}

impl ParamSpec {
    /// Number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Name to tensor, in the order of the graph.
#[derive(Debug, Default)]
pub struct Params {
    map: IndexMap<String, Tensor>,
}

impl Params {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fresh tensors for every parameter of `graph`. The same seed gives the same values: each tensor draws from a
    /// generator of its own, seeded with the seed and its key, so that adding a layer changes no other layer.
    pub fn init(graph: &Graph, seed: u64) -> Self {
        let map = graph
            .param_specs()
            .into_iter()
            .map(|spec| (spec.key.clone(), init_tensor(&spec, seed)))
            .collect();
        let mut params = Self { map };
        if let Some(head) = &graph.head {
            head.init_params(&mut params);
        }
        params
    }

    /// The tensor of this key.
    pub fn get(&self, key: &str) -> Option<&Tensor> {
        self.map.get(key)
    }

    /// The tensor of this key, or an error that names it.
    pub fn require(&self, key: &str) -> Result<&Tensor> {
        self.map
            .get(key)
            .ok_or_else(|| Error::Params(format!("there is no tensor `{key}`")))
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, key: impl Into<String>, tensor: Tensor) {
        self.map.insert(key.into(), tensor);
    }

    /// Removes a tensor, keeping the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Tensor> {
        self.map.shift_remove(key)
    }

    /// All tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.map.iter().map(|(key, tensor)| (key.as_str(), tensor))
    }

    /// Where the tensors are (the CPU if there are none): a model is on one device as a whole.
    pub fn device(&self) -> Device {
        self.map.values().next().map_or(Device::Cpu, Tensor::device)
    }

    /// The same tensors on `device`; those that are there already are shared.
    pub fn to_device(&self, device: Device) -> Self {
        Self {
            map: self.map.iter().map(|(k, t)| (k.clone(), t.to_device(device))).collect(),
        }
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// New tensors with the same values that share no storage.
    pub fn deep_clone(&self) -> Self {
        tch::no_grad(|| Self {
            map: self.map.iter().map(|(k, t)| (k.clone(), t.detach().copy())).collect(),
        })
    }

    /// The same tensors under the same names (storage is shared).
    pub fn shallow_clone(&self) -> Self {
        Self {
            map: self.map.iter().map(|(k, t)| (k.clone(), t.shallow_clone())).collect(),
        }
    }

    /// Tensors on another device; floating tensors in another kind.
    pub fn to(&self, device: Device, kind: Kind) -> Self {
        let convert = |t: &Tensor| {
            let t = t.to_device(device);
            if t.is_floating_point() { t.to_kind(kind) } else { t }
        };
        Self {
            map: self.map.iter().map(|(k, t)| (k.clone(), convert(t))).collect(),
        }
    }

    /// Checks that every parameter of `graph` is present with its shape. Names the first that is not.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        for spec in graph.param_specs() {
            let tensor = self.require(&spec.key)?;
            if tensor.size() != spec.shape {
                return Err(Error::Params(format!(
                    "`{}` has shape {:?}, the model needs {:?}",
                    spec.key,
                    tensor.size(),
                    spec.shape
                )));
            }
        }
        Ok(())
    }
}

impl FromIterator<(String, Tensor)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(iter: I) -> Self {
        Self {
            map: iter.into_iter().collect(),
        }
    }
}

/// 64-bit FNV-1a, to give each tensor a stream of its own.
fn key_hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A fresh tensor on the CPU, in f32 (counters in i64). Draws from a generator of its own, seeded with `seed` and the key.
pub fn init_tensor(spec: &ParamSpec, seed: u64) -> Tensor {
    use rand::{RngExt as _, SeedableRng as _};
    if let Init::RelativePositionIndex(size) = spec.init {
        let index = crate::exec::relative_position_index(size);
        return Tensor::from_slice(&index).reshape(spec.shape.as_slice());
    }
    if spec.role == ParamRole::Counter {
        return Tensor::zeros(spec.shape.as_slice(), (Kind::Int64, Device::Cpu));
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ key_hash(&spec.key));
    let n = spec.numel() as usize;
    let mut uniform = |bound: f64| -> Vec<f32> {
        (0..n)
            .map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32)
            .collect()
    };
    let values = match spec.init {
        Init::Const(value) => {
            return Tensor::full(spec.shape.as_slice(), value, (Kind::Float, Device::Cpu));
        }
        Init::RelativePositionIndex(_) => Vec::new(),
        Init::FanIn(fan_in) => uniform(1.0 / (fan_in.max(1) as f64).sqrt()),
        Init::Xavier { fan_in, fan_out } => uniform((6.0 / (fan_in + fan_out).max(1) as f64).sqrt()),
        Init::TruncNormal(std) => {
            // Box-Muller, drawn again outside two standard deviations.
            let mut draw = || loop {
                let (u, v): (f64, f64) = (rng.random(), rng.random());
                let z = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                if z.abs() <= 2.0 {
                    return (z * std) as f32;
                }
            };
            (0..n).map(|_| draw()).collect()
        }
    };
    Tensor::from_slice(&values).reshape(spec.shape.as_slice())
}
