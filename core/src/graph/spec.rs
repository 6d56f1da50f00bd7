//! Which tensors each op owns.

use super::{CustomOp, Op};
use crate::params::Init;
use crate::quant::FakeQuantSpec;
use crate::{ParamRole, ParamSpec};

impl Op {
    /// Tensors of a node called `name`, in state-dict order.
    pub fn params(&self, name: &str) -> Vec<ParamSpec> {
        let spec = |key: &str, shape: Vec<i64>, role, init| ParamSpec {
            key: format!("{name}.{key}"),
            shape,
            role,
            init,
        };
        match self {
            Self::Conv2d {
                cin,
                cout,
                kernel,
                groups,
                bias,
                weight_quant,
                ..
            } => {
                let fan_in = cin / groups * kernel[0] * kernel[1];
                let shape = vec![*cout, cin / groups, kernel[0], kernel[1]];
                weighted(name, shape, *cout, *bias, fan_in, weight_quant.as_ref())
            }
            Self::DeformConv2d {
                cin,
                cout,
                kernel,
                bias,
                ..
            } => {
                let fan_in = cin * kernel[0] * kernel[1];
                weighted(
                    name,
                    vec![*cout, *cin, kernel[0], kernel[1]],
                    *cout,
                    *bias,
                    fan_in,
                    None,
                )
            }
            Self::Linear {
                cin,
                cout,
                bias,
                weight_quant,
            } => weighted(name, vec![*cout, *cin], *cout, *bias, *cin, weight_quant.as_ref()),
            Self::BatchNorm { channels, .. } => vec![
                spec("weight", vec![*channels], ParamRole::NormWeight, Init::Const(1.0)),
                spec("bias", vec![*channels], ParamRole::NormBias, Init::Const(0.0)),
                spec("running_mean", vec![*channels], ParamRole::Buffer, Init::Const(0.0)),
                spec("running_var", vec![*channels], ParamRole::Buffer, Init::Const(1.0)),
                spec("num_batches_tracked", vec![], ParamRole::Counter, Init::Const(0.0)),
            ],
            Self::LayerNorm { channels, .. } => vec![
                spec("weight", vec![*channels], ParamRole::NormWeight, Init::Const(1.0)),
                spec("bias", vec![*channels], ParamRole::NormBias, Init::Const(0.0)),
            ],
            Self::Parameter { shape, role, init } => {
                vec![ParamSpec {
                    key: name.to_owned(),
                    shape: shape.clone(),
                    role: *role,
                    init: *init,
                }]
            }
            Self::RelativePositionBias { size } => vec![spec(
                "relative_position_index",
                vec![size * size, size * size],
                ParamRole::Counter,
                Init::RelativePositionIndex(*size),
            )],
            Self::FakeQuant { quant } => quant.params(name, 1),
            Self::Custom { custom } => custom_params(custom.as_ref(), name),
            Self::Input { .. }
            | Self::Act { .. }
            | Self::Add
            | Self::Sub
            | Self::Mul
            | Self::Div
            | Self::Affine { .. }
            | Self::Concat { .. }
            | Self::Slice { .. }
            | Self::ChannelShuffle { .. }
            | Self::SpaceToDepth
            | Self::MaxPool { .. }
            | Self::AvgPool { .. }
            | Self::Pad { .. }
            | Self::Reduce { .. }
            | Self::Upsample { .. }
            | Self::Bilinear { .. }
            | Self::MatMul { .. }
            | Self::Softmax { .. }
            | Self::Reshape { .. }
            | Self::Permute { .. }
            | Self::WindowPartition { .. }
            | Self::WindowMerge { .. }
            | Self::WindowMask { .. }
            | Self::AddWindowMask
            | Self::Dropout { .. }
            | Self::DropPath { .. }
            | Self::Constant { .. } => Vec::new(),
        }
    }
}

fn weighted(
    name: &str,
    shape: Vec<i64>,
    cout: i64,
    bias: bool,
    fan_in: i64,
    quant: Option<&FakeQuantSpec>,
) -> Vec<ParamSpec> {
    let init = Init::FanIn(fan_in);
    let mut specs = vec![ParamSpec {
        key: format!("{name}.weight"),
        shape,
        role: ParamRole::Weight,
        init,
    }];
    if bias {
        specs.push(ParamSpec {
            key: format!("{name}.bias"),
            shape: vec![cout],
            role: ParamRole::Bias,
            init,
        });
    }
    if let Some(quant) = quant {
        specs.extend(quant.params(&format!("{name}.weight_quant"), cout));
    }
    specs
}

fn custom_params(custom: &dyn CustomOp, name: &str) -> Vec<ParamSpec> {
    let mut specs = custom.params();
    for spec in &mut specs {
        spec.key = format!("{name}.{}", spec.key);
    }
    specs
}
