//! `yolo export`, `yolo bench`, `yolo doctor`; every published model in every format, small.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tch::{Device, Kind, Tensor};
use yolo_core::config::Located;
use yolo_core::{Graph, Mode, Params, Program, model, testing};
use yolo_export::checked::{self, Format, Request};
use yolo_export::ort;

use crate::support::{Said, command, files, random_weights, read_json, small_data, tiny_model, yolo};

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn engine() -> bool {
    match ort::available() {
        Ok(_) => true,
        Err(reason) => {
            crate::support::skip::skipped("onnxruntime", reason);
            false
        }
    }
}

/// A folder with a tiny model of four classes.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4);
    (folder, weights)
}

const SIZE: [i64; 2] = [64, 128];

/// The largest difference of raw values between single and double precision.
fn rounding(graph: &Graph, params: &Params) -> f64 {
    let run = |kind: Kind| {
        let (params, x) = (
            params.to(Device::Cpu, kind),
            testing::input(1, 3, SIZE[0], SIZE[1]).to_kind(kind),
        );
        Program::new(graph, &params)
            .and_then(|program| tch::no_grad(|| program.run(&x, Mode::Eval)))
            .expect("maps")
    };
    let (single, double) = (run(Kind::Float), run(Kind::Double));
    let largest = |(a, b): (&Tensor, &Tensor)| (a.to_kind(Kind::Double) - b).abs().max().double_value(&[]);
    single.iter().zip(&double).map(largest).fold(0.0, f64::max)
}

