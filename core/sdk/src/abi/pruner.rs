//! Pruners.

use std::mem::size_of;

use yolo_abi::{YoloPruneHost, YoloPrunerVt, YoloSelf, YoloText};
use yolo_core::{Error, Pruner};

use super::component;
use super::guard::guard;
use super::regulariser::{Owner, REGULARISER};
use super::remote::Remote;

pub(super) static PRUNER: YoloPrunerVt = YoloPrunerVt {
    struct_size: size_of::<YoloPrunerVt>() as u32,
    _reserved: 0,
    plan: Some(plan),
    regulariser: Some(regulariser),
    regulariser_vt: &raw const REGULARISER,
};

unsafe extern "C" fn plan(pruner: YoloSelf, host: *const YoloPruneHost, reply: YoloText, error: YoloText) -> i32 {
    guard(error, || {
        // SAFETY: the host calls this on what `create` made for a pruner, and lends its table for the call.
        let (pruner, host) = unsafe { (component::<dyn Pruner>(pruner)?, host.as_ref()) };
        let host = host.ok_or_else(|| Error::Config("the host passed no table".into()))?;
        let plan = pruner.plan(&mut Remote::connect(host)?)?;
        // SAFETY: the host takes the text during the call.
        unsafe { reply.put(&serde_json::to_string(&plan)?) };
        Ok(())
    })
}

unsafe extern "C" fn regulariser(pruner: YoloSelf, out: *mut YoloSelf, error: YoloText) -> i32 {
    guard(error, || {
        // SAFETY: the host calls this on what `create` made for a pruner.
        let pruner = unsafe { component::<dyn Pruner>(pruner)? };
        if let Some(regulariser) = pruner.regulariser() {
            // SAFETY: the host gives a place for the result.
            unsafe { *out = Owner::new(regulariser).into_raw() };
        }
        Ok(())
    })
}
