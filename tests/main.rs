//! Integration tests.

// Links the plugins: the tests build models, too.
use yolo_builtin as _;

mod advice;
mod aspect;
mod backbones;
mod bad_input;
mod before_training;
mod compress;
mod convert;
mod data;
mod detect;
mod dist;
mod engines;
mod evolve;
mod explain;
mod export;
mod golden_loss;
mod golden_prune;
mod habits;
mod kill;
mod latency;
mod measured;
mod not_finite;
mod plugins;
mod pruned;
mod pruning;
#[path = "../core/engine/tests/common/python.rs"]
mod python;
mod quantizing;
mod ranking;
mod report;
mod sampling;
mod search;
mod silent;
mod sources;
mod start;
mod support;
mod teaching;
mod torch;
mod train;
mod twice;
mod val;
mod vendors;
mod weights;
