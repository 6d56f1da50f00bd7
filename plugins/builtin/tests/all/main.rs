//! Tests of the models and of every plugin that is linked, as one program.

mod blocks;
mod conformance;
mod distillers;
mod drawing;
mod golden;
mod kit;
mod layer_lists;
mod lists;
mod metrics;
mod mixing;
mod published;
#[path = "../../../../tests/skip.rs"]
mod skip;

use yolo_builtin as _;
