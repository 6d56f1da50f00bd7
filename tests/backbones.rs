//! Every published backbone and block learns: short trainings of small forms on synthetic pictures.

use serde_json::{Value, json};
use yolo_core::config::Located;
use yolo_core::{Params, model};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Sample, Split};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::Meta;
use yolo_engine::eval::NmsOptions;
use yolo_engine::train::{Event, OptimizerKind, TrainOptions, train};
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

/// Epoch by epoch the loss falls; afterwards the model finds what it did not find before.
fn learns(name: &str, config: Value) {
    let pictures = Pictures::new();
    let hyp = Hyp {
        lr0: 0.005,
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
    let meta = Meta {
        names: pictures.names.clone(),
        image_size: SIZE as i64,
        ..Meta::default()
    };
    let start = Checkpoint::new(graph, params, meta);
    let measured = pictures.loader(LoaderOptions::val(SIZE, BATCH));
    let nms = NmsOptions::validation();
    let before = validate(&start.graph, &start.params, &measured, &nms, &mut |_, _| Ok(()))
        .expect("a measurement")
        .metrics;

    let mut losses: Vec<f64> = Vec::new();
    let mut listen = |event: &Event<'_>| {
        if let Event::Epoch { row, .. } = event {
            losses.push(row.loss.iter().sum());
        }
        true
    };
    let trained = pictures.loader(LoaderOptions::train(SIZE, BATCH, hyp, 0));
    let outcome = train(start, &options, &trained, Some(&measured), None, &mut [], &mut listen).expect("a training");
    println!(
        "{name}: {losses:?}; mAP50 {} -> {}",
        before.map50, outcome.metrics.map50
    );
    assert_eq!(losses.len(), EPOCHS);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
    assert!(losses[EPOCHS - 1] < 0.6 * losses[0], "{name}: {losses:?}");
    assert!(
        outcome.metrics.map50 > before.map50 + 0.05,
        "{name}: {} after {}",
        outcome.metrics.map50,
        before.map50
    );
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
