//! BiFPN fusion (EfficientDet, arXiv 1911.09070): joins the maps that meet at a level, with the backbone's own map on the inner
//! levels of the way up. Two forms: concatenation, as the published TPH and Swin nets do it, and the paper's fast normalised
//! weighted sum.

use yolo_sdk::prelude::*;

/// Options of the fusion.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct BiFpn {
    /// How maps are joined.
    pub mode: Mode,
}

/// How maps are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Mode {
    /// Equation 3 of the paper: sum of w_i / (eps + sum w_j) * x_i with trained w >= 0. Maps of other widths are brought to the
    /// width of the level by a 1 x 1 convolution first.
    #[default]
    Weighted,
    /// Side by side, as in the published TPH and Swin nets.
    Concat,
}

/// Keeps the weights of the sum apart from 0 / 0.
const EPS: f64 = 1e-4;

#[typetag::serde(name = "bifpn")]
impl NeckBlock for BiFpn {
    fn arity(&self) -> Arity {
        Arity { min: 2, max: 3 }
    }

    fn layer_name(&self) -> &str {
        match self.mode {
            Mode::Weighted => "BiFPN",
            Mode::Concat => "Concat",
        }
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        match self.mode {
            Mode::Weighted => weighted(g, inputs, request.channels),
            Mode::Concat => {
                let values: Vec<ValueId> = inputs.iter().map(|feat| feat.value).collect();
                g.add("", Op::Concat { dim: 1 }, &values)
            }
        }
    }
}

fn weighted(g: &mut GraphBuilder, inputs: &[Feat], channels: i64) -> Result<ValueId> {
    let count = inputs.len() as i64;
    let w = Op::Parameter {
        shape: vec![count],
        role: ParamRole::Table,
        init: Init::Const(1.0),
    };
    let w = g.add("w", w, &[])?;
    let act = Activation::Relu;
    let w = g.add("relu", Op::Act { act }, &[w])?;
    let sum = Op::Reduce {
        kind: ReduceKind::Sum,
        dims: vec![0],
    };
    let total = g.add("total", sum, &[w])?;
    let total = g.add("eps", Op::Affine { mul: 1.0, add: EPS }, &[total])?;
    let w = g.add("normal", Op::Div, &[w, total])?;
    let mut joined: Option<ValueId> = None;
    for (index, feat) in inputs.iter().enumerate() {
        let x = if feat.channels == channels {
            feat.value
        } else {
            nn::conv(g, &format!("cv{index}"), feat.value, channels, 1, 1)?
        };
        let part = Op::Slice {
            dim: 0,
            start: index as i64,
            len: 1,
        };
        let part = g.add(&format!("w{index}"), part, &[w])?;
        let x = g.add(&format!("mul{index}"), Op::Mul, &[x, part])?;
        joined = Some(match joined {
            Some(sum) => g.add(&format!("add{index}"), Op::Add, &[sum, x])?,
            None => x,
        });
    }
    joined.ok_or_else(|| Error::Build {
        plugin: "bifpn".into(),
        reason: "there is nothing to join".into(),
    })
}

yolo_sdk::plugin! {
    neck_block BiFpn = "bifpn" {
        summary: "Bidirectional fusion of maps: fast normalised weighted sum, or concatenation",
        paper: ("EfficientDet: Scalable and Efficient Object Detection", "https://arxiv.org/abs/1911.09070", 2020, "EfficientDet (CVPR 2020)"),
        example: { "type": "bifpn", "mode": "weighted" },
    }
}
