//! AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568): whether each weight is
//! rounded up or down is learned, such that the layer's result stays what it is in float.
//!
//! The result of a layer is linear in its weight, so its squared error over all images is a quadratic form of the weight whose matrix is
//! the second moments of what the layer reads. They are summed up once; a step then looks at all images together, and nothing is random.
//! With `A = E[x_q x_q^T]`, `B = W E[x x_q^T]` and the rounded weight `U`, error and gradient are
//!
//! ```text
//! E |U x_q - W x|^2 = tr(U A U^T) - 2 tr(U B^T) + const        d/dU = 2 (U A - B)
//! U = s (clamp(floor(W / s) + h(V) + z, qmin, qmax) - z)       h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)
//! ```
//!
//! A regularizer `1 - |2 h - 1|^b` with `b` from 20 to 2 drives each `h` to 0 or 1.

use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use crate::graph::Op;
use crate::{Error, Result};

/// Second moments of what a layer reads, per group of its channels: `K` is the number of values that one result sums over.
#[derive(Debug)]
pub(super) struct Moments {
    /// `E[x_q x_q^T]`, `[groups, K, K]`.
    quantized: Tensor,
    /// `E[x x_q^T]`, `[groups, K, K]`.
    mixed: Tensor,
}

/// Places of a map that are looked at per image; more change nothing.
const PLACES: i64 = 400;

impl Moments {
    /// Those of `float` and `quantized`, what the layer reads in both networks. `centred` ones are about the mean: for a layer whose bias
    /// will be corrected.
    pub fn of(op: &Op, float: &Tensor, quantized: &Tensor, centred: bool) -> Result<Self> {
        let mut sums: Option<Sums> = None;
        let images = float.size().first().copied().unwrap_or_default();
        for image in 0..images {
            let columns = |x: &Tensor| columns(op, &x.f_narrow(0, image, 1)?);
            let (x, q) = (columns(float)?, columns(quantized)?);
            let own = Sums::of(&x, &q)?;
            sums = Some(match sums {
                None => own,
                Some(sums) => sums.plus(&own)?,
            });
        }
        let sums = sums.ok_or_else(|| Error::Impossible("there is no image to reconstruct on".into()))?;
        sums.moments(centred)
    }
}

/// Sums over places.
struct Sums {
    count: f64,
    qq: Tensor,
    xq: Tensor,
    q: Tensor,
    x: Tensor,
}

impl Sums {
    /// Of columns `[groups, K, places]`.
    fn of(x: &Tensor, q: &Tensor) -> Result<Self> {
        let turned = q.f_transpose(1, 2)?;
        let double = |t: Tensor| t.f_to_kind(Kind::Double);
        Ok(Self {
            count: q.size()[2] as f64,
            qq: double(q.f_bmm(&turned)?)?,
            xq: double(x.f_bmm(&turned)?)?,
            q: double(q.f_sum_dim_intlist(2, true, Kind::Double)?)?,
            x: double(x.f_sum_dim_intlist(2, true, Kind::Double)?)?,
        })
    }

    fn plus(self, other: &Self) -> Result<Self> {
        Ok(Self {
            count: self.count + other.count,
            qq: self.qq.f_add(&other.qq)?,
            xq: self.xq.f_add(&other.xq)?,
            q: self.q.f_add(&other.q)?,
            x: self.x.f_add(&other.x)?,
        })
    }

    fn moments(&self, centred: bool) -> Result<Moments> {
        let n = self.count.max(1.0);
        let (mut quantized, mut mixed) = (self.qq.f_div_scalar(n)?, self.xq.f_div_scalar(n)?);
        if centred {
            let (q, x) = (self.q.f_div_scalar(n)?, self.x.f_div_scalar(n)?);
            let turned = q.f_transpose(1, 2)?;
            quantized = quantized.f_sub(&q.f_bmm(&turned)?)?;
            mixed = mixed.f_sub(&x.f_bmm(&turned)?)?;
        }
        Ok(Moments { quantized, mixed })
    }
}

/// What each result of a layer sums over, `[groups, K, places]`, at up to [`PLACES`] places.
fn columns(op: &Op, x: &Tensor) -> Result<Tensor> {
    let (all, groups) = match op {
        Op::Conv2d {
            kernel,
            stride,
            padding,
            dilation,
            groups,
            ..
        } => {
            let columns = x.f_im2col(kernel, dilation, padding, stride)?;
            (columns.f_squeeze_dim(0)?, *groups)
        }
        _ => {
            let width = x.size().last().copied().unwrap_or(1);
            (x.f_reshape([-1, width])?.f_transpose(0, 1)?, 1)
        }
    };
    let [rows, places] = <[i64; 2]>::try_from(all.size()).map_err(|size| Error::Impossible(format!("{size:?}")))?;
    let picked = if places > PLACES {
        let at: Vec<i64> = (0..PLACES).map(|i| i * places / PLACES).collect();
        all.f_index_select(1, &Tensor::f_from_slice(&at)?.f_to_device(x.device())?)?
    } else {
        all
    };
    Ok(picked.f_reshape([groups, rows / groups, -1])?)
}

