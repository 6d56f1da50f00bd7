//! Backbones, neck blocks and custom ops.

use std::sync::atomic::{AtomicU32, Ordering};

use tch::Tensor;

use super::super::{Report, backbone, custom_op, neck_block};
use super::{every_check_refuses, faulty};
use crate::graph::CustomOp;
use crate::params::Init;
use crate::plugin::BlockRequest;
use crate::{
    Arity, Backbone, Error, Feat, Features, GraphBuilder, NeckBlock, Op, ParamRole, ParamSpec, Result, Scale, ValueId,
    nn,
};

const SAME_SEED: &str = "the same seed gives the same parameters";
const FINITE: &str = "its results are finite, for odd sizes";
const GRADIENT: &str = "every trained parameter gets a finite gradient";
const PRUNED: &str = "with half of its channels removed it still runs";

fn refused() -> Error {
    Error::Config("on purpose".into())
}

faulty!(BadOp);

#[typetag::serde(name = "bad-op")]
impl CustomOp for BadOp {
    fn name(&self) -> &str {
        if self.is("it has a name") { " " } else { "bad-op" }
    }
    fn params(&self) -> Vec<ParamSpec> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let start = if self.is(SAME_SEED) {
            CALLS.fetch_add(1, Ordering::Relaxed)
        } else {
            1
        };
        vec![ParamSpec {
            key: "weight".into(),
            shape: vec![1],
            role: ParamRole::Table,
            init: Init::Const(f64::from(start)),
        }]
    }
    fn shape(&self, inputs: &[&[i64]]) -> Result<Vec<i64>> {
        if self.is("it can stand in a graph, on a map of 16 channels") {
            return Err(refused());
        }
        let mut shape = inputs[0].to_vec();
        if self.is("its result has the shape that it declares") {
            shape[1] += 1;
        }
        Ok(shape)
    }
    fn forward(&self, inputs: &[&Tensor], params: &[&Tensor], train: bool) -> Result<Tensor> {
        let (x, size) = (inputs[0], inputs[0].size());
        let (h, w) = (size[2], size[3]);
        // Upright images are met in one check only, and so are those of one by two cells.
        let spoilt = self.is(FINITE) && h > w || self.is(PRUNED) && w == 2 * h;
        if spoilt && !train {
            return Ok(x.f_mul_scalar(f64::NAN)?);
        }
        if self.is(GRADIENT) {
            return Ok(x.shallow_clone());
        }
        Ok(x.f_mul(params[0])?)
    }
    fn boxed_clone(&self) -> Box<dyn CustomOp> {
        Box::new(self.clone())
    }
}

fn spoil(g: &mut GraphBuilder, fault: &str, value: ValueId) -> Result<ValueId> {
    let custom = Box::new(BadOp::breaks(fault));
    g.add("op", Op::Custom { custom }, &[value])
}

faulty!(BadBackbone);

#[typetag::serde(name = "bad-backbone")]
impl Backbone for BadBackbone {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        if self.is("it builds at scale l") && scale.width == 1.0 {
            return Err(refused());
        }
        let coarsest = if self.is("it builds at scale n, with strides that double up to 32") {
            16
        } else {
            32
        };
        let (mut map, mut maps) = (image, Vec::new());
        while map.stride < coarsest {
            map = g.layer("Conv", &[map], |g| nn::conv(g, "conv", map.value, 16, 3, 2))?;
            if map.stride > 4 {
                maps.push(map);
            }
        }
        let last = maps.len() - 1;
        maps[last] = g.layer("Op", &[map], |g| spoil(g, &self.fault, map.value))?;
        if self.is("its maps have the shapes that it declares") {
            maps[0].channels += 8;
        }
        Ok(Features(maps))
    }
}

faulty!(BadBlock);

#[typetag::serde(name = "bad-block")]
impl NeckBlock for BadBlock {
    fn arity(&self) -> Arity {
        let max = usize::from(!self.is("the number of its inputs makes sense"));
        Arity { min: 1, max }
    }
    fn layer_name(&self) -> &str {
        if self.is("its layer has a name") { "" } else { "Bad" }
    }
    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let stride = if self.is("it builds and keeps the size of its maps") {
            2
        } else {
            1
        };
        let wide = nn::conv(g, "cv1", inputs[0].value, request.channels, 3, stride)?;
        spoil(g, &self.fault, wide)
    }
}

#[test]
fn backbones() {
    let report = |fault: &str| -> Report { backbone(&BadBackbone::breaks(fault)) };
    every_check_refuses(&report(""), report);
}

#[test]
fn neck_blocks() {
    let report = |fault: &str| -> Report { neck_block(&BadBlock::breaks(fault)) };
    every_check_refuses(&report(""), report);
}

#[test]
fn custom_ops() {
    let report = |fault: &str| -> Report { custom_op(&BadOp::breaks(fault)) };
    every_check_refuses(&report(""), report);
}