/// The structure of each published model at an eighth of the width and a third of the depth, on an image that is not square.
#[test]
fn every_published_model_computes_the_same_in_every_format() {
    let onnx = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let more = [
        ("deform", "extends: yolov5n\nneck: {type: pan, block: {type: deform}}\n"),
        (
            "deform-conv",
            "extends: yolov5n\nneck: {type: pan, block: {type: deform, form: conv}}\n",
        ),
    ];
    let published = model::published()
        .iter()
        .map(|(name, _)| (*name, format!("extends: {name}\n")));
    let all = published.chain(more.map(|(name, text)| (name, text.to_owned())));
    for (name, text) in all {
        let text = format!("{text}scale: {{depth: 0.33, width: 0.125}}\n");
        let located = Located::parse(&format!("{name}.yaml"), &text).expect("YAML");
        let located = model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
        let graph = model::build(&located, Some(3)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let params = testing::fill_params(&graph, 2.0);
        let noise = rounding(&graph, &params);
        for (format, ending) in [(Format::Onnx, "onnx"), (Format::Ncnn, "param")] {
            let path = folder.path().join(format!("{name}.{ending}"));
            let request = Request {
                threads: 1,
                ..Request::new(format, SIZE)
            };
            let written = checked::write(&graph, &params, &request, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
            if onnx || format == Format::Ncnn {
                let d = written
                    .difference
                    .unwrap_or_else(|| panic!("{name}: {:?}", written.unchecked));
                // Of random weights, boxes may be a thousand pixels wide; what counts is what the network itself loses by rounding.
                assert!(
                    d.scores < 1e-3 && d.raw < 20.0 * noise,
                    "{name}, {format:?}: {d:?} where rounding loses {noise:e}"
                );
            }
        }
    }
}

#[test]
fn an_export_says_where_the_file_is_and_how_close() {
    let (folder, weights) = place();
    let weights = text(&weights);
    let checked = engine();
    for (format, out, more) in [
        ("onnx", "a.onnx", &[][..]),
        ("onnx", "b.onnx", &["--dynamic"]),
        ("onnx", "c.onnx", &["--raw", "--batch-size", "2"]),
        ("onnx", "d.onnx", &["--nms", "standard", "--conf-thres", "0.1"]),
        (
            "onnx",
            "g.onnx",
            &[
                "--nms",
                "tensorrt",
                "--iou-thres",
                "0.3",
                "--max-det",
                "7",
                "--agnostic-nms",
            ],
        ),
        ("ncnn", "made/e.param", &[]),
        ("ncnn", "made/f.param", &["--half"]),
    ] {
        let arguments = [
            "export",
            "--weights",
            &weights,
            "--format",
            format,
            "--out",
            out,
            "--img",
            "96",
            "--json",
        ];
        let said = yolo(folder.path(), &[&arguments[..], more].concat()).ok().json();
        assert_eq!(said["path"], out);
        assert_eq!(said["size_bytes"].as_u64().map(|n| n > 10_000), Some(true), "{said}");
        if checked || format == "ncnn" {
            let d = said["max_abs_diff"].as_f64().expect("a number");
            // What half weights cost is said, too.
            let most = if more == ["--half"] { 1.0 } else { 0.05 };
            assert!(d > 0.0 && d < most, "{out}: {said}");
        }
        assert!(folder.path().join(out).is_file());
    }
    assert!(folder.path().join("made/e.bin").is_file());
    // A file that suppresses says by what it does, others what detection usually takes.
    let thresholds = |name: &str| read_json(&folder.path().join(name))["thresholds"].clone();
    assert_eq!(
        thresholds("d.onnx.json"),
        json!({"score": 0.1, "iou": 0.45, "boxes": 100})
    );
    let all = json!({"score": 0.25, "iou": 0.3, "boxes": 7, "agnostic": true});
    assert_eq!(thresholds("g.onnx.json"), all);
    assert_eq!(
        thresholds("a.onnx.json"),
        json!({"score": 0.25, "iou": 0.45, "boxes": 1000})
    );
    // The size that the model was trained for is the default; another is rounded up to the stride.
    let arguments = [
        "export",
        "--weights",
        &weights,
        "--out",
        "g.onnx",
        "--no-check",
        "--json",
    ];
    assert_eq!(yolo(folder.path(), &arguments).ok().json()["img"], 160);
    let said = yolo(folder.path(), &[&arguments[..], &["--img", "100"]].concat()).ok();
    assert_eq!(said.json()["img"], 128);
    assert!(said.err.contains("using 128"), "{}", said.err);
}

#[test]
fn wrong_exports_are_explained_and_leave_nothing() {
    let (folder, weights) = place();
    let weights = text(&weights);
    std::fs::create_dir(folder.path().join("out")).expect("a folder");
    std::fs::write(folder.path().join("file"), "no folder").expect("a file");
    let export = |more: &[&str]| {
        yolo(
            folder.path(),
            &[&["export", "--weights", &weights, "--img", "64"], more].concat(),
        )
    };
    export(&["--format", "onnx-qdq", "--out", "out/a.onnx"]).fails(2, &["float model", "yolo quantize --weights"]);
    export(&["--format", "onxx", "--out", "out/a.onnx"]).fails(2, &["no format `onxx`", "did you mean `onnx`"]);
    export(&["--out", &weights]).fails(2, &["must end with .onnx"]);
    export(&["--format", "ncnn", "--out", "out/a.onnx"]).fails(2, &["must end with .param"]);
    export(&["--format", "ncnn", "--out", "out/a.param", "--dynamic"]).fails(2, &["one image at a time"]);
    export(&["--out", "out/a.onnx", "--half"]).fails(2, &["--half is for ncnn"]);
    export(&["--out", "out/a.onnx", "--batch-size", "0"]).fails(2, &["--batch-size 0"]);
    export(&["--out", "out/a.onnx", "--profile", "trt"]).fails(
        2,
        &[
            "'trt'",
            "--profile",
            "[possible values: ort, openvino, tensorrt, qlinear]",
        ],
    );
    export(&["--out", "out/a.onnx", "--nms", "soft"])
        .fails(2, &["'soft'", "--nms", "[possible values: standard, tensorrt]"]);
    for opset in ["9", "30"] {
        export(&["--out", "out/a.onnx", "--opset", opset])
            .fails(1, &[&format!("opset {opset} can't be written"), "in 11 to 21"]);
    }
    export(&["--out", "file/a.onnx"]).fails(1, &["file/a.onnx", "can't write"]);
    yolo(
        folder.path(),
        &["export", "--weights", "none.safetensors", "--out", "out/a.onnx"],
    )
    .fails(1, &["none.safetensors"]);

    // A full disk: files may not grow beyond 50 kB.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let full = |more: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_yolo"),
            "export",
            "--weights",
            &weights,
            "--img",
            "64",
        ]);
        Said::from(shell.args(more).current_dir(folder.path()).output().expect("a shell"))
    };
    std::fs::write(folder.path().join("out/old.onnx"), "what was there").expect("a file");
    full(&["--out", "out/old.onnx"]).fails(1, &["out/old.onnx", "can't write"]);
    full(&["--out", "out/a.param", "--format", "ncnn", "--no-check"]).fails(1, &["out/a.bin", "can't write"]);
    assert_eq!(
        files(&folder.path().join("out")),
        ["old.onnx"],
        "no half-written and no temporary file"
    );
    assert_eq!(
        std::fs::read(folder.path().join("out/old.onnx")).expect("a file"),
        b"what was there"
    );
}

