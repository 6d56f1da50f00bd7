//! Template title: every stage halves the map with a convolution and goes over it with residual blocks.
//!
//! # Shapes
//! `[N, 3, H, W]` to maps of stride 2, 4, 8, 16 and 32; the neck takes what it needs from the end.

use yolo_sdk::prelude::*;

/// Options of the backbone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Channels of the first stage; each later stage has twice as many.
    pub channels: i64,
    /// Residual blocks per stage, before the model's depth factor.
    pub repeats: i64,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { channels: 32, repeats: 1 }
    }
}

#[typetag::serde(name = "template-name")]
impl Backbone for TemplateName {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        if self.channels < 1 {
            return Err(Error::Build { plugin: "template-name".into(), reason: "`channels` must be at least 1".into() });
        }
        let mut map = image;
        let mut maps = Vec::new();
        for stage in 0..5 {
            let channels = scale.channels(self.channels << stage);
            map = g.layer("Conv", &[map], |g| nn::conv(g, "conv", map.value, channels, 3, 2))?;
            let repeats = scale.repeats(self.repeats);
            map = g.layer("Residual", &[map], |g| {
                (0..repeats).try_fold(map.value, |x, block| {
                    g.scope(format!("m.{block}"), |g| nn::bottleneck(g, x, channels, nn::BottleneckOptions::default()))
                })
            })?;
            maps.push(map);
        }
        Ok(Features(maps))
    }
}

yolo_sdk::plugin! {
    backbone TemplateName = "template-name" {
        summary: "Strided convolutions and residual blocks",
    }
}
