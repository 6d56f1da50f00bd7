//! Files that were written are opened and run again, and compared with the network they came from.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod checked;
mod deployed;
mod large;
mod ncnn;
mod onnx_model;
mod onnx_ops;
mod qdq;
mod qlinear;
#[path = "../../../../tests/skip.rs"]
mod skip;
mod support;
