//! Fake quantization: rounds to the grid and back, with a gradient.

use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use super::spec::Method;
use crate::Result;

type Torch<T> = Result<T, tch::TchError>;

/// Quantizes and dequantizes. Half rounds to even everywhere but in [`Method::rounds_up`].
///
/// # Shapes
/// `x` of any shape (weights: channels first); `scale` and `zero_point` `[1]` or `[channels]`. The result is f32 where `x` is in half
/// precision.
pub fn fake_quant(
    x: &Tensor,
    spec: &FakeQuantSpec,
    scale: &Tensor,
    zero_point: &Tensor,
    train: bool,
) -> Result<Tensor> {
    // Grids are finer than what half precision tells apart: in mixed precision, too, quantizers work in f32.
    let single;
    let x = if matches!(x.kind(), Kind::Half | Kind::BFloat16) {
        single = x.f_to_kind(Kind::Float)?;
        &single
    } else {
        x
    };
    Ok(match spec.method {
        Method::Learnable if train => learnable(x, spec, scale, zero_point)?,
        Method::Pact if train => pact(x, spec, scale, zero_point)?,
        Method::Dsq if train => soft(x, spec, scale, zero_point)?,
        Method::Dorefa => fixed(&squashed(x)?, spec, scale, zero_point)?,
        Method::Learnable | Method::Fixed | Method::Pact | Method::Dsq => fixed(x, spec, scale, zero_point)?,
        Method::Gfpq => straight_through(x, &gfpq(x, scale)?)?,
        Method::PowerOfTwo | Method::PowerOfTwoUp => power_of_two(x, spec, &scale.detach())?,
        Method::Tqt | Method::TqtUp => power_of_two(x, spec, &with_gradient(scale, step(x, spec, scale))?)?,
    })
}

/// LSQ gradients for scale and (asymmetric) zero point, scaled by 1 / sqrt(N * qmax).
fn learnable(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, zero_point: &Tensor) -> Torch<Tensor> {
    let factor = step(x, spec, scale);
    let scale = scale.f_abs()?.f_clamp_min(f64::from(f32::EPSILON))?;
    if spec.per_channel {
        x.f_internal_fake_quantize_learnable_per_channel_affine(&scale, zero_point, 0, spec.qmin, spec.qmax, factor)
    } else {
        x.f_internal_fake_quantize_learnable_per_tensor_affine(&scale, zero_point, spec.qmin, spec.qmax, factor)
    }
}

/// What LSQ multiplies gradients of scales by: `1 / sqrt(N * qmax)`, `N` values per scale.
fn step(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor) -> f64 {
    let per_scale = x.numel() as f64 / scale.numel().max(1) as f64;
    1.0 / (per_scale * spec.qmax as f64).sqrt()
}

/// The value of `x`, `factor` times its gradient.
fn with_gradient(x: &Tensor, factor: f64) -> Torch<Tensor> {
    let part = x.f_mul_scalar(factor)?;
    part.f_add(&x.f_sub(&part)?.f_detach()?)
}

/// A scale or zero point such that it meets the rows of `x`.
fn per_row(x: &Tensor, spec: &FakeQuantSpec, values: &Tensor) -> Torch<Tensor> {
    if !spec.per_channel {
        return Ok(values.shallow_clone());
    }
    let mut shape = vec![1; x.dim()];
    shape[0] = -1;
    values.f_reshape(&shape)
}

/// Values within the range of the quantizer: where `x` lies beyond, the gradient goes to the end that is met, and none to `x`. An end moves
/// as far as if it were the parameter, whatever number of steps it is away.
fn pact(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, zero_point: &Tensor) -> Torch<Tensor> {
    let zero = per_row(x, spec, &zero_point.detach().f_round()?.f_clamp(spec.qmin, spec.qmax)?)?;
    let learned = with_gradient(&scale.f_abs()?, 1.0 / (spec.qmax as f64).powi(2))?;
    let learned = per_row(x, spec, &learned)?;
    let end = |q: i64| zero.f_neg()?.f_add_scalar(q as f64)?.f_mul(&learned);
    let (low, high) = (end(spec.qmin)?, end(spec.qmax)?);
    let clipped = low.f_where_self(&x.f_lt_tensor(&low)?, x)?;
    let clipped = high.f_where_self(&x.f_gt_tensor(&high)?, &clipped)?;
    straight_through(&clipped, &fixed(x, spec, scale, zero_point)?)
}

