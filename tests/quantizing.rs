//! Quantization: every backend from the command line, files that agree with the simulation.

use serde_json::json;
use tch::{Kind, Tensor};
use yolo_core::config::Located;
use yolo_core::graph::Activation;
use yolo_core::quant::{Calibration, Quantizer};
use yolo_core::{Graph, Op, Params, model, testing};
use yolo_export::checked::{Format, Request, write};
use yolo_export::onnx::proto::ModelProto;
use yolo_export::{onnx, ort};

use crate::support::{files, random_weights, small_data, tiny_model, yolo};
use crate::vendors::{self, Network};

/// Every backend calibrates, measures the quantized network and writes what its toolchain reads.
#[test]
fn every_backend_writes_its_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let backends: Vec<&str> = yolo_core::PluginInfo::linked()
        .into_iter()
        .filter(|info| info.kind == yolo_core::Kind::Quantizer)
        .map(|info| info.name)
        .collect();
    assert!(backends.len() >= 12, "{backends:?}");
    for backend in backends {
        let out = dir.path().join(backend);
        let found = yolo(
            dir.path(),
            &[
                "quantize",
                "--weights",
                weights.to_str().expect("text"),
                "--data",
                data.to_str().expect("text"),
                "--backend",
                backend,
                "--calib-batches",
                "2",
                "--batch-size",
                "2",
                "--workers",
                "1",
                "--img",
                "64",
                "--json",
                "--out",
                out.to_str().expect("text"),
            ],
        )
        .ok()
        .json();
        assert!(
            found["map50_float"].is_number() && found["map50_quant"].is_number(),
            "{backend}"
        );
        let artifacts: Vec<&str> = found["artifacts"]
            .as_array()
            .expect("a list")
            .iter()
            .map(name_of)
            .collect();
        // The quantized model is an ordinary checkpoint that knows what it is.
        let quantized = out.join("quantized.safetensors");
        let model = yolo_engine::checkpoint::load(&quantized).expect("the checkpoint");
        assert_eq!(model.meta.quantizer.as_ref().expect("a quantizer")["type"], backend);
        assert!(yolo_engine::quant::is_quantized(&model.graph), "{backend}");
        // What it says it wrote is there and nothing else, and every number in it is one of the quantized network.
        let network = Network::of(&model.graph, &model.params);
        let qdq = artifacts.contains(&"random_qdq.onnx");
        let operators = artifacts.contains(&"random_qlinear.onnx");
        let text = vendors::file_of(backend, "random");
        assert!(qdq || operators || text.is_some(), "{backend}: {artifacts:?}");
        assert_eq!(operators, backend == "onnx-qnn");
        let mut wanted = vec!["quantized.safetensors".to_owned()];
        wanted.extend(text.iter().cloned());
        // Beside each network stands what a host must know about it.
        let network_files = |name: &str| [name.to_owned(), format!("{name}.json")];
        wanted.extend(text.iter().flat_map(|_| network_files("random_deploy_model.onnx")));
        wanted.extend(qdq.then(|| network_files("random_qdq.onnx")).into_iter().flatten());
        wanted.extend(
            operators
                .then(|| network_files("random_qlinear.onnx"))
                .into_iter()
                .flatten(),
        );
        assert_eq!(artifacts, wanted, "{backend}");
        wanted.sort();
        assert_eq!(files(&out), wanted, "{backend}");
        if let Some(name) = &text {
            let format = vendors::Format::of(backend).expect("a format");
            let text = std::fs::read_to_string(out.join(name)).expect("the file");
            format
                .check(&text, &network)
                .unwrap_or_else(|reason| panic!("{backend}: {reason}"));
            let deployed = ModelProto::read(&out.join("random_deploy_model.onnx")).expect("ONNX");
            assert!(!deployed.is_quantized(), "{backend}");
            format
                .names_stand_in(&text, &deployed)
                .unwrap_or_else(|reason| panic!("{backend}: {reason}"));
        }
        if qdq {
            let file = ModelProto::read(&out.join("random_qdq.onnx")).expect("ONNX");
            vendors::qdq::check(&file, &network).unwrap_or_else(|reason| panic!("{backend}: {reason}"));
            for (what, changed) in vendors::qdq::mutations(&file) {
                vendors::qdq::check(&changed, &network).expect_err(&format!("{backend}: {what}"));
            }
        }
        yolo(
            dir.path(),
            &[
                "quantize",
                "--weights",
                quantized.to_str().expect("text"),
                "--data",
                data.to_str().expect("text"),
                "--img",
                "64",
                "--out",
                "again",
            ],
        )
        .fails(2, &["quantized already"]);
    }
}

