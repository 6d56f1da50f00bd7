//! Training: optimizers, schedule, average, the loop and its hooks.
//!
//! What lives here: how weights are changed. What must not: how data is read, how models are described.

mod ema;
mod events;
mod hook;
mod optim;
mod results;
mod run;
mod schedule;

pub use ema::Ema;
pub use hook::{Hook, Regularise};
pub use optim::{BIASES, Group, Optimizer, OptimizerKind};
pub use results::Row;
pub use run::{Event, Listener, Outcome, TrainOptions, history, train};
pub(crate) use run::{loss_of, trainable};
pub use schedule::{Decay, NOMINAL_BATCH, Schedule, Step};
