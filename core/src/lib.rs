//! The contracts of `yolo`: plugin traits, the model graph, its passes and its executor.
//!
//! A model is an explicit [`graph::Graph`] of primitive ops and everything the program does to a model is a pass over
//! it: running ([`exec`]), shapes and costs ([`graph`]), pruning ([`prune`]), quantization ([`quant`]).
//! Plugins implement [`Backbone`], [`NeckBlock`], [`Pruner`], [`PruneMetric`], [`Quantizer`] or [`Distiller`]
//! and describe themselves with a [`PluginInfo`].
//!
//! This crate does no file or network input or output, never prints and never loads foreign code.

/// Keeps libtorch out of the program's start: its trampolines must be in every program that has tensors.
use yolo_torch as _;

pub mod block;
pub mod config;
pub mod conformance;
pub mod distil;
pub mod error;
pub mod exec;
pub mod features;
pub mod graph;
pub mod info;
pub mod model;
pub mod nn;
mod ops;
pub mod params;
pub mod passes;
pub mod plugin;
pub mod plugin_error;
pub mod progress;
pub mod prune;
pub mod quant;
pub mod suggest;
pub mod testing;
pub mod wire;

pub use block::Block;
pub use distil::Distiller;
pub use error::{Error, Result};
pub use exec::{Mode, Program};
pub use features::{Feat, Features, Scale};
pub use graph::{Graph, GraphBuilder, Node, Op, ValueId};
pub use info::{Kind, Paper, PluginInfo, Stability};
pub use params::{ParamRole, ParamSpec, Params};
pub use plugin::{Arity, Backbone, NeckBlock};
pub use plugin_error::{Code, PluginError};
pub use progress::Progress;
pub use prune::{PruneMetric, Pruner};
pub use quant::Quantizer;