#[test]
fn a_quantized_model_keeps_its_integers() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 12, 64));
    let quantize = [
        "quantize",
        "--weights",
        &text(&weights),
        "--data",
        &data,
        "--calib-batches",
        "2",
        "--batch-size",
        "2",
    ];
    yolo(
        folder.path(),
        &[&quantize[..], &["--workers", "1", "--img", "64", "--out", "int8"]].concat(),
    )
    .ok();
    let checked = engine();
    for (format, out, more) in [
        ("onnx-qdq", "ort.onnx", &[][..]),
        ("onnx-qdq", "tensorrt.onnx", &["--profile", "tensorrt"]),
        ("onnx", "float.onnx", &[]),
        ("ncnn", "int8.param", &[]),
    ] {
        let arguments = [
            "export",
            "--weights",
            "int8/quantized.safetensors",
            "--format",
            format,
            "--out",
            out,
            "--json",
        ];
        let said = yolo(folder.path(), &[&arguments[..], more].concat()).ok().json();
        assert_eq!(
            said["max_abs_diff"].is_number(),
            checked || format == "ncnn",
            "{out}: {said}"
        );
    }
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).expect("a file").len();
    assert!(
        size("ort.onnx") * 10 < size("float.onnx") * 9,
        "{} and {} bytes",
        size("ort.onnx"),
        size("float.onnx")
    );
    if checked {
        let arguments = [
            "bench",
            "--runs",
            "3",
            "--threads",
            "1",
            "--json",
            "--weights",
            "ort.onnx",
            "int8/quantized.safetensors",
        ];
        let rows = yolo(folder.path(), &arguments).ok().json();
        let found: Vec<(&str, &str)> = rows["rows"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| {
                (
                    row["engine"].as_str().expect("a name"),
                    row["precision"].as_str().expect("a word"),
                )
            })
            .collect();
        assert_eq!(found, [("ort", "int8"), ("torch", "int8 (simulated)"), ("ort", "int8")]);
    }
}

#[test]
fn a_bench_measures_each_model_on_each_engine() {
    let (folder, weights) = place();
    let weights = text(&weights);
    let bench = |more: &[&str]| {
        yolo(
            folder.path(),
            &[&["bench", "--weights", &weights, "--img", "64", "--runs", "5"], more].concat(),
        )
    };
    let found = bench(&["--engine", "torch", "--threads", "1", "--batch-size", "2", "--json"])
        .ok()
        .json();
    let row = &found["rows"][0];
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    assert_eq!(
        (
            row["weights"].as_str(),
            row["engine"].as_str(),
            row["precision"].as_str()
        ),
        (Some(weights.as_str()), Some("torch"), Some("f32"))
    );
    assert!(
        number("ms_median") > 0.0 && number("ms_p95") >= number("ms_median") && number("threads") == 1.0,
        "{row}"
    );
    assert!(
        (number("fps") * number("ms_median") - 2000.0).abs() < 1e-6,
        "two images in each run: {row}"
    );
    assert_eq!(
        number("size_bytes") as u64,
        std::fs::metadata(&weights).expect("a file").len()
    );
    let table = bench(&["--engine", "torch"]).ok().out;
    assert!(table.contains("median ms") && table.contains("torch"), "{table}");
    if engine() {
        let found = bench(&["--threads", "1", "--json"]).ok().json();
        let engines: Vec<&str> = found["rows"]
            .as_array()
            .expect("rows")
            .iter()
            .filter_map(|row| row["engine"].as_str())
            .collect();
        assert_eq!(engines, ["torch", "ort"]);
        std::fs::write(folder.path().join("broken.onnx"), b"\x08\x08garbage").expect("a file");
        yolo(folder.path(), &["bench", "--weights", "broken.onnx"]).fails(1, &["broken.onnx"]);
        yolo(folder.path(), &["bench", "--weights", "a.onnx", "--engine", "torch"])
            .fails(2, &["a.onnx", "--engine onnxruntime"]);
    }
    bench(&["--engine", "tensorflow"]).fails(2, &["no engine `tensorflow`", "torch"]);
    bench(&["--runs", "0"]).fails(2, &["--runs"]);
    bench(&["--device", "tpu"]).fails(2, &["--device tpu"]);
    yolo(folder.path(), &["bench", "--weights", "none.pt"]).fails(1, &["none.pt"]);
}

