//! Template title: sum of the absolute weights of a channel, as a WebAssembly module for `yolo`.
//!
//! The module imports nothing and exports what `yolo` calls. Built with
//! `cargo build --release --target wasm32-unknown-unknown` (once: `rustup target add wasm32-unknown-unknown`).

use std::alloc::{Layout, alloc};

/// How the module describes itself: read from the file, without running anything.
#[used]
#[unsafe(link_section = "yolo.plugin")]
static ABOUT: [u8; ABOUT_TEXT.len()] = {
    let mut bytes = [0; ABOUT_TEXT.len()];
    bytes.copy_from_slice(ABOUT_TEXT.as_bytes());
    bytes
};
const ABOUT_TEXT: &str = r#"{"kind": "metric", "name": "template-name", "version": "0.1.0", "license": "MIT OR Apache-2.0",
    "summary": "Sum of absolute weights"}"#;
// An option `scale` would be `*layer.params`. It must be declared above, as a further key:
//  "schema": {"properties": {"scale": {"type": "number", "default": 1.0, "description": "Factor"}}}

/// One layer, as `yolo` lays it out. Pointers are 0 for what `yolo_needs` does not ask for.
#[repr(C)]
pub struct Layer {
    size: u32,
    channels: u32,
    elements: u32,
    index: u32,
    count: u32,
    /// Floats from one row to the next.
    stride: u32,
    /// `channels` rows of `elements` weights.
    weight: *const f32,
    /// Gamma, beta, mean and variance of batch norm, gradients of the weights, activations.
    more: [*const f32; 6],
    params_count: u32,
    /// Options, in the order of their schema.
    params: *const f32,
}

/// The version of this interface: 1.0.
#[unsafe(no_mangle)]
pub extern "C" fn yolo_metric_abi() -> i32 {
    1 << 16
}

/// What the metric looks at: 1 weights, 2 batch norm, 4 gradients; added up.
#[unsafe(no_mangle)]
pub extern "C" fn yolo_needs() -> i32 {
    1
}

/// Memory for the layer; 0 where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn yolo_alloc(bytes: u32, align: u32) -> *mut u8 {
    match Layout::from_size_align(bytes.max(1) as usize, align as usize) {
        // SAFETY: the size is not zero.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => std::ptr::null_mut(),
    }
}

/// Writes one finite score per channel; the lowest go first. 0 means that it worked.
///
/// # Safety
/// `yolo` passes a layer and a place for its scores, both in memory from `yolo_alloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn yolo_score(layer: *const Layer, out: *mut f32) -> i32 {
    // SAFETY: see above.
    let (layer, out) = unsafe { (&*layer, std::slice::from_raw_parts_mut(out, (*layer).channels as usize)) };
    for (channel, score) in out.iter_mut().enumerate() {
        // SAFETY: there are `channels` rows of `elements`, `stride` apart.
        let row = unsafe {
            std::slice::from_raw_parts(layer.weight.add(channel * layer.stride as usize), layer.elements as usize)
        };
        *score = score_channel(row);
    }
    0
}

/// The metric itself.
fn score_channel(weights: &[f32]) -> f32 {
    weights.iter().map(|weight| weight.abs()).sum()
}