/// The name of a file in a list of paths.
fn name_of(path: &serde_json::Value) -> &str {
    let path = std::path::Path::new(path.as_str().expect("a path"));
    path.file_name().and_then(|name| name.to_str()).expect("a name")
}

/// Whether QAT has learned its scales: nearly all of them are others than calibration found (the same seed finds the same), and all of
/// them can be divided by.
fn learned(calibrated: &Params, trained: &Params) -> Result<usize, String> {
    let mut counts = [0; 2];
    for (key, tensor) in trained.iter().filter(|(key, _)| key.ends_with("_quant.scale")) {
        let before = calibrated.get(key).ok_or_else(|| format!("`{key}` is new"))?;
        if !(tensor.abs().min().double_value(&[]) > 0.0 && tensor.isfinite().all().int64_value(&[]) == 1) {
            return Err(format!("`{key}` is {tensor:?}"));
        }
        let [seen, moved] = &mut counts;
        *seen += 1;
        *moved += usize::from(!before.equal(tensor));
    }
    let [seen, moved] = counts;
    if 10 * moved < 9 * seen || seen == 0 {
        return Err(format!("{moved} of {seen} scales are others"));
    }
    Ok(seen)
}

/// QAT changes weights and scales, and what is saved is the quantized network. A step follows every batch of four.
#[test]
fn scales_learn() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let quantize = |more: &[&str]| {
        let base = [
            "quantize",
            "--weights",
            weights.to_str().expect("text"),
            "--data",
            data.to_str().expect("text"),
            "--backend",
            "tensorrt",
            "--calib-batches",
            "2",
            "--batch-size",
            "4",
            "--workers",
            "1",
            "--img",
            "64",
            "--nominal-batch",
            "4",
        ];
        yolo(dir.path(), &[&base[..], more].concat()).ok();
    };
    quantize(&["--qat-epochs", "2", "--out", "int8"]);
    quantize(&["--out", "ptq"]);
    let load = |path: &str| yolo_engine::checkpoint::load(&dir.path().join(path)).expect("the checkpoint");
    let (trained, ptq) = (
        load("int8/qat/weights/last.safetensors"),
        load("ptq/quantized.safetensors"),
    );
    assert_eq!(trained.graph.nodes.len(), ptq.graph.nodes.len(), "the same network");

    let scales = learned(&ptq.params, &trained.params).unwrap_or_else(|reason| panic!("{reason}"));
    assert!(scales > 40, "{scales} scales");
    // The same check refuses a network whose weights learned and whose scales did not, or not those of activations.
    for frozen in ["_quant.scale", "act_quant.scale"] {
        let params = trained.params.deep_clone();
        for (key, tensor) in params.iter().filter(|(key, _)| key.ends_with(frozen)) {
            tensor.shallow_clone().copy_(ptq.params.get(key).expect("a scale"));
        }
        let reason = learned(&ptq.params, &params).expect_err(frozen);
        assert!(reason.contains("scales are others"), "{reason}");
    }
    assert!(
        learned(&ptq.params, &ptq.params).is_err(),
        "calibration alone teaches no scale"
    );

    for (key, tensor) in trained.params.iter() {
        let before = ptq.params.get(key).expect("the same tensors");
        let moved = (tensor - before).abs().max().double_value(&[]);
        if key.ends_with("conv.weight") {
            assert!(moved > 0.0, "`{key}` learns");
        }
        if key.ends_with("zero_point") {
            assert!(moved == 0.0, "`{key}` of a symmetric grid stays");
        }
    }
}

