//! Pictures whose sides are no multiples of anything, and networks that go further down than their heads: every registered model is
//! trained, validated, detects and is exported.

use std::path::{Path, PathBuf};

use serde_json::Value;
use yolo_data::Image;
use yolo_export::onnx::proto::ModelProto;

use crate::support::{Said, command, yolo};

/// Flat and tall pictures, two of each, with a box in every one; the YAML.
fn odd_data(folder: &Path) -> PathBuf {
    for (split, count) in [("train", 4), ("val", 4)] {
        for kind in ["images", "labels"] {
            std::fs::create_dir_all(folder.join(kind).join(split)).expect("a folder");
        }
        for index in 0..count {
            let (w, h) = if index % 2 == 0 { (97, 61) } else { (61, 97) };
            let mut image = Image::filled(w, h, [90, 110, 130]);
            for y in h / 3..h / 2 {
                image.data[(y * w + w / 4) * 3..(y * w + w / 2) * 3].fill(250);
            }
            let name = format!("{split}/{index}");
            image
                .save(&folder.join(format!("images/{name}.png")))
                .expect("a picture");
            std::fs::write(folder.join(format!("labels/{name}.txt")), "1 0.375 0.42 0.25 0.17\n").expect("labels");
        }
    }
    let yaml = folder.join("odd.yaml");
    std::fs::write(&yaml, "train: images/train\nval: images/val\nnames: [a, b]\n").expect("a file");
    yaml
}

/// A published model at a sixteenth of its width, as far as its parts go by width.
fn narrow(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("narrow-{name}.yaml"));
    std::fs::write(
        &path,
        format!("extends: {name}\nscale: {{depth: 0.33, width: 0.0625}}\n"),
    )
    .expect("a file");
    path
}

fn run(folder: &Path, arguments: &[&str]) -> Said {
    yolo(folder, arguments)
}

/// Shape of the input, and of the first output.
fn shapes(onnx: &Path) -> [Vec<i64>; 2] {
    let session = yolo_export::ort::available()
        .is_ok()
        .then(|| yolo_export::ort::Session::open(onnx, 1).expect("a file"));
    let model = ModelProto::read(onnx).expect("an ONNX file");
    let input = session.map(|session| session.inputs().remove(0).1);
    let graph = model.graph.expect("a graph");
    let fixed = |value: &yolo_export::onnx::proto::ValueInfoProto| {
        value
            .dims()
            .into_iter()
            .map(|side| side.unwrap_or(-1))
            .collect::<Vec<i64>>()
    };
    let own = fixed(&graph.input[0]);
    if let Some(input) = input {
        assert_eq!(input, own);
    }
    [own, fixed(&graph.output[0])]
}

/// Trains a step, validates, detects and exports at odd sizes; what the model says of itself.
fn whole_life(folder: &Path, cfg: &Path, name: &str) {
    let cfg = cfg.display().to_string();
    let described = run(folder, &["model", &cfg, "--nc", "2", "--img", "128", "--json"])
        .ok()
        .json();
    let strides: Vec<i64> = described["strides"]
        .as_array()
        .expect("strides")
        .iter()
        .map(|stride| stride.as_i64().expect("a number"))
        .collect();
    let step = described["size_step"].as_i64().expect("a number").max(32);
    let runs = format!("runs-{name}");
    let train = [
        "train",
        "--cfg",
        &cfg,
        "--data",
        "odd.yaml",
        "--img",
        "97",
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--noplots",
        "--project",
        &runs,
        "--workers",
        "1",
    ];
    let trained = run(folder, &train);
    assert_eq!(trained.code, 0, "{name}: {}", trained.err);
    assert!(
        trained.err.contains(&format!("stride {step}: using 128")),
        "{name} says what it rounds up: {}",
        trained.err
    );
    let last = folder
        .join(&runs)
        .join("exp/weights/last.safetensors")
        .display()
        .to_string();
    let val = run(
        folder,
        &[
            "val",
            "--weights",
            &last,
            "--data",
            "odd.yaml",
            "--img",
            "97",
            "--batch-size",
            "1",
            "--json",
        ],
    );
    assert_eq!(val.code, 0, "{name}: {}", val.err);
    assert_eq!(val.json()["instances"], 4, "{name}");
    for img in [&["61", "97"][..], &["97"]] {
        let mut detect = vec![
            "detect",
            "--weights",
            &last,
            "--source",
            "images/val",
            "--nosave",
            "--json",
            "--conf-thres",
            "0",
            "--img",
        ];
        detect.extend(img);
        let found = run(folder, &detect);
        assert_eq!(found.code, 0, "{name}: {}", found.err);
        for row in found.json()["images"].as_array().expect("rows") {
            let inside = |detection: &Value| {
                let corner = |index: usize| detection["xyxy"][index].as_f64().expect("a number");
                corner(2) <= row["width"].as_f64().expect("a number")
                    && corner(3) <= row["height"].as_f64().expect("a number")
            };
            assert!(
                row["detections"].as_array().expect("detections").iter().all(inside),
                "{name}: {row}"
            );
        }
    }
    let out = format!("{name}.onnx");
    let export = run(
        folder,
        &[
            "export",
            "--weights",
            &last,
            "--img",
            "61",
            "97",
            "--out",
            &out,
            "--json",
        ],
    );
    assert_eq!(export.code, 0, "{name}: {}", export.err);
    let sides = [61, 97].map(|side: i64| (side + step - 1) / step * step);
    // Channels of a raw map are anchors times (5 + classes).
    let anchors = |level: usize| described["outputs"][level][1].as_i64().expect("channels") / 7;
    let boxes = |(level, stride): (usize, &i64)| anchors(level) * (sides[0] / stride) * (sides[1] / stride);
    let boxes: i64 = strides.iter().enumerate().map(boxes).sum();
    let [input, output] = shapes(&folder.join(&out));
    assert_eq!(input, [1, 3, sides[0], sides[1]], "{name}");
    assert_eq!(output, [1, boxes, 7], "{name}");
    assert_eq!(export.json()["img"], serde_json::json!(sides), "{name}");
}

