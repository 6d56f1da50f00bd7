//! Nothing is made on the default device: every published model is built, trained, measured, pruned and quantized on a device that
//! refuses tensors of the CPU among its own, with the numbers of the CPU.
//!
//! The device is a library of its own (`native/fake_device.cpp`), compiled here against the libtorch that runs. It stands for what a GPU
//! refuses: one-dimensional and larger tensors of the CPU as arguments, index tensors included (which a GPU would take, but wait for).
//! What it can't show: code that asks whether a device is one of CUDA's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::prune::{Budget, Pruner, Rounding, Step as HookStep};
use yolo_core::quant::Quantizer;
use yolo_core::{Graph, Kind as PluginKind, Mode, Params, PluginInfo, Program, model, testing};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Sample, Split, synth};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::Meta;
use yolo_engine::eval::NmsOptions;
use yolo_engine::prune::{PruneData, PruneOptions, prune};
use yolo_engine::quant::{CalibrationOptions, calibrate};
use yolo_engine::train::{
    Distillation, OptimizerKind, Precision, StepOptions, StepRates, Stepper, TrainOptions, train,
};
use yolo_engine::val;

const SIZE: usize = 64;

/// The folder of the libtorch that this process has loaded.
fn libtorch() -> PathBuf {
    assert!(Tensor::from(1.0).device() == Device::Cpu, "it is loaded");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a list of loaded files");
    let line = maps
        .lines()
        .find(|line| line.ends_with("/libtorch_cpu.so"))
        .expect("libtorch");
    let path = Path::new(&line[line.find('/').expect("a path")..]);
    path.ancestors().nth(2).expect("a folder").to_owned()
}

/// The device; the same library for all tests of this process.
fn fake() -> Device {
    static LOADED: OnceLock<libloading::Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let (torch, folder) = (libtorch(), tempfile::tempdir().expect("a folder"));
        let library = folder.path().join("libfake_device.so");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let done = Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-I"])
            .arg(torch.join("include"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/fake_device.cpp"))
            .arg("-L")
            .arg(torch.join("lib"))
            .args(["-ltorch_cpu", "-lc10", "-o"])
            .arg(&library)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // SAFETY: its initialisers register kernels with libtorch, which is loaded; it is never unloaded.
        unsafe { libloading::Library::new(&library) }.expect("a library")
    });
    Device::Vulkan
}

/// A model file with `depth` and `width` of its own.
fn small(file: &str, classes: i64) -> Graph {
    scaled(file, classes, 0.125)
}

fn scaled(file: &str, classes: i64, width: f64) -> Graph {
    let config = json!({"extends": file, "scale": {"depth": 0.33, "width": width}});
    let located = model::resolve_extends(Located::from_value(file, config), &mut |_| Ok(None)).expect("its base");
    model::build(&located, Some(classes)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn checkpoint(file: &str, names: &[String], device: Device) -> Checkpoint {
    let graph = small(file, names.len() as i64);
    let params = testing::fill_params(&graph, 2.5);
    let meta = Meta {
        names: names.to_vec(),
        image_size: SIZE as i64,
        ..Meta::default()
    };
    Checkpoint::new(graph, params, meta).to_device(device)
}

fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu)
}

fn assert_near(what: &str, got: &Tensor, wanted: &Tensor) {
    let (got, wanted) = (on_cpu(got).to_kind(Kind::Double), on_cpu(wanted).to_kind(Kind::Double));
    let scale = wanted.abs().max().double_value(&[]).max(1e-6);
    let wrong = (got - wanted).abs().max().double_value(&[]) / scale;
    assert!(wrong < 1e-3, "{what} differs by {wrong}");
}

/// Pictures and a folder that lives as long.
struct Pictures {
    items: Vec<Sample>,
    names: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Pictures {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = synth::Settings {
            images: 12,
            size: SIZE,
            ..synth::Settings::default()
        };
        let made = synth::write(folder.path(), &settings, &|_| {}).expect("a data set");
        let data = Dataset::open(&made.yaml).expect("readable");
        Self {
            items: data.samples(Split::Train, Policy::Strict).expect("good").items,
            names: data.names.clone(),
            _folder: folder,
        }
    }

