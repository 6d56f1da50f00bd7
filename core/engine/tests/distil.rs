//! Learning from a teacher, end to end: what a student comes to, what is saved, how a run goes on, with which precision, batches,
//! processes and quantizers; and what is refused.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::prune::{Budget, Pruner, Rounding, Step as HookStep};
use yolo_core::quant::Quantizer;
use yolo_core::{Distiller, Mode, Params, Program, model, testing};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Sample, Split, synth};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::{self, Meta};
use yolo_engine::prune::{PruneData, PruneOptions, prune};
use yolo_engine::quant::{CalibrationOptions, calibrate};
use yolo_engine::train::{
    Distillation, EachEpoch, EpochRow, OptimizerKind, Outcome, Precision, STATE, ScalerState, StepOptions, StepRates,
    Stepper, TrainOptions, check_resume, history, train,
};

const SIZE: usize = 64;

struct Pictures {
    train: Vec<Sample>,
    val: Vec<Sample>,
    names: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Pictures {
    fn new(images: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = synth::Settings {
            images,
            size: SIZE,
            classes: 2,
            ..synth::Settings::default()
        };
        let made = synth::write(folder.path(), &settings, &|_| {}).expect("a data set");
        let data = Dataset::open(&made.yaml).expect("readable");
        let samples = |split| data.samples(split, Policy::Strict).expect("good").items;
        Self {
            train: samples(Split::Train),
            val: samples(Split::Val),
            names: data.names.clone(),
            _folder: folder,
        }
    }

    fn loader(&self, options: &TrainOptions) -> Loader {
        let options = LoaderOptions {
            workers: 1,
            ..LoaderOptions::train(SIZE, options.batch, options.hyp.clone(), options.seed)
        };
        Loader::new(self.train.clone(), options).expect("a loader")
    }

    fn measured(&self) -> Loader {
        let options = LoaderOptions {
            workers: 1,
            ..LoaderOptions::val(SIZE, 6)
        };
        Loader::new(self.val.clone(), options).expect("a loader")
    }
}

/// A small network; `changes` goes on top of its configuration.
fn network(width: f64, names: &[String], changes: Value, seed: u64) -> Checkpoint {
    let mut config = json!({"extends": "yolov5n", "scale": {"depth": 0.33, "width": width}});
    yolo_core::config::merge(&mut config, changes);
    let located = Located::from_value("net", config);
    let located = model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
    let graph = model::build(&located, Some(names.len() as i64)).expect("a graph");
    let params = Params::init(&graph, seed);
    let meta = Meta {
        names: names.to_vec(),
        image_size: SIZE as i64,
        ..Meta::default()
    };
    Checkpoint::new(graph, params, meta)
}

fn distiller(config: Value) -> Box<dyn Distiller> {
    Located::from_value("distiller", config).read().expect("a distiller")
}

fn from(teacher: &Checkpoint, config: Value) -> Distillation {
    Distillation::new(distiller(config), teacher).expect("a teacher")
}

fn options(epochs: usize) -> TrainOptions {
    let hyp = Hyp {
        warmup_epochs: 0.0,
        mosaic: 0.0,
        ..Hyp::default()
    };
    let mut options = TrainOptions::new(epochs, 6, SIZE, hyp);
    options.nominal_batch = 6;
    options.optimizer = OptimizerKind::AdamW;
    options.hyp.lr0 = 0.002;
    options.val_every = epochs;
    options
}

fn trained(start: &Checkpoint, options: &TrainOptions, pictures: &Pictures, folder: Option<(&Path, bool)>) -> Outcome {
    let loader = pictures.loader(options);
    train(start.deep_clone(), options, &loader, None, folder, &mut [], &()).expect("a training")
}

/// Mean squared distance of the raw maps of two networks on images that neither has seen, weighted by the objectness of the second.
fn apart(own: &Checkpoint, teacher: &Checkpoint, pictures: &Pictures) -> f64 {
    let [own, other] = [own, teacher].map(|model| Program::new(&model.graph, &model.params).expect("a program"));
    let head = teacher.graph.head.as_ref().expect("a head");
    let mut sum = 0.0;
    let loader = pictures.measured();
    for batch in loader.epoch(0) {
        let batch = batch.expect("images");
        let [h, w] = batch.size.map(|side| side as i64);
        let pixels = Tensor::from_slice(&batch.pixels)
            .reshape([-1, 3, h, w])
            .to_kind(Kind::Float)
            / 255.0;
        tch::no_grad(|| {
            let [a, b] = [&own, &other].map(|program| program.run(&pixels, Mode::Eval).expect("maps"));
            for (a, b) in a.iter().zip(&b) {
                let (a, b) = (head.raw(a).expect("predictions"), head.raw(b).expect("predictions"));
                let weight = b.narrow(4, 4, 1).sigmoid();
                sum += ((a - &b).square() * &weight).sum(Kind::Double).double_value(&[])
                    / weight.sum(Kind::Double).double_value(&[]);
            }
        });
    }
    sum
}

#[test]
fn a_student_comes_nearer_to_its_teacher_than_without() {
    let pictures = Pictures::new(60);
    let teacher = trained(
        &network(0.125, &pictures.names, json!({}), 1),
        &options(8),
        &pictures,
        None,
    )
    .last;
    let student = network(0.0625, &pictures.names, json!({}), 2);
    let alone = trained(&student, &options(6), &pictures, None).last;
    for config in [
        json!({"type": "logits", "weight": 10.0}),
        json!({"type": "crosskd", "weight": 10.0}),
        json!({"type": "cwd", "weight": 1.0}),
        json!({"type": "pkd", "weight": 1.0}),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options(6);
        options.distil = Some(from(&teacher, config.clone()));
        let taught = trained(&student, &options, &pictures, Some((folder.path(), false))).last;
        let rows = history(folder.path()).expect("rows");
        let losses: Vec<f64> = rows.iter().map(|row| row.distil_loss.expect("a loss")).collect();
        assert_eq!(losses.len(), 6);
        assert!(losses[5] < 0.9 * losses[0], "{config}: {losses:?}");
        if config["type"] == "logits" {
            let (with, without) = (apart(&taught, &teacher, &pictures), apart(&alone, &teacher, &pictures));
            assert!(
                with < 0.8 * without,
                "{config}: {with} with a teacher, {without} without"
            );
        }
        // What is left is the student, and nothing of the teacher.
        let keys = |params: &Params| params.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
        let written = checkpoint::load(&folder.path().join("weights/last.safetensors")).expect("a model");
        assert_eq!(keys(&written.params), keys(&student.params));
        assert_eq!(written.graph.param_count(), student.graph.param_count());
        let settings = &written.meta.history.last().expect("a stage").settings["distil"];
        assert_eq!(settings["distiller"]["type"], config["type"]);
    }
}

/// Tensors, bit by bit.
fn assert_same(a: &Params, b: &Params) {
    assert_eq!(a.len(), b.len());
    for ((key, a), (_, b)) in a.iter().zip(b.iter()) {
        assert!(a.equal(b), "`{key}` differs");
    }
}

#[test]
fn a_run_with_adapters_goes_on_as_if_it_had_never_stopped() {
    let pictures = Pictures::new(20);
    let teacher = network(0.125, &pictures.names, json!({}), 1);
    let student = network(0.0625, &pictures.names, json!({}), 2);
    let mut options = options(4);
    options.distil = Some(from(&teacher, json!({"type": "cwd", "tau": 2.0})));
    let (whole, parts) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let wanted = trained(&student, &options, &pictures, Some((whole.path(), false))).last;

    let loader = pictures.loader(&options);
    let stop = EachEpoch::new(|row: &EpochRow| row.epoch != 1);
    let start = student.deep_clone();
    let stopped = train(
        start,
        &options,
        &loader,
        None,
        Some((parts.path(), false)),
        &mut [],
        &stop,
    );
    assert!(stopped.is_err(), "the user stops it");
    // The adapters are in the state, have learned, and are in nothing else.
    let state = parts.path().join(STATE);
    let file = checkpoint::read_tensors(&state).expect("tensors");
    let adapters: Vec<&String> = file
        .tensors
        .keys()
        .filter(|key| key.ends_with("align.0.weight"))
        .collect();
    assert_eq!(adapters, ["optimizer/distil.align.0.weight"]);
    assert!(file.tensors.contains_key("optimizer/distil.align.2.weight.first"));

    // Another teacher, another distiller or none are another run.
    let differs = |distil: Option<Distillation>| {
        let options = TrainOptions {
            distil,
            ..options.clone()
        };
        check_resume(parts.path(), &student, &options, &loader, None)
            .expect_err("another run")
            .to_string()
    };
    assert!(differs(None).contains("distil is null here"), "{}", differs(None));
    let text = differs(Some(from(&teacher, json!({"type": "cwd", "tau": 3.0}))));
    assert!(text.contains("distil.distiller.tau is 3.0 here, 2.0 there"), "{text}");
    let stranger = network(0.125, &pictures.names, json!({}), 5);
    let text = differs(Some(from(&stranger, json!({"type": "cwd", "tau": 2.0}))));
    assert!(text.contains("distil.teacher.weights is"), "{text}");

    // A state without them is damaged, and said to be.
    let saved = std::fs::read(&state).expect("a state");
    let kept = file.tensors.iter().filter(|(key, _)| !key.ends_with("align.0.weight"));
    checkpoint::write_tensors(
        &state,
        kept.map(|(key, tensor)| (key.as_str(), tensor)),
        file.metadata.clone(),
    )
    .expect("a file");
    let resumed = |folder| {
        train(
            student.deep_clone(),
            &options,
            &loader,
            None,
            Some((folder, true)),
            &mut [],
            &(),
        )
    };
    let text = resumed(parts.path()).expect_err("no adapters").to_string();
    assert!(text.contains("distil.align.0.weight"), "{text}");
    std::fs::write(&state, saved).expect("a state");

    let resumed = resumed(parts.path()).expect("the rest").last;
    assert_same(&resumed.params, &wanted.params);
    let [a, b] = [&whole, &parts].map(|folder| history(folder.path()).expect("rows"));
    assert_eq!(a, b);
    // Without the teacher it would have been another model.
    let alone = trained(
        &student,
        &TrainOptions {
            distil: None,
            ..options
        },
        &pictures,
        None,
    )
    .last;
    assert!(
        alone
            .params
            .iter()
            .zip(wanted.params.iter())
            .any(|((_, a), (_, b))| !a.equal(b))
    );
}

const STEP: StepRates = StepRates {
    lr: 0.01,
    bias_lr: 0.01,
    momentum: 0.9,
    accumulate: 1,
};
const AT: HookStep = HookStep {
    step: 0,
    total: 1,
    per_epoch: 1,
};

/// A stepper whose objective is the distiller's alone; batch norms keep their statistics, so an image is an image in any batch.
fn pupil(student: &Checkpoint, distil: &Distillation, precision: Precision) -> Stepper {
    let hyp = Hyp {
        box_gain: 0.0,
        obj: 0.0,
        cls: 0.0,
        ..Hyp::default()
    };
    let mut options = TrainOptions::new(1, 4, SIZE, hyp);
    options.precision = precision;
    options.freeze_norm = true;
    let stepper = Stepper::new(&student.graph, &student.params, &StepOptions::of(&options, 5e-4)).expect("a stepper");
    stepper.taught_by(Some(distil), 0).expect("a teacher that fits")
}

fn gradients(stepper: &Stepper) -> Vec<Tensor> {
    stepper.optimizer.params().map(|param| param.grad().copy()).collect()
}

fn names() -> Vec<String> {
    vec!["circle".into(), "square".into()]
}

/// Networks whose maps say something, unlike fresh ones.
fn filled(width: f64) -> Checkpoint {
    let mut model = network(width, &names(), json!({}), 0);
    model.params = testing::fill_params(&model.graph, 2.5);
    model
}

#[test]
fn accumulated_batches_teach_what_a_whole_one_does() {
    let (student, teacher) = (filled(0.0625), filled(0.125));
    let images = testing::input(4, 3, SIZE as i64, SIZE as i64);
    for config in [
        json!({"type": "logits"}),
        json!({"type": "cwd"}),
        json!({"type": "crosskd"}),
    ] {
        let distil = from(&teacher, config.clone());
        let mut whole = pupil(&student, &distil, Precision::Off);
        let _ = whole.accumulate(&images, &[], &mut []).expect("a loss");
        let mut halves = pupil(&student, &distil, Precision::Off);
        let mut said = 0.0;
        for half in images.split(2, 0) {
            let _ = halves.accumulate(&half, &[], &mut []).expect("a loss");
            said += halves.distilled().expect("losses").sum(Kind::Double).double_value(&[]) / 2.0;
        }
        let wanted = whole.distilled().expect("losses").sum(Kind::Double).double_value(&[]);
        assert!(wanted > 0.0);
        if config["type"] == "crosskd" {
            // Weighted by what the teacher sees in the batch: the halves are near, not equal.
            assert!((said / wanted - 1.0).abs() < 0.1, "{config}: {said} and {wanted}");
            continue;
        }
        assert!((said / wanted - 1.0).abs() < 1e-5, "{config}: {said} and {wanted}");
        let norm = gradients(&whole)
            .iter()
            .map(|g| g.square().sum(Kind::Double).double_value(&[]))
            .sum::<f64>()
            .sqrt();
        let pairs = gradients(&whole).into_iter().zip(gradients(&halves));
        let wrong = pairs
            .map(|(a, b)| (a - b).square().sum(Kind::Double).double_value(&[]))
            .sum::<f64>()
            .sqrt();
        assert!(norm > 0.0 && wrong < 1e-4 * norm, "{config}: {wrong} of {norm}");
    }
}

#[test]
fn half_precision_teaches_the_same_and_its_scale_is_taken_out() {
    let (student, teacher) = (filled(0.0625), filled(0.125));
    let images = testing::input(2, 3, SIZE as i64, SIZE as i64);
    let distil = from(&teacher, json!({"type": "cwd"}));
    let moved = |precision: Precision, scale: Option<f64>| -> (f64, Vec<Tensor>) {
        let mut stepper = pupil(&student, &distil, precision);
        if let Some(scale) = scale {
            let state = ScalerState {
                scale,
                ..ScalerState::default()
            };
            stepper.restore_scaler(state).expect("a scale");
        }
        let _ = stepper.accumulate(&images, &[], &mut []).expect("a loss");
        let loss = stepper.distilled().expect("losses").sum(Kind::Double).double_value(&[]);
        let before: Vec<Tensor> = adapters(&stepper).iter().map(Tensor::copy).collect();
        stepper.update(&STEP, AT, &mut []).expect("a step");
        assert_eq!(stepper.optimizer.steps().expect("a number"), 1);
        (
            loss,
            adapters(&stepper).iter().zip(&before).map(|(a, b)| a - b).collect(),
        )
    };
    let (loss, wanted) = moved(Precision::Off, None);
    for (precision, scale) in [
        (Precision::Bf16, None),
        (Precision::F16, Some(16.0)),
        (Precision::F16, Some(512.0)),
    ] {
        let (own, steps) = moved(precision, scale);
        assert!((own / loss - 1.0).abs() < 0.05, "{precision:?}: {own} and {loss}");
        for (step, wanted) in steps.iter().zip(&wanted) {
            let norm = |t: &Tensor| t.square().sum(Kind::Double).double_value(&[]).sqrt();
            assert!(norm(wanted) > 0.0, "adapters are trained");
            let wrong = norm(&(step - wanted)) / norm(wanted);
            assert!(wrong < 0.2, "{precision:?} {scale:?}: {wrong}");
        }
    }
}

fn adapters(stepper: &Stepper) -> Vec<Tensor> {
    let state = stepper.state();
    let values = state
        .iter()
        .filter(|(key, _)| key.starts_with("distil.") && key.ends_with(".weight"));
    let found: Vec<Tensor> = values.map(|(_, tensor)| tensor.shallow_clone()).collect();
    assert_eq!(found.len(), 3);
    found
}

#[test]
fn a_quantized_student_learns_from_its_float_parent() {
    let pictures = Pictures::new(16);
    let parent = {
        let mut parent = network(0.0625, &pictures.names, json!({}), 0);
        parent.params = testing::fill_params(&parent.graph, 2.5);
        parent
    };
    let calib = pictures.measured();
    for backend in ["tensorrt", "onnxruntime"] {
        let quantizer: Box<dyn Quantizer> = Located::from_value("backend", json!({"type": backend}))
            .read()
            .expect("a quantizer");
        let quantized = calibrate(&parent, quantizer.as_ref(), &calib, &CalibrationOptions::ranges(1), &())
            .expect("a quantized model")
            .model;
        for config in ["logits", "cwd", "pkd", "crosskd"] {
            let mut options = options(1);
            options.freeze_norm = true;
            options.hyp.lr0 = 1e-4;
            options.distil = Some(from(&parent, json!({"type": config})));
            let loader = pictures.loader(&options);
            let mut taught = None;
            let listener = EachEpoch::new(|row: &EpochRow| {
                taught = row.distil_loss;
                true
            });
            let start = quantized.deep_clone();
            let outcome = train(start, &options, &loader, None, None, &mut [], &listener).expect("a training");
            assert!(outcome.last.meta.quantizer.is_some());
            // Eight bits are near, but not equal.
            let taught = taught.expect("a loss");
            assert!(taught > 0.0 && taught < 1.0, "{backend} {config}: {taught}");
        }
    }
}

#[test]
fn a_pruner_that_trains_is_taught() {
    let pictures = Pictures::new(16);
    let base = network(0.125, &pictures.names, json!({}), 0);
    let calib = pictures.measured();
    for config in [
        json!({"type": "gradual", "epochs": 1}),
        json!({"type": "netadapt", "reduction": 0.3, "short_term_steps": 1, "proposals": 2}),
    ] {
        let pruner: Box<dyn Pruner> = Located::from_value("pruner", config.clone()).read().expect("a pruner");
        let mut train = options(1);
        train.distil = Some(from(&base, json!({"type": "cwd"})));
        let trained = pictures.loader(&train);
        let data = PruneData {
            train: &trained,
            calib: &calib,
            select: &calib,
        };
        let options = PruneOptions {
            budget: Budget {
                flops: Some(0.7),
                params: None,
            },
            rounding: Rounding {
                multiple: 4,
                ..Rounding::default()
            },
            seed: 0,
            calib_batches: 1,
            train,
        };
        let pruned = prune(&base, pruner.as_ref(), data, &options, &());
        let pruned = pruned.unwrap_or_else(|error| panic!("{config}: {error}"));
        assert!(pruned.model.graph.param_count() < base.graph.param_count());
        // What is left of it learns from what it was.
        let mut tuning = self::options(1);
        tuning.distil = Some(from(&base, json!({"type": "crosskd"})));
        let tuned = self::trained(&pruned.model, &tuning, &pictures, None).last;
        assert_eq!(tuned.graph.param_count(), pruned.model.graph.param_count());
    }
}

#[test]
fn a_teacher_with_more_levels_and_another_backbone_will_do() {
    let pictures = Pictures::new(12);
    let teacher = network(0.125, &pictures.names, json!({"backbone": {"type": "ghostnet"}}), 1);
    let student = network(0.0625, &pictures.names, json!({}), 2);
    for config in ["cwd", "pkd", "crosskd", "logits"] {
        let mut options = options(1);
        options.multi_scale = true;
        options.distil = Some(from(&teacher, json!({"type": config})));
        let outcome = trained(&student, &options, &pictures, None);
        assert_eq!(outcome.epochs, 1, "{config}");
    }
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_with_both_sides_before_anything_is_written() {
    let pictures = Pictures::new(12);
    let student = network(0.0625, &pictures.names, json!({}), 2);
    let run = |teacher: &Checkpoint, config: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options(1);
        options.distil = Some(from(teacher, json!({"type": config})));
        let loader = pictures.loader(&options);
        let start = student.deep_clone();
        let refused = train(
            start,
            &options,
            &loader,
            None,
            Some((folder.path(), false)),
            &mut [],
            &(),
        );
        let files = std::fs::read_dir(folder.path()).expect("the folder").count();
        (refused.map(|_| ()), files)
    };
    let refused = |teacher: &Checkpoint, config: &str, words: &[&str]| {
        let (outcome, files) = run(teacher, config);
        let text = outcome.expect_err(config).to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{config}: {text}");
        assert_eq!(files, 0, "something was written");
    };
    let more: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    refused(
        &network(0.125, &more, json!({}), 1),
        "cwd",
        &["the student has 2 classes, the teacher 3"],
    );
    let mut swapped = pictures.names.clone();
    swapped.swap(0, 1);
    let own = format!(
        "class 0 of the student is `{}`, that of the teacher `{}`",
        pictures.names[0], swapped[0]
    );
    refused(&network(0.125, &swapped, json!({}), 1), "pkd", &[&own]);
    let mut anchors = network(0.125, &pictures.names, json!({}), 1);
    anchors.graph.head.as_mut().expect("a head").anchors[2][1] = [300.0, 301.0];
    for config in ["logits", "crosskd"] {
        refused(&anchors, config, &["stride 32", "[300.0, 301.0]", "--noautoanchor"]);
    }
    assert!(run(&anchors, "cwd").0.is_ok(), "feature maps have no anchors");
    let mut strides = network(0.125, &pictures.names, json!({}), 1);
    strides.graph.head.as_mut().expect("a head").strides = vec![16, 32, 64];
    refused(&strides, "cwd", &["[8, 16, 32]", "[16, 32, 64]"]);
    let mut headless = network(0.125, &pictures.names, json!({}), 1);
    headless.graph.head = None;
    let text = Distillation::new(distiller(json!({"type": "cwd"})), &headless)
        .expect_err("no head")
        .to_string();
    assert!(text.contains("no detection head"), "{text}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_training_with_the_name_of_its_distiller() {
    let pictures = Pictures::new(12);
    let teacher = network(0.125, &pictures.names, json!({}), 1);
    let mut options = options(1);
    options.distil = Some(from(&teacher, json!({"type": "cwd", "weight": 1e300})));
    let loader = pictures.loader(&options);
    let start = network(0.0625, &pictures.names, json!({}), 2);
    let ended = train(start, &options, &loader, None, None, &mut [], &());
    let text = ended.expect_err("infinity").to_string();
    assert!(
        text.starts_with("the loss of the distiller `cwd` is not finite (epoch 0, batch 0)"),
        "{text}"
    );
}

#[test]
fn kept_values_are_those_that_are_computed_and_nothing_else_changes() {
    let model = filled(0.0625);
    let image = testing::input(2, 3, SIZE as i64, SIZE as i64);
    for mode in [Mode::Eval, Mode::Train] {
        let run = |keep: &[yolo_core::ValueId]| {
            let params = model.params.deep_clone();
            let program = Program::new(&model.graph, &params)
                .and_then(|program| program.keeping(keep))
                .expect("a program");
            tch::no_grad(|| program.run_kept(&image, mode)).expect("maps")
        };
        // Every value: convolutions and norms whose activation would overwrite them, too.
        let all: Vec<_> = model.graph.values().collect();
        let mut seen = Vec::new();
        let program = Program::new(&model.graph, &model.params.deep_clone()).expect("a program");
        tch::no_grad(|| {
            program.run_observed(&image, mode, |_, value| {
                seen.push(value.copy());
                Ok(())
            })
        })
        .expect("maps");
        let ((plain, none), (outputs, kept)) = (run(&[]), run(&all));
        assert!(none.is_empty() && kept.len() == all.len());
        assert!(plain.iter().zip(&outputs).all(|(a, b)| a.equal(b)), "{mode:?}");
        for ((value, kept), seen) in all.iter().zip(&kept).zip(&seen) {
            assert!(kept.equal(seen), "{mode:?}: `{}`", model.graph.node(*value).name);
        }
    }
    let beyond =
        Program::new(&model.graph, &model.params).and_then(|program| program.keeping(&[yolo_core::ValueId(1 << 20)]));
    assert!(beyond.is_err());
}

#[test]
fn it_is_told_where_the_teacher_computes() {
    let (student, teacher) = (filled(0.0625), filled(0.125));
    let stepper = pupil(&student, &from(&teacher, json!({"type": "pkd"})), Precision::Off);
    assert_eq!((stepper.device(), stepper.recording()), (Device::Cpu, "off"));
    assert!(stepper.distilled().is_none(), "nothing was compared yet");
}
