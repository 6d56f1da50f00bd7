//! Files that were written are opened and run again, and compared with the network they came from.

mod checked;
mod ncnn;
mod onnx_model;
mod onnx_ops;
mod qdq;
mod support;