/// onnxruntime computes what the simulation computes: raw maps of the QDQ file lie within a few steps of the last scale, and
/// almost all of them within rounding.
#[test]
fn the_qdq_file_computes_what_was_simulated() {
    if let Err(reason) = ort::available() {
        crate::support::skip::skipped("onnxruntime", reason);
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 96);
    let config = tiny_model(dir.path());
    let dataset = yolo_data::Dataset::open(&data).expect("the data set");
    let weights = random_weights(&config, dir.path(), dataset.names.len());
    yolo(
        dir.path(),
        &[
            "quantize",
            "--weights",
            weights.to_str().expect("text"),
            "--data",
            data.to_str().expect("text"),
            "--calib-batches",
            "4",
            "--batch-size",
            "2",
            "--workers",
            "1",
            "--img",
            "96",
            "--out",
            "int8",
        ],
    )
    .ok();
    let model = yolo_engine::checkpoint::load(&dir.path().join("int8/quantized.safetensors")).expect("the checkpoint");
    let image = yolo_core::testing::input(1, 3, 96, 96);
    let program = yolo_core::Program::new(&model.graph, &model.params).expect("tensors fit");
    let maps = tch::no_grad(|| program.run(&image, yolo_core::Mode::Eval)).expect("a forward");
    let (plain, plain_params) = onnx::strip(&model.graph, &model.params).expect("a float network");
    let float = yolo_core::Program::new(&plain, &plain_params).expect("tensors fit");
    let float = tch::no_grad(|| float.run(&image, yolo_core::Mode::Eval)).expect("a forward");
    for profile in [onnx::Profile::TensorRt, onnx::Profile::Ort] {
        let options = onnx::Options {
            image: [96; 2],
            outputs: onnx::Outputs::Raw,
            profile,
            ..onnx::Options::default()
        };
        let bytes = onnx::export(&model.graph, &model.params, &options)
            .expect("a file")
            .model;
        let path = dir.path().join(format!("{profile:?}.onnx"));
        bytes.write(&path).expect("a file");
        let mut session = ort::Session::unoptimized(&std::fs::read(&path).expect("the file"), 1).expect("a session");
        let input = session.inputs()[0].0.clone();
        let results = session.run(&[(&input, &image)]).expect("a run");
        let head = model.graph.head.as_ref().expect("a head");
        for ((name, got), (map, float)) in results.iter().zip(maps.iter().zip(&float)) {
            let want = head.raw(map).expect("a map");
            let spread = want.std(false).double_value(&[]);
            let apart = |map: &Tensor| (map - &want).abs().mean(Kind::Double).double_value(&[]) / spread;
            let (mean, unquantized) = (apart(got), apart(&head.raw(float).expect("a map")));
            println!("{profile:?} {name}: {mean}, without quantizers {unquantized}");
            assert!(
                mean < 0.02 && mean < 0.5 * unquantized,
                "{profile:?} {name}: mean difference {mean} of the spread {spread}; without quantizers {unquantized}"
            );
        }
    }
}

/// A published network at a fraction of its size.
pub fn small(file: &str) -> Graph {
    let config = json!({"extends": file, "scale": {"depth": 0.33, "width": 0.125}});
    model::build(&Located::from_value(file, config), Some(3)).expect("a model")
}

/// The quantized form of a network, calibrated on two images.
pub fn calibrated(graph: &Graph, backend: &str) -> (Graph, Params) {
    let quantizer: Box<dyn Quantizer> = serde_json::from_value(json!({"type": backend})).expect("a backend");
    let params = testing::fill_params(graph, 2.5);
    let mut calibration = Calibration::new(quantizer.as_ref(), graph, &params).expect("a calibration");
    calibration.see(&testing::input(2, 3, 96, 96)).expect("a forward");
    calibration.finish().expect("a quantized network")
}

