//! Channel groups, scores, plans and their application: pruning as passes over the graph. Formulas cite their papers; no pass
//! knows a plugin by name.

mod apply;
mod atoms;
mod cost;
mod groups;
mod latency;
mod metric;
mod named;
mod plan;
mod pruner;
pub mod select;

pub use apply::apply;
pub use cost::CostModel;
pub use groups::{ChannelGroup, ChannelGroups, Cut, CutRole, Side};
pub use latency::{ConvShape, OP_TIMES_VERSION, OpTime, OpTimes, TimeModel, convolutions};
pub use metric::{GroupTensors, MetricInputs, PruneMetric, checked_score};
pub use named::{Metric, NamedMetric};
pub use plan::PrunePlan;
pub use pruner::{Evaluation, PruneHost, Pruner, Regulariser, Step};
pub use select::{Budget, Rounding, Scores};

/// Tensors by key, as regularisers see them.
pub use crate::Params;
