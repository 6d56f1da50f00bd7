//! CUDA graphs: work that is recorded once and launched as a whole, so that the host has next to nothing to do for it; and a backward
//! from given gradients.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use tch::{Device, Tensor};

use super::{Handle, Result, checked, handles, index};

unsafe extern "C" {
    fn yolo_backward(outputs: *const Handle, gradients: *const Handle, count: usize) -> *mut c_char;
    fn yolo_graph_new(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn yolo_graph_begin(recording: *mut c_void, before: *mut c_void) -> *mut c_char;
    fn yolo_graph_end(recording: *mut c_void) -> *mut c_char;
    fn yolo_graph_replay(recording: *mut c_void) -> *mut c_char;
    fn yolo_graph_free(recording: *mut c_void);
}

/// Adds to the gradients of the leaves what follows from the gradients of `outputs`, each of the shape of its output.
///
/// # Errors
/// Those of libtorch.
pub fn backward(outputs: &[Tensor], gradients: &[Tensor]) -> Result {
    assert_eq!(outputs.len(), gradients.len(), "one gradient for each output");
    let (outputs, gradients) = (handles(outputs), handles(gradients));
    // SAFETY: both lists hold as many live tensors as `count` says.
    checked(unsafe { yolo_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len()) })
}

/// Recorded work. Tensors that it reads or writes keep their places: new inputs are copied into the old ones.
#[derive(Debug)]
pub struct CudaGraph(*mut c_void);

// SAFETY: libtorch's graph and stream may be used from any thread, one at a time; there is no shared access.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Records what `work` launches on `device`, instead of running it. Memory is shared with `before`, which must be replayed first each
    /// time. Everything that `work` needs (algorithms, kernels) must have been found by running it before.
    ///
    /// # Errors
    /// Those of `work`; where it waits for the device; where yolo's library was built without CUDA's headers.
    pub fn record<T, E: From<tch::TchError>>(
        device: Device,
        before: Option<&Self>,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<(Self, T), E> {
        let mut recording = ptr::null_mut();
        // SAFETY: a pointer is written.
        checked(unsafe { yolo_graph_new(index(device), &raw mut recording) })?;
        let graph = Self(recording);
        let before = before.map_or(ptr::null_mut(), |before| before.0);
        // SAFETY: both are recordings that live, or null.
        checked(unsafe { yolo_graph_begin(graph.0, before) })?;
        let made = work();
        // SAFETY: as above; the recording was begun.
        let ended = checked(unsafe { yolo_graph_end(graph.0) });
        let made = made?;
        ended?;
        Ok((graph, made))
    }

    /// Launches the work on the current stream.
    ///
    /// # Errors
    /// Those of CUDA.
    pub fn replay(&self) -> Result {
        // SAFETY: a recording that lives.
        checked(unsafe { yolo_graph_replay(self.0) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { yolo_graph_free(self.0) };
    }
}