/// Steps of the optimizer, and its rate.
const STEPS: usize = 500;
const RATE: f64 = 5e-2;
/// Share of the steps in which nothing drives `h` to its ends.
const WARM_UP: f64 = 0.2;
/// Weight of the regularizer; the error counts in units of that of rounding to the nearest, per weight. In these units the error curves by
/// 24 along each `h` and the regularizer by 8 against it at the end, so from 3 on no `h` can stay between 0 and 1.
const REGULARIZER: f64 = 12.0;
/// `h` stretches a sigmoid to these ends, so that it reaches 0 and 1.
const ENDS: (f64, f64) = (-0.1, 1.1);

/// A weight between the two grid points around it.
struct Problem {
    /// `[groups, rows, K]`, in steps: the grid point below, and where the weight lies above it.
    below: Tensor,
    /// Step, `[groups, rows, 1]`.
    scale: Tensor,
    zero: Tensor,
    qmin: f64,
    qmax: f64,
    /// `[groups, K, K]`.
    moments: Tensor,
    /// `W E[x x_q^T]`, `[groups, rows, K]`.
    target: Tensor,
}

impl Problem {
    /// The weight on its grid for `h` in 0..1.
    fn weight(&self, h: &Tensor) -> Result<Tensor> {
        let steps = self.below.f_add(h)?.f_add(&self.zero)?.f_clamp(self.qmin, self.qmax)?;
        Ok(steps.f_sub(&self.zero)?.f_mul(&self.scale)?)
    }

    /// The squared error but for a constant, and its gradient by the weight.
    fn error(&self, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let product = weight.f_bmm(&self.moments)?;
        let half = product.f_sub(&self.target)?;
        let error = weight.f_mul(&half.f_sub(&self.target)?)?.f_sum(weight.kind())?;
        Ok((error, half.f_mul_scalar(2.0)?))
    }

    /// Gradient of `share * error + REGULARIZER * sum(1 - |2 h - 1|^power)` by `V`; without a power, of the error alone.
    fn gradient(&self, v: &Tensor, share: f64, power: Option<f64>) -> Result<Tensor> {
        let sigmoid = v.f_sigmoid()?;
        let (low, high) = ENDS;
        let open = sigmoid.f_mul_scalar(high - low)?.f_add_scalar(low)?;
        let h = open.f_clamp(0.0, 1.0)?;
        let inside = open.f_eq_tensor(&h)?;
        let slope = sigmoid
            .f_mul(&sigmoid.f_neg()?.f_add_scalar(1.0)?)?
            .f_mul_scalar(high - low)?
            .f_mul(&inside)?;
        let steps = self.below.f_add(&h)?.f_add(&self.zero)?;
        let free = steps.f_clamp(self.qmin, self.qmax)?.f_eq_tensor(&steps)?;
        let (_, by_weight) = self.error(&self.weight(&h)?)?;
        let mut by_h = by_weight.f_mul(&self.scale)?.f_mul(&free)?.f_mul_scalar(share)?;
        if let Some(power) = power {
            let centred = h.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
            let pull = centred
                .f_abs()?
                .f_pow_tensor_scalar(power - 1.0)?
                .f_mul(&centred.f_sign()?)?;
            by_h = by_h.f_sub(&pull.f_mul_scalar(2.0 * power * REGULARIZER)?)?;
        }
        Ok(by_h.f_mul(&slope)?)
    }
}

/// `V` for which `h` is `share`.
fn inverse(share: &Tensor) -> Result<Tensor> {
    let (low, high) = ENDS;
    let sigmoid = share.f_sub_scalar(low)?.f_div_scalar(high - low)?;
    let odds = sigmoid.f_div(&sigmoid.f_neg()?.f_add_scalar(1.0)?)?;
    Ok(odds.f_log()?)
}

