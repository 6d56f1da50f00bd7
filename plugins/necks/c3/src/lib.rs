//! C3: the cross-stage partial block of YOLOv5 (CSPNet, arXiv 1911.11929) with three convolutions around a chain of
//! bottlenecks.

use yolo_sdk::prelude::*;

/// Options of C3.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct C3 {
    /// Residual connections inside, whatever the place asks for (backbones ask for them, necks don't).
    pub shortcut: Option<bool>,
}

#[typetag::serde(name = "c3")]
impl NeckBlock for C3 {
    fn layer_name(&self) -> &str {
        "C3"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let shortcut = self.shortcut.unwrap_or(request.shortcut);
        nn::c3(g, inputs[0].value, request.channels, request.repeats, shortcut)
    }
}

yolo_sdk::plugin! {
    neck_block C3 = "c3" {
        summary: "Cross-stage partial block with 3 convolutions, the standard block of YOLOv5",
        paper: ("CSPNet: A New Backbone that can Enhance Learning Capability of CNN", "https://arxiv.org/abs/1911.11929", 2020, "CSPNet (CVPRW 2020)"),
        example: { "type": "c3" },
    }
}

/// C3 in a layer list: shortcut, groups, widths of both branches (or one for both) and of each bottleneck as parts.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(4)?;
    let (shortcut, groups) = (call.flag(0, true)?, call.int(1, 1)?);
    let parts = call.floats(2, &[0.5, 0.5])?;
    let inner = call.shares(3, &[])?;
    let part = |index: usize| {
        let part = parts.get(index).or(parts.first()).copied().unwrap_or(0.5);
        (call.full_channels as f64 * part) as i64
    };
    let hidden = (part(0), part(1));
    nn::csp(g, call.input().value, call.channels, hidden, |g, mut x| {
        for index in 0..call.repeats {
            let options = nn::BottleneckOptions {
                shortcut,
                groups,
                expansion: inner.get(index as usize).copied().unwrap_or(1.0),
            };
            x = g.scope(index.to_string(), |g| nn::bottleneck(g, x, hidden.0, options))?;
        }
        Ok(x)
    })
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "C3", takes_channels: true, repeats_inside: true, ratio_after: Some(3), build: module }
}
