//! Nothing that a user wrote is passed over: flags that need another one, names beside labels, keys that mean another model.

use std::path::Path;

use crate::support::{random_weights, small_data, tiny_model, yolo};

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    std::fs::write(path, text).expect("a file");
}

#[test]
fn flags_that_say_nothing_alone_are_refused_or_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let model = tiny_model(folder.path());
    let weights = random_weights(&model, folder.path(), 4).display().to_string();
    let model = model.display().to_string();
    let pictures = "data/images/val";
    let detect = ["detect", "--weights", &weights, "--source", pictures, "--img", "64"];
    let val = ["val", "--weights", &weights, "--data", &data, "--img", "64"];
    let run = |base: &[&str], more: &[&str]| yolo(folder.path(), &[base, more].concat());
    for (base, more, needs) in [
        (&detect[..], &["--save-conf"][..], "--save-txt"),
        (&val, &["--save-conf"], "--save-txt"),
        (&detect, &["--save-dir", "a", "--name", "b"], "--name"),
        (&detect, &["--save-dir", "a", "--project", "b"], "--project"),
        (&val, &["--plots", "--save-dir", "a", "--name", "b"], "--name"),
        (&["model", &model], &["--seed", "3"], "--init-weights"),
        (
            &["forward", "--weights", &weights, "--input", "x", "--output", "y"],
            &["--nc", "3"],
            "--cfg",
        ),
        (
            &["data", "convert", "--format", "voc", "data", "--out", "o"],
            &["--keep-crowd"],
            "--keep-crowd says nothing about --format voc",
        ),
        (
            &["data", "convert", "--format", "coco", "data", "--out", "o"],
            &["--keep-difficult"],
            "--keep-difficult says nothing about --format coco",
        ),
        (
            &["data", "convert", "--format", "visdrone", "data", "--out", "o"],
            &["--boxes", "bbox"],
            "--boxes says nothing about --format visdrone",
        ),
        (
            &["data", "convert", "--format", "coco", "data", "--out", "o"],
            &["--boxes", "polygons"],
            "did you mean `polygon`",
        ),
    ] {
        run(base, more).fails(2, &[needs]);
    }
    for name in ["a", "b", "o", "y"] {
        assert!(!folder.path().join(name).exists(), "{name}");
    }
    let said = run(
        &detect,
        &["--nosave", "--hide-labels", "--line-thickness", "2", "--json"],
    )
    .ok();
    for flag in ["--hide-labels", "--line-thickness"] {
        assert!(
            said.err.contains(&format!("note: {flag} changes nothing")),
            "{}",
            said.err
        );
    }
    let said = run(&val, &["--name", "mine", "--json"]).ok();
    assert!(said.err.contains("note: --name changes nothing"), "{}", said.err);
    let said = run(&val, &["--save-txt", "--name", "mine", "--json"]).ok();
    assert!(!said.err.contains("changes nothing"), "{}", said.err);
}

#[test]
fn names_beside_labels_that_contradict_stop_work_before_it_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = small_data(folder.path(), 10, 64);
    let data = yaml.display().to_string();
    let model = tiny_model(folder.path());
    let weights = random_weights(&model, folder.path(), 4).display().to_string();
    let model = model.display().to_string();
    write(folder.path(), "data/classes.txt", "tank\nvehicle\ntent\nplane\n");
    let train = [
        "train",
        "--cfg",
        &model,
        "--data",
        &data,
        "--epochs",
        "1",
        "--img",
        "64",
        "--noplots",
    ];
    let said = ["classes.txt:1: class 0 is `tank` here and `vehicle` in", "wrong names"];
    yolo(folder.path(), &train).fails(1, &said);
    yolo(
        folder.path(),
        &["val", "--weights", &weights, "--data", &data, "--img", "64"],
    )
    .fails(1, &said);
    assert!(!folder.path().join("runs").exists(), "nothing is written");
    let checked = yolo(folder.path(), &["data", "check", &data]);
    assert!(
        checked.code == 1 && checked.out.contains("[names-order]"),
        "{}",
        checked.out
    );
    write(folder.path(), "data/classes.txt", "vehicle\ntank\ntent\nplane\n");
    yolo(folder.path(), &["data", "check", &data]).ok();
}

