//! Writers of deployment formats and the engines that check them.
//!
//! [`onnx`] writes float and QDQ networks, [`ort`] runs them on onnxruntime and [`bench`] times them there; [`ncnn`] writes
//! its two files; [`checked`] writes no file that was not seen to agree with its network. [`engine`] is the port to all programs that
//! read such files, [`package`] what a host must know about a file, and [`deployed`] a file that finds boxes. Nothing here trains or changes a model: a
//! writer is a pass from `Graph` and `Params` to bytes.

pub mod bench;
pub mod checked;
pub mod deployed;
pub mod engine;
mod error;
pub mod file;
mod limits;
pub mod ncnn;
pub mod onnx;
pub mod ort;
pub mod package;
pub mod steps;

pub use error::{Error, Result};
