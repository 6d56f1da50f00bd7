//! Quantizers: data in, data out.

use std::mem::size_of;

use yolo_abi::{YoloQuantizerVt, YoloSelf, YoloStr, YoloText};
use yolo_core::wire::ArtifactsRequest;
use yolo_core::{Node, Quantizer};

use super::guard::{Nothing, json};

pub(super) static QUANTIZER: YoloQuantizerVt = YoloQuantizerVt {
    struct_size: size_of::<YoloQuantizerVt>() as u32,
    _reserved: 0,
    describe: Some(describe),
    quantizes: Some(quantizes),
    artifacts: Some(artifacts),
};

unsafe extern "C" fn describe(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let describe = |quantizer: &(dyn Quantizer + 'static), _: Nothing| Ok(quantizer.backend());
    // SAFETY: the host calls this on what `create` made for a quantizer.
    unsafe { json(component, request, reply, error, describe) }
}

unsafe extern "C" fn quantizes(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let quantizes = |quantizer: &(dyn Quantizer + 'static), node: Node| quantizer.quantizes(&node);
    // SAFETY: the host calls this on what `create` made for a quantizer.
    unsafe { json(component, request, reply, error, quantizes) }
}

unsafe extern "C" fn artifacts(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let artifacts = |quantizer: &(dyn Quantizer + 'static), request: ArtifactsRequest<'static>| {
        quantizer.artifacts(&request.model, &request.ranges)
    };
    // SAFETY: the host calls this on what `create` made for a quantizer.
    unsafe { json(component, request, reply, error, artifacts) }
}
