//! Quantization schemes, observers and fake quantizers, where they go in a graph, and the files of the backends. Works on the graph
//! with batch norm folded: what is simulated is what is exported.

mod adaround;
mod backend;
mod baked;
mod calibration;
mod equalize;
mod fake_quant;
mod layers;
mod observer;
mod placement;
mod ranges;
mod reconstruct;
mod refinement;
mod spec;
#[cfg(test)]
mod tests;

pub use backend::{Artifact, BackendSpec, Quantizer};
pub use baked::baked;
pub use calibration::{Calibrated, Calibration};
pub use fake_quant::fake_quant;
pub use layers::{QuantLayer, in_float, layers, named};
pub use observer::{Observer, Range, Watch, batch_range, qparams};
pub use placement::{Placement, quantizer_name};
pub use ranges::{LayerRange, Ranges, TensorRange};
pub use refinement::{Refinement, Rounding};
pub use spec::{FakeQuantSpec, Method, Scheme};