/// Runs the models of a list one after another; two such lists keep two cores busy.
fn lives(part: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    odd_data(folder.path());
    let names: Vec<&str> = yolo_core::model::published().iter().map(|(name, _)| *name).collect();
    assert!(names.len() > 10);
    for name in names.iter().skip(part).step_by(2) {
        whole_life(folder.path(), &narrow(folder.path(), name), name);
    }
}

#[test]
fn every_model_lives_on_odd_pictures_first_half() {
    lives(0);
}

#[test]
fn every_model_lives_on_odd_pictures_second_half() {
    lives(1);
}

/// Layer lists in which the network goes down to stride 64 while its head ends at 32, and a head that ends at 16 under a neck of 32.
const DEEPER: &str = "\
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
anchors: 2
backbone:
  [[-1, 1, Conv, [4, 3, 2]], [-1, 1, Conv, [4, 3, 2]], [-1, 1, Conv, [4, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]],
   [-1, 1, Conv, [8, 3, 2]]]
head:
  [[-1, 1, nn.Upsample, [None, 2, 'nearest']], [[-1, 4], 1, Concat, [1]], [-1, 1, Conv, [8, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']], [[-1, 3], 1, Concat, [1]], [-1, 1, Conv, [8, 1, 1]], [[11, 8], 1, Detect, [nc, anchors]]]
";

#[test]
fn a_network_deeper_than_its_head_lives_on_odd_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    odd_data(folder.path());
    let cfg = folder.path().join("deeper.yaml");
    let anchors = "anchors: [[10,13, 16,30, 33,23], [30,61, 62,45, 59,119]]";
    std::fs::write(&cfg, DEEPER.replace("anchors: 2", anchors)).expect("a file");
    let described = run(folder.path(), &["model", "deeper.yaml", "--img", "128", "--json"])
        .ok()
        .json();
    assert_eq!(
        (&described["strides"], &described["size_step"]),
        (&serde_json::json!([16, 32]), &serde_json::json!(64))
    );
    whole_life(folder.path(), &cfg, "deeper");
}

#[test]
fn searching_pruners_and_quantization_pad_to_what_the_network_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    odd_data(folder.path());
    let cfg = narrow(folder.path(), "yolov5n6").display().to_string();
    let init = [
        "model",
        &cfg,
        "--nc",
        "2",
        "--img",
        "97",
        "--init-weights",
        "w.safetensors",
    ];
    run(folder.path(), &init).ok();
    let prune = [
        "prune",
        "--weights",
        "w.safetensors",
        "--data",
        "odd.yaml",
        "--img",
        "97",
        "--pruner",
        "oneshot",
        "--metric",
        "taylor",
        "--flops",
        "0.8",
        "--batch-size",
        "2",
        "--multiple",
        "1",
        "--out",
        "p.safetensors",
        "--json",
    ];
    let pruned = run(folder.path(), &prune).ok();
    assert!(pruned.err.contains("stride 64: using 128"), "{}", pruned.err);
    let quantize = [
        "quantize",
        "--weights",
        "p.safetensors",
        "--data",
        "odd.yaml",
        "--img",
        "97",
        "--calib-batches",
        "1",
        "--batch-size",
        "2",
        "--qat-epochs",
        "1",
        "--out",
        "q",
        "--json",
    ];
    let quantized = run(folder.path(), &quantize).ok().json();
    assert!(quantized["map50_quant"].is_number(), "{quantized}");
    let recipe = "name: r\ndata: odd.yaml\ncfg: yolov5n6\nimg: 96\nstages:\n  - train: {epochs: 1}\n";
    std::fs::write(folder.path().join("r.yaml"), recipe).expect("a file");
    run(folder.path(), &["compress", "r.yaml"]).fails(2, &["img: 96", "stride 64", "use 128"]);
    let bench = [
        "bench",
        "--weights",
        "p.safetensors",
        "--engine",
        "torch",
        "--img",
        "97",
        "--runs",
        "1",
        "--json",
    ];
    assert_eq!(run(folder.path(), &bench).ok().json()["rows"][0]["img"], 128);
    let mut help = command(folder.path());
    let said = Said::from(
        help.args(["model", "yolov5n6", "--img", "100"])
            .output()
            .expect("the binary"),
    );
    assert!(said.ok().out.contains("at 128x128"));
}
