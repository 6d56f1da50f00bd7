//! Every published backbone and block learns: the gradient of each of its layers is the true one, and short trainings of small forms
//! on synthetic pictures find what is on them.
//!
//! How a training goes depends on how a processor rounds, the property that is tested must not. So what a gradient should be is
//! measured by differences, which a wrong one misses by all of its size (`a_broken_gradient_is_seen`); and a training has to come
//! a part of the way that the networks go: where losses fall to 0.25 to 0.66 of their start and mAP50 rises by 0.13 to 0.45 (on AVX2 and
//! on AVX-512), 0.8 and 0.05 are asked for, and an untrained network stays at 0.99 and 0 (`an_untrained_network_does_not_pass`).

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tch::{Kind as DType, Tensor};
use yolo_core::config::Located;
use yolo_core::{Graph, Mode, Op, Params, Program, model, testing};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Sample, Split};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::Meta;
use yolo_engine::eval::NmsOptions;
use yolo_engine::train::{EachEpoch, EpochRow, OptimizerKind, TrainOptions, train};
use yolo_engine::val::validate;

use crate::support::small_data;

const SIZE: usize = 96;
const BATCH: usize = 4;
const EPOCHS: usize = 100;

/// Training pictures: more than a batch, few enough to be learned by heart.
struct Pictures {
    items: Vec<Sample>,
    names: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Pictures {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = Dataset::open(&small_data(folder.path(), 12, SIZE)).expect("a data set");
        let mut items = data.samples(Split::Train, Policy::Strict).expect("samples").items;
        items.truncate(2 * BATCH);
        assert_eq!(items.len(), 2 * BATCH);
        Self {
            items,
            names: data.names.clone(),
            _folder: folder,
        }
    }

    /// As they are: what is tested is whether the network can learn, not whether it generalises.
    fn loader(&self, options: LoaderOptions) -> Loader {
        Loader::new(
            self.items.clone(),
            LoaderOptions {
                workers: 1,
                cache_bytes: 1 << 24,
                ..options
            },
        )
        .expect("a loader")
    }
}

/// The slope of a scalar of the outputs along the gradient of one layer.
#[derive(Debug)]
struct Slope {
    layer: String,
    /// Length of the layer's gradient, which the slope should be.
    gradient: f64,
    /// Measured by a step forth and back.
    measured: f64,
}

impl Slope {
    /// Relative to the larger of both: 1 where one of them is 0.
    fn error(&self) -> f64 {
        let largest = self.gradient.abs().max(self.measured.abs());
        if largest > 0.0 {
            (self.gradient - self.measured).abs() / largest
        } else {
            1.0
        }
    }
}

/// Relative error that a true gradient may have: it is below 1e-4 in double precision for all of these networks. One that is lost is off
/// by 1.
const TRUE: f64 = 0.01;
/// Length of a step, in lengths of the layer's weights: far above rounding (1e-16), so short that it meets hardly a kink (maxima, clamps).
const STEP: f64 = 1e-9;

/// Length of all tensors as one vector.
fn length<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> f64 {
    let squares = tensors.map(|tensor| tensor.square().sum(DType::Double).double_value(&[]));
    squares.sum::<f64>().sqrt()
}

/// Slopes of the layers of a network in training mode. With `cut`, gradients before that layer are lost, as by a detached tensor.
fn slopes(graph: &Graph, params: &Params, cut: Option<&str>) -> Vec<Slope> {
    let trains: HashSet<String> = graph
        .param_specs()
        .into_iter()
        .filter(|spec| spec.role.trainable())
        .map(|spec| spec.key)
        .collect();
    // In double precision, where differences are exact to many digits on every processor.
    let own: Params = params
        .deep_clone()
        .to(tch::Device::Cpu, DType::Double)
        .iter()
        .map(|(key, tensor)| {
            let own = tensor.detach();
            (key.to_owned(), own.set_requires_grad(trains.contains(key)))
        })
        .collect();
    // libtorch's generator is one for all threads: what is dropped at random would differ between two looks.
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        if let Op::Dropout { p } | Op::DropPath { p } = &mut node.op {
            *p = 0.0;
        }
    }
    let program = Program::new(&graph, &own).expect("fits");
    let image = testing::input(2, 3, SIZE as i64, SIZE as i64).to_kind(DType::Double);
    let value = || {
        let maps = program.run(&image, Mode::Train).expect("runs");
        let squares = maps.iter().map(|map| (map - 1.0).square().mean(DType::Double));
        squares.reduce(|a, b| a + b).expect("outputs")
    };
    value().backward();
    let mut layers: BTreeMap<String, Vec<(Tensor, Tensor)>> = BTreeMap::new();
    for (key, tensor) in own.iter().filter(|(key, _)| trains.contains(*key)) {
        let layer: Vec<&str> = key.split('.').take(2).collect();
        let gradient = tensor.grad();
        let lost = cut.is_some_and(|cut| layer.join(".") == cut) || !gradient.defined();
        let gradient = if lost { tensor.zeros_like() } else { gradient.copy() };
        layers
            .entry(layer.join("."))
            .or_default()
            .push((tensor.shallow_clone(), gradient));
    }
    tch::no_grad(|| {
        layers
            .into_iter()
            .map(|(layer, tensors)| {
                let gradient = length(tensors.iter().map(|(_, gradient)| gradient));
                let weights = length(tensors.iter().map(|(weights, _)| weights));
                let scale = weights.max(f64::MIN_POSITIVE);
                // Along the gradient; along the weights where there is none.
                let direction: Vec<Tensor> = tensors
                    .iter()
                    .map(|(weights, own)| {
                        if gradient > 0.0 {
                            own / gradient
                        } else {
                            weights / scale
                        }
                    })
                    .collect();
                let step = STEP * scale;
                let go = |far: f64| {
                    for ((weights, _), direction) in tensors.iter().zip(&direction) {
                        let _ = weights.shallow_clone().f_add_(&(direction * far)).expect("a step");
                    }
                };
                go(step);
                let above = value().double_value(&[]);
                go(-2.0 * step);
                let below = value().double_value(&[]);
                go(step);
                Slope {
                    layer,
                    gradient,
                    measured: (above - below) / (2.0 * step),
                }
            })
            .collect()
    })
}

