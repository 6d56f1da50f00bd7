//! What plugin authors depend on, and all they depend on: the contracts of `yolo-core`, serde and schemars under one roof, and
//! [`plugin!`], which makes a component known.
//!
//! ```
//! use yolo_sdk::prelude::*;
//!
//! /// Options of the block.
//! #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
//! #[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
//! #[schemars(crate = "yolo_sdk::schemars")]
//! pub struct Twice {}
//!
//! #[typetag::serde(name = "twice")]
//! impl NeckBlock for Twice {
//!     fn layer_name(&self) -> &str {
//!         "Twice"
//!     }
//!     fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
//!         let x = nn::conv(g, "cv1", inputs[0].value, request.channels, 3, 1)?;
//!         nn::conv(g, "cv2", x, request.channels, 3, 1)
//!     }
//! }
//!
//! yolo_sdk::plugin! {
//!     neck_block Twice = "twice" { summary: "Two convolutions" }
//! }
//! # assert!(PluginInfo::linked().iter().any(|info| info.name == "twice"));
//! ```

#[doc(hidden)]
pub mod abi;
mod macros;

pub use yolo_core as core;
pub use yolo_core::conformance;
pub use {inventory, schemars, serde, serde_json, tch, typetag};

/// Everything a plugin needs: `use yolo_sdk::prelude::*;`.
pub mod prelude {
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
    pub use yolo_core::graph::{Activation, CustomOp, Dim, ReduceKind};
    pub use yolo_core::model::ultralytics::{Call, LayerModule};
    pub use yolo_core::params::Init;
    pub use yolo_core::plugin::BlockRequest;
    pub use yolo_core::{
        Arity, Backbone, Block, Distiller, Error, Feat, Features, GraphBuilder, NeckBlock, Node, Op, ParamRole,
        ParamSpec, PluginInfo, PruneMetric, Pruner, Quantizer, Result, Scale, ValueId, distil, nn, prune, quant,
    };
    pub use {crate::schemars, crate::serde, crate::serde_json, crate::tch, crate::typetag};
}
