//! Deterministic weights and images for comparing this program with other frameworks: no random generator, no library
//! functions but the square root, so that any language can make the same numbers. Also statistics of a tensor. Tests, parity
//! checks and `yolo forward` use it; nothing in the program's own work does.

use tch::Tensor;

use crate::{Graph, ParamRole, ParamSpec, Params, Result};

/// 32-bit FNV-1a.
pub fn fnv1a32(text: &str) -> u32 {
    text.bytes()
        .fold(0x811C_9DC5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// A stream of hashed numbers, one per index (the finaliser of MurmurHash3 on index and key).
#[derive(Debug, Clone, Copy)]
pub struct Stream(u32);

impl Stream {
    /// The stream of this key.
    pub fn new(key: &str) -> Self {
        Self(fnv1a32(key))
    }

    /// 32 hashed bits.
    pub fn bits(self, index: u32) -> u32 {
        let mut x = index.wrapping_mul(0x9E37_79B1).wrapping_add(self.0);
        x ^= x >> 16;
        x = x.wrapping_mul(0x85EB_CA6B);
        x ^= x >> 13;
        x = x.wrapping_mul(0xC2B2_AE35);
        x ^ (x >> 16)
    }

    /// In [-1, 1).
    pub fn signed(self, index: u32) -> f64 {
        f64::from(self.bits(index)) / 2_147_483_648.0 - 1.0
    }

    /// In [0, 1).
    pub fn unit(self, index: u32) -> f64 {
        f64::from(self.bits(index)) / 4_294_967_296.0
    }
}

/// The value of one tensor of a model: weights `r * gain / sqrt(fan_in)`, scales of norms `1 + r / 2`, biases `r / 10`,
/// variances `1 + |r| / 2`.
pub fn fill_values(spec: &ParamSpec, gain: f64) -> Vec<f32> {
    let stream = Stream::new(&spec.key);
    let last = spec.key.rsplit('.').next().unwrap_or_default();
    let n = spec.numel() as u32;
    let map = |f: &dyn Fn(f64) -> f64| -> Vec<f32> { (0..n).map(|i| f(stream.signed(i)) as f32).collect() };
    match last {
        "running_mean" => map(&|r| 0.1 * r),
        "running_var" => map(&|r| 1.0 + 0.5 * r.abs()),
        "relative_position_bias_table" => map(&|r| 0.5 * r),
        _ if last.ends_with("weight") && spec.shape.len() >= 2 => {
            let fan_in = spec.numel() as f64 / spec.shape[0] as f64;
            let bound = gain / fan_in.sqrt();
            (0..n).map(|i| (stream.signed(i) * bound) as f32).collect()
        }
        _ if last.ends_with("weight") => map(&|r| 1.0 + 0.5 * r),
        _ => map(&|r| 0.1 * r),
    }
}

/// Every tensor of `graph` filled by [`fill_values`]; counters are 0, anchors come from the head.
pub fn fill_params(graph: &Graph, gain: f64) -> Params {
    let mut params: Params = graph
        .param_specs()
        .iter()
        .map(|spec| {
            let tensor = if spec.role == ParamRole::Counter {
                crate::params::init_tensor(spec, 0)
            } else {
                Tensor::from_slice(&fill_values(spec, gain)).reshape(spec.shape.as_slice())
            };
            (spec.key.clone(), tensor)
        })
        .collect();
    if let Some(head) = &graph.head {
        params.insert(head.anchors_key(), head.anchors_in_cells());
    }
    params
}

/// The test image `[n, c, h, w]`: noise plus a ramp, in 0..1.
pub fn input(n: i64, c: i64, h: i64, w: i64) -> Tensor {
    let stream = Stream::new("input");
    let values: Vec<f32> = (0..n * c * h * w)
        .map(|i| {
            let (x, y, channel) = (i % w, i / w % h, i / (w * h) % c);
            let ramp = ((3 * y + 5 * x + 37 * channel) % 64) as f64 / 64.0;
            (0.5 * stream.unit(i as u32) + 0.5 * ramp) as f32
        })
        .collect();
    Tensor::from_slice(&values).reshape([n, c, h, w])
}

/// What a tensor looks like, in double precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub std: f64,
    /// Smallest element.
    pub min: f64,
    /// Largest element.
    pub max: f64,
    /// Euclidean norm.
    pub l2: f64,
    /// Elements at [`sample_indexes`].
    pub samples: Vec<f64>,
}

/// Statistics and `samples` elements of a tensor.
pub fn stats(tensor: &Tensor, samples: usize) -> Result<Stats> {
    let flat = tensor
        .f_detach()?
        .f_to_device(tch::Device::Cpu)?
        .f_to_kind(tch::Kind::Double)?
        .f_reshape([-1])?;
    let n = flat.size1()?;
    let mean = flat.f_mean(None::<tch::Kind>)?.double_value(&[]);
    Ok(Stats {
        mean,
        std: flat
            .f_sub_scalar(mean)?
            .f_square()?
            .f_mean(None::<tch::Kind>)?
            .double_value(&[])
            .sqrt(),
        min: flat.f_min()?.double_value(&[]),
        max: flat.f_max()?.double_value(&[]),
        l2: flat.f_square()?.f_sum(None::<tch::Kind>)?.double_value(&[]).sqrt(),
        samples: sample_indexes(n, samples as i64)
            .into_iter()
            .map(|i| flat.double_value(&[i]))
            .collect(),
    })
}

/// `k` flat indexes spread over `n` elements: the middles of `k` equal parts.
pub fn sample_indexes(n: i64, k: i64) -> Vec<i64> {
    (0..k)
        .map(|j| if n < k { j.min(n - 1) } else { j * n / k + n / k / 2 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;

    #[test]
    fn hashes_and_fill_are_the_published_vectors() {
        assert_eq!(fnv1a32("input"), 4_191_711_099);
        assert_eq!(fnv1a32("model.0.conv.weight"), 3_366_323_102);
        let bits: Vec<u32> = (0..4).map(|i| Stream::new("input").bits(i)).collect();
        assert_eq!(bits, [3_431_821_188, 479_405_565, 268_513_236, 1_648_500_714]);
        let spec = ParamSpec {
            key: "model.0.conv.weight".into(),
            shape: vec![16, 3, 6, 6],
            role: ParamRole::Weight,
            init: Init::Const(0.0),
        };
        let values = fill_values(&spec, 2.5);
        assert_eq!(values[..3], [-0.110_866_11_f32, -0.017_699_992, -0.225_164_52]);
        let image = input(1, 3, 320, 320).reshape([-1]);
        assert_eq!(image.double_value(&[0]) as f32, 0.399_516_58);
        assert_eq!(image.double_value(&[307_199]) as f32, 0.117_711_626);
    }
}
