//! What [`plugin!`](crate::plugin) exports besides its registration: the table of the C boundary, for crates that are built as
//! shared libraries. Authors see none of it; they write the traits.
//!
//! A crate that is linked statically carries its table, too, and nobody reads it.

mod distiller;
mod guard;
mod metric;
mod model;
mod op;
mod pruner;
mod quantizer;
mod regulariser;
mod remote;

use std::ffi::c_void;
use std::mem::size_of;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use yolo_core::graph::CustomOp;
use yolo_core::{Backbone, Distiller, Error, Kind, NeckBlock, PluginInfo, PruneMetric, Pruner, Quantizer, Result};

use yolo_abi::{YoloHost, YoloSelf, YoloStr};
pub use yolo_abi::{YoloPluginV1, YoloText};

use guard::{guard, read};

/// Writes what a library says of itself.
pub type Describe = unsafe extern "C" fn(reply: YoloText, error: YoloText) -> i32;

/// The table of a crate.
pub const fn table(describe: Describe) -> YoloPluginV1 {
    YoloPluginV1 {
        magic: yolo_abi::MAGIC,
        abi_major: yolo_abi::ABI_MAJOR,
        abi_minor: yolo_abi::ABI_MINOR,
        struct_size: size_of::<YoloPluginV1>() as u32,
        _reserved: 0,
        libtorch: YoloStr::new(env!("YOLO_SDK_LIBTORCH")),
        sdk: YoloStr::new(concat!("yolo-sdk ", env!("CARGO_PKG_VERSION"))),
        target: YoloStr::new(env!("YOLO_SDK_TARGET")),
        describe: Some(describe),
        create: Some(create),
        destroy: Some(destroy),
        vtable: Some(vtable),
    }
}

/// Writes a JSON list of the components of `package`.
///
/// # Safety
/// `reply` and `error` are good during the call.
pub unsafe fn describe(package: &str, reply: YoloText, error: YoloText) -> i32 {
    guard(error, || {
        let own: Vec<Value> = PluginInfo::linked()
            .into_iter()
            .filter(|info| info.package == package)
            .map(description)
            .collect();
        // SAFETY: as for this function.
        unsafe { reply.put(&serde_json::to_string(&own)?) };
        Ok(())
    })
}

fn description(info: &PluginInfo) -> Value {
    json!({
        "kind": info.kind,
        "name": info.name,
        "aliases": info.aliases,
        "summary": info.summary,
        "version": info.version,
        "authors": info.authors.split(':').filter(|author| !author.is_empty()).collect::<Vec<_>>(),
        "license": info.license,
        "paper": info.paper,
        "stability": info.stability,
        "package": info.package,
        "schema": (info.schema)(),
        "example": (info.example)(),
    })
}

unsafe extern "C" fn create(
    kind: YoloStr,
    name: YoloStr,
    options: YoloStr,
    _host: *const YoloHost,
    out: *mut YoloSelf,
    error: YoloText,
) -> i32 {
    guard(error, || {
        // SAFETY: the host lends these texts for the call.
        let (kind, name, options) = unsafe { (read(kind)?, read(name)?, read(options)?) };
        let mut config = Map::new();
        config.insert("type".into(), name.into());
        config.extend(serde_json::from_str::<Map<String, Value>>(options)?);
        let config = Value::Object(config);
        let made = match Kind::parse(kind) {
            Some(Kind::Backbone) => own::<dyn Backbone>(config)?,
            Some(Kind::NeckBlock) => own::<dyn NeckBlock>(config)?,
            Some(Kind::Op) => own::<dyn CustomOp>(config)?,
            Some(Kind::Metric) => own::<dyn PruneMetric>(config)?,
            Some(Kind::Pruner) => own::<dyn Pruner>(config)?,
            Some(Kind::Quantizer) => own::<dyn Quantizer>(config)?,
            Some(Kind::Distiller) => own::<dyn Distiller>(config)?,
            None => return Err(Error::Config(format!("this SDK knows no kind `{kind}`"))),
        };
        // SAFETY: the host gives a place for the result.
        unsafe { *out = made };
        Ok(())
    })
}

unsafe extern "C" fn destroy(kind: YoloStr, component: YoloSelf) {
    let drop_it = || {
        if component.is_null() {
            return Ok(());
        }
        // SAFETY: the host lends the text, and hands back what `create` made for this kind.
        unsafe {
            match Kind::parse(read(kind)?) {
                Some(Kind::Backbone) => free::<dyn Backbone>(component),
                Some(Kind::NeckBlock) => free::<dyn NeckBlock>(component),
                Some(Kind::Op) => free::<dyn CustomOp>(component),
                Some(Kind::Metric) => free::<dyn PruneMetric>(component),
                Some(Kind::Pruner) => free::<dyn Pruner>(component),
                Some(Kind::Quantizer) => free::<dyn Quantizer>(component),
                Some(Kind::Distiller) => free::<dyn Distiller>(component),
                None => {}
            }
        }
        Ok(())
    };
    guard::quietly(drop_it);
}

unsafe extern "C" fn vtable(kind: YoloStr) -> *const c_void {
    // SAFETY: the host lends the text for the call.
    match unsafe { read(kind) }.ok().and_then(Kind::parse) {
        Some(Kind::Backbone) => (&raw const model::BACKBONE).cast(),
        Some(Kind::NeckBlock) => (&raw const model::NECK_BLOCK).cast(),
        Some(Kind::Op) => (&raw const op::OP).cast(),
        Some(Kind::Metric) => (&raw const metric::METRIC).cast(),
        Some(Kind::Pruner) => (&raw const pruner::PRUNER).cast(),
        Some(Kind::Quantizer) => (&raw const quantizer::QUANTIZER).cast(),
        Some(Kind::Distiller) => (&raw const distiller::DISTILLER).cast(),
        None => std::ptr::null(),
    }
}

/// A component on the heap, behind a thin pointer.
fn own<T: ?Sized>(config: Value) -> Result<YoloSelf>
where
    Box<T>: DeserializeOwned,
{
    let component: Box<T> = serde_json::from_value(config)?;
    Ok(Box::into_raw(Box::new(component)).cast())
}

/// # Safety
/// `own::<T>` made the component, and nobody uses it any more.
unsafe fn free<T: ?Sized>(component: YoloSelf) {
    // SAFETY: as for this function.
    drop(unsafe { Box::from_raw(component.cast::<Box<T>>()) });
}

/// The component behind a pointer.
///
/// # Safety
/// `own::<T>` made it, and it lives for `'a`.
unsafe fn component<'a, T: ?Sized>(component: YoloSelf) -> Result<&'a T> {
    // SAFETY: as for this function.
    match unsafe { component.cast::<Box<T>>().as_ref() } {
        Some(component) => Ok(&**component),
        None => Err(Error::Config("the host passed no component".into())),
    }
}