#[test]
fn without_onnxruntime_files_are_written_unchecked_and_the_way_out_is_named() {
    let (folder, weights) = place();
    let run = |arguments: &[&str]| {
        let mut command = crate::support::command(folder.path());
        command.env("ORT_DYLIB_PATH", folder.path().join("nothing.so"));
        Said::from(command.args(arguments).output().expect("the binary starts"))
    };
    let weights = text(&weights);
    let said = run(&[
        "export",
        "--weights",
        &weights,
        "--out",
        "a.onnx",
        "--img",
        "64",
        "--json",
    ])
    .ok();
    assert!(
        said.json()["max_abs_diff"].is_null() && said.err.contains("not checked"),
        "{}",
        said.err
    );
    assert!(folder.path().join("a.onnx").is_file());
    run(&["bench", "--weights", &weights, "--engine", "ort", "--img", "64"])
        .fails(1, &["nothing.so", "cargo xtask setup"]);
    let rows = run(&["bench", "--weights", &weights, "--img", "64", "--runs", "2", "--json"])
        .ok()
        .json();
    assert_eq!(rows["rows"].as_array().map(Vec::len), Some(1));
    let doctor = run(&["doctor", "--json"]).ok().json();
    let reason = doctor["engines"][1]["reason"].as_str().expect("a reason");
    assert!(
        doctor["engines"][1]["available"] == false && reason.contains("nothing.so"),
        "{doctor}"
    );
}

#[test]
fn the_doctor_knows_where_things_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let found = yolo(folder.path(), &["doctor", "--json"]).ok().json();
    let path = found["libtorch"]["path"].as_str().expect("a path");
    assert!(
        Path::new(path).is_file()
            && found["libtorch"]["version"]
                .as_str()
                .is_some_and(|v| v.starts_with("2.")),
        "{found}"
    );
    assert!(
        found["threads"]["cores"].as_u64().is_some_and(|n| n > 0)
            && found["builtin_plugins"].as_u64().is_some_and(|n| n > 30)
    );
    let said = yolo(folder.path(), &["doctor"]).ok().out;
    for word in ["libtorch", "device", "threads", "plugin folder", "engine onnxruntime"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn threads_are_chosen_unless_the_user_says_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let variables = [
        "GOMP_SPINCOUNT",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
    ];
    let threads = |set: &[(&str, &str)], json: bool| {
        let mut doctor = command(folder.path());
        variables.iter().for_each(|name| {
            doctor.env_remove(name);
        });
        doctor.arg("doctor").envs(set.iter().copied());
        if json {
            doctor.arg("--json");
        }
        Said::from(doctor.output().expect("the binary starts")).ok()
    };
    let own = threads(&[], true).json()["threads"].clone();
    let number = |key: &str| own[key].as_u64().expect("a number");
    assert_eq!(number("intra"), number("available").min(number("cores")), "{own}");
    assert_eq!(own["environment"]["GOMP_SPINCOUNT"], "10000");
    let set = [("GOMP_SPINCOUNT", "77"), ("OMP_NUM_THREADS", "1")];
    let given = threads(&set, true).json()["threads"].clone();
    assert_eq!(given["intra"], 1);
    assert_eq!(given["environment"]["GOMP_SPINCOUNT"], "77");
    let passive = threads(&[("OMP_WAIT_POLICY", "PASSIVE")], true).json()["threads"].clone();
    assert!(passive["environment"].get("GOMP_SPINCOUNT").is_none(), "{passive}");
    let said = threads(&set, false).out;
    assert!(
        said.contains("GOMP_SPINCOUNT=77 (yours), OMP_NUM_THREADS=1 (yours)"),
        "{said}"
    );
}
