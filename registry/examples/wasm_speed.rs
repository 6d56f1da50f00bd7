//! How long a WASM metric takes: `cargo run --release -p yolo-registry --example wasm_speed -- my-metric.wasm`.
//!
//! Prints wall-clock and CPU time of scoring the largest convolution of yolov5l (512 x 512 x 3 x 3), of all of yolov5l on one thread,
//! and of loading the module.

use std::time::Instant;

use serde_json::Map;
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::prune::{ChannelGroups, GroupTensors};
use yolo_core::{Params, model, testing};
use yolo_registry::{Index, metric};

/// Nanoseconds that this thread has run.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/l1.wat");
    let file = std::env::args().nth(1).unwrap_or_else(|| default.to_owned());
    let start = Instant::now();
    let metric = metric(&Index::linked(), &file, Map::new())?;
    println!("{file}: loaded in {:.1} ms", 1e3 * start.elapsed().as_secs_f64());
    let weights = testing::input(1, 1, 512, 512 * 9).reshape([512, 512 * 9]);
    let native = |w: &tch::Tensor| w.abs().sum_dim_intlist(1, false, tch::Kind::Float);
    let group = GroupTensors {
        name: "conv".into(),
        index: (0, 1),
        channels: 512,
        weights: vec![weights],
        ..GroupTensors::default()
    };
    let time = |label: &str, run: &dyn Fn()| {
        let mut best = (f64::INFINITY, f64::INFINITY);
        for _ in 0..20 {
            let (wall, busy) = (Instant::now(), cpu());
            run();
            best = (
                best.0.min(1e3 * wall.elapsed().as_secs_f64()),
                best.1.min((cpu() - busy) / 1e6),
            );
        }
        println!("{label}: {:.2} ms wall, {:.2} ms CPU", best.0, best.1);
    };
    metric.score(&group)?;
    time("WASM", &|| drop(metric.score(&group)));
    time("libtorch", &|| drop(native(&group.weights[0])));
    let (name, text) = model::find("yolov5l").ok_or("yolov5l is embedded")?;
    let graph = model::build(&Located::parse(name, text)?, None)?;
    let (params, groups) = (Params::init(&graph, 0), ChannelGroups::of(&graph)?);
    let count = groups.groups.len();
    let layers: Vec<GroupTensors> = groups
        .groups
        .iter()
        .enumerate()
        .map(|(at, group)| GroupTensors::collect(group, (at, count), &params, None, metric.needs()))
        .collect::<Result<_, _>>()?;
    let (wall, busy) = (Instant::now(), cpu());
    for layer in &layers {
        metric.score(layer)?;
    }
    let (wall, busy) = (1e3 * wall.elapsed().as_secs_f64(), (cpu() - busy) / 1e6);
    println!("yolov5l, {count} groups on one thread: {wall:.0} ms wall, {busy:.0} ms CPU");
    Ok(())
}
