//! Regularisers: called by the training loop of the host, on the tensors of the host.

use std::mem::size_of;

use serde_json::Value;
use yolo_abi::{TextBuffer, YoloRegulariserVt, YoloSelf, YoloText, YoloTrainState};
use yolo_core::prune::{ChannelGroups, Regulariser, Step};
use yolo_core::{Error, Params, Result};

use super::guard::{guard, of_host, quietly, read};
use super::op::borrow_one;

pub(super) static REGULARISER: YoloRegulariserVt = YoloRegulariserVt {
    struct_size: size_of::<YoloRegulariserVt>() as u32,
    _reserved: 0,
    before_step: Some(before_step),
    after_step: Some(after_step),
    destroy: Some(destroy),
};

/// A regulariser with the groups that the host told it of.
pub(super) struct Owner<'a> {
    inner: Box<dyn Regulariser + 'a>,
    groups: Option<(u64, ChannelGroups)>,
}

impl<'a> Owner<'a> {
    pub fn new(inner: Box<dyn Regulariser + 'a>) -> Self {
        Self { inner, groups: None }
    }

    /// A thin pointer, which [`Owner::from_raw`] or `destroy` takes back.
    pub fn into_raw(self) -> YoloSelf {
        Box::into_raw(Box::new(self)).cast()
    }

    /// # Safety
    /// [`Owner::into_raw`] made it.
    pub unsafe fn from_raw(raw: YoloSelf) -> Box<Self> {
        // SAFETY: as for this function.
        unsafe { Box::from_raw(raw.cast()) }
    }
}

/// One that a pruner lends to the host's training.
#[derive(Debug)]
pub(super) struct Lent<'a>(pub &'a mut dyn Regulariser);

impl Regulariser for Lent<'_> {
    fn before_step(&mut self, groups: &ChannelGroups, params: &Params, step: Step) -> Result<()> {
        self.0.before_step(groups, params, step)
    }

    fn after_step(&mut self, groups: &ChannelGroups, params: &Params, step: Step) -> Result<()> {
        self.0.after_step(groups, params, step)
    }
}

type Act = fn(&mut dyn Regulariser, &ChannelGroups, &Params, Step) -> Result<()>;

unsafe extern "C" fn before_step(owner: YoloSelf, state: *const YoloTrainState, error: YoloText) -> i32 {
    // SAFETY: the host calls this on what was given to it, and lends the state for the call.
    guard(error, || unsafe {
        act(owner, state, |inner, groups, params, step| {
            inner.before_step(groups, params, step)
        })
    })
}

unsafe extern "C" fn after_step(owner: YoloSelf, state: *const YoloTrainState, error: YoloText) -> i32 {
    // SAFETY: as above.
    guard(error, || unsafe {
        act(owner, state, |inner, groups, params, step| {
            inner.after_step(groups, params, step)
        })
    })
}

unsafe extern "C" fn destroy(owner: YoloSelf) {
    quietly(|| {
        if !owner.is_null() {
            // SAFETY: the host hands back what it was given, once.
            drop(unsafe { Owner::from_raw(owner) });
        }
        Ok(())
    });
}

/// # Safety
/// `owner` is an [`Owner`] that nobody else uses during the call; `state` is good during the call.
unsafe fn act(owner: YoloSelf, state: *const YoloTrainState, act: Act) -> Result<()> {
    // SAFETY: as for this function.
    let (owner, state) = unsafe { (owner.cast::<Owner<'_>>().as_mut(), state.as_ref()) };
    let (Some(owner), Some(state)) = (owner, state) else {
        return Err(Error::Config("the host passed no training state".into()));
    };
    let known = owner
        .groups
        .as_ref()
        .is_some_and(|(generation, _)| *generation == state.generation);
    if !known {
        let mut text = TextBuffer::new();
        // SAFETY: the host's function is good during the call.
        let code = unsafe { (state.groups)(state.cx, text.text()) };
        of_host(code, &TextBuffer::new())?;
        let text = text.finish().map_err(Error::other)?;
        let facts: Value = serde_json::from_str(&text)?;
        owner.groups = Some((
            state.generation,
            ChannelGroups::from_parts(serde_json::from_value(facts)?),
        ));
    }
    let Some((_, groups)) = &owner.groups else {
        return Ok(());
    };
    let mut params = Params::new();
    if !state.tensors.is_null() {
        // SAFETY: the host lends so many tensors for the call.
        for named in unsafe { std::slice::from_raw_parts(state.tensors, state.tensor_count) } {
            // SAFETY: as above.
            unsafe { params.insert(read(named.key)?, borrow_one(named.tensor)?) };
        }
    }
    let step = Step {
        step: state.step as usize,
        total: state.total as usize,
        per_epoch: state.per_epoch as usize,
    };
    act(&mut *owner.inner, groups, &params, step)
}
