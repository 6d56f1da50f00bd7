//! What metrics are given of images: mean gradients, mean squares of gradients, mean activations, each against another way to find it; and
//! that to measure a candidate changes nothing of the model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use yolo_core::prune::{
    Budget, ChannelGroups, GroupTensors, Limits, Members, MetricInputs, PruneHost, PruneMetric, PrunePlan, Pruner,
    Rounding, readings, select,
};
use yolo_core::{Mode, Program, Result};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Split};
use yolo_engine::checkpoint::{self, Checkpoint};
use yolo_engine::prune::{PruneData, PruneOptions, prune};
use yolo_engine::train::{OptimizerKind, Precision, StepOptions, Stepper, TrainOptions};

use crate::support::{random_weights, small_data, tiny_model};

const SIZE: usize = 64;

/// What a metric was shown: gradients and their squares, activations, of the first member of each group.
type Shown = BTreeMap<String, [Vec<f64>; 3]>;

static SHOWN: Mutex<Shown> = Mutex::new(Shown::new());

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.detach().to_kind(Kind::Double).contiguous().view([-1]);
    Vec::try_from(flat).expect("numbers")
}

/// Remembers what it is shown.
#[derive(Debug, Serialize, Deserialize)]
struct Witness {}

#[typetag::serde(name = "test-witness")]
impl PruneMetric for Witness {
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            weight: true,
            bn: true,
            grad: true,
            grad_square: true,
            activation: true,
        }
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let first = |tensors: &[Tensor]| tensors.first().map(numbers).unwrap_or_default();
        let seen = [
            first(&group.weight_grads),
            first(&group.weight_squares),
            first(&group.activations),
        ];
        SHOWN.lock().expect("no panic").insert(group.name.clone(), seen);
        Ok(vec![1.0; group.channels])
    }
}

/// Asks for scores, and for the worth of a candidate.
#[derive(Debug, Serialize, Deserialize)]
struct Asks {}

#[typetag::serde(name = "test-asks")]
impl Pruner for Asks {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let scores = host.scores(&Witness {})?;
        let statistics = [
            "model.0.bn.running_mean",
            "model.9.cv2.bn.running_var",
            "model.0.conv.weight",
        ];
        let look = |host: &dyn PruneHost| -> Result<Vec<Vec<f64>>> {
            statistics.iter().map(|key| Ok(numbers(&host.tensor(key)?))).collect()
        };
        let before = look(host)?;
        let widths = select::uniform_widths(host.groups(), 0.5, host.rounding());
        let half = select::top(host.groups(), &scores, &widths);
        let [one, two] = [host.evaluate(&half)?, host.evaluate(&half)?];
        assert_eq!(one, two);
        host.evaluate(&PrunePlan::full())?;
        host.evaluate_tuned(&half, 1)?;
        assert_eq!(before, look(host)?, "the model is as it was");
        Ok(PrunePlan::full())
    }
}

fn options(hyp: &Hyp) -> PruneOptions {
    PruneOptions {
        time: None,
        budget: Budget::default(),
        rounding: Rounding {
            multiple: 1,
            ..Rounding::default()
        },
        limits: Limits::default(),
        members: Members::Makers,
        aggregate: None,
        seed: 0,
        calib_batches: 2,
        train: TrainOptions::new(1, 3, SIZE, hyp.clone()),
    }
}

/// Gradients of one batch, by a stepper of its own.
fn gradients(model: &Checkpoint, images: &Loader, batch: usize, hyp: &Hyp) -> BTreeMap<String, Vec<f64>> {
    let mut stepper = Stepper::new(
        &model.graph,
        &model.params,
        &StepOptions {
            hyp: hyp.clone(),
            size: SIZE,
            optimizer: OptimizerKind::Sgd,
            decay: 0.0,
            precision: Precision::Off,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: true,
            record: false,
        },
    )
    .expect("a stepper");
    let batch = images.epoch(0).nth(batch).expect("a batch").expect("images");
    let pixels = stepper.images(&batch).expect("pixels");
    let _losses = stepper.accumulate(&pixels, &batch.targets, &mut []).expect("a loss");
    let trained = stepper.params.iter().filter(|(_, tensor)| tensor.requires_grad());
    trained
        .map(|(key, tensor)| (key.to_owned(), numbers(&tensor.grad())))
        .collect()
}