/// The weight `[rows, ...]` on the grid of its quantizer, each element up or down as the layer's results want it. Where that is no better
/// than rounding to the nearest, it is that.
///
/// # Errors
/// Those of libtorch.
pub(super) fn round(
    weight: &Tensor,
    spec: &FakeQuantSpec,
    scale: &Tensor,
    zero: &Tensor,
    moments: &Moments,
) -> Result<Tensor> {
    tch::no_grad(|| {
        let kind = Kind::Float;
        let groups = moments.quantized.size()[0];
        let rows = weight.size()[0];
        let shaped = |t: &Tensor| t.f_detach()?.f_to_kind(kind)?.f_reshape([groups, rows / groups, -1]);
        let per_row = |t: &Tensor| {
            t.f_detach()?
                .f_to_kind(kind)?
                .f_expand([rows], true)?
                .f_reshape([groups, rows / groups, 1])
        };
        let scale = per_row(&scale.f_abs()?.f_clamp_min(f64::from(f32::EPSILON))?)?;
        let zero = per_row(&zero.f_round()?.f_clamp(spec.qmin, spec.qmax)?)?;
        let exact = shaped(weight)?;
        let steps = exact.f_div(&scale)?;
        let below = steps.f_floor()?;
        let share = steps.f_sub(&below)?;
        let problem = Problem {
            below,
            scale,
            zero,
            qmin: spec.qmin as f64,
            qmax: spec.qmax as f64,
            target: exact.f_bmm(&moments.mixed.f_to_kind(kind)?)?,
            moments: moments.quantized.f_to_kind(kind)?,
        };
        let nearest = problem.weight(&share.f_ge(0.5)?.f_to_kind(kind)?)?;
        let learned = learn(&problem, &share, &exact, &nearest)?;
        let value = |w: &Tensor| -> Result<f64> { Ok(problem.error(w)?.0.f_double_value(&[])?) };
        let better = if value(&learned)? < value(&nearest)? {
            learned
        } else {
            nearest
        };
        Ok(better.f_reshape(weight.size())?.f_to_kind(weight.kind())?)
    })
}