    fn loader(&self, options: LoaderOptions) -> Loader {
        Loader::new(self.items.clone(), LoaderOptions { workers: 1, ..options }).expect("a loader")
    }
}

#[test]
fn it_computes_as_the_cpu_does_and_refuses_tensors_of_the_cpu() {
    let device = fake();
    let numbers = || Tensor::from_slice(&[1f32, -2.0, 3.0]);
    let there = numbers().to_device(device).set_requires_grad(true);
    assert_eq!((there.device(), (&there * 2.0).device()), (device, device));
    let sum = (there.square() + &there).sum(Kind::Float);
    sum.backward();
    assert_eq!(
        (sum.double_value(&[]), sum.device(), there.grad().device()),
        (16.0, device, device)
    );
    assert_eq!(
        Vec::<f32>::try_from(on_cpu(&there.grad())).expect("numbers"),
        [3.0, -3.0, 7.0]
    );
    for refused in [
        there.f_add(&numbers()),
        numbers().f_mul(&there),
        Tensor::f_cat(&[&numbers(), &there], 0),
        there.f_index_select(0, &Tensor::from_slice(&[0i64])),
    ] {
        let error = refused.expect_err("tensors of two devices").to_string();
        assert!(error.contains("same device"), "{error}");
    }
}

/// One tensor of a model left on the CPU is enough.
#[test]
fn a_constant_that_stays_on_the_cpu_is_an_error() {
    let graph = small("yolov5n", 3);
    let params = testing::fill_params(&graph, 2.5);
    let image = testing::input(1, 3, SIZE as i64, SIZE as i64).to_device(fake());
    for planted in [None, Some("model.3.conv.weight"), Some("model.24.m.0.bias")] {
        let moved: Params = params
            .iter()
            .map(|(key, tensor)| {
                let stays = planted == Some(key);
                (
                    key.to_owned(),
                    if stays { tensor.copy() } else { tensor.to_device(fake()) },
                )
            })
            .collect();
        let maps = Program::new(&graph, &moved)
            .expect("a program")
            .run(&image, Mode::Train);
        match planted {
            None => assert!(maps.expect("maps").iter().all(|map| map.device() == fake())),
            Some(_) => {
                let error = maps.expect_err("a tensor of the CPU").to_string();
                assert!(error.contains("same device"), "{error}");
            }
        }
    }
}

#[test]
fn every_published_model_is_trained_there_as_on_the_cpu() {
    let device = fake();
    let pictures = Pictures::new();
    let classes = pictures.names.len() as i64;
    // Of a size for all strides up to 64.
    let loader = pictures.loader(LoaderOptions {
        stride: 64,
        ..LoaderOptions::val(SIZE, 2)
    });
    let batch = loader.epoch(0).next().expect("a batch").expect("images");
    assert!(!batch.targets.is_empty());
    let options = StepOptions {
        hyp: Hyp::default(),
        size: SIZE,
        optimizer: OptimizerKind::Sgd,
        decay: 5e-4,
        precision: Precision::Off,
        freeze: Vec::new(),
        freeze_norm: false,
        fuse: true,
        record: true,
    };
    let step = StepRates {
        lr: 0.01,
        bias_lr: 0.01,
        momentum: 0.9,
        accumulate: 1,
    };
    let at = HookStep {
        step: 0,
        total: 1,
        per_epoch: 1,
    };
    for (name, _) in model::published() {
        let graph = small(name, classes);
        let params = testing::fill_params(&graph, 2.5);
        let stepped = |device: Device| {
            let moved = params
                .iter()
                .map(|(key, tensor)| (key.to_owned(), tensor.to_device(device)))
                .collect();
            let mut stepper = Stepper::new(&graph, &moved, &options).expect("a stepper");
            let mut average = stepper.ema();
            tch::manual_seed(1);
            let images = stepper.images(&batch).expect("images");
            let parts = stepper
                .accumulate(&images, &batch.targets, &mut [])
                .unwrap_or_else(|error| panic!("{name} on {device:?}: {error}"));
            let grads = stepper
                .optimizer
                .params()
                .map(|p| (p.grad().device(), p.grad().norm()))
                .collect::<Vec<_>>();
            stepper
                .update(&step, at, &mut [])
                .unwrap_or_else(|error| panic!("{name} on {device:?}: {error}"));
            average.update().expect("an average");
            assert!(
                stepper
                    .params
                    .iter()
                    .chain(average.params.iter())
                    .all(|(_, tensor)| tensor.device() == device)
            );
            assert!(grads.iter().all(|(there, _)| *there == device) && parts.device() == device);
            let norms: Vec<Tensor> = grads.into_iter().map(|(_, norm)| norm).collect();
            (parts, Tensor::stack(&norms, 0), average.params)
        };
        let (parts, norms, average) = stepped(device);
        let (wanted_parts, wanted_norms, wanted_average) = stepped(Device::Cpu);
        assert_near(&format!("{name}: the loss"), &parts, &wanted_parts);
        assert_near(&format!("{name}: gradients"), &norms, &wanted_norms);
        for ((key, got), (_, wanted)) in average.iter().zip(wanted_average.iter()) {
            assert_near(&format!("{name}: {key}"), got, wanted);
        }
    }
}