#[test]
fn values_of_files_are_named_in_a_users_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let model = tiny_model(folder.path()).display().to_string();
    for (hyp, said) in [
        ("3", "hyp.yaml:1:1: `3` stands where a group of keys"),
        ("[0.01, 0.1]", "hyp.yaml:1:1: a list stands where a group of keys"),
        ("lr0: abc", "hyp.yaml:1:6: `abc` stands where a number belongs"),
        ("lr0: 0,01", "help: the decimal sign is a point: 0.01"),
        ("lr0: \"0.01\"", "help: write it without quotes"),
        ("lr0:", "nothing stands where a number belongs"),
        ("lr0: .inf", "`.inf` stands where a number belongs"),
    ] {
        write(folder.path(), "hyp.yaml", hyp);
        let train = [
            "train", "--cfg", &model, "--data", &data, "--epochs", "1", "--img", "64", "--hyp", "hyp.yaml",
        ];
        let failed = yolo(folder.path(), &train).fails(2, &[said]);
        for word in ["expected", "invalid type", "struct ", "f64"] {
            assert!(!failed.err.contains(word), "{hyp}: {}", failed.err);
        }
    }
    for (text, said) in [
        ("[1, 2]", "a list stands where a group of keys"),
        (
            "extends: yolov5n\nscale: [1, 2]\n",
            "net.yaml:2:8: a list stands where a group of keys",
        ),
        ("backbone:\nneck:\nhead:\n", "a backbone belongs"),
        ("backbone: {type: csp-darknet}\n", "`neck` is missing"),
    ] {
        write(folder.path(), "net.yaml", text);
        yolo(folder.path(), &["model", "net.yaml"]).fails(2, &[said]);
    }
    for text in ["[1]", "3", "stages: {train: {}}"] {
        write(folder.path(), "recipe.yaml", text);
        yolo(folder.path(), &["compress", "recipe.yaml"])
            .fails(2, &["recipe.yaml:1:", "a recipe needs `stages`, a list"]);
    }
}

/// The head of a layer list is as it is written: rows of anchors in the order of their pixels, `[nc, anchors]` or lists in their place.
#[test]
fn anchors_of_layer_lists_are_those_that_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = |rows: &str, from: &str, args: &str| {
        let text = format!(
            "nc: 2\nanchors: {rows}\nbackbone:\n  [[-1, 1, Conv, [16, 6, 2, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]],\n   \
             [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]\nhead:\n  [[{from}, 1, Detect, {args}]]\n"
        );
        write(dir.path(), "list.yaml", &text);
        yolo(dir.path(), &["model", "list.yaml", "--graph", "g.json"])
    };
    let built = |rows: &str, from: &str, args: &str| {
        let said = model(rows, from, args).ok();
        assert!(said.out.contains("anchors "), "{}", said.out);
        let head = &crate::support::read_json(&dir.path().join("g.json"))["head"];
        (head["anchors"].to_string().replace(".0", ""), said.err)
    };
    let (small, large) = (
        "[[2, 3, 3, 2], [4, 4, 5, 5], [5, 6, 6, 5]]",
        "[[5, 6, 6, 5], [4, 4, 5, 5], [2, 3, 3, 2]]",
    );
    let pairs = "[[[2,3],[3,2]],[[4,4],[5,5]],[[5,6],[6,5]]]";
    let turned = "[[[5,6],[6,5]],[[4,4],[5,5]],[[2,3],[3,2]]]";
    let word = "in turned order";
    for (rows, from, wanted, said) in [
        // Smaller than a cell of the last map is no other order.
        (small, "[2, 3, 4]", pairs, false),
        (large, "[2, 3, 4]", pairs, true),
        (small, "[4, 3, 2]", turned, true),
        (large, "[4, 3, 2]", turned, false),
    ] {
        let (anchors, err) = built(rows, from, "[nc, anchors]");
        assert_eq!(anchors, wanted, "{rows} {from}");
        assert_eq!(err.contains(word), said, "{rows} {from}: {err}");
    }
    assert_eq!(built("3", "[2, 3, 4]", &format!("[2, {small}]")).0, pairs);
    model(small, "[2, 3, 4]", "[7, anchors]").fails(2, &["list.yaml:7:", "the classes of `Detect` are `nc`, 2 here"]);
    model(small, "[2, 3, 4]", "['nc*2', anchors]").fails(2, &["list.yaml:7:", "the classes of `Detect` are `nc`"]);
    model(small, "[2, 3, 4]", "[nc, anchor]").fails(2, &["list.yaml:7:", "the anchors of `Detect` are `anchors`"]);
    model(small, "[2, 3, 4]", "[nc, anchors, 3]").fails(2, &["list.yaml:7:", "`Detect` takes `[nc, anchors]`"]);
}

