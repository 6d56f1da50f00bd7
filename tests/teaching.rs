//! Teachers, references and comparisons from the command line: what one model has from another, and whether it helps.

use std::path::Path;

use crate::support::{Said, read_json, small_data, tiny_model, yolo};

/// A folder with a data set, a network of 60 thousand parameters and a wider one of the same family.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    small_data(folder.path(), 12, 96);
    tiny_model(folder.path());
    std::fs::write(
        folder.path().join("wide.yaml"),
        "extends: yolov5n\nscale: {depth: 0.33, width: 0.125}\n",
    )
    .expect("a file");
    folder
}

fn train(folder: &Path, name: &str, more: &[&str]) -> Said {
    let base = [
        "train",
        "--data",
        "data/data.yaml",
        "--img",
        "96",
        "--batch-size",
        "4",
        "--workers",
        "1",
    ];
    let own = ["--noplots", "--json", "--project", "runs", "--name", name, "--exist-ok"];
    yolo(folder, &[&base[..], &own, more].concat())
}

#[test]
fn a_student_has_a_teacher_goes_on_and_keeps_nothing_of_it() {
    let folder = place();
    let folder = folder.path();
    train(folder, "teacher", &["--cfg", "wide.yaml", "--epochs", "1"]).ok();
    let weights = "runs/teacher/weights/best.safetensors";
    let student = ["--cfg", "tiny.yaml", "--epochs", "1", "--teacher", weights];
    let said = train(
        folder,
        "student",
        &[&student[..], &["--distiller", "{type: cwd, tau: 2}"]].concat(),
    )
    .ok();
    assert!(said.err.contains("teacher "), "its loss is shown: {}", said.err);
    let options = read_json(&folder.join("runs/student/options.json"));
    assert_eq!(options["teacher"], weights);
    assert_eq!(options["distiller"]["type"], "cwd");
    let table = std::fs::read_to_string(folder.join("runs/student/results.csv")).expect("a table");
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|header| header.ends_with("train/distil_loss")),
        "{table}"
    );
    // An ordinary checkpoint of the small network.
    let plain = yolo(folder, &["model", "tiny.yaml", "--nc", "4", "--json"]).ok().json();
    let taught = yolo(folder, &["model", "runs/student/weights/best.safetensors", "--json"])
        .ok()
        .json();
    assert_eq!(plain["params"], taught["params"]);

    std::fs::write(folder.join("fitted.yaml"), "anchors: 3\n").expect("a file");
    // What can't be is refused with both sides, before anything is written.
    for (more, texts) in [
        (&["--distiller", "cwd"][..], &["--teacher"][..]),
        (
            &["--teacher", weights, "--distiller", "cwdd"],
            &["cwdd", "did you mean `cwd`"],
        ),
        (&["--teacher", "none.pt"], &["none.pt"]),
        (&["--teacher", weights, "--single-cls"], &["classes", "the student"]),
        // Anchors are fitted when the data is known, and still before anything is written.
        (
            &["--teacher", weights, "--distiller", "logits", "--hyp", "fitted.yaml"],
            &["the student has the anchors", "--noautoanchor"],
        ),
    ] {
        let code = if more.contains(&"none.pt") { 1 } else { 2 };
        train(
            folder,
            "refused",
            &[&["--cfg", "tiny.yaml", "--epochs", "1"][..], more].concat(),
        )
        .fails(code, texts);
        assert!(!folder.join("runs/refused").exists(), "{more:?}");
    }
}