#[test]
fn a_training_with_validation_runs_there() {
    let pictures = Pictures::new();
    let hyp = Hyp::default();
    // Nine images: no batch of a single one, whose batch norms would see one value.
    let mut options = TrainOptions::new(2, 3, SIZE, hyp.clone());
    options.multi_scale = true;
    let loader = pictures.loader(LoaderOptions::train(SIZE, 3, hyp, 0));
    let measured = pictures.loader(LoaderOptions::val(SIZE, 4));
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::AdamW] {
        options.optimizer = optimizer;
        let start = checkpoint("yolov5n", &pictures.names, fake());
        let outcome = train(start, &options, &loader, Some(&measured), None, &mut [], &());
        assert!(outcome.expect("a training").metrics.map50.is_finite());
    }
}

#[test]
fn every_published_model_finds_the_same_there_as_on_the_cpu() {
    let pictures = Pictures::new();
    let loader = pictures.loader(LoaderOptions::val(SIZE, 4));
    let image = testing::input(1, 3, SIZE as i64, SIZE as i64);
    for (name, _) in model::published() {
        let [there, here] = [fake(), Device::Cpu].map(|device| {
            let model = checkpoint(name, &pictures.names, device);
            let detector = val::Detector::new(&model.graph, &model.params).expect("a detector");
            detector
                .predict(&image.to_device(device))
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        });
        assert_near(name, &there, &here);
    }
    let model = checkpoint("yolov5n", &pictures.names, fake());
    let nms = NmsOptions::validation();
    let report = val::validate(&model.graph, &model.params, &loader, &nms, &()).expect("a report");
    assert_eq!(report.metrics.images, loader.images());
}

fn examples(kind: PluginKind) -> Vec<(&'static str, Value)> {
    let infos = PluginInfo::linked().into_iter().filter(|info| info.kind == kind);
    let found: Vec<_> = infos.map(|info| (info.name, (info.example)())).collect();
    assert!(found.len() >= 4, "{kind:?}: the plugins are linked");
    found
}

