//! Training: optimizers, schedule, average, the loop and its hooks.
//!
//! What lives here: how weights are changed. What must not: how data is read, how models are described.

pub mod anchors;
mod batch_size;
mod distil;
mod ema;
mod events;
pub mod evolve;
mod fingerprint;
mod finite;
mod fit;
mod hook;
pub mod norms;
mod optim;
mod options;
mod outcome;
mod precision;
mod recorded;
mod results;
mod resume;
mod run;
mod sampling;
mod schedule;
mod step;

pub use batch_size::{Memory, choose as choose_batch_size};
pub use distil::{Distillation, check as check_teacher};
pub use ema::Ema;
pub use fingerprint::{Fingerprint, Images, changed_settings};
pub use fit::largest_batch;
pub use hook::{Hook, Regularise};
pub use optim::{BIASES, Group, Optimizer, OptimizerKind};
pub use options::TrainOptions;
pub use outcome::{EachEpoch, Listener, Outcome};
pub use precision::{Precision, Scaler, ScalerState};
pub use results::EpochRow;
pub use resume::STATE;
pub(crate) use run::loss_of;
pub use run::{check_resume, history, train};
pub use sampling::Sampling;
pub use schedule::{Decay, NOMINAL_BATCH, Schedule, StepRates, Updates};
pub use step::{LossMean, StepOptions, Stepper};