/// With the backend `onnxruntime` the engine finds integers to work on everywhere between the first convolution and those of the head,
/// whatever the backbone: no convolution in between stays in float, and no SiLU.
#[test]
fn onnxruntime_runs_the_whole_network_on_integers() {
    if let Err(reason) = ort::available() {
        crate::support::skip::skipped("onnxruntime", reason);
        return;
    }
    for file in [
        "yolov5n",
        "yolov5l-ghostnet",
        "yolov5l-shufflenetv2",
        "yolov5l-mobilenetv3-small",
        "yolov5l-efficientlite0",
        "yolov5l-pplcnet",
        "yolov5x-p2-cbam",
    ] {
        let (graph, params) = calibrated(&small(file), "onnxruntime");
        let convolutions = |quantized: bool| {
            let wanted = |op: &Op| matches!(op, Op::Conv2d { weight_quant, .. } if weight_quant.is_some() == quantized);
            let nodes = graph.nodes.iter().filter(|node| wanted(&node.op));
            nodes.map(|node| node.name.as_str()).collect::<Vec<_>>()
        };
        assert!(
            graph
                .nodes
                .iter()
                .all(|node| !matches!(node.op, Op::Act { act: Activation::Silu })),
            "{file}: SiLU is split"
        );
        let float = convolutions(false);
        assert_eq!(float.len(), 1 + graph.outputs.len(), "{file}: {float:?}");

        let options = onnx::Options {
            image: [96; 2],
            outputs: onnx::Outputs::Raw,
            profile: onnx::Profile::Ort,
            ..onnx::Options::default()
        };
        let file_bytes = onnx::export(&graph, &params, &options)
            .expect("a file")
            .model
            .to_bytes()
            .expect("bytes");
        let fused = ort::fused(&file_bytes)
            .expect("onnxruntime reads it")
            .graph
            .expect("a graph");
        let count = |ops: &[&str]| {
            fused
                .node
                .iter()
                .filter(|node| ops.contains(&node.op_type.as_str()))
                .count()
        };
        assert_eq!(count(&["QLinearConv"]), convolutions(true).len(), "{file}");
        assert_eq!(count(&["Conv", "FusedConv"]), float.len(), "{file}");
        // CBAM ends in sigmoids that are no SiLU; they run on integers as well.
        assert_eq!(count(&["Sigmoid", "QuickGelu"]), 0, "{file}");

        // A sum in another order may put a value on the next step of its grid, and from there on all roundings fall otherwise. Then file
        // and simulation are two roundings of one network, each as far from it as the grid puts them: sqrt(2) of that apart.
        let mut session = ort::Session::from_bytes(&file_bytes, 1).expect("a session");
        let share = distance_in_grid_errors(&mut session, &graph, &params);
        println!("{file}: {share}");
        assert!(share < 1.5, "{file}: {share} grid errors from the simulation");
    }
}

/// A scheme that no integers have is refused before anything is read or written.
#[test]
fn impossible_schemes_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    for (bits, said) in [("1", "1 bits"), ("17", "17 bits"), ("40", "2 to 16 are possible")] {
        let scheme = |bits: &str| {
            format!("{{bits: {bits}, symmetric: true, per_channel: true, narrow: true, method: fixed, observer: mse}}")
        };
        for (weight, activation) in [(bits, "8"), ("8", bits)] {
            let (weight, activation) = (scheme(weight), scheme(activation));
            let backend = format!("{{type: academic, weight: {weight}, activation: {activation}}}");
            let line = [
                "quantize",
                "--weights",
                "w.pt",
                "--data",
                "d.yaml",
                "--out",
                "o",
                "--backend",
                &backend,
            ];
            yolo(dir.path(), &line).fails(2, &["--backend", "academic", said]);
        }
    }
    assert!(files(dir.path()).is_empty(), "nothing is written");
}

