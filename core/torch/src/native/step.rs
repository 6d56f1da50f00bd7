//! The parts of a training step: mixed precision, fused optimizers, updates of many tensors at once.

use std::ffi::{c_char, c_int};
use std::ptr;

use tch::{Device, Kind, Tensor};

use super::{Handle, Result, checked, handle, handles, index};

unsafe extern "C" {
    fn yolo_autocast_enter(device: c_int, kind: c_int) -> *mut c_char;
    fn yolo_autocast_leave(device: c_int) -> *mut c_char;
    fn yolo_fused_sgd(
        params: *const Handle,
        velocity: *const Handle,
        count: usize,
        lr: f64,
        momentum: f64,
        decay: f64,
        scale: Handle,
        found_inf: Handle,
    ) -> *mut c_char;
    fn yolo_fused_adam(
        params: *const Handle,
        first: *const Handle,
        second: *const Handle,
        steps: *const Handle,
        count: usize,
        decoupled: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        eps: f64,
        scale: Handle,
        found_inf: Handle,
    ) -> *mut c_char;
    fn yolo_foreach_lerp(averages: *const Handle, models: *const Handle, count: usize, weight: f64) -> *mut c_char;
    fn yolo_foreach_copy(targets: *const Handle, sources: *const Handle, count: usize) -> *mut c_char;
    fn yolo_foreach_add(tensors: *const Handle, count: usize, value: f64) -> *mut c_char;
    fn yolo_zero_gradients(params: *const Handle, count: usize) -> *mut c_char;
    fn yolo_clip_gradients(params: *const Handle, count: usize, limit: f64, norm: Handle) -> *mut c_char;
    fn yolo_unscale_gradients(params: *const Handle, count: usize, found_inf: Handle, inverse: Handle) -> *mut c_char;
    fn yolo_update_scale(
        scale: Handle,
        tracker: Handle,
        found_inf: Handle,
        growth: f64,
        backoff: f64,
        interval: i64,
    ) -> *mut c_char;
}

/// Runs `work` in mixed precision on `device`: products in `kind` (bf16 or f16), sums and statistics in f32, as libtorch's lists of
/// ops say.
///
/// # Errors
/// Those of libtorch, or of `work`.
pub fn autocast<T, E: From<tch::TchError>>(
    device: Device,
    kind: Kind,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    struct Leave(c_int);
    impl Drop for Leave {
        fn drop(&mut self) {
            // SAFETY: takes a number; an error here would be one of memory, which the next call meets again.
            let _ = checked(unsafe { yolo_autocast_leave(self.0) });
        }
    }
    // libtorch's numbers of the kinds (c10/core/ScalarType.h).
    let number = match kind {
        Kind::Half => 5,
        Kind::BFloat16 => 15,
        other => return Err(tch::TchError::Kind(format!("{other:?} is no kind of mixed precision")).into()),
    };
    // SAFETY: takes numbers.
    checked(unsafe { yolo_autocast_enter(index(device), number) })?;
    let _leave = Leave(index(device));
    work()
}

/// What a scaler of the loss tells an optimizer: the scale of the gradients, and whether (not 0) one is not finite. Both `[1]`, f32, on
/// the device of the parameters.
#[derive(Debug, Clone, Copy)]
pub struct Scaled<'a> {
    /// Gradients are divided by it.
    pub scale: &'a Tensor,
    /// Nothing is updated where it is not 0.
    pub found_inf: &'a Tensor,
}

fn scaled(scaled: Option<Scaled<'_>>) -> (Handle, Handle) {
    scaled.map_or((ptr::null_mut(), ptr::null_mut()), |scaled| {
        (handle(scaled.scale), handle(scaled.found_inf))
    })
}

/// One update by SGD with Nesterov momentum: v = m v + g + decay p; p -= lr (g + decay p + m v). Parameters without a gradient stay.
///
/// # Errors
/// Those of libtorch, for tensors that do not fit each other.
pub fn fused_sgd(
    params: &[&Tensor],
    velocity: &[Tensor],
    lr: f64,
    momentum: f64,
    decay: f64,
    scaler: Option<Scaled<'_>>,
) -> Result {
    assert_eq!(params.len(), velocity.len(), "one velocity for each parameter");
    let (scale, found_inf) = scaled(scaler);
    let (params, velocity) = (handles(params.iter().copied()), handles(velocity));
    // SAFETY: both lists hold as many live tensors as `count` says; the scaler's may be null.
    checked(unsafe {
        yolo_fused_sgd(
            params.as_ptr(),
            velocity.as_ptr(),
            params.len(),
            lr,
            momentum,
            decay,
            scale,
            found_inf,
        )
    })
}

/// Numbers of Adam.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Decay works on the weights (AdamW) instead of the gradients.
    pub decoupled: bool,
    /// Learning rate.
    pub lr: f64,
    /// Weight of the old mean of the gradients.
    pub beta1: f64,
    /// Weight of the old mean of their squares.
    pub beta2: f64,
    /// Weight decay.
    pub decay: f64,
    /// Keeps the division finite.
    pub eps: f64,
}

