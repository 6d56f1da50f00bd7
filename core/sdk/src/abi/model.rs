//! Backbones and neck blocks: they build on a graph of their own, which crosses as data.

use std::mem::size_of;

use yolo_abi::{YoloBackboneVt, YoloNeckBlockVt, YoloSelf, YoloStr, YoloText};
use yolo_core::wire::{self, BackboneRequest, NeckBlockFacts, NeckBlockRequest};
use yolo_core::{Backbone, Error, NeckBlock};

use super::guard::{Nothing, json};

pub(super) static BACKBONE: YoloBackboneVt = YoloBackboneVt {
    struct_size: size_of::<YoloBackboneVt>() as u32,
    _reserved: 0,
    build: Some(build_backbone),
};

pub(super) static NECK_BLOCK: YoloNeckBlockVt = YoloNeckBlockVt {
    struct_size: size_of::<YoloNeckBlockVt>() as u32,
    _reserved: 0,
    describe: Some(describe_block),
    build: Some(build_block),
};

unsafe extern "C" fn build_backbone(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let build = |backbone: &(dyn Backbone + 'static), request: BackboneRequest| {
        let (mut g, inputs) = wire::builder(&request.inputs);
        let [image] = inputs[..] else {
            return Err(Error::Config(format!("a backbone has one input, not {}", inputs.len())));
        };
        let maps = backbone.build(&mut g, image, request.scale)?;
        maps.check(backbone.typetag_name())?;
        Ok(g.into_fragment(1, maps.0.iter().map(|feat| feat.value).collect()))
    };
    // SAFETY: the host calls this on what `create` made for a backbone.
    unsafe { json(component, request, reply, error, build) }
}

unsafe extern "C" fn describe_block(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let describe = |block: &(dyn NeckBlock + 'static), _: Nothing| {
        let arity = block.arity();
        Ok(NeckBlockFacts {
            layer: block.layer_name().to_owned(),
            arity: [arity.min, arity.max],
        })
    };
    // SAFETY: the host calls this on what `create` made for a neck block.
    unsafe { json(component, request, reply, error, describe) }
}

unsafe extern "C" fn build_block(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let build = |block: &(dyn NeckBlock + 'static), request: NeckBlockRequest| {
        let (mut g, inputs) = wire::builder(&request.inputs);
        let value = block.build(&mut g, &inputs, request.block())?;
        Ok(g.into_fragment(inputs.len(), vec![value]))
    };
    // SAFETY: the host calls this on what `create` made for a neck block.
    unsafe { json(component, request, reply, error, build) }
}
