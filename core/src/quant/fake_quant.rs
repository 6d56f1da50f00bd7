//! Fake quantization: rounds to the grid and back, with a gradient.

use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use super::spec::Method;
use crate::Result;

type Torch<T> = Result<T, tch::TchError>;

/// Quantizes and dequantizes. Half rounds to even everywhere but in `PowerOfTwoUp`.
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
        Method::Learnable | Method::Fixed => fixed(x, spec, scale, zero_point)?,
        Method::Gfpq => straight_through(x, &gfpq(x, scale)?)?,
        Method::PowerOfTwo => power_of_two(x, spec, scale, false)?,
        Method::PowerOfTwoUp => power_of_two(x, spec, scale, true)?,
    })
}

/// LSQ gradients for scale and (asymmetric) zero point, scaled by 1 / sqrt(N * qmax).
fn learnable(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, zero_point: &Tensor) -> Torch<Tensor> {
    let per_scale = x.numel() as f64 / scale.numel().max(1) as f64;
    let factor = 1.0 / (per_scale * spec.qmax as f64).sqrt();
    let scale = scale.f_abs()?.f_clamp_min(f64::from(f32::EPSILON))?;
    if spec.per_channel {
        x.f_internal_fake_quantize_learnable_per_channel_affine(&scale, zero_point, 0, spec.qmin, spec.qmax, factor)
    } else {
        x.f_internal_fake_quantize_learnable_per_tensor_affine(&scale, zero_point, spec.qmin, spec.qmax, factor)
    }
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

/// Scale `2^-floor(log2(1 / s))`; weights round half to even and clamp, activations clamp and round half up for negatives.
fn power_of_two(x: &Tensor, spec: &FakeQuantSpec, scale: &Tensor, up: bool) -> Torch<Tensor> {
    let scale = scale.detach().f_abs()?.f_clamp_min(2f64.powi(-15))?;
    let scale = scale
        .f_reciprocal()?
        .f_log2()?
        .f_add_scalar(1e-6)?
        .f_floor()?
        .f_neg()?
        .f_exp2()?;
    let steps = x.f_div(&scale)?;
    let clamped = steps.f_clamp(spec.qmin, spec.qmax)?;
    let rounded = if up {
        // ceil(v) where v is negative and half way, else half to even.
        let half = clamped
            .f_sub(&clamped.f_floor()?)?
            .f_eq(0.5)?
            .f_logical_and(&clamped.f_lt(0)?)?;
        clamped.f_ceil()?.f_where_self(&half, &clamped.f_round()?)?
    } else {
        steps.f_round()?.f_clamp(spec.qmin, spec.qmax)?
    };
    straight_through(&clamped, &rounded)?.f_mul(&scale)
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
