//! Distillers: maps cross as handles, and autograd with them.

use std::mem::size_of;

use tch::Tensor;
use yolo_abi::{YoloDistilBatch, YoloDistillerVt, YoloSelf, YoloStr, YoloTensor, YoloText};
use yolo_core::distil::{DistilBatch, Distiller, HeadWeights, NetworkMaps, checked_loss};
use yolo_core::wire::{DistilFacts, DistilRequest};
use yolo_core::{Error, Params, Result};

use super::component;
use super::guard::{Nothing, guard, json, read};
use super::op::{borrow, borrow_one, give};

pub(super) static DISTILLER: YoloDistillerVt = YoloDistillerVt {
    struct_size: size_of::<YoloDistillerVt>() as u32,
    _reserved: 0,
    describe: Some(describe),
    adapters: Some(adapters),
    loss: Some(loss),
};

unsafe extern "C" fn describe(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let describe = |distiller: &(dyn Distiller + 'static), _: Nothing| {
        Ok(DistilFacts {
            needs: distiller.needs(),
            parts: distiller.parts(),
        })
    };
    // SAFETY: the host calls this on what `create` made for a distiller.
    unsafe { json(component, request, reply, error, describe) }
}

unsafe extern "C" fn adapters(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32 {
    let adapters = |distiller: &(dyn Distiller + 'static), request: DistilRequest<'static>| {
        distiller.adapters(&request.student, &request.teacher)
    };
    // SAFETY: the host calls this on what `create` made for a distiller.
    unsafe { json(component, request, reply, error, adapters) }
}

unsafe extern "C" fn loss(
    distiller: YoloSelf,
    batch: *const YoloDistilBatch,
    out: *mut YoloTensor,
    error: YoloText,
) -> i32 {
    guard(error, || {
        // SAFETY: the host calls this on what `create` made for a distiller, and lends the batch for the call.
        let (distiller, batch) = unsafe { (component::<dyn Distiller>(distiller)?, batch.as_ref()) };
        let batch = batch.ok_or_else(|| Error::Config("the host passed no batch".into()))?;
        // SAFETY: as above.
        let parts = unsafe { compare(distiller, batch)? };
        // SAFETY: the host gives a place for the result.
        unsafe { *out = give(parts) };
        Ok(())
    })
}

/// # Safety
/// What `batch` points at is good during the call.
unsafe fn compare(distiller: &dyn Distiller, batch: &YoloDistilBatch) -> Result<Tensor> {
    let levels = batch.levels;
    // SAFETY: as for this function.
    let layouts: DistilRequest<'_> = serde_json::from_str(unsafe { read(batch.layouts)? })?;
    // SAFETY: as for this function; each list is null or has one tensor per level.
    let maps = |raw, neck| unsafe {
        Ok::<_, Error>(NetworkMaps {
            raw: borrow(raw, levels)?,
            neck: borrow(neck, levels)?,
        })
    };
    // SAFETY: as above.
    let (weights, biases) = unsafe { (borrow(batch.head_weights, levels)?, borrow(batch.head_biases, levels)?) };
    let mut adapters = Params::new();
    if !batch.adapters.is_null() {
        // SAFETY: the host lends so many tensors for the call.
        for named in unsafe { std::slice::from_raw_parts(batch.adapters, batch.adapter_count) } {
            // SAFETY: as above.
            unsafe { adapters.insert(read(named.key)?, borrow_one(named.tensor)?) };
        }
    }
    let head = weights.into_iter().zip(biases);
    let batch = DistilBatch {
        student_layout: &layouts.student,
        teacher_layout: &layouts.teacher,
        student: maps(batch.student_raw, batch.student_neck)?,
        teacher: maps(batch.teacher_raw, batch.teacher_neck)?,
        teacher_head: head.map(|(weight, bias)| HeadWeights { weight, bias }).collect(),
        adapters: &adapters,
    };
    checked_loss("it", distiller, &batch)
}
