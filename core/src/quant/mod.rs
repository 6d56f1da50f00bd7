//! Quantization schemes, observers and fake quantizers, where they go in a graph, and the files of the backends. Works on the graph
//! with batch norm folded: what is simulated is what is exported.

mod backend;
mod calibration;
mod fake_quant;
mod observer;
mod placement;
mod ranges;
mod spec;

pub use backend::{Artifact, BackendSpec, Quantizer};
pub use calibration::Calibration;
pub use fake_quant::fake_quant;
pub use observer::{Observer, Range, Watch, batch_range, qparams};
pub use placement::{Placement, quantizer_name};
pub use ranges::{LayerRange, Ranges, TensorRange};
pub use spec::{FakeQuantSpec, Method, Scheme};
