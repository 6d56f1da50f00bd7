//! Tensors with numbers that are none.

use tch::{Kind, Tensor};
use yolo_core::Params;

use crate::Result;

/// The first tensor with a number that is not finite.
pub(super) fn not_finite(params: &Params) -> Result<Option<&str>> {
    let Some((_, first)) = params.iter().next() else {
        return Ok(None);
    };
    // Multiplied by 0, everything finite is 0, and nothing else; read from the device once.
    let zero = |tensor: &Tensor| -> Result<Tensor> {
        let zeros = tensor.detach().f_to_kind(Kind::Float)?.f_mul_scalar(0.0)?;
        Ok(zeros.f_sum(Kind::Float)?)
    };
    let mut sum = Tensor::f_zeros([1].as_slice(), (Kind::Float, first.device()))?;
    for (_, tensor) in params.iter() {
        sum = sum.f_add(&zero(tensor)?)?;
    }
    if sum.f_double_value(&[0])? == 0.0 {
        return Ok(None);
    }
    for (key, tensor) in params.iter() {
        if zero(tensor)?.f_double_value(&[])? != 0.0 {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_tensor_is_named() {
        let params = |values: [f64; 3]| -> Params {
            let tensor = |value| Tensor::full([4], value, (Kind::Float, Device::Cpu));
            let names = ["a.weight", "b.running_var", "c.bias"].map(str::to_owned);
            names.into_iter().zip(values.map(tensor)).collect()
        };
        assert_eq!(not_finite(&params([1.0, -3.4e38, 0.0])).unwrap(), None);
        assert_eq!(
            not_finite(&params([1.0, f64::NAN, f64::NAN])).unwrap(),
            Some("b.running_var")
        );
        assert_eq!(
            not_finite(&params([1.0, 0.0, f64::NEG_INFINITY])).unwrap(),
            Some("c.bias")
        );
        assert_eq!(not_finite(&Params::new()).unwrap(), None);
    }
}
