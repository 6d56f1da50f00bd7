//! Random scores: the baseline that every criterion must beat. Reproducible: the same seed and group give the same scores.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Random scores, the baseline.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Random {
    /// Seed.
    pub seed: u64,
}

#[typetag::serde(name = "random")]
impl PruneMetric for Random {
    fn needs(&self) -> MetricInputs {
        MetricInputs::default()
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        // SplitMix64 over seed, group and channel: no state, no order.
        let name = group
            .name
            .bytes()
            .fold(self.seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let draw = |channel: usize| {
            let mut z = name.wrapping_add((channel as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
        };
        Ok((0..group.channels).map(draw).collect())
    }
}

yolo_sdk::plugin! {
    metric Random = "random" {
        summary: "Random scores, the baseline",
    }
}
