//! From what a person names to what a job works on: models, weights, data sets, plugins.
//!
//! What must not live here: work on them.

mod components;
mod data;
mod differences;
mod model;
mod size;
mod tensors;

pub use components::{component, configuration, distiller, metric, pruner, quantizer, text, with_metric, written};
pub use data::{
    Batching, Cache, calib_loader, dataset, hyp, loader_of, located_hyp, other_names, same_classes, samples,
    select_loader, sensible, sensible_at, train_loader, val_loader,
};
pub use model::{
    Start, build, checkpoint, checkpoint_of, config, config_with, convert_pt, for_training, graph, graph_with,
    is_safetensors, model_with_weights,
};
pub use size::{image_sides, image_size, multiple_of_stride};
