//! Custom ops: tensors cross as handles.

use std::mem::size_of;

use tch::Tensor;
use yolo_abi::{YoloOpVt, YoloSelf, YoloStr, YoloTensor, YoloText};
use yolo_core::graph::CustomOp;
use yolo_core::wire::{OpFacts, ShapeReply, ShapeRequest};
use yolo_core::{Error, GraphBuilder, Result, ValueId};

use super::component;
use super::guard::{Nothing, guard, json};

pub(super) static OP: YoloOpVt = YoloOpVt {
    struct_size: size_of::<YoloOpVt>() as u32,
    _reserved: 0,
    describe: Some(describe),
    shape: Some(shape),
    lower: Some(lower),
    forward: Some(forward),
};

unsafe extern "C" fn describe(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let describe = |op: &(dyn CustomOp + 'static), _: Nothing| {
        Ok(OpFacts {
            label: op.name().to_owned(),
            params: op.params(),
        })
    };
    // SAFETY: the host calls this on what `create` made for an op.
    unsafe { json(component, request, reply, error, describe) }
}

unsafe extern "C" fn shape(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let shape = |op: &(dyn CustomOp + 'static), request: ShapeRequest<'static>| {
        let inputs: Vec<&[i64]> = request.inputs.iter().map(Vec::as_slice).collect();
        let shape = op.shape(&inputs)?;
        let macs = op.macs(&inputs, &shape);
        Ok(ShapeReply { shape, macs })
    };
    // SAFETY: the host calls this on what `create` made for an op.
    unsafe { json(component, request, reply, error, shape) }
}

unsafe extern "C" fn lower(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let mut unsupported = false;
    let lower = |op: &(dyn CustomOp + 'static), request: ShapeRequest<'static>| {
        let count = request.inputs.len();
        let mut g = GraphBuilder::fragment(request.inputs.into_owned());
        let inputs: Vec<ValueId> = (0..count as u32).map(ValueId).collect();
        match op.lower(&mut g, &inputs) {
            Some(value) => Ok(Some(g.into_fragment(count, vec![value?]))),
            None => {
                unsupported = true;
                Ok(None)
            }
        }
    };
    // SAFETY: the host calls this on what `create` made for an op.
    let code = unsafe { json(component, request, reply, error, lower) };
    if unsupported {
        yolo_abi::status::UNSUPPORTED
    } else {
        code
    }
}

unsafe extern "C" fn forward(
    op: YoloSelf,
    inputs: *const YoloTensor,
    input_count: usize,
    params: *const YoloTensor,
    param_count: usize,
    train: i32,
    out: *mut YoloTensor,
    error: YoloText,
) -> i32 {
    guard(error, || {
        // SAFETY: the host calls this on what `create` made for an op, and lends the tensors for the call.
        let (op, inputs, params) = unsafe {
            (
                component::<dyn CustomOp>(op)?,
                borrow(inputs, input_count)?,
                borrow(params, param_count)?,
            )
        };
        let result = op.forward(
            &inputs.iter().collect::<Vec<_>>(),
            &params.iter().collect::<Vec<_>>(),
            train != 0,
        )?;
        // SAFETY: the host gives a place for the result.
        unsafe { *out = give(result) };
        Ok(())
    })
}

/// Handles of our own for tensors that the host lends.
///
/// # Safety
/// `tensors` is null or points at `count` handles that are good during the call.
pub(super) unsafe fn borrow(tensors: *const YoloTensor, count: usize) -> Result<Vec<Tensor>> {
    if tensors.is_null() || count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: as for this function.
    let handles = unsafe { std::slice::from_raw_parts(tensors, count) };
    // SAFETY: as for this function.
    handles.iter().map(|handle| unsafe { borrow_one(*handle) }).collect()
}

/// # Safety
/// The handle is null or good during the call.
pub(super) unsafe fn borrow_one(tensor: YoloTensor) -> Result<Tensor> {
    if tensor.is_null() {
        return Err(Error::Config("the host passed no tensor".into()));
    }
    // SAFETY: as for this function.
    Ok(unsafe { Tensor::clone_from_ptr(tensor.cast()) })
}

/// A tensor that becomes the host's.
pub(super) fn give(tensor: Tensor) -> YoloTensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr().cast()
}
