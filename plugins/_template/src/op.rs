//! Template title: `tanh(x) * gain` with a trained gain per channel, as a primitive with a forward of its own; and a block of the same
//! name that puts it behind a convolution.
//!
//! # Shapes
//! `[N, c, H, W]` to the same.

use yolo_sdk::prelude::*;

/// The op. Its options are part of every graph that it stands in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Channels of its input.
    pub channels: i64,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { channels: 16 }
    }
}

impl TemplateName {
    fn gain_shape(&self) -> Vec<i64> {
        vec![1, self.channels, 1, 1]
    }
}

#[typetag::serde(name = "template-name")]
impl CustomOp for TemplateName {
    fn name(&self) -> &str {
        "template-name"
    }

    fn params(&self) -> Vec<ParamSpec> {
        let (role, init) = (ParamRole::Table, Init::Const(1.0));
        vec![ParamSpec { key: "gain".into(), shape: self.gain_shape(), role, init }]
    }

    fn shape(&self, inputs: &[&[i64]]) -> Result<Vec<i64>> {
        match inputs {
            [x] if x.len() == 4 && x[1] == self.channels => Ok(x.to_vec()),
            _ => Err(Error::Config(format!("it takes one map of {} channels, not {inputs:?}", self.channels))),
        }
    }

    fn macs(&self, _inputs: &[&[i64]], output: &[i64]) -> i64 {
        output.iter().product()
    }

    fn forward(&self, inputs: &[&tch::Tensor], params: &[&tch::Tensor], _train: bool) -> Result<tch::Tensor> {
        // The `f_` functions return errors; the others panic.
        Ok(inputs[0].f_tanh()?.f_mul(params[0])?)
    }

    /// The same in primitive ops, which is what makes models with it exportable. Leave it out where there is no such form.
    fn lower(&self, g: &mut GraphBuilder, inputs: &[ValueId]) -> Option<Result<ValueId>> {
        let (role, init) = (ParamRole::Table, Init::Const(1.0));
        let lowered = g.add("tanh", Op::Act { act: Activation::Tanh }, inputs).and_then(|bent| {
            let gain = g.add("gain", Op::Parameter { shape: self.gain_shape(), role, init }, &[])?;
            g.add("mul", Op::Mul, &[bent, gain])
        });
        Some(lowered)
    }

    fn boxed_clone(&self) -> Box<dyn CustomOp> {
        Box::new(self.clone())
    }
}

/// Options of the block.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateNameBlock {}

#[typetag::serde(name = "template-name")]
impl NeckBlock for TemplateNameBlock {
    fn layer_name(&self) -> &str {
        "TemplateName"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let x = nn::conv(g, "cv1", inputs[0].value, request.channels, 3, 1)?;
        let op = TemplateName { channels: request.channels };
        g.add("op", Op::Custom { custom: Box::new(op) }, &[x])
    }
}

yolo_sdk::plugin! {
    op TemplateName = "template-name" {
        summary: "tanh with a trained gain per channel",
    }
    neck_block TemplateNameBlock = "template-name" {
        summary: "A convolution and the op of the same name",
    }
}