#[test]
fn every_pruner_and_every_metric_works_there() {
    let pictures = Pictures::new();
    let calib = pictures.loader(LoaderOptions::val(SIZE, 4));
    let hyp = Hyp {
        warmup_epochs: 0.0,
        ..Hyp::default()
    };
    let trained = pictures.loader(LoaderOptions::train(SIZE, 4, hyp.clone(), 0));
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
        train: TrainOptions {
            nominal_batch: 4,
            ..TrainOptions::new(1, 4, SIZE, hyp)
        },
    };
    let model = checkpoint("yolov5n", &pictures.names, fake());
    let mut configs = examples(PluginKind::Pruner);
    let metrics = examples(PluginKind::Metric).into_iter();
    configs.extend(metrics.map(|(name, metric)| (name, json!({"type": "oneshot", "metric": metric}))));
    for (name, mut config) in configs {
        // As little of it as there can be.
        let short = match name {
            "eagleeye" => json!({"candidates": 2}),
            "admm" => json!({"iterations": 2, "epochs": 1}),
            "gradual" => json!({"epochs": 1}),
            "netadapt" => json!({"reduction": 0.2, "short_term_steps": 1, "proposals": 2}),
            _ => json!({}),
        };
        yolo_core::config::merge(&mut config, short);
        let pruner: Box<dyn Pruner> = Located::from_value(name, config).read().expect("a pruner");
        let pruned =
            prune(&model, pruner.as_ref(), data, &options, &()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let channels = |model: &Checkpoint| model.params.iter().map(|(_, tensor)| tensor.numel()).sum::<usize>();
        assert!(channels(&pruned.model) < channels(&model), "{name} removes nothing");
    }
}

#[test]
fn every_distiller_teaches_there() {
    let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let images = testing::input(2, 3, SIZE as i64, SIZE as i64);
    for (name, config) in examples(PluginKind::Distiller) {
        let [there, here] = [fake(), Device::Cpu].map(|device| {
            // A teacher that was read from a file is on the CPU.
            let graph = scaled("yolov5n", names.len() as i64, 0.25);
            let params = testing::fill_params(&graph, 2.5);
            let teacher = Checkpoint::new(graph, params, Meta::default());
            let student = checkpoint("yolov5n", &names, device);
            let distiller = Located::from_value(name, config.clone()).read().expect("a distiller");
            let distil = Distillation::new(distiller, &teacher).expect("a teacher");
            let options = StepOptions::of(&TrainOptions::new(1, 2, SIZE, Hyp::default()), 5e-4);
            let stepper = Stepper::new(&student.graph, &student.params, &options).expect("a stepper");
            let mut stepper = stepper
                .taught_by(Some(&distil), 0)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let _ = stepper
                .accumulate(&images.to_device(device), &[], &mut [])
                .unwrap_or_else(|error| panic!("{name} on {device:?}: {error}"));
            stepper.distilled().expect("losses").shallow_clone()
        });
        assert_eq!(there.device(), fake(), "{name}");
        assert_near(name, &there, &here);
    }
}

#[test]
fn every_quantizer_calibrates_and_trains_there() {
    let pictures = Pictures::new();
    let loader = pictures.loader(LoaderOptions::val(SIZE, 4));
    let image = testing::input(2, 3, SIZE as i64, SIZE as i64);
    for (name, config) in examples(PluginKind::Quantizer) {
        let quantizer: Box<dyn Quantizer> = Located::from_value(name, config).read().expect("a quantizer");
        let [there, here] = [fake(), Device::Cpu].map(|device| {
            let model = checkpoint("yolov5n", &pictures.names, device);
            let quantized = calibrate(&model, quantizer.as_ref(), &loader, &CalibrationOptions::ranges(2), &())
                .unwrap_or_else(|error| panic!("{name} on {device:?}: {error}"));
            let quantized = quantized.model.to_device(device);
            quantized.params.iter().for_each(|(_, tensor)| {
                if tensor.is_floating_point() {
                    let _ = tensor.set_requires_grad(true);
                }
            });
            let program = Program::new(&quantized.graph, &quantized.params).expect("a program");
            let maps = program
                .run(&image.to_device(device), Mode::Train)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            maps[0].square().mean(Kind::Float).backward();
            maps[0].shallow_clone()
        });
        assert_eq!(there.device(), fake(), "{name}");
        // A value on the edge between two steps may fall to either side.
        let wrong = (on_cpu(&there) - on_cpu(&here))
            .abs()
            .mean(Kind::Double)
            .double_value(&[]);
        let scale = on_cpu(&here).abs().mean(Kind::Double).double_value(&[]);
        assert!(wrong < 0.02 * scale, "{name}: {wrong} of {scale}");
    }
}
