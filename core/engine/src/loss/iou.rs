//! CIoU of paired boxes as a differentiable tensor.

use tch::Tensor;

use crate::Result;

const EPS: f64 = 1e-7;

/// Complete IoU (arXiv 1911.08287, equations 10 and 11) of boxes `[n, 4]` given by centre and size, pairwise: `[n]`. The weight
/// of the aspect term is not differentiated, as in the paper.
///
/// # Errors
/// `Error::Torch` where the shapes are others.
pub fn ciou_xywh(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let centre = |t: &Tensor| t.f_narrow(1, 0, 2);
    let size = |t: &Tensor| t.f_narrow(1, 2, 2);
    let (half_a, half_b) = (size(a)?.f_mul_scalar(0.5)?, size(b)?.f_mul_scalar(0.5)?);
    let (low_a, high_a) = (centre(a)?.f_sub(&half_a)?, centre(a)?.f_add(&half_a)?);
    let (low_b, high_b) = (centre(b)?.f_sub(&half_b)?, centre(b)?.f_add(&half_b)?);
    let column = |t: &Tensor, i: i64| t.f_select(1, i);

    let overlap = high_a
        .f_minimum(&high_b)?
        .f_sub(&low_a.f_maximum(&low_b)?)?
        .f_clamp_min(0.0)?;
    let inter = column(&overlap, 0)?.f_mul(&column(&overlap, 1)?)?;
    let extent_a = high_a.f_sub(&low_a)?;
    let extent_b = high_b.f_sub(&low_b)?;
    let (w1, h1) = (column(&extent_a, 0)?, column(&extent_a, 1)?.f_add_scalar(EPS)?);
    let (w2, h2) = (column(&extent_b, 0)?, column(&extent_b, 1)?.f_add_scalar(EPS)?);
    let union = w1
        .f_mul(&h1)?
        .f_add(&w2.f_mul(&h2)?)?
        .f_sub(&inter)?
        .f_add_scalar(EPS)?;
    let iou = inter.f_div(&union)?;

    let hull = high_a.f_maximum(&high_b)?.f_sub(&low_a.f_minimum(&low_b)?)?;
    let square_sum = |t: &Tensor| {
        t.f_square()
            .and_then(|s| s.f_sum_dim_intlist(1i64, false, None::<tch::Kind>))
    };
    let diagonal = square_sum(&hull)?.f_add_scalar(EPS)?;
    let distance = square_sum(&low_b.f_add(&high_b)?.f_sub(&low_a)?.f_sub(&high_a)?)?.f_mul_scalar(0.25)?;

    let angle = w2.f_div(&h2)?.f_atan()?.f_sub(&w1.f_div(&h1)?.f_atan()?)?;
    let v = angle.f_square()?.f_mul_scalar(4.0 / std::f64::consts::PI.powi(2))?;
    let alpha = tch::no_grad(|| v.f_div(&v.f_sub(&iou)?.f_add_scalar(1.0 + EPS)?))?;
    Ok(iou.f_sub(&distance.f_div(&diagonal)?)?.f_sub(&v.f_mul(&alpha)?)?)
}