/// The gradient of the soft staircase `floor(v) + (1 + t tanh(k (v - floor(v) - 0.5))) / 2` with `t = 1 / (1 - a)`, `k = ln((t + 1) / (t - 1))`,
/// `a = 0.4`; the value of the hard one.
fn soft(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, zero_point: &Tensor) -> Torch<Tensor> {
    const SOFTNESS: f64 = 0.4;
    let t = 1.0 / (1.0 - SOFTNESS);
    let k = ((t + 1.0) / (t - 1.0)).ln();
    let scale_of = per_row(x, spec, &scale.detach().f_abs()?.f_clamp_min(f64::from(f32::EPSILON))?)?;
    let zero = per_row(x, spec, &zero_point.detach().f_round()?.f_clamp(spec.qmin, spec.qmax)?)?;
    let steps = x.f_div(&scale_of)?.f_add(&zero)?.f_clamp(spec.qmin, spec.qmax)?;
    let floor = steps.detach().f_floor()?;
    let phase = steps.f_sub(&floor)?.f_sub_scalar(0.5)?.f_mul_scalar(k)?.f_tanh()?;
    let stairs = phase.f_mul_scalar(t / 2.0)?.f_add(&floor)?.f_add_scalar(0.5)?;
    let soft = stairs.f_sub(&zero)?.f_mul(&scale_of)?;
    straight_through(&soft, &fixed(x, spec, scale, zero_point)?)
}

/// `max |w| * tanh(w) / max |tanh(w)|`: DoReFa's weights in the range of the weights that they come from.
pub(super) fn squashed(weight: &Tensor) -> Torch<Tensor> {
    let squashed = weight.f_tanh()?;
    let largest = squashed
        .detach()
        .f_abs()?
        .f_max()?
        .f_clamp_min(f64::from(f32::EPSILON))?;
    let factor = weight.detach().f_abs()?.f_max()?.f_div(&largest)?;
    squashed.f_mul(&factor)
}

/// `(clamp(round(x / s) + z, qmin, qmax) - z) * s`; the gradient passes inside of the range.
fn fixed(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, zero_point: &Tensor) -> Torch<Tensor> {
    let scale = scale.detach().f_abs()?.f_clamp_min(f64::from(f32::EPSILON))?;
    let zero_point = zero_point
        .detach()
        .f_round()?
        .f_clamp(spec.qmin, spec.qmax)?
        .f_to_kind(Kind::Int)?;
    if spec.per_channel {
        x.f_fake_quantize_per_channel_affine(&scale, &zero_point, 0, spec.qmin, spec.qmax)
    } else {
        x.f_fake_quantize_per_tensor_affine_tensor_qparams(&scale, &zero_point, spec.qmin, spec.qmax)
    }
}

/// The value of `y`, the gradient of `x`.
fn straight_through(x: &Tensor, y: &Tensor) -> Torch<Tensor> {
    x.f_add(&y.f_sub(x)?.f_detach()?)
}

/// GFPQ (HiSilicon NNIE, as MQBench v0.0.2 simulates it): `z = round(16 log2 c) - 127`;
/// `y = +-2^((clamp(round(16 log2 |x|) - z, 0 or 1, 127) + z) / 16)`, 0 in a band around zero.
fn gfpq(x: &Tensor, largest: &Tensor) -> Torch<Tensor> {
    tch::no_grad(|| {
        let x64 = x.f_to_kind(Kind::Double)?;
        let c = f64::try_from(largest.f_to_kind(Kind::Double)?.f_max()?)?.max(1e-30);
        let z = (16.0 * c.log2()).round_ties_even() - 127.0;
        let code = |magnitude: &Tensor, least: i64| -> Torch<Tensor> {
            let steps = magnitude
                .f_log2()?
                .f_mul_scalar(16.0)?
                .f_sub_scalar(z)?
                .f_round()?
                .f_clamp(least, 127)?;
            steps.f_add_scalar(z)?.f_div_scalar(16.0)?.f_exp2()
        };
        let above = x64.f_ge(((z - 16.0) / 16.0).exp2())?;
        let below = x64.f_lt(-((z + 1.0 - 16.0) / 16.0).exp2())?;
        let zero = x64.f_zeros_like()?;
        let positive = code(&x64.f_clamp_min(1e-300)?, 0)?.f_where_self(&above, &zero)?;
        let negative = code(&x64.f_neg()?.f_clamp_min(1e-300)?, 1)?
            .f_neg()?
            .f_where_self(&below, &zero)?;
        positive.f_add(&negative)?.f_to_kind(x.kind())
    })
}

