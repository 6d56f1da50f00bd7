//! The traits that model plugins implement. Option structs implement them: they hold no tensors and are read from
//! configuration through typetag, tagged by `type`.

use std::fmt::Debug;

use crate::{Feat, Features, GraphBuilder, Result, Scale};

/// Turns the image into feature maps.
#[typetag::serde(tag = "type")]
pub trait Backbone: Debug + Send + Sync {
    /// Appends its layers; returns feature maps, finest stride first, strides doubling. The neck takes what it needs from the
    /// end, so a backbone returns every stride that it has from 4 (or 2) to 32.
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features>;
}

/// How many inputs a neck block takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    /// At least.
    pub min: usize,
    /// At most.
    pub max: usize,
}

impl Arity {
    /// Exactly one.
    pub const ONE: Self = Self { min: 1, max: 1 };
}

/// What the neck asks of a block, besides its own options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockRequest {
    /// Channels of the result.
    pub channels: i64,
    /// Repeats, already scaled by depth.
    pub repeats: i64,
    /// Residual connections inside (backbones use them, necks don't).
    pub shortcut: bool,
}

/// Turns one or several feature maps of the same stride into one.
#[typetag::serde(tag = "type")]
pub trait NeckBlock: Debug + Send + Sync {
    /// How many inputs it takes.
    fn arity(&self) -> Arity {
        Arity::ONE
    }
    /// Name of its row in the layer table (`C3`, `CBAM`, ...).
    fn layer_name(&self) -> &str;
    /// Appends nodes in the current scope (the layer's); returns the value, `request.channels` wide unless the block keeps the
    /// width of its input by nature (CBAM).
    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<crate::ValueId>;
}
