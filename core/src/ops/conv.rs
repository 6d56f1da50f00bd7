//! Convolutions and linear layers.

use tch::Tensor;

use super::shapes::{Taps, channels, map, one};
use super::{BY_BOTH, BY_OUTPUT, Checked, FREE, Flow, Follows, Left, OwnTensor, Place, Primitive, Value, Work};
use crate::graph::limits::within;
use crate::graph::{Op, Shape};
use crate::params::Init;
use crate::quant::{self, FakeQuantSpec};
use crate::{ParamRole, ParamSpec, Result};

/// Fake quantizers of a layer's own tensors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quants<'a> {
    pub weight: Option<&'a FakeQuantSpec>,
    pub bias: Option<&'a FakeQuantSpec>,
}

/// 2-D convolution: dense, depthwise (one input channel per group), or in wider groups, whose channels stay.
pub(super) struct Conv2d<'a> {
    pub cin: i64,
    pub cout: i64,
    pub taps: Taps,
    pub groups: i64,
    pub bias: bool,
    pub quants: Quants<'a>,
}

impl Conv2d<'_> {
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.cin
    }
}

impl Primitive for Conv2d<'_> {
    fn limits(&self) -> Checked {
        let Self { cin, cout, groups, .. } = self;
        self.taps.limits(&[*cin, *cout, *groups])?;
        if cin % groups != 0 || cout % groups != 0 {
            return Err(format!(
                "{groups} groups do not divide {cin} input and {cout} output channels"
            ));
        }
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [n, c, h, w] = map(one(inputs)?)?;
        channels(c, self.cin)?;
        let [h, w] = self.taps.places(h, w);
        Ok(vec![n, self.cout, h, w])
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let [kh, kw] = self.taps.kernel;
        let fan_in = self.cin / self.groups * kh * kw;
        let shape = vec![self.cout, self.cin / self.groups, kh, kw];
        let (weight, rows) = match self.groups {
            1 => (BY_BOTH, BY_OUTPUT),
            groups if groups == self.cin => (BY_OUTPUT, BY_OUTPUT),
            _ => (FREE, FREE),
        };
        weighted(name, shape, self.bias, fan_in, self.quants, [weight, rows])
    }

    fn flow(&self) -> Flow {
        match self.groups {
            1 => Flow::New { steering: &[] },
            groups if groups == self.cin => Flow::PerInput {
                times: (self.cout / self.cin) as usize,
            },
            _ => Flow::Frozen,
        }
    }

    fn work(&self, _inputs: &[&[i64]], output: &[i64]) -> Work {
        let (outputs, taps) = (self.cout, self.taps.count());
        match self.groups {
            1 => Work::Dense {
                inputs: self.cin,
                outputs,
                taps,
            },
            groups if groups == self.cin => Work::Depthwise { outputs, taps },
            groups => Work::Fixed(output.iter().product::<i64>() * (self.cin / groups) * taps),
        }
    }

    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked {
        let (dense, depthwise) = (self.groups == 1, self.is_depthwise());
        if let Op::Conv2d { cin, cout, groups, .. } = op
            && (dense || depthwise)
        {
            (*cin, *cout) = (left.inputs, left.outputs);
            if depthwise {
                *groups = *cin;
            }
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        let (weight, bias) = weight_and_bias(params, self.bias, self.quants, place.train)?;
        let Taps {
            stride,
            padding,
            dilation,
            ..
        } = self.taps;
        Ok(x[0].f_conv2d(&weight, bias.as_ref(), stride, padding, dilation, self.groups)?)
    }
}

/// Linear map of the last axis.
pub(super) struct Linear<'a> {
    pub cin: i64,
    pub cout: i64,
    pub bias: bool,
    pub quants: Quants<'a>,
}

impl Primitive for Linear<'_> {
    fn limits(&self) -> Checked {
        within("size", &[self.cin, self.cout], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let mut x = one(inputs)?.to_vec();
        let last = x.last_mut().ok_or("its input is a scalar")?;
        channels(*last, self.cin)?;
        *last = self.cout;
        Ok(x)
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let shape = vec![self.cout, self.cin];
        weighted(name, shape, self.bias, self.cin, self.quants, [BY_BOTH, BY_OUTPUT])
    }

    fn flow(&self) -> Flow {
        Flow::NewLast
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Dense {
            inputs: self.cin,
            outputs: self.cout,
            taps: 1,
        }
    }

    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked {
        if let Op::Linear { cin, cout, .. } = op {
            // A linear layer over an axis that has no channels keeps its size.
            if left.inputs > 0 {
                *cin = left.inputs;
            }
            *cout = left.outputs;
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        let (weight, bias) = weight_and_bias(params, self.bias, self.quants, place.train)?;
        Ok(x[0].f_linear(&weight, bias.as_ref())?)
    }
}

/// A weight `[cout, ...]`, its bias and their quantizers. `axes`: of the weight, and of what has one element per output channel.
pub(super) fn weighted(
    name: &str,
    shape: Vec<i64>,
    bias: bool,
    fan_in: i64,
    quants: Quants<'_>,
    [weight, rows]: [&'static [(usize, Follows)]; 2],
) -> Vec<OwnTensor> {
    let (init, cout) = (Init::FanIn(fan_in), shape[0]);
    let tensor = |key: &str, shape, role, axes| OwnTensor {
        spec: ParamSpec {
            key: format!("{name}.{key}"),
            shape,
            role,
            init,
        },
        axes,
    };
    let mut tensors = vec![tensor("weight", shape, ParamRole::Weight, weight)];
    if bias {
        tensors.push(tensor("bias", vec![cout], ParamRole::Bias, rows));
    }
    for (quant, key) in [(quants.weight, "weight_quant"), (quants.bias, "bias_quant")] {
        let Some(quant) = quant else { continue };
        let axes = if quant.per_channel { rows } else { FREE };
        let specs = quant.params(&format!("{name}.{key}"), cout);
        tensors.extend(specs.into_iter().map(|spec| OwnTensor { spec, axes }));
    }
    tensors
}

/// Weight and bias of a convolution or linear layer, fake-quantized where asked. `params` in the order of [`weighted`].
fn weight_and_bias(params: &[Tensor], bias: bool, quants: Quants<'_>, train: bool) -> Result<(Tensor, Option<Tensor>)> {
    let mut scales = params[1 + usize::from(bias)..].chunks(2);
    let mut own = |tensor: &Tensor, quant: Option<&FakeQuantSpec>| match (quant, quant.and_then(|_| scales.next())) {
        (Some(spec), Some([scale, zero_point])) => quant::fake_quant(tensor, spec, scale, zero_point, train),
        _ => Ok(tensor.shallow_clone()),
    };
    let weight = own(&params[0], quants.weight)?;
    let bias = if bias {
        Some(own(&params[1], quants.bias)?)
    } else {
        None
    };
    Ok((weight, bias))
}