/// What a layer reads and is told is used or refused: no input of several, no number that has no meaning there, no anchor of no size.
#[test]
fn layers_of_lists_use_all_that_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = |layer: &str, anchors: &str| {
        let text = format!(
            "nc: 2\nanchors: [[{anchors}, 3, 2]]\nbackbone:\n  [[-1, 1, Conv, [16, 6, 2, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 1]],\n   \
             {layer},\n   [-1, 1, Conv, [16, 1]]]\nhead:\n  [[[-1], 1, Detect, [nc, anchors]]]\n"
        );
        write(dir.path(), "list.yaml", &text);
        yolo(dir.path(), &["model", "list.yaml", "--json"])
    };
    for (layer, said) in [
        ("[[-1, 1], 1, Conv, [16, 3]]", "`from` names 2"),
        ("[[-1, 1], 2, Conv, [16, 3]]", "`from` names 2"),
        ("[[-1, 1], 1, C3, [16]]", "`from` names 2"),
        ("[[-1, 1], 1, SPPF, [16, 5]]", "`from` names 2"),
        ("[[-1, 1], 1, CBAM, [16]]", "`from` names 2"),
        ("[[-1, 1], 1, nn.Upsample, [None, 2, nearest]]", "`from` names 2"),
        ("[[], 1, Conv, [16, 3]]", "`from` names no layer"),
        ("[-1, 1, Conv, [16, 3, 2.5]]", "argument 3 must be a whole number"),
        ("[-1, 1, Conv, [16, 3, 1, None, 1, 2]]", "argument 6 is 2: only 1"),
        ("[-1, 1, SPPF, [16, 5, 7]]", "a part of a width"),
        ("[-1, 1, C3, [16, False, 1, 0.5, 7]]", "a part of a width"),
        ("[[-1, 1], 1, Concat, [4]]", "axis 4 does not exist"),
    ] {
        model(layer, "2, 3").fails(2, &["list.yaml:5:", said]);
    }
    let params = |layer: &str| model(layer, "2, 3").ok().json()["params"].clone();
    assert_eq!(
        params("[[-1, 1], 1, Concat, [-3]]"),
        params("[[-1, 1], 1, Concat, [1]]"),
        "axes count from the last, too"
    );
    params("[[-1, 1], 1, Sum, []]");
    let text = "nc: 2\nbackbone:\n  [[-1, 1, Conv, [16, 6, 2, 2]]]\nhead:\n  [[[-1], 1, Detect, [nc, anchors]]]\n";
    write(dir.path(), "none.yaml", text);
    yolo(dir.path(), &["model", "none.yaml"]).fails(2, &["none.yaml", "`anchors` is missing"]);
    for anchors in ["0, 3", "-2, 3"] {
        model("[-1, 1, Conv, [16, 3]]", anchors).fails(2, &["list.yaml:2:", "must be positive"]);
    }
}

