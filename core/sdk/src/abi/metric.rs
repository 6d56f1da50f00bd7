//! Prune metrics.

use std::mem::size_of;

use yolo_abi::{YoloFloats, YoloGroup, YoloMetricVt, YoloSelf, YoloText, needs};
use yolo_core::prune::GroupTensors;
use yolo_core::{Error, PruneMetric, Result};

use super::component;
use super::guard::{guard, read};
use super::op::borrow;

/// For metrics that `create` made.
pub(super) static METRIC: YoloMetricVt = YoloMetricVt {
    struct_size: size_of::<YoloMetricVt>() as u32,
    _reserved: 0,
    needs: Some(needs_owned),
    score: Some(score_owned),
};

/// For metrics that a pruner lends for one call: the component is a `*const &dyn PruneMetric`.
pub(super) static LENT: YoloMetricVt = YoloMetricVt {
    struct_size: size_of::<YoloMetricVt>() as u32,
    _reserved: 0,
    needs: Some(needs_lent),
    score: Some(score_lent),
};

unsafe extern "C" fn needs_owned(metric: YoloSelf, out: *mut u32, error: YoloText) -> i32 {
    // SAFETY: the host calls this on what `create` made for a metric, with a place for the result.
    guard(error, || unsafe {
        write_needs(component::<dyn PruneMetric>(metric)?, out)
    })
}

unsafe extern "C" fn needs_lent(metric: YoloSelf, out: *mut u32, error: YoloText) -> i32 {
    // SAFETY: the host calls this on what the pruner lends, with a place for the result.
    guard(error, || unsafe { write_needs(lent(metric)?, out) })
}

unsafe extern "C" fn score_owned(
    metric: YoloSelf,
    group: *const YoloGroup,
    scores: YoloFloats,
    error: YoloText,
) -> i32 {
    // SAFETY: the host calls this on what `create` made for a metric, and lends the group for the call.
    guard(error, || unsafe {
        put_scores(component::<dyn PruneMetric>(metric)?, group, scores)
    })
}

unsafe extern "C" fn score_lent(metric: YoloSelf, group: *const YoloGroup, scores: YoloFloats, error: YoloText) -> i32 {
    // SAFETY: the host calls this on what the pruner lends, and lends the group for the call.
    guard(error, || unsafe { put_scores(lent(metric)?, group, scores) })
}

/// # Safety
/// `metric` points at a `&dyn PruneMetric` that is good for `'a`.
unsafe fn lent<'a>(metric: YoloSelf) -> Result<&'a dyn PruneMetric> {
    // SAFETY: as for this function.
    let metric = unsafe { metric.cast::<&dyn PruneMetric>().as_ref() };
    metric
        .copied()
        .ok_or_else(|| Error::Config("the host passed no metric".into()))
}

/// # Safety
/// `out` is a place for the result.
unsafe fn write_needs(metric: &dyn PruneMetric, out: *mut u32) -> Result<()> {
    let wanted = metric.needs();
    let bit = |wanted: bool, bit: u32| if wanted { bit } else { 0 };
    let bits = bit(wanted.weight, needs::WEIGHT)
        | bit(wanted.bn, needs::BN)
        | bit(wanted.grad, needs::GRAD)
        | bit(wanted.grad_square, needs::GRAD_SQUARE)
        | bit(wanted.activation, needs::ACTIVATION);
    // SAFETY: as for this function.
    unsafe { *out = bits };
    Ok(())
}

/// # Safety
/// `group` is null or good during the call, and so is `scores`.
unsafe fn put_scores(metric: &dyn PruneMetric, group: *const YoloGroup, scores: YoloFloats) -> Result<()> {
    // SAFETY: as for this function.
    let group = unsafe { group.as_ref() }.ok_or_else(|| Error::Config("the host passed no group".into()))?;
    // SAFETY: as for this function.
    let tensors = unsafe {
        GroupTensors {
            name: read(group.name)?.to_owned(),
            index: (group.index as usize, group.count as usize),
            channels: group.channels as usize,
            weights: borrow(group.weights, group.weight_count)?,
            weight_grads: borrow(group.weight_grads, group.weight_grad_count)?,
            gammas: borrow(group.gammas, group.gamma_count)?,
            betas: borrow(group.betas, group.beta_count)?,
            gamma_grads: borrow(group.gamma_grads, group.gamma_grad_count)?,
            weight_squares: borrow(group.weight_squares, group.weight_square_count)?,
            gamma_squares: borrow(group.gamma_squares, group.gamma_square_count)?,
            activations: borrow(group.activations, group.activation_count)?,
        }
    };
    let row = metric.score(&tensors)?;
    // SAFETY: as for this function; the row outlives the call.
    unsafe { (scores.put)(scores.cx, row.as_ptr(), row.len()) };
    Ok(())
}