/// Scale `2^-floor(log2(1 / s))`; weights round half to even and clamp, activations clamp and round half up for negatives. The gradient
/// reaches `x` within the range, and a scale that learns through both roundings (TQT, equation 6): `round(x / s) - x / s` inside, the end
/// outside, times what the power of two is of `s`.
fn power_of_two(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor) -> Torch<Tensor> {
    let scale = scale.f_abs()?.f_clamp_min(2f64.powi(-15))?;
    let power = scale
        .detach()
        .f_reciprocal()?
        .f_log2()?
        .f_add_scalar(1e-6)?
        .f_floor()?
        .f_neg()?
        .f_exp2()?;
    let power = if scale.requires_grad() {
        power.f_mul(&scale.f_div(&scale.detach())?)?
    } else {
        power
    };
    let power = per_row(x, spec, &power)?;
    let steps = x.f_div(&power)?;
    let clamped = steps.f_clamp(spec.qmin, spec.qmax)?;
    let rounded = if spec.method.rounds_up() {
        // ceil(v) where v is negative and half way, else half to even.
        let half = clamped
            .f_sub(&clamped.f_floor()?)?
            .f_eq(0.5)?
            .f_logical_and(&clamped.f_lt(0)?)?;
        clamped.f_ceil()?.f_where_self(&half, &clamped.f_round()?)?
    } else {
        steps.f_round()?.f_clamp(spec.qmin, spec.qmax)?
    };
    straight_through(&clamped, &rounded)?.f_mul(&power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[f64], spec: &FakeQuantSpec, scale: f64) -> Vec<f64> {
        let x = Tensor::from_slice(values).to_kind(Kind::Float);
        let y = fake_quant(
            &x,
            spec,
            &Tensor::from_slice(&[scale as f32]),
            &Tensor::from_slice(&[0f32]),
            false,
        );
        Vec::<f64>::try_from(y.expect("plain tensors").to_kind(Kind::Double)).expect("a vector")
    }

    fn spec(method: Method) -> FakeQuantSpec {
        FakeQuantSpec {
            qmin: -127,
            qmax: 127,
            per_channel: false,
            symmetric: true,
            method,
        }
    }

    #[test]
    fn gfpq_gives_the_published_codes() {
        let got = run(&[0.01, 0.3, 0.9, -0.0022, 5.9, 0.002, -0.002], &spec(Method::Gfpq), 1.0);
        let wanted = [0.010_131_56, 0.297_301_78, 0.917_004_04, -0.004_259_80, 1.0, 0.0, 0.0];
        for (got, wanted) in got.iter().zip(wanted) {
            // Values are printed with 8 decimals.
            assert!((got - wanted).abs() < 1e-7, "{got} is not {wanted}");
        }
        let top = run(&[9.0], &spec(Method::Gfpq), 6.0)[0];
        assert!((top - 5.907_304_58).abs() < 1e-6, "{top}");
    }

    #[test]
    fn linear_grids_round_half_to_even_and_saturate() {
        let got = run(&[0.5, 1.5, 2.5, -0.5, 200.0, -200.0], &spec(Method::Fixed), 1.0);
        assert_eq!(got, [0.0, 2.0, 2.0, 0.0, 127.0, -127.0]);
        assert_eq!(run(&[-1.5, 1.5], &spec(Method::PowerOfTwoUp), 1.0), [-1.0, 2.0]);
        assert_eq!(run(&[-1.5, 1.5], &spec(Method::PowerOfTwo), 1.0), [-2.0, 2.0]);
    }

    /// Value, and the gradients of `x` and of the scale, of the sum of what a quantizer in training makes of `values`.
    fn taught(values: &[f32], spec: &FakeQuantSpec, scale: f32, zero: f32) -> (Vec<f64>, Vec<f64>, f64) {
        let x = Tensor::from_slice(values).set_requires_grad(true);
        let scale = Tensor::from_slice(&[scale]).set_requires_grad(true);
        let y = fake_quant(&x, spec, &scale, &Tensor::from_slice(&[zero]), true).expect("plain tensors");
        y.sum(Kind::Float).backward();
        let vector = |x: &Tensor| Vec::<f64>::try_from(x.detach().to_kind(Kind::Double)).expect("a vector");
        let learned = if scale.grad().defined() {
            scale.grad().double_value(&[0])
        } else {
            0.0
        };
        (vector(&y), vector(&x.grad()), learned)
    }

    /// The end of the range is what PACT teaches: whatever lies beyond moves it by 1, as if it were the parameter, and nothing else does.
    #[test]
    fn pact_teaches_the_end_of_its_range_by_what_is_clipped() {
        let unsigned = FakeQuantSpec {
            qmin: 0,
            qmax: 15,
            symmetric: false,
            ..spec(Method::Pact)
        };
        let (y, x, scale) = taught(&[0.33, 7.0, 2.0, 9.0, -1.0], &unsigned, 0.1, 0.0);
        let wanted = [0.3, 1.5, 1.5, 1.5, 0.0];
        assert!(
            y.iter().zip(wanted).all(|(y, wanted)| (y - wanted).abs() < 1e-6),
            "{y:?}"
        );
        assert_eq!(x, [1.0, 0.0, 0.0, 0.0, 0.0]);
        // Three lie above an end of 15 steps: of the end 3, of a step 3 * 15, and 15^2 takes the steps out of what the end moves by.
        assert!((scale - 3.0 * 15.0 / 225.0).abs() < 1e-6, "{scale}");
        // On a symmetric grid both ends are one parameter, and below it the gradient turns round.
        let (_, _, scale) = taught(&[20.0, -20.0, -20.0], &spec(Method::Pact), 0.1, 0.0);
        assert!((scale + 127.0 / (127.0 * 127.0)).abs() < 1e-6, "{scale}");
    }

    /// The gradient of DSQ's staircase against finite differences of its formula in double precision.
    #[test]
    fn soft_staircases_have_hard_values_and_soft_gradients() {
        let values = [0.31f32, -0.77, 0.05, 1.26, 99.0];
        let (y, x, scale) = taught(&values, &spec(Method::Dsq), 0.1, 0.0);
        let hard = run(&values.map(f64::from), &spec(Method::Fixed), 0.1);
        assert_eq!((y, scale), (hard, 0.0));
        let stairs = |x: f64| {
            let (t, v) = (1.0 / 0.6f64, (x / 0.1).clamp(-127.0, 127.0));
            let k = ((t + 1.0) / (t - 1.0)).ln();
            (v.floor() + (1.0 + t * (k * (v - v.floor() - 0.5)).tanh()) / 2.0) * 0.1
        };
        for (value, found) in values.iter().zip(x) {
            let value = f64::from(*value);
            let wanted = (stairs(value + 1e-6) - stairs(value - 1e-6)) / 2e-6;
            assert!((found - wanted).abs() < 1e-3, "{value}: {found} is not {wanted}");
        }
    }

    /// DoReFa's weights keep their magnitude and signs, small ones grow; they are on the grid.
    #[test]
    fn dorefa_bends_weights_and_keeps_the_largest() {
        let values = [-2.0f32, 0.5, 0.25, 1.0];
        let (y, _, _) = taught(&values, &spec(Method::Dorefa), 2.0 / 127.0, 0.0);
        for (value, found) in values.iter().zip(&y) {
            let wanted = 2.0 * f64::from(*value).tanh() / 2f64.tanh();
            assert!(
                (found - wanted).abs() <= 1.0 / 127.0,
                "{value}: {found} is not {wanted}"
            );
        }
        assert!((y[0] + 2.0).abs() < 1e-6, "{y:?}");
    }

    /// TQT's threshold: `round(x / s) - x / s` inside and the ends outside, with the factor of LSQ; the scale that counts is the power of
    /// two above.
    #[test]
    fn thresholds_learn_through_their_power_of_two() {
        let small = FakeQuantSpec {
            qmin: -2,
            qmax: 1,
            ..spec(Method::Tqt)
        };
        let values = [0.3f32, 5.0, -5.0];
        let (y, x, scale) = taught(&values, &small, 0.4, 0.0);
        assert_eq!(y, [0.5, 0.5, -1.0]);
        assert_eq!(x, [1.0, 0.0, 0.0]);
        let of_power = (1.0 - 0.6) + 1.0 - 2.0;
        let wanted = of_power * (0.5 / 0.4) / 3f64.sqrt();
        assert!((scale - wanted).abs() < 1e-5, "{scale} is not {wanted}");
        // Without learning the same values and no gradient.
        let (fixed, _, scale) = taught(
            &values,
            &FakeQuantSpec {
                method: Method::PowerOfTwo,
                ..small
            },
            0.4,
            0.0,
        );
        assert_eq!((fixed, scale), (y, 0.0));
    }

    #[test]
    fn learned_scales_get_the_lsq_gradient() {
        let x = Tensor::from_slice(&[0.3f32, 5.0, -5.0]);
        let scale = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let small = FakeQuantSpec {
            qmin: -1,
            qmax: 1,
            ..spec(Method::Learnable)
        };
        let y = fake_quant(
            &x,
            &small,
            &scale,
            &Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)),
            true,
        );
        y.expect("plain tensors").sum(Kind::Float).backward();
        // Inside: round(x / s) - x / s = -0.3; above: +1; below: -1; times 1 / sqrt(3 * 1).
        let grad = f64::try_from(scale.grad()).expect("a number");
        assert!((grad + 0.3 / 3f64.sqrt()).abs() < 1e-6, "{grad}");
    }
}