/// What is no file of weights says by its name what to give instead.
#[test]
fn names_that_are_no_weights_say_what_to_give() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    write(folder.path(), "run/weights/best.safetensors", "");
    for (weights, said) in [
        ("yolov5s.pt", "nothing is downloaded"),
        ("https://example.org/v7.0/yolov5n.pt", "addresses can't be given"),
        ("run", "give run/weights/best.safetensors"),
        ("runs/best.safetensors", "there is no such file"),
    ] {
        let train = ["train", "--weights", weights, "--data", &data, "--img", "64"];
        yolo(folder.path(), &train).fails(1, &[weights, said]);
        let cfg = [&train[..], &["--cfg", "yolov5n"]].concat();
        yolo(folder.path(), &cfg).fails(1, &[weights, said]);
    }
    let freeze = ["train", "--cfg", "yolov5n", "--data", &data, "--freeze", "backbone"];
    yolo(folder.path(), &freeze).fails(2, &["the numbers of layers"]);
    assert!(!folder.path().join("runs").exists(), "nothing is written");
    write(
        folder.path(),
        "obj.data",
        "classes = 1\ntrain = train.txt\nnames = obj.names\n",
    );
    yolo(folder.path(), &["data", "check", "obj.data"]).fails(2, &["darknet", "write a YAML"]);
}

#[test]
fn numbers_that_are_not_the_published_ones_are_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    let names = "[vehicle, tank, tent, plane]";
    let run = |weights: &str, more: &[&str]| {
        let base = [
            "val",
            "--weights",
            weights,
            "--data",
            &data,
            "--img",
            "64",
            "--workers",
            "1",
        ];
        yolo(folder.path(), &[&base[..], more].concat()).ok().err
    };
    for (flags, words) in [
        (&["--conf-thres", "0.25"][..], "lower or higher"),
        (&["--max-det", "5"], "--max-det 5"),
        (&["--single-cls"], "tells 4 classes apart"),
    ] {
        assert!(run(&weights, flags).contains(words), "{flags:?}");
        assert!(!run(&weights, &[]).contains(words), "{words}");
    }
    // A class that only one of the two parts has.
    let text = std::fs::read_to_string(&data).expect("the data set");
    write(
        folder.path(),
        "data/data.yaml",
        &text
            .replace(names, "[vehicle, tank, tent, plane, boat]")
            .replace("nc: 4", "nc: 5"),
    );
    for split in ["train", "val"] {
        let labels = folder.path().join("data/labels").join(split);
        for entry in std::fs::read_dir(labels).expect("a folder").flatten() {
            let text = std::fs::read_to_string(entry.path()).expect("labels");
            let class = if split == "val" { "4 " } else { "0 " };
            std::fs::write(entry.path(), text.replace("0 ", class)).expect("labels");
        }
    }
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 5)
        .display()
        .to_string();
    let said = run(&weights, &[]);
    assert!(said.contains("`val` has no boxes of `vehicle`"), "{said}");
    let line = [
        "train",
        "--data",
        &data,
        "--weights",
        &weights,
        "--img",
        "64",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--workers",
        "1",
        "--noplots",
    ];
    let said = yolo(folder.path(), &line).ok();
    for words in ["none in `train`: `boat`;", "none in `val`: `vehicle`;"] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
}

