//! Sum of absolute weights per channel, in Rust:
//!   rustc --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=3 -C panic=abort l1.rs

use std::alloc::{Layout, alloc};

#[used]
#[unsafe(link_section = "yolo.plugin")]
static ABOUT: [u8; 73] = *br#"{"kind": "metric", "name": "l1-rust", "summary": "Sum of abs, in Rust"}  "#;

/// One layer, as yolo lays it out in memory.
#[repr(C)]
pub struct Layer {
    size: u32,
    channels: u32,
    elements: u32,
    index: u32,
    count: u32,
    stride: u32,
    weight: *const f32,
}

#[unsafe(no_mangle)]
pub extern "C" fn yolo_metric_abi() -> i32 {
    0x10000
}

#[unsafe(no_mangle)]
pub extern "C" fn yolo_needs() -> i32 {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn yolo_alloc(bytes: u32, align: u32) -> *mut u8 {
    match Layout::from_size_align(bytes.max(1) as usize, align as usize) {
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => std::ptr::null_mut(),
    }
}

/// # Safety
/// `layer` and `out` come from yolo.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn yolo_score(layer: *const Layer, out: *mut f32) -> i32 {
    let layer = unsafe { &*layer };
    for channel in 0..layer.channels as usize {
        let row = unsafe { layer.weight.add(channel * layer.stride as usize) };
        let row = unsafe { std::slice::from_raw_parts(row, layer.elements as usize) };
        unsafe { out.add(channel).write(row.iter().map(|w| w.abs()).sum()) };
    }
    0
}
