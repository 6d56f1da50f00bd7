//! Training: optimizers, schedule, average, the loop and its hooks.
//!
//! What lives here: how weights are changed. What must not: how data is read, how models are described.

mod ema;
mod events;
mod hook;
mod optim;
mod precision;
mod results;
mod run;
mod schedule;
mod step;

pub use ema::Ema;
pub use hook::{Hook, Regularise};
pub use optim::{BIASES, Group, Optimizer, OptimizerKind};
pub use precision::{Precision, Scaler, ScalerState};
pub use results::Row;
pub(crate) use run::loss_of;
pub use run::{Event, Listener, Outcome, TrainOptions, history, train};
pub use schedule::{Decay, NOMINAL_BATCH, Schedule, Step, Updates};
pub use step::{LossMean, StepOptions, Stepper};
