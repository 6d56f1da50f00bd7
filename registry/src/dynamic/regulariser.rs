//! Regularisers of libraries, as the training loop of the host sees them.

use std::collections::hash_map::DefaultHasher;
use std::ffi::c_void;
use std::hash::{Hash, Hasher};
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use yolo_abi::{TextBuffer, YoloNamedTensor, YoloRegulariserVt, YoloSelf, YoloStr, YoloText, YoloTrainState, status};
use yolo_core::prune::{ChannelGroups, Regulariser, Step};
use yolo_core::{Params, Result};

use super::fail::Failure;
use super::host::lend;
use super::library::Library;
use crate::error::{Code, PluginError};

/// A regulariser of a library: ours to free, or lent for one training.
#[derive(Debug)]
pub(super) struct RemoteRegulariser {
    functions: &'static YoloRegulariserVt,
    raw: YoloSelf,
    library: &'static Library,
    owned: bool,
}

// SAFETY: it moves between threads but is used by one at a time, as `&mut self` says; the boundary allows calls from any thread.
unsafe impl Send for RemoteRegulariser {}

impl RemoteRegulariser {
    /// # Safety
    /// `functions` is null or a table that lives for ever; `raw` is ours to free.
    pub unsafe fn owned(functions: *const YoloRegulariserVt, raw: YoloSelf, library: &'static Library) -> Result<Self> {
        // SAFETY: as for this function.
        unsafe { Self::new(functions, raw, library, true) }
    }

    /// # Safety
    /// `functions` is null or a table that lives for ever; `raw` is good while the regulariser is used.
    pub unsafe fn lent(functions: *const YoloRegulariserVt, raw: YoloSelf, library: &'static Library) -> Result<Self> {
        // SAFETY: as for this function.
        unsafe { Self::new(functions, raw, library, false) }
    }

    /// # Safety
    /// As for its callers.
    unsafe fn new(
        functions: *const YoloRegulariserVt,
        raw: YoloSelf,
        library: &'static Library,
        owned: bool,
    ) -> Result<Self> {
        // SAFETY: as for this function.
        let functions = unsafe { functions.as_ref() }
            .filter(|functions| functions.struct_size as usize >= size_of::<YoloRegulariserVt>())
            .ok_or_else(|| PluginError::new(Code::BadTable, "a pruner passed a regulariser without functions"))?;
        Ok(Self {
            functions,
            raw,
            library,
            owned,
        })
    }

    fn act(&self, after: bool, groups: &ChannelGroups, params: &Params, step: Step) -> Result<()> {
        let function = if after {
            self.functions.after_step
        } else {
            self.functions.before_step
        };
        let Some(function) = function else { return Ok(()) };
        let tensors: Vec<YoloNamedTensor> = params
            .iter()
            .map(|(key, tensor)| YoloNamedTensor {
                key: YoloStr::new(key),
                tensor: lend(tensor),
            })
            .collect();
        let state = YoloTrainState {
            struct_size: size_of::<YoloTrainState>() as u32,
            _reserved: 0,
            step: step.step as u64,
            total: step.total as u64,
            per_epoch: step.per_epoch as u64,
            generation: fingerprint(groups),
            tensors: tensors.as_ptr(),
            tensor_count: tensors.len(),
            cx: std::ptr::from_ref(groups).cast_mut().cast(),
            groups: write_groups,
        };
        let mut error = TextBuffer::new();
        // SAFETY: state and text are good during the call; the regulariser is used by this thread only.
        let code = unsafe { function(self.raw, &raw const state, error.text()) };
        Failure::check(code, &error).map_err(|failure| failure.error(self.library.crate_name(), self.library.path()))
    }
}

/// The same for the same groups, whoever asks.
fn fingerprint(groups: &ChannelGroups) -> u64 {
    let mut hasher = DefaultHasher::new();
    for group in &groups.groups {
        (&group.name, group.len(), group.cuts.len()).hash(&mut hasher);
    }
    hasher.finish()
}

unsafe extern "C" fn write_groups(cx: *mut c_void, reply: YoloText) -> i32 {
    let write = || {
        // SAFETY: `cx` is the groups of the running call, which are not changed meanwhile.
        let groups = unsafe { cx.cast::<ChannelGroups>().as_ref() }?;
        let text = serde_json::to_string(&groups.groups).ok()?;
        // SAFETY: the plugin takes the text during this call.
        unsafe { reply.put(&text) };
        Some(())
    };
    match catch_unwind(AssertUnwindSafe(write)) {
        Ok(Some(())) => status::OK,
        _ => status::FAILED,
    }
}

impl Regulariser for RemoteRegulariser {
    fn before_step(&mut self, groups: &ChannelGroups, params: &Params, step: Step) -> Result<()> {
        self.act(false, groups, params, step)
    }

    fn after_step(&mut self, groups: &ChannelGroups, params: &Params, step: Step) -> Result<()> {
        self.act(true, groups, params, step)
    }
}

impl Drop for RemoteRegulariser {
    fn drop(&mut self) {
        if let (true, Some(destroy)) = (self.owned, self.functions.destroy) {
            // SAFETY: ours to free, once.
            unsafe { destroy(self.raw) };
        }
    }
}