#[test]
fn a_broken_gradient_is_seen() {
    let config = Located::from_value("csp-darknet", small("yolov5n"));
    let graph = model::build(&config, Some(3)).expect("a model");
    let params = Params::init(&graph, 0);
    let broken = slopes(&graph, &params, Some("model.2"));
    let error = |layer: &str| {
        broken
            .iter()
            .find(|slope| slope.layer == layer)
            .expect("the layer")
            .error()
    };
    println!(
        "{} where the gradient is lost, {} behind it",
        error("model.2"),
        error("model.3")
    );
    assert!(error("model.2") > 0.9, "{broken:?}");
    assert!(error("model.3") < TRUE, "{broken:?}");
}

#[test]
fn an_untrained_network_does_not_pass() {
    // Learning rate 0: everything runs, nothing is learned.
    let still = learned("csp_darknet", small("yolov5n"), 0.0);
    assert_eq!(still.failures().len(), 2, "both the loss and what is found: {still:?}");
}

/// What a training came to.
#[derive(Debug)]
struct Learned {
    losses: Vec<f64>,
    /// mAP50 before and after.
    before: f64,
    after: f64,
}

impl Learned {
    /// What of it is not as it should be.
    fn failures(&self) -> Vec<&'static str> {
        let mut out = Vec::new();
        if !self.losses.iter().all(|loss| loss.is_finite()) {
            out.push("a loss is not finite");
        }
        if self.losses[EPOCHS - 1] >= 0.8 * self.losses[0] {
            out.push("the loss did not fall to 0.8 of its start");
        }
        if self.after <= self.before + 0.05 {
            out.push("mAP50 did not rise by 0.05");
        }
        out
    }
}

/// Epoch by epoch the loss falls; afterwards the model finds what it did not find before.
fn learns(name: &str, config: Value) {
    let learned = learned(name, config, 0.005);
    assert_eq!(learned.failures(), Vec::<&str>::new(), "{name}: {learned:?}");
}

fn learned(name: &str, config: Value, lr0: f64) -> Learned {
    let pictures = Pictures::new();
    let hyp = Hyp {
        lr0,
        lrf: 0.1,
        warmup_epochs: 0.0,
        mosaic: 0.0,
        scale: 0.0,
        translate: 0.0,
        fliplr: 0.0,
        hsv_h: 0.0,
        hsv_s: 0.0,
        hsv_v: 0.0,
        ..Hyp::default()
    };
    let mut options = TrainOptions::new(EPOCHS, BATCH, SIZE, hyp.clone());
    options.optimizer = OptimizerKind::AdamW;
    options.nominal_batch = BATCH;
    options.val_every = EPOCHS;

    let classes = pictures.names.len() as i64;
    let graph = model::build(&Located::from_value(name, config), Some(classes)).expect("a model");
    let params = Params::init(&graph, 0);
    let worst = slopes(&graph, &params, None)
        .into_iter()
        .max_by(|a, b| a.error().total_cmp(&b.error()));
    let worst = worst.expect("layers");
    println!("{name}: the gradient that is furthest from its slope: {worst:?}");
    assert!(worst.error() < TRUE, "{name}: {worst:?}");
    let meta = Meta {
        names: pictures.names.clone(),
        image_size: SIZE as i64,
        ..Meta::default()
    };
    let start = Checkpoint::new(graph, params, meta);
    let measured = pictures.loader(LoaderOptions::val(SIZE, BATCH));
    let nms = NmsOptions::validation();
    let before = validate(&start.graph, &start.params, &measured, &nms, &())
        .expect("a measurement")
        .metrics;

    let mut losses: Vec<f64> = Vec::new();
    let listener = EachEpoch::new(|row: &EpochRow| {
        losses.push(row.loss.iter().sum());
        true
    });
    let trained = pictures.loader(LoaderOptions::train(SIZE, BATCH, hyp, 0));
    let outcome = train(start, &options, &trained, Some(&measured), None, &mut [], &listener).expect("a training");
    println!(
        "{name}: the loss falls to {:.3} of its start; mAP50 {:.3} -> {:.3}",
        losses[losses.len() - 1] / losses[0],
        before.map50,
        outcome.metrics.map50
    );
    assert_eq!(losses.len(), EPOCHS);
    Learned {
        losses,
        before: before.map50,
        after: outcome.metrics.map50,
    }
}

/// A model file at the depth and half the width of n.
fn small(file: &str) -> Value {
    json!({"extends": file, "scale": {"depth": 0.33, "width": 0.125}})
}

macro_rules! learn {
    ($($test:ident: $config:expr),* $(,)?) => {$(
        #[test]
        fn $test() {
            learns(stringify!($test), $config);
        }
    )*};
}

learn! {
    csp_darknet: small("yolov5n"),
    ghostnet: small("yolov5l-ghostnet"),
    shufflenet_v2: small("yolov5l-shufflenetv2"),
    mobilenet_v3_small: small("yolov5l-mobilenetv3-small"),
    efficientnet_lite0: small("yolov5l-efficientlite0"),
    pp_lcnet: small("yolov5l-pplcnet"),
    p2_cbam: small("yolov5x-p2-cbam"),
    tph: small("yolov5x-tph"),
    swin: small("yolov5x-swin"),
}
