//! Libraries in this process: speed, memory, loading again and again, gradients.

use std::process::Command;
use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind as Number, Tensor};
use yolo_core::graph::CustomOp;
use yolo_core::prune::{GroupTensors, PruneMetric};
use yolo_core::{Backbone, Kind, testing};
use yolo_registry::{Package, dynamic};

use super::growth::{self, slope};
use super::twin::{loaded, twin};

fn component<T: serde::de::DeserializeOwned>(kind: Kind, options: serde_json::Value) -> T {
    let library = twin().library(kind);
    dynamic::load_package(&Package::at(&library)).expect("a good library");
    let config = json!({"type": "@dynamic", "plugin": loaded(kind), "name": loaded(kind), "options": options});
    serde_json::from_value(config).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a test of this file in a process of its own, where no other test allocates memory or takes the processor.
fn alone(test: &str) -> bool {
    if std::env::var_os("YOLO_TEST_ALONE").is_some() {
        return true;
    }
    twin();
    let program = std::env::current_exe().expect("this program");
    let name = format!("plugins::dynamic::{test}");
    let output = Command::new(program)
        .args([&name, "--exact", "--nocapture"])
        .env("YOLO_TEST_ALONE", "1")
        .output();
    let output = output.expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    for line in err.lines().filter(|line| line.starts_with("measured:")) {
        eprintln!("{line}");
    }
    false
}

fn group(channels: i64, elements: i64) -> GroupTensors {
    let weight = testing::input(1, 1, channels, elements).reshape([channels, elements]) - 0.5;
    GroupTensors {
        name: "model.3".into(),
        channels: channels as usize,
        weights: vec![weight],
        ..GroupTensors::default()
    }
}

/// Calls of each kind across the boundary.
const CALLS: usize = 4_000;

#[test]
fn calls_leak_nothing() {
    if !alone("calls_leak_nothing") {
        return;
    }
    tch::set_num_threads(1);
    let metric: Box<dyn PruneMetric> = component(Kind::Metric, json!({}));
    let op: Box<dyn CustomOp> = component(Kind::Op, json!({"channels": 8}));
    let backbone: Box<dyn Backbone> = component(Kind::Backbone, json!({}));
    let same = near();
    let (small, x) = (group(16, 27), testing::input(1, 8, 4, 4));
    let gain = Tensor::ones([1, 8, 1, 1], (Number::Float, Device::Cpu));
    growth::check_itself();
    let base = slope(CALLS, &mut || drop(same.score(&small)));
    let far = slope(CALLS, &mut || drop(metric.score(&small).expect("scores")));
    let ops = slope(CALLS, &mut || {
        drop(op.forward(&[&x], &[&gain], true).expect("a tensor"))
    });
    let made = slope(CALLS, &mut || {
        drop(component::<Box<dyn PruneMetric>>(Kind::Metric, json!({"power": 2.0})))
    });
    let built = slope(CALLS, &mut || {
        let mut g = yolo_core::GraphBuilder::new(3);
        let image = g.image();
        backbone
            .build(
                &mut g,
                image,
                yolo_core::Scale {
                    depth: 0.33,
                    width: 0.25,
                },
            )
            .expect("a graph");
    });
    let refused = slope(CALLS, &mut || {
        let config = json!({"type": "@dynamic", "plugin": loaded(Kind::Metric), "name": loaded(Kind::Metric), "options": {"x": 1}});
        assert!(serde_json::from_value::<Box<dyn PruneMetric>>(config).is_err());
    });
    let all = [
        ("linked metric", base),
        ("metric", far),
        ("op", ops),
        ("components", made),
        ("graphs", built),
        ("refusals", refused),
    ];
    eprintln!("measured: bytes per call that stay: {all:?}");
    for (what, slope) in all {
        assert!(!slope.leaks(), "{what}: {slope:?} bytes per call stay");
    }
}

/// The same metric, linked.
fn near() -> Box<dyn PruneMetric> {
    serde_json::from_value(json!({"type": "l1"})).expect("a metric")
}

#[test]
fn loading_again_and_again_costs_nothing() {
    if !alone("loading_again_and_again_costs_nothing") {
        return;
    }
    let good = twin().library(Kind::Metric);
    let first = dynamic::load(&good, None).expect("a good library");
    let folder = std::env::temp_dir().join(format!("yolo-loads-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (text, object) = (folder.join("libtext.so"), folder.join("libother.so"));
    std::fs::write(&text, "no library").expect("a file");
    std::fs::write(
        folder.join("other.c"),
        "int answer(void);\nint answer(void) { return 42; }\n",
    )
    .expect("a file");
    super::c_plugin::compile(&folder.join("other.c"), &object, &[]);
    let link = folder.join("liblink.so");
    std::os::unix::fs::symlink(&good, &link).expect("a link");
    let rounds = |count: usize| {
        for _ in 0..count {
            let again = dynamic::load(&good, None).expect("a good library");
            assert!(std::ptr::eq(first, again), "one library, one entry");
            assert!(std::ptr::eq(first, dynamic::load(&link, None).expect("the same file")));
            assert!(dynamic::load(&text, None).is_err());
            assert!(dynamic::load(&object, None).is_err());
        }
    };
    let start = Instant::now();
    let mut loads = 0;
    let slope = slope(1000, &mut || {
        rounds(1);
        loads += 4;
    });
    let took = start.elapsed();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux").count();
    eprintln!("measured: {loads} loads in {took:.2?}, {slope:?} bytes per round stay, {open} open files");
    assert!(!slope.leaks(), "{slope:?} bytes per four loads stay");
    assert!(loads >= 24_000, "{loads}");
    assert!(open < 100, "{open} open files");
    assert!(
        !maps.contains("libother.so"),
        "a library without a table is never mapped"
    );
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_metric_of_a_library_is_as_fast_as_a_linked_one() {
    if !alone("a_metric_of_a_library_is_as_fast_as_a_linked_one") {
        return;
    }
    tch::set_num_threads(1);
    let large = group(512, 4608);
    let far: Box<dyn PruneMetric> = component(Kind::Metric, json!({}));
    // The same source, linked: the op of the template in this process.
    let near: Box<dyn PruneMetric> = Box::new(Same {});
    let time = |metric: &dyn PruneMetric| {
        let start = Instant::now();
        drop(metric.score(&large).expect("scores"));
        start.elapsed().as_secs_f64()
    };
    // Side by side, the best of as many as it takes for each to meet a quiet moment of a machine that runs other tests.
    let (mut a, mut b) = (f64::INFINITY, f64::INFINITY);
    for round in 0..5000 {
        a = a.min(time(&*near));
        b = b.min(time(&*far));
        if round >= 100 && b < 1.05 * a {
            break;
        }
    }
    eprintln!(
        "measured: 512 x 4608 scored in {:.2} ms linked, {:.2} ms loaded ({:+.1} %)",
        a * 1e3,
        b * 1e3,
        100.0 * (b / a - 1.0)
    );
    assert!(b < 1.05 * a, "{b} s against {a} s");
}

/// The template's metric with its default options.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Same {}

#[typetag::serde(name = "same-as-template")]
impl PruneMetric for Same {
    fn score(&self, group: &GroupTensors) -> yolo_core::Result<Vec<f32>> {
        let mut scores = vec![0f32; group.channels];
        for weight in &group.weights {
            let powers = weight.f_abs()?.f_pow_tensor_scalar(1.0)?;
            let means = Vec::<f32>::try_from(powers.f_mean_dim(1, false, Number::Float)?)?;
            scores.iter_mut().zip(means).for_each(|(score, mean)| *score += mean);
        }
        Ok(scores)
    }
}

#[test]
fn gradients_and_modes_cross_to_a_library() {
    let op: Box<dyn CustomOp> = component(Kind::Op, json!({"channels": 3}));
    let x = testing::input(2, 3, 4, 4).set_requires_grad(true);
    let gain = Tensor::from_slice(&[0.5f32, 2.0, -1.0])
        .reshape([1, 3, 1, 1])
        .set_requires_grad(true);
    let y = op.forward(&[&(&x * 2.0)], &[&gain], true).expect("a forward");
    assert_eq!(y, (&x * 2.0).tanh() * &gain);
    y.square().sum(Number::Float).backward();
    let (dx, dg) = (x.grad().copy(), gain.grad().copy());
    let (x2, g2) = (
        x.detach().set_requires_grad(true),
        gain.detach().set_requires_grad(true),
    );
    ((&x2 * 2.0).tanh() * &g2).square().sum(Number::Float).backward();
    assert_eq!((dx, dg), (x2.grad(), g2.grad()));
    let still = tch::no_grad(|| op.forward(&[&x], &[&gain], false)).expect("a forward");
    assert!(!still.requires_grad(), "no_grad of the host is seen inside");
    let half = op.forward(
        &[&x.detach().to_kind(Number::BFloat16)],
        &[&gain.to_kind(Number::BFloat16)],
        false,
    );
    assert_eq!(half.expect("a forward").kind(), Number::BFloat16);
    let error = op
        .forward(&[&testing::input(1, 5, 2, 2)], &[&gain], false)
        .expect_err("widths differ")
        .to_string();
    assert!(
        error.contains("libtorch reported an error inside of `loaded-op`"),
        "{error}"
    );
    // Several threads at once.
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let op = &op;
            scope.spawn(move || {
                let x = testing::input(1, 3, 8, 8) + f64::from(seed);
                let gain = Tensor::full([1, 3, 1, 1], 2.0, (Number::Float, Device::Cpu));
                for _ in 0..200 {
                    let y = op.forward(&[&x], &[&gain], false).expect("a forward");
                    assert_eq!(y, x.tanh() * &gain);
                }
            });
        }
    });
}
