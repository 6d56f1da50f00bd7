//! SPP: spatial pyramid pooling (arXiv 1406.4729): maxima over windows of several sizes, side by side.

use yolo_sdk::prelude::*;

/// Options of SPP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Spp {
    /// Windows (odd).
    pub kernels: Vec<i64>,
    /// Pooled channels as a part of the input's.
    pub expansion: f64,
}

impl Default for Spp {
    fn default() -> Self {
        Self {
            kernels: vec![5, 9, 13],
            expansion: 0.5,
        }
    }
}

#[typetag::serde(name = "spp")]
impl NeckBlock for Spp {
    fn layer_name(&self) -> &str {
        "SPP"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        check(&self.kernels)?;
        let hidden = (inputs[0].channels as f64 * self.expansion) as i64;
        nn::spp(g, inputs[0].value, request.channels, hidden, &self.kernels)
    }
}

/// An even window would change the size of the map.
fn check(kernels: &[i64]) -> Result<()> {
    match kernels.iter().find(|kernel| **kernel % 2 != 1) {
        Some(kernel) => Err(Error::Build {
            plugin: "spp".into(),
            reason: format!("the window {kernel} is not odd"),
        }),
        None => Ok(()),
    }
}

yolo_sdk::plugin! {
    neck_block Spp = "spp" {
        summary: "Spatial pyramid pooling: maxima over several windows, with sizes per level",
        paper: ("Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", "https://arxiv.org/abs/1406.4729", 2014, "SPP (ECCV 2014)"),
        example: { "type": "spp", "kernels": [5, 9, 13] },
    }
}

/// SPP in a layer list: windows, pooled channels as a part of the input's.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(2)?;
    let x = call.input();
    let kernels = call.ints(0, &[5, 9, 13])?;
    check(&kernels)?;
    let hidden = (x.channels as f64 * call.shares(1, &[0.5])?.first().copied().unwrap_or(0.5)) as i64;
    nn::spp(g, x.value, call.channels, hidden, &kernels)
}

/// C3 with SPP inside: windows, (repeats, shortcut, groups,) inner width.
fn csp_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(5)?;
    let kernels = call.ints(0, &[5, 9, 13])?;
    check(&kernels)?;
    let hidden = (call.channels as f64 * call.float(4, 0.5)?) as i64;
    nn::csp(g, call.input().value, call.channels, (hidden, hidden), |g, x| {
        nn::spp(g, x, hidden, hidden / 2, &kernels)
    })
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "SPP", takes_channels: true, repeats_inside: false, ratio_after: None, build: module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "C3SPP", takes_channels: true, repeats_inside: false, ratio_after: None, build: csp_module }
}