fn learn(problem: &Problem, share: &Tensor, exact: &Tensor, nearest: &Tensor) -> Result<Tensor> {
    let mut v = inverse(share)?;
    // What rounding to the nearest adds to the least error that any weight has.
    let off = nearest.f_sub(exact)?;
    let unit = off
        .f_bmm(&problem.moments)?
        .f_mul(&off)?
        .f_sum(Kind::Double)?
        .f_double_value(&[])?;
    let share = v.numel() as f64 / unit.max(f64::MIN_POSITIVE);
    if !share.is_finite() {
        return Ok(nearest.shallow_clone());
    }
    let (mut mean, mut square) = (v.f_zeros_like()?, v.f_zeros_like()?);
    for step in 0..STEPS {
        let done = step as f64 / STEPS as f64;
        let power = (done >= WARM_UP).then(|| 20.0 - 18.0 * (done - WARM_UP) / (1.0 - WARM_UP));
        let gradient = problem.gradient(&v, share, power)?;
        // Adam (arXiv 1412.6980).
        mean = mean.f_mul_scalar(0.9)?.f_add(&gradient.f_mul_scalar(0.1)?)?;
        square = square
            .f_mul_scalar(0.999)?
            .f_add(&gradient.f_square()?.f_mul_scalar(0.001)?)?;
        let [a, b] = [0.9f64, 0.999].map(|rate| 1.0 - rate.powi(step as i32 + 1));
        let size = square.f_div_scalar(b)?.f_sqrt()?.f_add_scalar(1e-8)?;
        v = v.f_sub(&mean.f_div_scalar(a)?.f_div(&size)?.f_mul_scalar(RATE)?)?;
    }
    problem.weight(&v.f_ge(0.0)?.f_to_kind(v.kind())?)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use crate::testing::Stream;

    const DOUBLE: (Kind, tch::Device) = (Kind::Double, tch::Device::Cpu);

    fn numbers(key: &str, shape: &[i64]) -> Tensor {
        let stream = Stream::new(key);
        let count = shape.iter().product::<i64>() as u32;
        let values: Vec<f64> = (0..count).map(|i| stream.signed(i)).collect();
        Tensor::from_slice(&values).reshape(shape)
    }

    fn spec(qmax: i64) -> FakeQuantSpec {
        FakeQuantSpec {
            qmin: -qmax,
            qmax,
            per_channel: true,
            symmetric: true,
            method: Method::Learnable,
        }
    }

    /// Two groups of three rows over five inputs.
    fn problem() -> (Problem, Tensor) {
        let steps = numbers("w", &[2, 3, 5]) * 3.0;
        let x = numbers("x", &[2, 5, 40]);
        let moments = x.bmm(&x.transpose(1, 2)) / 40.0;
        let scale = numbers("s", &[2, 3, 1]).abs() + 0.1;
        let exact = &steps * &scale;
        let below = steps.floor();
        let problem = Problem {
            target: exact.bmm(&moments),
            scale,
            zero: Tensor::zeros([2, 3, 1], DOUBLE),
            // One that clips some of the weights.
            qmin: -2.0,
            qmax: 2.0,
            moments,
            below: below.shallow_clone(),
        };
        (problem, steps - below)
    }

    /// What is minimized, from its definition.
    fn objective(problem: &Problem, v: &Tensor, share: f64, power: f64) -> f64 {
        let h = (v.sigmoid() * 1.2 - 0.1).clamp(0.0, 1.0);
        let weight = problem.weight(&h).expect("a weight");
        let error = problem.error(&weight).expect("an error").0.double_value(&[]);
        let driven: Tensor = (&h * 2.0 - 1.0).abs().pow_tensor_scalar(power);
        let pull = v.numel() as f64 - driven.sum(Kind::Double).double_value(&[]);
        share * error + REGULARIZER * pull
    }

    #[test]
    fn the_gradient_is_that_of_the_objective() {
        let (problem, share) = problem();
        let v = inverse(&share).expect("finite") + numbers("v", &[2, 3, 5]);
        for (weight, power) in [(1.0, 20.0), (3.0, 2.0)] {
            let gradient = problem.gradient(&v, weight, Some(power)).expect("a gradient");
            for at in 0..v.numel() as i64 {
                let moved = |by: f64| {
                    let step = Tensor::zeros([30], DOUBLE);
                    let _ = step.get(at).fill_(by);
                    objective(&problem, &(&v + step.reshape([2, 3, 5])), weight, power)
                };
                let numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                let found = gradient.reshape([-1]).double_value(&[at]);
                assert!(
                    (numeric - found).abs() < 1e-5 * (1.0 + numeric.abs()),
                    "{at}: {found} is not {numeric}"
                );
            }
        }
        let back = (inverse(&share).expect("finite").sigmoid() * 1.2 - 0.1 - &share)
            .abs()
            .max();
        assert!(back.double_value(&[]) < 1e-12, "h starts at the weight itself");
    }

    #[test]
    fn the_error_is_that_of_the_results() {
        let (problem, _) = problem();
        let x = numbers("x", &[2, 5, 40]);
        let weights = [numbers("a", &[2, 3, 5]), numbers("b", &[2, 3, 5])];
        let exact = problem.target.bmm(&problem.moments.inverse());
        let direct = |w: &Tensor| ((w - &exact).bmm(&x)).square().sum(Kind::Double).double_value(&[]) / 40.0;
        let of = |w: &Tensor| problem.error(w).expect("an error").0.double_value(&[]);
        // Equal but for a constant.
        let (a, b) = (
            of(&weights[0]) - of(&weights[1]),
            direct(&weights[0]) - direct(&weights[1]),
        );
        assert!((a - b).abs() < 1e-9 * b.abs(), "{a} is not {b}");
    }

    /// Inputs that go together let errors of rounding cancel out; found are grid points, each a neighbour of its weight.
    #[test]
    fn results_stay_nearer_than_with_the_nearest_grid_points() {
        let common = numbers("common", &[1, 1, 12, 12]);
        let x = (numbers("x", &[4, 6, 12, 12]) * 0.3 + common).to_kind(Kind::Float);
        let op = Op::conv(6, 8, 3, 1, 1, 1, false);
        let weight = numbers("weight", &[8, 6, 3, 3]).to_kind(Kind::Float);
        let scale = (weight.abs().amax([1, 2, 3], false)) / 7.0;
        let zero = scale.zeros_like();
        let spec = spec(7);
        let moments = Moments::of(&op, &x, &x, false).expect("moments");
        let rounded = round(&weight, &spec, &scale, &zero, &moments).expect("a weight");
        let nearest = super::super::fake_quant(&weight, &spec, &scale, &zero, false).expect("a weight");
        let results = |w: &Tensor| x.conv2d(w, None::<Tensor>, 1, 1, 1, 1);
        let error = |w: &Tensor| {
            (results(w) - results(&weight))
                .square()
                .mean(Kind::Double)
                .double_value(&[])
        };
        assert!(
            error(&rounded) < 0.5 * error(&nearest),
            "{} {}",
            error(&rounded),
            error(&nearest)
        );
        let steps = (&rounded - &weight) / scale.reshape([-1, 1, 1, 1]);
        assert!(
            steps.abs().max().double_value(&[]) < 1.0 + 1e-4,
            "a neighbour of the weight"
        );
        let again = super::super::fake_quant(&rounded, &spec, &scale, &zero, false).expect("a weight");
        assert!(again.allclose(&rounded, 1e-6, 1e-7, false), "it lies on the grid");
    }
}