/// ncnn's integers are symmetric: a network with none of those would become a float file without a word.
#[test]
fn ncnn_refuses_a_network_that_it_would_run_in_float() {
    let dir = tempfile::tempdir().expect("a folder");
    let request = Request::new(Format::Ncnn, [96; 2]);
    for (backend, fits) in [("onnxruntime", false), ("tensorrt", true)] {
        let (graph, params) = calibrated(&small("yolov5n"), backend);
        let path = dir.path().join(format!("{backend}.param"));
        match write(&graph, &params, &request, &path) {
            Ok(_) => assert!(fits && path.exists(), "{backend}"),
            Err(error) => {
                assert!(
                    !fits && error.to_string().contains("--backend tensorrt"),
                    "{backend}: {error}"
                );
                assert!(!path.exists() && !path.with_extension("bin").exists(), "{backend}");
            }
        }
    }
}

/// How far a file is from the simulation, on average, in units of how far the simulation is from the float network.
fn distance_in_grid_errors(session: &mut ort::Session, graph: &Graph, params: &Params) -> f64 {
    let image = testing::input(1, 3, 96, 96);
    let run = |graph: &Graph, params: &Params| {
        let program = yolo_core::Program::new(graph, params).expect("tensors fit");
        tch::no_grad(|| program.run(&image, yolo_core::Mode::Eval)).expect("a forward")
    };
    let (plain, plain_params) = onnx::strip(graph, params).expect("a float network");
    let (simulated, float) = (run(graph, params), run(&plain, &plain_params));
    let results = session.run(&[("images", &image)]).expect("a run");
    let head = graph.head.as_ref().expect("a head");
    let raw = |map| head.raw(map).expect("a map");
    let distance = |a: &Tensor, b: &Tensor| (a - b).abs().sum(Kind::Double).double_value(&[]);
    let (mut file, mut grid) = (0.0, 0.0);
    for ((_, got), (simulated, float)) in results.iter().zip(simulated.iter().zip(&float)) {
        file += distance(got, &raw(simulated));
        grid += distance(&raw(simulated), &raw(float));
    }
    assert!(grid > 0.0, "a quantized network differs from the float one");
    file / grid
}

/// A small data set, random weights for it, and a command line that quantizes them.
struct Place {
    folder: tempfile::TempDir,
    data: String,
    weights: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = small_data(folder.path(), 12, 64);
        let config = tiny_model(folder.path());
        let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
        let weights = random_weights(&config, folder.path(), classes);
        let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
        Self {
            data: text(&data),
            weights: text(&weights),
            folder,
        }
    }

    fn quantize(&self, more: &[&str]) -> crate::support::Said {
        let base = [
            "quantize",
            "--weights",
            &self.weights,
            "--data",
            &self.data,
            "--calib-batches",
            "2",
        ];
        let rest = ["--batch-size", "2", "--workers", "1", "--img", "64"];
        yolo(self.folder.path(), &[&base[..], &rest, more].concat())
    }

    fn model(&self, out: &str) -> yolo_engine::Checkpoint {
        let path = self.folder.path().join(out).join("quantized.safetensors");
        yolo_engine::checkpoint::load(&path).expect("the checkpoint")
    }
}

/// Names of convolutions with float weights.
fn in_float(graph: &Graph) -> Vec<&str> {
    let float = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Conv2d { weight_quant: None, .. }));
    float.map(|node| node.name.as_str()).collect()
}

