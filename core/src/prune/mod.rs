//! Channel groups, scores, plans and their application: pruning as passes over the graph. Formulas cite their papers; no pass
//! knows a plugin by name.

mod apply;
mod atoms;
mod cost;
mod explain;
mod groups;
mod latency;
mod members;
mod metric;
mod named;
pub mod pattern;
mod plan;
mod pruner;
mod rank;
mod readings;
mod rounding;
pub mod select;

pub use apply::apply;
pub use cost::CostModel;
pub use explain::{Explanation, Held, explain};
pub use groups::{ChannelGroup, ChannelGroups, Cut, CutRole, Floor, Limits, Side};
pub use latency::{ConvShape, OP_TIMES_VERSION, OpTime, OpTimes, TimeModel, convolutions};
pub use members::{Aggregate, Members};
pub use metric::{GroupTensors, Measured, MetricInputs, PruneMetric, checked_score};
pub use named::{Metric, NamedMetric};
pub use plan::{Network, PlanFile, PrunePlan};
pub use pruner::{Evaluation, PruneHost, Pruner, Regulariser, Step};
pub use rank::{Normaliser, Ranking, Scope};
pub use readings::{Reading, readings};
pub use rounding::{Round, Rounding};
pub use select::{Budget, Scores, uniform_widths};

/// Tensors by key, as regularisers see them.
pub use crate::Params;