#[test]
fn what_an_earlier_run_left_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    let detect = |conf: &str| {
        let base = [
            "detect",
            "--weights",
            &weights,
            "--source",
            "data/images/val",
            "--img",
            "64",
            "--save-crop",
            "--max-det",
            "2",
        ];
        yolo(
            folder.path(),
            &[&base[..], &["--save-dir", "out", "--exist-ok", "--conf-thres", conf]].concat(),
        )
        .ok()
        .err
    };
    assert!(!detect("0").contains("earlier run"));
    assert!(detect("0.99").contains("out holds results of an earlier run (crops)"));
    let val = [
        "val",
        "--weights",
        &weights,
        "--data",
        &data,
        "--img",
        "64",
        "--workers",
        "1",
        "--save-dir",
        "v",
        "--exist-ok",
    ];
    yolo(folder.path(), &[&val[..], &["--save-txt"]].concat()).ok();
    let said = yolo(folder.path(), &[&val[..], &["--save-json"]].concat()).ok().err;
    assert!(said.contains("v holds results of an earlier run (labels)"), "{said}");
    // Crops alone are results in a folder of their own; where nothing is written nothing stays beside it.
    let detect = [
        "detect",
        "--weights",
        &weights,
        "--source",
        "data/images/val",
        "--img",
        "64",
        "--conf-thres",
        "0",
        "--nosave",
    ];
    yolo(folder.path(), &[&detect[..], &["--save-crop"]].concat()).ok();
    assert!(folder.path().join("runs/detect/exp/crops").is_dir() && !folder.path().join("crops").exists());
    let said = yolo(folder.path(), &detect).ok().err;
    assert!(!said.contains("earlier run"), "{said}");
    // A run that patience has ended is over.
    let line = "--epochs 6 --patience 1 --img 64 --batch-size 4 --workers 1 --noplots --project runs --name tired";
    let start = ["train", "--data", &data, "--weights", &weights];
    yolo(
        folder.path(),
        &[&start[..], &line.split(' ').collect::<Vec<_>>()].concat(),
    )
    .ok();
    let rows = || {
        std::fs::read_to_string(folder.path().join("runs/tired/results.csv"))
            .expect("a table")
            .lines()
            .count()
    };
    let before = rows();
    assert!(before < 7, "it has ended early");
    let said = yolo(folder.path(), &["train", "--resume", "runs/tired"]).ok();
    assert!(said.err.contains("the run was over after"), "{}", said.err);
    assert_eq!(rows(), before);
    let report = yolo(folder.path(), &["report", "runs/tired", "--out", "page.html", "--json"])
        .ok()
        .json();
    assert_eq!(report["runs"][0]["unfinished"], true, "{report}");
    // A data set that has moved.
    std::fs::rename(folder.path().join("data"), folder.path().join("moved")).expect("it moves");
    yolo(folder.path(), &["train", "--resume", "runs/tired"]).fails(1, &["data.yaml", "`--data FILE`"]);
}

/// A training in the place of an earlier one: what that has drawn goes with its epochs, what was exported from its models is named.
#[test]
fn a_training_in_the_place_of_another_leaves_no_picture_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    let train = |more: &str| {
        let line = format!(
            "train --data {data} --weights {weights} --epochs 1 --img 64 --batch-size 4 --workers 1 --project runs --name one {more}"
        );
        yolo(folder.path(), &line.split_whitespace().collect::<Vec<_>>())
            .ok()
            .err
    };
    let run = folder.path().join("runs/one");
    assert!(!train("").contains("earlier training"));
    for name in ["confusion_matrix.svg", "labels.svg", "results.svg", "val_pictures.jpg"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    write(&run, "notes.svg", "mine");
    write(&run.join("weights"), "best.onnx", "exported");
    let said = train("--noplots --exist-ok");
    assert!(
        said.contains("(best.onnx)") && run.join("weights/best.onnx").is_file(),
        "{said}"
    );
    let pictures: Vec<String> = crate::support::files(&run)
        .into_iter()
        .filter(|name| name.ends_with(".svg") || name.ends_with(".jpg"))
        .collect();
    assert_eq!(pictures, ["notes.svg"]);
    // With pictures of its own it keeps them, the first of which are drawn before any epoch.
    train("--exist-ok");
    assert!(run.join("labels.svg").is_file() && run.join("confusion_matrix.svg").is_file());
}