/// Layers that are named stay in float in the checkpoint and in every file made of it, which computes what the checkpoint does.
#[test]
fn named_layers_stay_in_float_everywhere() {
    let place = Place::new();
    for backend in ["tensorrt", "onnxruntime", "openvino"] {
        let said = place
            .quantize(&[
                "--backend",
                backend,
                "--float-layers",
                "model.24,model.3.conv",
                "--json",
                "--out",
                backend,
            ])
            .ok()
            .json();
        let named = json!(["model.3.conv", "model.24.m.0", "model.24.m.1", "model.24.m.2"]);
        let kept: Vec<_> = (said["float_layers"].as_array().expect("a list").iter())
            .filter(|name| named.as_array().expect("a list").contains(name))
            .collect();
        assert!(
            kept.len() >= 2 && kept.len() == said["float_layers"].as_array().expect("a list").len(),
            "{said}"
        );
        let model = place.model(backend);
        let float = in_float(&model.graph);
        for name in ["model.3.conv", "model.24.m.0", "model.24.m.1", "model.24.m.2"] {
            assert!(float.contains(&name), "{backend}: {float:?}");
        }
        assert!(!float.contains(&"model.5.conv"), "{backend}: {float:?}");
        let entry = model.meta.history.last().expect("a history");
        assert_eq!(entry.kind, "float-layers", "{entry:?}");
        let network = Network::of(&model.graph, &model.params);
        let file = place.folder.path().join(backend).join("random_qdq.onnx");
        let file = ModelProto::read(&file).expect("ONNX");
        vendors::qdq::check(&file, &network).unwrap_or_else(|reason| panic!("{backend}: {reason}"));
    }
    for (more, words) in [
        (&["--float-layers", "model.3.conf"][..], "`model.3.conv`"),
        (&["--float-layers", "auto,model.3"][..], "auto"),
        (&["--float-layers", "auto", "--max-drop=-1"][..], "--max-drop"),
        (
            &["--float-layers", "model.3", "--backend", "nnie"][..],
            "every layer on integers",
        ),
        (
            &["--float-layers", "auto", "--backend", "{type: vitis}"][..],
            "every layer on integers",
        ),
    ] {
        place.quantize(&[more, &["--out", "no"]].concat()).fails(2, &[words]);
    }
    assert!(!place.folder.path().join("no").exists());
}

/// Where nothing is lost, `auto` keeps nothing in float.
#[test]
fn no_layer_stays_in_float_without_need() {
    let place = Place::new();
    let said = place
        .quantize(&["--float-layers", "auto", "--select-images", "4", "--json", "--out", "a"])
        .ok();
    assert_eq!(said.json()["float_layers"], json!([]));
    assert!(said.err.contains("0 of"), "{}", said.err);
}

/// The analysis names every layer once, in three forms, and leaves no model.
#[test]
fn sensitivities_are_a_table_json_and_a_picture() {
    let place = Place::new();
    let said = place
        .quantize(&["--analyse", "--select-images", "4", "--out", "a"])
        .ok();
    assert!(
        said.out.contains("alone quantized") && said.out.contains("all quantized:"),
        "{}",
        said.out
    );
    assert_eq!(
        files(&place.folder.path().join("a")),
        ["sensitivity.json", "sensitivity.svg"]
    );
    let found = place
        .quantize(&["--analyse", "--select-images", "4", "--json", "--out", "b"])
        .ok()
        .json();
    let layers = found["layers"].as_array().expect("a list");
    assert!(layers.len() > 40, "{}", layers.len());
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let [all, diverges] = ["snr", "divergence"].map(|key| number(&found[key]));
    let taken = |layer: &serde_json::Value| diverges - number(&layer["diverges_without"]);
    let gains: Vec<f64> = layers.iter().map(taken).collect();
    assert!(gains.windows(2).all(|pair| pair[0] >= pair[1]), "{gains:?}");
    assert!(gains[0] > 0.0, "the most sensitive layer takes some with it: {gains:?}");
    // One layer makes less noise than all of them.
    assert!(layers.iter().all(|layer| number(&layer["alone"]) > all));
    let svg = std::fs::read_to_string(place.folder.path().join("b/sensitivity.svg")).expect("a picture");
    let named = |layer: &serde_json::Value| svg.contains(layer["name"].as_str().expect("a name"));
    assert!(layers.iter().all(named));
}