fn near(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-12f64, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-4 * largest,
            "{what}: {found} for {expected}"
        );
    }
}

fn loader(data: &Path, options: LoaderOptions) -> Loader {
    let dataset = Dataset::open(data).expect("a data set");
    let items = dataset.samples(Split::Train, Policy::Strict).expect("images").items;
    Loader::new(items, LoaderOptions { workers: 1, ..options }).expect("a loader")
}

#[test]
fn metrics_see_what_images_say() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, SIZE);
    let classes = Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&tiny_model(dir.path()), dir.path(), classes);
    let model = checkpoint::load(&weights).expect("the checkpoint");
    let hyp = Hyp::default();
    let calib = loader(
        &data,
        LoaderOptions {
            rect: false,
            ..LoaderOptions::val(SIZE, 3)
        },
    );
    let train = loader(&data, LoaderOptions::train(SIZE, 3, hyp.clone(), 0));
    assert!(calib.batches() >= 2);
    let data = PruneData {
        train: &train,
        calib: &calib,
        select: &calib,
        journal: None,
    };
    prune(&model, &Asks {}, data, &options(&hyp), &()).expect("a plan");
    let shown = SHOWN.lock().expect("no panic").clone();
    let groups = ChannelGroups::of(&model.graph).expect("groups");
    assert_eq!(shown.len(), groups.groups.len());
    let batches = [0, 1].map(|batch| gradients(&model, &calib, batch, &hyp));
    for (name, key) in [
        ("model.0.conv", "model.0.conv.weight"),
        ("model.9.cv2.conv", "model.9.cv2.conv.weight"),
    ] {
        let each = batches[0][key].iter().zip(&batches[1][key]);
        let mean: Vec<f64> = each.clone().map(|(a, b)| (a + b) / 2.0).collect();
        let square: Vec<f64> = each.map(|(a, b)| (a * a + b * b) / 2.0).collect();
        let [grads, squares, _] = &shown[name];
        near(name, grads, &mean);
        near(name, squares, &square);
        let of_mean: Vec<f64> = mean.iter().map(|g| g * g).collect();
        let apart = square.iter().zip(&of_mean).any(|(a, b)| (a - b).abs() > 1e-3 * a);
        assert!(apart, "{name}: the mean of squares is not the square of the mean");
    }
    // All images at once, by another run that keeps the values.
    let readings = readings(&model.graph, &groups);
    let values: Vec<_> = readings.iter().map(|reading| reading.value).collect();
    let program = Program::new(&model.graph, &model.params)
        .and_then(|program| program.keeping(&values))
        .expect("a program");
    let batches: Vec<_> = calib.epoch(0).take(2).map(|batch| batch.expect("images")).collect();
    let pixels: Vec<Tensor> = batches
        .iter()
        .map(|batch| yolo_engine::batch::image_tensor(batch, program.device()).expect("pixels"))
        .collect();
    let kept = tch::no_grad(|| program.run_kept(&Tensor::cat(&pixels, 0), Mode::Eval))
        .expect("values")
        .1;
    let mut seen = 0;
    for (at, group) in groups.groups.iter().enumerate() {
        let first = readings
            .iter()
            .position(|reading| reading.group == at)
            .expect("a reading");
        let reading = &readings[first];
        let moved = kept[first]
            .abs()
            .movedim_int(reading.axis as i64, 0)
            .flatten(1, -1)
            .to_kind(Kind::Double);
        let means = moved
            .mean_dim(1, false, Kind::Double)
            .index_select(0, &Tensor::from_slice(&reading.positions));
        near(&group.name, &shown[&group.name][2], &numbers(&means));
        seen += 1;
    }
    assert_eq!(seen, groups.groups.len());
}