/// What stands beside a file as its thresholds is what it is used with, unless a flag says otherwise.
#[test]
fn thresholds_beside_a_file_are_used() {
    if let Err(reason) = yolo_export::ort::available() {
        crate::support::skip::skipped("onnxruntime", reason);
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    small_data(folder.path(), 10, 64);
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    yolo(
        folder.path(),
        &["export", "--weights", &weights, "--out", "net.onnx", "--img", "64"],
    )
    .ok();
    let sidecar = folder.path().join("net.onnx.json");
    let text = std::fs::read_to_string(&sidecar).expect("a description");
    let detect = |thresholds: serde_json::Value, more: &[&str]| {
        let mut all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        all["thresholds"] = thresholds;
        std::fs::write(&sidecar, all.to_string()).expect("a file");
        let line = [
            "detect",
            "--weights",
            "net.onnx",
            "--source",
            "data/images/val",
            "--nosave",
            "--json",
        ];
        yolo(folder.path(), &[&line[..], more].concat())
    };
    let count = |said: crate::support::Said| {
        let images = said.ok().json();
        let each = images["images"].as_array().expect("images").iter();
        each.map(|image| image["detections"].as_array().expect("a list").len())
            .max()
    };
    let few = serde_json::json!({"score": 0.0, "iou": 0.9, "boxes": 3});
    assert_eq!(count(detect(few.clone(), &[])), Some(3));
    assert_eq!(count(detect(few, &["--max-det", "5"])), Some(5));
    let none = serde_json::json!({"score": 1.0, "iou": 0.45, "boxes": 3});
    assert_eq!(count(detect(none, &[])), Some(0));
    let unknown = serde_json::json!({"scores": 0.3, "score": 0.2, "iou": 0.45, "boxes": 3});
    detect(unknown, &[]).fails(1, &["net.onnx.json", "scores"]);
    let odd = serde_json::json!({"score": 25.0, "iou": 0.45, "boxes": 3});
    detect(odd, &[]).fails(1, &["net.onnx.json", "thresholds"]);
}

/// TensorRT's integers lie around zero: a model on other grids is no file for it.
#[test]
fn a_profile_that_the_model_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64).display().to_string();
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    for (backend, fits) in [("onnxruntime", false), ("tensorrt", true)] {
        let line = format!(
            "quantize --weights {weights} --data {data} --img 64 --batch-size 4 --calib-batches 1 --workers 1 --backend {backend} --out {backend}"
        );
        yolo(folder.path(), &line.split(' ').collect::<Vec<_>>()).ok();
        let model = format!("{backend}/quantized.safetensors");
        let line = [
            "export",
            "--weights",
            &model,
            "--format",
            "onnx-qdq",
            "--profile",
            "tensorrt",
            "--out",
            "t.onnx",
            "--no-check",
        ];
        let said = yolo(folder.path(), &line);
        match fits {
            true => drop(said.ok()),
            false => drop(said.fails(2, &["around zero", "--backend tensorrt"])),
        }
        assert_eq!(folder.path().join("t.onnx").exists(), fits);
    }
}

/// One model has one number of operations, whoever says it.
#[test]
fn operations_of_a_model_are_one_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    let model = yolo(folder.path(), &["model", &weights, "--img", "64", "--json"])
        .ok()
        .json();
    let line = [
        "bench",
        "--weights",
        &weights,
        "--engine",
        "torch",
        "--threads",
        "1",
        "--runs",
        "2",
        "--img",
        "64",
        "--json",
    ];
    let bench = yolo(folder.path(), &line).ok().json();
    assert_eq!(bench["rows"][0]["gflops"], model["gflops"], "{bench} {model}");
}

/// Images of two folders with one name: which of them a file of boxes belongs to is said.
#[test]
fn boxes_of_images_with_one_name_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64);
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    for (kind, ending) in [("images", "png"), ("labels", "txt")] {
        let place = folder.path().join("data").join(kind);
        std::fs::create_dir_all(place.join("val/more")).expect("a folder");
        let name = std::fs::read_dir(place.join("val"))
            .expect("files")
            .filter_map(|entry| {
                entry
                    .expect("a file")
                    .path()
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .filter(|name| name.ends_with(ending) || name.ends_with("jpg"))
            .min()
            .expect("a file");
        std::fs::copy(place.join("val").join(&name), place.join("val/more").join(&name)).expect("a copy");
    }
    let data = data.display().to_string();
    let line = format!("val --weights {weights} --data {data} --img 64 --workers 1 --save-txt --save-dir v");
    let said = yolo(folder.path(), &line.split(' ').collect::<Vec<_>>()).ok().err;
    assert!(
        said.contains("an earlier image has this name; its boxes are in labels/"),
        "{said}"
    );
}