/// Refinements change weights and biases, files still agree, and what can't be is refused.
#[test]
fn refinements_reach_the_files() {
    let place = Place::new();
    let tensors = |out: &str, more: &[&str]| {
        place.quantize(&[more, &["--out", out]].concat()).ok();
        let model = place.model(out);
        let get = |key: &str| model.params.get(key).expect("a tensor").copy();
        [get("model.5.conv.weight"), get("model.5.conv.bias")]
    };
    let [weight, bias] = tensors("plain", &["--bias-correction", "false", "--rounding", "nearest"]);
    let [same, corrected] = tensors("bias", &["--bias-correction", "--rounding", "nearest"]);
    assert!(weight.equal(&same) && !bias.equal(&corrected));
    let [rounded, same] = tensors("rounded", &["--bias-correction", "false", "--rounding", "adaround"]);
    assert!(!weight.equal(&rounded) && bias.equal(&same));
    // SiLU lets no factor through; a power-of-two grid is no linear one.
    place
        .quantize(&["--equalize", "--out", "no"])
        .fails(2, &["SiLU", "exact"]);
    let vitis = ["--rounding", "adaround", "--backend", "vitis", "--out", "no"];
    place.quantize(&vitis).fails(2, &["--rounding adaround", "PowerOfTwo"]);
}

/// Tuning changes ranges and biases, no weight, and brings the predictions nearer to those of the float network.
#[test]
fn tuning_moves_ranges_and_biases_alone() {
    let place = Place::new();
    let backend = ["--backend", "onnxruntime"];
    place.quantize(&[&backend[..], &["--out", "plain"]].concat()).ok();
    let said = place
        .quantize(&[&backend[..], &["--tune", "3", "--out", "tuned"]].concat())
        .ok();
    let numbers: Vec<f64> = said
        .err
        .lines()
        .find(|line| line.contains("tuned: predictions"))
        .map_or(Vec::new(), |line| {
            let words = line.split([' ', ',']).filter_map(|word| word.parse().ok());
            words.collect()
        });
    let [after, before] = <[f64; 2]>::try_from(numbers).expect("two numbers");
    assert!(after < before, "{after} {before}");
    let [plain, tuned] = ["plain", "tuned"].map(|out| place.model(out));
    let changed = |end: &str| {
        let keys = plain.params.iter().filter(|(key, _)| key.ends_with(end));
        keys.filter(|(key, tensor)| !tensor.equal(tuned.params.get(key).expect("the same tensors")))
            .count()
    };
    assert_eq!((changed(".weight"), changed(".weight_quant.scale")), (0, 0));
    assert!(changed(".act_quant.scale") > 5 && changed(".act_quant.zero_point") > 5 && changed(".bias") > 5);
    assert_eq!(tuned.meta.history.last().expect("a history").kind, "tune");
    // Zero is a point of the grid.
    for (key, zero) in tuned.params.iter().filter(|(key, _)| key.ends_with("zero_point")) {
        assert!(zero.equal(&zero.round()), "{key}");
    }
}

/// The tensors of a quantized network are none of a float one.
#[test]
fn a_configuration_takes_no_quantized_weights() {
    let place = Place::new();
    place.quantize(&["--out", "int8"]).ok();
    let weights = ["--cfg", "tiny.yaml", "--weights", "int8/quantized.safetensors"];
    let train = [
        "train",
        "--data",
        &place.data,
        "--epochs",
        "1",
        "--img",
        "64",
        "--project",
        "runs",
        "--name",
        "no",
    ];
    let said = yolo(place.folder.path(), &[&train[..], &weights].concat());
    said.fails(2, &["quantized network", "leave out --cfg"]);
    assert!(!place.folder.path().join("runs").exists());
    let convert = [
        "convert",
        "int8/quantized.safetensors",
        "x.safetensors",
        "--cfg",
        "tiny.yaml",
    ];
    yolo(place.folder.path(), &convert).fails(2, &["quantized network", "leave out --cfg"]);
}

/// What is named of a scheme lies over its defaults, and only that is other.
#[test]
fn schemes_are_changed_in_what_is_named() {
    let spec = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        serde_json::from_value::<Box<dyn Quantizer>>(value).map(|quantizer| quantizer.backend())
    };
    let usual = spec(r#"{"type": "academic"}"#).expect("a backend");
    let bits = spec(r#"{"type": "academic", "weight": {"bits": 4}}"#).expect("a backend");
    assert_eq!((bits.weight.bits, bits.weight.per_channel), (4, true));
    assert_eq!(bits.activation, usual.activation);
    assert!(spec(r#"{"type": "academic", "weight": {"bit": 4}}"#).is_err());
}
