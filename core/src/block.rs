//! A neck block as an option of something else: of the neck, or of a backbone that lets its stages be replaced.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::NeckBlock;

/// Any neck block with its options: `{type: c3, ...}`, or just `c3`.
#[derive(Debug, Clone)]
pub struct Block(Arc<dyn NeckBlock>);

impl Block {
    /// Wraps a block.
    pub fn new(block: impl NeckBlock + 'static) -> Self {
        Self(Arc::new(block))
    }
}

impl From<Box<dyn NeckBlock>> for Block {
    fn from(block: Box<dyn NeckBlock>) -> Self {
        Self(Arc::from(block))
    }
}

impl Deref for Block {
    type Target = dyn NeckBlock;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Block;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a neck block (its name, or `{type: NAME, ...options}`)")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Block, E> {
                let map = MapDeserializer::new(std::iter::once(("type", name)));
                Box::<dyn NeckBlock>::deserialize(map).map(Block::from)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Block, A::Error> {
                Box::<dyn NeckBlock>::deserialize(MapAccessDeserializer::new(map)).map(Block::from)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for Block {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Block".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A neck block: its name, or `{type: NAME, ...options}`",
            "anyOf": [
                {"type": "string"},
                {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}
            ]
        })
    }
}