/// One update by Adam (arXiv 1412.6980) or AdamW (arXiv 1711.05101). `steps` (`[]`, f32, one for each parameter) counts this update
/// already.
///
/// # Errors
/// Those of libtorch, for tensors that do not fit each other.
pub fn fused_adam(
    params: &[&Tensor],
    first: &[Tensor],
    second: &[Tensor],
    steps: &[Tensor],
    adam: Adam,
    scaler: Option<Scaled<'_>>,
) -> Result {
    assert!(
        [first.len(), second.len(), steps.len()] == [params.len(); 3],
        "one state for each parameter"
    );
    let (scale, found_inf) = scaled(scaler);
    let (params, first) = (handles(params.iter().copied()), handles(first));
    let (second, steps) = (handles(second), handles(steps));
    // SAFETY: all lists hold as many live tensors as `count` says; the scaler's may be null.
    checked(unsafe {
        yolo_fused_adam(
            params.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            steps.as_ptr(),
            params.len(),
            c_int::from(adam.decoupled),
            adam.lr,
            adam.beta1,
            adam.beta2,
            adam.decay,
            adam.eps,
            scale,
            found_inf,
        )
    })
}

/// `average += weight * (model - average)` for all pairs.
///
/// # Errors
/// Those of libtorch, for tensors that do not fit each other.
pub fn foreach_lerp(averages: &[Tensor], models: &[Tensor], weight: f64) -> Result {
    assert_eq!(averages.len(), models.len(), "pairs of tensors");
    let (averages, models) = (handles(averages), handles(models));
    // SAFETY: both lists hold as many live tensors as `count` says.
    checked(unsafe { yolo_foreach_lerp(averages.as_ptr(), models.as_ptr(), averages.len(), weight) })
}

/// `target = source` for all pairs.
///
/// # Errors
/// Those of libtorch, for tensors that do not fit each other.
pub fn foreach_copy(targets: &[Tensor], sources: &[Tensor]) -> Result {
    assert_eq!(targets.len(), sources.len(), "pairs of tensors");
    let (targets, sources) = (handles(targets), handles(sources));
    // SAFETY: both lists hold as many live tensors as `count` says.
    checked(unsafe { yolo_foreach_copy(targets.as_ptr(), sources.as_ptr(), targets.len()) })
}

/// `tensor += value` for all; they are of one kind.
///
/// # Errors
/// Those of libtorch.
pub fn foreach_add<'a>(tensors: impl IntoIterator<Item = &'a Tensor>, value: f64) -> Result {
    let tensors = handles(tensors);
    // SAFETY: the list holds as many live tensors as `count` says.
    checked(unsafe { yolo_foreach_add(tensors.as_ptr(), tensors.len(), value) })
}

/// Sets the gradients of the parameters to zero, and makes those that are missing.
///
/// # Errors
/// Those of libtorch.
pub fn zero_gradients(params: &[&Tensor]) -> Result {
    let params = handles(params.iter().copied());
    // SAFETY: the list holds as many live tensors as `count` says.
    checked(unsafe { yolo_zero_gradients(params.as_ptr(), params.len()) })
}

/// Scales the gradients so that their common norm is at most `limit`, without waiting for the device. Returns the norm before (`[]`, on
/// the device), or `None` where there are no gradients.
///
/// # Errors
/// Those of libtorch.
pub fn clip_gradients(params: &[&Tensor], limit: f64) -> Result<Option<Tensor>> {
    let params = handles(params.iter().copied());
    let norm = Tensor::new();
    // SAFETY: the list holds as many live tensors as `count` says; `norm` is a handle that the function may fill.
    checked(unsafe { yolo_clip_gradients(params.as_ptr(), params.len(), limit, handle(&norm)) })?;
    Ok(norm.defined().then_some(norm))
}

/// Multiplies the gradients by `inverse`; `found_inf` becomes 1 where one is not finite. Both `[1]`, f32, on the gradients' device.
///
/// # Errors
/// Those of libtorch.
pub fn unscale_gradients(params: &[&Tensor], found_inf: &Tensor, inverse: &Tensor) -> Result {
    let params = handles(params.iter().copied());
    // SAFETY: the list holds as many live tensors as `count` says, and both others live.
    checked(unsafe { yolo_unscale_gradients(params.as_ptr(), params.len(), handle(found_inf), handle(inverse)) })
}

/// The scale of the next step: times `backoff` where `found_inf` is not 0, times `growth` after `interval` steps without.
///
/// # Errors
/// Those of libtorch.
pub fn update_scale(
    scale: &Tensor,
    tracker: &Tensor,
    found_inf: &Tensor,
    (growth, backoff): (f64, f64),
    interval: i64,
) -> Result {
    // SAFETY: three live tensors.
    checked(unsafe {
        yolo_update_scale(
            handle(scale),
            handle(tracker),
            handle(found_inf),
            growth,
            backoff,
            interval,
        )
    })
}