#[test]
fn a_recipe_teaches_by_the_base_and_compares_with_a_base_of_as_many_epochs() {
    let folder = place();
    let folder = folder.path();
    let recipe = "name: fair\ndata: data/data.yaml\ncfg: tiny.yaml\nimg: 96\nbatch-size: 4\nworkers: 1\nout: out\nhyp: {mosaic: 0.0, \
                  warmup_epochs: 0.0}\nstages:\n  - train: {epochs: 2, optimizer: adam}\n  - prune: {flops: 0.8, multiple: 2, calib-batches: \
                  1}\n  - fine-tune: {epochs: 1, teacher: base, distiller: pkd}\n  - reference: {}\n  - quantize: {backend: tensorrt, \
                  qat-epochs: 1, calib-batches: 1, teacher: float}\n";
    std::fs::write(folder.join("fair.yaml"), recipe).expect("a file");
    let said = yolo(folder, &["compress", "fair.yaml"]).ok();
    let results = read_json(&folder.join("out/results.json"));
    let stages = results["stages"].as_array().expect("stages");
    let epochs: Vec<_> = stages.iter().map(|stage| stage["epochs"].as_u64()).collect();
    assert_eq!(epochs, [Some(2), Some(2), Some(3), Some(3), Some(4)], "{results}");
    assert!(
        stages.iter().all(|stage| stage["test"][0].is_f64()),
        "test images are measured: {results}"
    );
    assert_eq!(stages[3]["gflops"], stages[0]["gflops"], "the reference is not pruned");
    assert_eq!(
        stages[4]["gflops"], stages[2]["gflops"],
        "what follows goes on from the pruned model"
    );
    let options = |stage: &str| std::fs::read_to_string(folder.join("out").join(stage).join("results.csv"));
    assert!(options("3-fine-tune").expect("a table").contains("train/distil_loss"));
    assert!(!options("4-reference").expect("a table").contains("train/distil_loss"));
    assert!(said.out.contains("of the base (4-reference, 3 epochs)"), "{}", said.out);
    assert!(!said.out.contains("the base was trained for 2 epochs"), "{}", said.out);
    let table = std::fs::read_to_string(folder.join("out/results.md")).expect("a table");
    assert!(table.starts_with("| stage | epochs | min | params"), "{table}");

    // Without the reference the comparison is said to be none.
    let unfair = recipe
        .replace("  - reference: {}\n", "")
        .replace("out: out", "out: unfair");
    let unfair: String = unfair
        .lines()
        .filter(|line| !line.contains("quantize"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(folder.join("unfair.yaml"), unfair).expect("a file");
    let said = yolo(folder, &["compress", "unfair.yaml"]).ok();
    assert!(
        said.out
            .contains("compare with care: the base was trained for 2 epochs, the pruned model for 3"),
        "{}",
        said.out
    );

    for (line, texts) in [
        (
            "  - train: {epochs: 1, teacher: base}\n",
            &["no prune stage comes before"][..],
        ),
        (
            "  - train: {epochs: 1, teacher: gone.pt}\n",
            &["gone.pt", "does not exist"],
        ),
        (
            "  - train: {epochs: 1, distiller: cwd}\n",
            &["`distiller` needs a `teacher`"],
        ),
        (
            "  - train: {epochs: 1}\n  - quantize: {teacher: float}\n",
            &["calibration learns nothing", "`qat-epochs`"],
        ),
        (
            "  - train: {epochs: 1}\n  - quantize: {backend: vitis}\n  - export: {formats: [onnx-qdq]}\n",
            &["3-export", "round halves to even"],
        ),
        (
            "  - train: {epochs: 1}\n  - quantize: {backend: onnxruntime}\n  - export: {formats: [ncnn-int8]}\n",
            &["3-export", "symmetric int8"],
        ),
    ] {
        let head = &recipe[..recipe.find("stages:").expect("stages")].replace("out: out", "out: refused");
        std::fs::write(folder.join("bad.yaml"), format!("{head}stages:\n{line}")).expect("a file");
        yolo(folder, &["compress", "bad.yaml"]).fails(2, texts);
        assert!(!folder.join("refused").exists(), "nothing is written for {line}");
    }
}

#[test]
fn models_are_compared_on_the_same_images_with_intervals() {
    let folder = place();
    let folder = folder.path();
    for (name, seed) in [("a", "1"), ("b", "2")] {
        train(folder, name, &["--cfg", "tiny.yaml", "--epochs", "1", "--seed", seed]).ok();
    }
    let [a, b] = ["a", "b"].map(|name| format!("runs/{name}/weights/best.safetensors"));
    let compare = |weights: &[&str]| {
        let base = [
            "compare",
            "--data",
            "data/data.yaml",
            "--task",
            "train",
            "--draws",
            "50",
            "--weights",
        ];
        yolo(folder, &[&base[..], weights].concat())
    };
    assert!(compare(&[&a, &b]).ok().out.contains(" images of train at 96 px"));
    let said = compare(&[&a, &a, "--json"]).ok().json();
    assert_eq!(said["img"], 96);
    assert_eq!(said["differences"][0]["map50"]["value"], 0.0);
    assert_eq!(
        said["differences"][0]["map50"]["interval"]["low"], 0.0,
        "a model does not differ from itself"
    );
    let said = compare(&[&a, &b, "--json"]).ok().json();
    let value = |model: usize| said["models"][model]["map50"]["value"].as_f64().expect("a number");
    let difference = said["differences"][0]["map50"]["value"].as_f64().expect("a number");
    assert!((value(1) - value(0) - difference).abs() < 1e-12, "{said}");
    // The numbers are those of `yolo val`.
    let val = [
        "val",
        "--weights",
        &b,
        "--data",
        "data/data.yaml",
        "--task",
        "train",
        "--json",
    ];
    assert_eq!(
        yolo(folder, &val).ok().json()["map50"],
        said["models"][1]["map50"]["value"]
    );
    assert!(compare(&[&a, &b]).ok().out.contains("95 % of 50 draws"));
    compare(&[&a]).fails(2, &["--weights"]);
}
