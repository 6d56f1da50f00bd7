//! What bad input gets: one clear error, exit code 1 or 2, no panic, no half-written file. Every case runs the real binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, Said, files, small_data, tiny_model, yolo};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A folder with a tiny model of four classes.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = support::random_weights(&tiny_model(folder.path()), folder.path(), 4);
    (folder, weights)
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    text(&path)
}

#[test]
fn a_truncated_checkpoint_is_refused_wherever_it_is_cut() {
    let (folder, weights) = place();
    let bytes = std::fs::read(&weights).expect("weights");
    for (keep, reason) in [
        (0, "is empty"),
        (5, "not a `.safetensors` file"),
        (200, "damaged or cut off"),
        (bytes.len() / 2, "damaged or cut off"),
        (bytes.len() - 1, "damaged or cut off"),
    ] {
        let cut = write(folder.path(), "cut.safetensors", &bytes[..keep]);
        for arguments in [
            vec!["model", &cut],
            vec!["convert", &cut, "out.safetensors", "--state-dict"],
        ] {
            yolo(folder.path(), &arguments).fails(1, &["cut.safetensors", reason]);
        }
    }
    assert!(!folder.path().join("out.safetensors").exists());
}

#[test]
fn files_that_are_no_checkpoint_are_named_for_what_they_are() {
    let (folder, _) = place();
    for (name, bytes, code, texts) in [
        (
            "notes.safetensors",
            &b"these are notes"[..],
            1,
            &["not a `.safetensors` file"][..],
        ),
        ("zip.safetensors", b"PK\x03\x04zip", 1, &["archive is damaged"]),
        (
            "lfs.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            1,
            &["Git LFS"],
        ),
        ("page.pt", b"<!DOCTYPE html><html></html>", 1, &["web page"]),
        ("noise.pt", b"hello", 1, &["not a PyTorch checkpoint"]),
    ] {
        let file = write(folder.path(), name, bytes);
        yolo(folder.path(), &["model", &file]).fails(code, &[&[name], texts].concat());
    }
    yolo(folder.path(), &["model", "nowhere.safetensors"]).fails(1, &["nowhere.safetensors", "there is no such file"]);
    yolo(folder.path(), &["model", "nowhere.pt"]).fails(1, &["nowhere.pt", "there is no such file"]);
    // Tensors without a model.
    let tensor = tch::Tensor::from_slice(&[1.0f32]);
    let bare = folder.path().join("bare.safetensors");
    yolo_engine::checkpoint::write_tensors(&bare, [("w", &tensor)], Default::default()).expect("a file");
    yolo(folder.path(), &["model", &text(&bare)]).fails(1, &["bare.safetensors", "no model", "--cfg"]);
}

#[test]
fn weights_of_another_model_are_refused() {
    let (folder, weights) = place();
    let input = folder.path().join("x.safetensors");
    let images = yolo_core::testing::input(1, 3, 64, 64);
    yolo_engine::checkpoint::write_tensors(&input, [("images", &images)], Default::default()).expect("a file");
    let weights = text(&weights);
    let forward = [
        "forward",
        "--cfg",
        "yolov5n",
        "--nc",
        "4",
        "--weights",
        &weights,
        "--input",
        "x.safetensors",
    ];
    yolo(folder.path(), &[&forward[..], &["--output", "y.safetensors"]].concat())
        .fails(1, &["random.safetensors", "don't fit `yolov5n`", "model.0.conv.weight"]);
    assert!(!folder.path().join("y.safetensors").exists());

    // A file whose tensors are not those of the graph in it: one tensor of another shape, one missing.
    let model = yolo_engine::checkpoint::load(Path::new(&weights)).expect("a checkpoint");
    for (name, change, texts) in [
        ("reshaped.safetensors", true, ["other shapes", "another model"]),
        ("missing.safetensors", false, ["it lacks", "another model"]),
    ] {
        let mut broken = model.deep_clone();
        broken.params.remove("model.0.conv.weight");
        if change {
            broken
                .params
                .insert("model.0.conv.weight", tch::Tensor::from_slice(&[0.0f32; 8]));
        }
        let path = folder.path().join(name);
        yolo_engine::checkpoint::save(&path, &broken).expect("a file");
        yolo(folder.path(), &["model", &text(&path)]).fails(1, &[name, texts[0], texts[1], "model.0.conv.weight"]);
    }
}

#[test]
fn unknown_classes_are_refused() {
    let (folder, _) = place();
    let five = support::random_weights(&tiny_model(folder.path()), folder.path(), 5);
    let data = text(&small_data(folder.path(), 12, 64));
    yolo(
        folder.path(),
        &["val", "--weights", &text(&five), "--data", &data, "--img", "64"],
    )
    .fails(
        2,
        &[
            "random.safetensors has 5 classes",
            "data.yaml has 4",
            "don't belong together",
        ],
    );
    yolo(folder.path(), &["model", &text(&five), "--nc", "7"]).fails(2, &["has 5 classes", "--nc 7"]);
    // A label of a class that the data set does not have: file and line.
    let label = files(&folder.path().join("data/labels/train"))[0].clone();
    let label = folder.path().join("data/labels/train").join(label);
    std::fs::write(&label, "0 0.5 0.5 0.1 0.1\n9 0.5 0.5 0.1 0.1\n").expect("a file");
    let model = text(&tiny_model(folder.path()));
    let train = [
        "train", "--cfg", &model, "--data", &data, "--img", "64", "--epochs", "1",
    ];
    let name = label.file_name().unwrap_or_default().to_string_lossy().into_owned();
    yolo(folder.path(), &train).fails(1, &[&format!("{name}:2"), "9"]);
    // A box that leaves the picture, a field that is no number.
    for (row, word) in [("0 1.5 0.5 0.1 0.1", "1.5"), ("0 0.5 x 0.1 0.1", "x")] {
        std::fs::write(&label, row).expect("a file");
        yolo(folder.path(), &train).fails(1, &[&format!("{name}:1"), word]);
    }
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn a_missing_or_corrupt_image_is_named() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 12, 64));
    let model = text(&tiny_model(folder.path()));
    let train = [
        "train", "--cfg", &model, "--data", &data, "--img", "64", "--epochs", "1",
    ];
    let images = folder.path().join("data/images/train");
    let first = images.join(&files(&images)[0]);
    let bytes = std::fs::read(&first).expect("an image");
    std::fs::write(&first, &bytes[..bytes.len() / 2]).expect("a file");
    let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    yolo(folder.path(), &train).fails(1, &[&name]);
    std::fs::write(&first, "no picture").expect("a file");
    yolo(folder.path(), &train).fails(1, &[&name]);
    std::fs::remove_dir_all(folder.path().join("data/images/val")).expect("a folder less");
    yolo(
        folder.path(),
        &["val", "--weights", &text(&weights), "--data", &data, "--img", "64"],
    )
    .fails(1, &["data.yaml", "images/val", "does not exist"]);
    yolo(
        folder.path(),
        &["val", "--weights", &text(&weights), "--data", "none.yaml"],
    )
    .fails(1, &["none.yaml"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn an_unwritable_output_folder_is_an_error_before_the_work() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 12, 64));
    let image = files(&folder.path().join("data/images/val"))[0].clone();
    let image = text(&folder.path().join("data/images/val").join(image));
    write(folder.path(), "file", "a file, no folder");
    let weights = text(&weights);
    let model = text(&tiny_model(folder.path()));
    let said = [
        yolo(folder.path(), &["convert", &weights, "file/out.safetensors"]),
        yolo(
            folder.path(),
            &[
                "detect",
                "--weights",
                &weights,
                "--source",
                &image,
                "--save-dir",
                "file/out",
            ],
        ),
        yolo(
            folder.path(),
            &[
                "val",
                "--weights",
                &weights,
                "--data",
                &data,
                "--plots",
                "--save-dir",
                "file/out",
            ],
        ),
        yolo(
            folder.path(),
            &[
                "train",
                "--cfg",
                &model,
                "--data",
                &data,
                "--img",
                "64",
                "--project",
                "file",
            ],
        ),
    ];
    for said in said {
        assert!(!said.err.contains("epoch 1/"), "no work is done in vain: {}", said.err);
        said.fails(1, &["file"]);
    }
    assert_eq!(
        std::fs::read_to_string(folder.path().join("file")).ok().as_deref(),
        Some("a file, no folder")
    );
}

/// Runs `yolo` where no file may grow beyond `blocks` of 512 bytes: every larger write fails in the middle, as on a full disk.
fn on_a_full_disk(folder: &Path, blocks: u32, arguments: &[&str]) -> Said {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_yolo")])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("a shell");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_full_disk_leaves_the_old_file_or_none() {
    let (folder, weights) = place();
    let size = std::fs::metadata(&weights).expect("weights").len();
    assert!(size > 200_000, "larger than the disk below: {size}");
    let weights = text(&weights);
    std::fs::create_dir(folder.path().join("out")).expect("a folder");
    let old = write(folder.path(), "out/old.safetensors", "what was there before");
    for name in ["out/new.safetensors", &old] {
        on_a_full_disk(folder.path(), 100, &["convert", &weights, name]).fails(1, &[name, "can't write it", "large"]);
    }
    assert_eq!(
        files(&folder.path().join("out")),
        ["old.safetensors"],
        "no half-written and no temporary file"
    );
    assert_eq!(
        std::fs::read_to_string(&old).ok().as_deref(),
        Some("what was there before")
    );

    // A training stops with the error; its table and what was whole before stay whole.
    let data = text(&small_data(folder.path(), 12, 64));
    let model = text(&tiny_model(folder.path()));
    let train = [
        "train",
        "--cfg",
        &model,
        "--data",
        &data,
        "--img",
        "64",
        "--epochs",
        "1",
        "--noplots",
    ];
    on_a_full_disk(folder.path(), 100, &train).fails(
        1,
        &[
            "state.safetensors",
            "can't write it",
            "yolo train --resume runs/train/exp",
        ],
    );
    let left = files(&folder.path().join("runs"));
    assert!(
        left.iter()
            .all(|file| !file.contains("safetensors") && !file.contains(".writing-")),
        "{left:?}"
    );
}

#[test]
fn output_that_can_t_be_printed_is_an_error_and_a_closed_pipe_is_not() {
    let (folder, _) = place();
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_yolo")])
            .current_dir(folder.path());
        let output = shell.output().expect("a shell");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    if Path::new("/dev/full").exists() {
        let (code, err) = run("\"$1\" model yolov5n --json > /dev/full");
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("standard output") && !err.contains("panicked"), "{err}");
    }
    let (code, err) = run("\"$1\" model yolov5n --json | head -c 10 > /dev/null");
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

#[test]
fn unknown_names_say_what_was_meant_and_where_it_exists() {
    let (folder, _) = place();
    yolo(folder.path(), &["model", "yolov5nn"]).fails(2, &["no model `yolov5nn`", "did you mean `yolov5n`"]);
    yolo(folder.path(), &["trian"]).fails(2, &["trian", "train"]);
    yolo(folder.path(), &["model", "yolov5n", "--layer"]).fails(2, &["--layer", "--layers"]);
    let typo = write(
        folder.path(),
        "typo.yaml",
        "extends: yolov5n\nbackbone:\n  type: ghosnet\n",
    );
    yolo(folder.path(), &["model", &typo]).fails(2, &["typo.yaml:3:9", "ghosnet", "did you mean `ghostnet`"]);
    let kind = write(
        folder.path(),
        "kind.yaml",
        "extends: yolov5n\nbackbone:\n  type: c3str\n",
    );
    yolo(folder.path(), &["model", &kind]).fails(2, &["kind.yaml:3:9", "c3str", "neck block"]);
}

#[test]
fn misspelt_options_have_their_place() {
    let (folder, _) = place();
    let top = write(folder.path(), "top.yaml", "extends: yolov5n\nscal: {depth: 0.33}\n");
    yolo(folder.path(), &["model", &top]).fails(2, &["top.yaml:2:1", "scal", "did you mean `scale`"]);
    let inner = write(
        folder.path(),
        "inner.yaml",
        "extends: yolov5n\nscale:\n  depht: 0.33\n  width: 0.25\n",
    );
    yolo(folder.path(), &["model", &inner]).fails(2, &["inner.yaml:3:3", "depht", "did you mean `depth`"]);
    let value = write(folder.path(), "value.yaml", "extends: yolov5n\nscale:\n  depth: deep\n");
    yolo(folder.path(), &["model", &value]).fails(2, &["value.yaml:3:10"]);
    let broken = write(folder.path(), "broken.yaml", "extends: yolov5n\nscale: {depth: 0.33\n");
    yolo(folder.path(), &["model", &broken]).fails(2, &["broken.yaml:"]);
}

#[test]
fn channels_and_sizes_that_do_not_fit_name_the_layer() {
    let (folder, _) = place();
    let head = "nc: 4\ndepth_multiple: 1.0\nwidth_multiple: 1.0\nanchors:\n  - [10,13, 16,30, 33,23]\n";
    // Layer 2 joins a map with one of half its size.
    let sizes = format!(
        "{head}backbone:\n  [[-1, 1, Conv, [16, 3, 2]],\n   [-1, 1, Conv, [16, 3, 2]],\n   [[-1, 0], 1, Concat, [1]]]\nhead:\n  [[[2], 1, Detect, [nc, anchors]]]\n"
    );
    let sizes = write(folder.path(), "sizes.yaml", sizes);
    yolo(folder.path(), &["model", &sizes]).fails(2, &["model.2", "concat"]);
    // The layer list refers to a layer that comes later.
    let later = format!(
        "{head}backbone:\n  [[-1, 1, Conv, [16, 3, 2]],\n   [5, 1, Conv, [16, 3, 2]]]\nhead:\n  [[[1], 1, Detect, [nc, anchors]]]\n"
    );
    let later = write(folder.path(), "later.yaml", later);
    yolo(folder.path(), &["model", &later]).fails(2, &["later.yaml:8", "5"]);
    // An image with another number of channels than the model.
    let weights = support::random_weights(&tiny_model(folder.path()), folder.path(), 4);
    let input = folder.path().join("x.safetensors");
    let images = yolo_core::testing::input(1, 4, 64, 64);
    yolo_engine::checkpoint::write_tensors(&input, [("images", &images)], Default::default()).expect("a file");
    let arguments = [
        "forward",
        "--weights",
        &text(&weights),
        "--input",
        "x.safetensors",
        "--output",
        "y.safetensors",
    ];
    let said = yolo(folder.path(), &arguments);
    assert!(said.code == 1 || said.code == 2, "{said:?}");
    said.fails(1, &["[N, 3, H, W]"]);
    assert!(!folder.path().join("y.safetensors").exists());
}

/// Values that make no sense are refused before anything is written, with key and place.
#[test]
fn settings_that_make_no_sense_are_refused_before_the_work() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 12, 64));
    let weights = text(&weights);
    write(folder.path(), "four.yaml", format!("{}channels: 4\n", support::TINY));
    write(folder.path(), "flip.yaml", "lr0: 0.01\nfliplr: 5\n");
    write(folder.path(), "lr.yaml", "lr0: -0.1\n");
    let recipe = |name: &str, stages: &str| {
        let head = format!("name: x\ndata: {data}\nweights: {weights}\nimg: 64\nbatch-size: 4\nout: out\nstages:\n");
        write(folder.path(), name, head + stages)
    };
    recipe(
        "share.yaml",
        "  - train: {epochs: 1}\n  - prune: {pruner: {type: slimming}, flops: 60}\n",
    );
    recipe(
        "order.yaml",
        "  - quantize: {backend: {type: tensorrt}}\n  - prune: {pruner: {type: slimming}, flops: 0.5}\n",
    );
    recipe("hyp.yaml", "  - train: {epochs: 1, hyp: {momentum: 5}}\n");
    recipe(
        "format.yaml",
        "  - train: {epochs: 1}\n  - export: {formats: [onnx-qdq]}\n",
    );
    recipe("backend.yaml", "  - quantize: {backend: {type: tensort}}\n");
    let before = files(folder.path());
    let train = [
        "train",
        "--cfg",
        "tiny.yaml",
        "--data",
        &data,
        "--img",
        "64",
        "--epochs",
        "1",
        "--noplots",
    ];
    for (arguments, texts) in [
        (
            [&train[..], &["--hyp", "flip.yaml"]].concat(),
            &["flip.yaml:2", "fliplr: 5 makes no sense"][..],
        ),
        ([&train[..], &["--hyp", "lr.yaml"]].concat(), &["lr.yaml:1", "above 0"]),
        (
            [&train[..], &["--freeze", "0", "99"]].concat(),
            &["--freeze 99", "layers"],
        ),
        (vec!["compress", "share.yaml"], &["flops: 60", "at most 1"]),
        (vec!["compress", "order.yaml"], &["2-prune", "quantized by 1-quantize"]),
        (vec!["compress", "hyp.yaml"], &["momentum: 5"]),
        (vec!["compress", "format.yaml"], &["onnx-qdq", "quantize stage"]),
        (
            vec!["compress", "backend.yaml"],
            &["tensort", "did you mean `tensorrt`"],
        ),
        (
            vec![
                "quantize",
                "--weights",
                &weights,
                "--data",
                &data,
                "--calib-batches",
                "0",
                "--out",
                "q",
            ],
            &["--calib-batches 0"],
        ),
        (
            vec![
                "prune",
                "--weights",
                &weights,
                "--data",
                &data,
                "--flops",
                "0.5",
                "--out",
                &weights,
            ],
            &["this is the input"],
        ),
        (
            vec!["val", "--weights", &weights, "--data", &data, "--max-det", "0"],
            &["--max-det 0"],
        ),
        (
            vec!["convert", &weights, &weights, "--state-dict"],
            &["this is the input"],
        ),
    ] {
        yolo(folder.path(), &arguments).fails(2, texts);
        assert_eq!(files(folder.path()), before, "{arguments:?} left something behind");
    }
    let mut other = train.to_vec();
    other[2] = "four.yaml";
    yolo(folder.path(), &other).fails(2, &["reads 4 channels"]);
    assert_eq!(files(folder.path()), before);
}

/// Results never take the place of what they are made of.
#[test]
fn pictures_and_labels_of_a_data_set_are_not_overwritten() {
    let (folder, weights) = place();
    let data = small_data(folder.path(), 12, 64);
    let weights = text(&weights);
    let inside = files(&folder.path().join("data"));
    let image = inside
        .iter()
        .find(|file| file.starts_with("images/"))
        .expect("an image");
    let source = folder.path().join("data").join(image);
    let place = text(source.parent().expect("a folder"));
    let read = || -> Vec<Vec<u8>> {
        let all = files(&folder.path().join("data"));
        all.iter()
            .map(|file| std::fs::read(folder.path().join("data").join(file)).expect("a file"))
            .collect()
    };
    let before = read();
    let detect = [
        "detect",
        "--weights",
        &weights,
        "--source",
        &place,
        "--img",
        "64",
        "--save-dir",
    ];
    yolo(folder.path(), &[&detect[..], &[&place]].concat()).fails(2, &["this source would be overwritten"]);
    // `labels/` below a folder of the split's own name holds what people made.
    let split = folder.path().join("data/labels");
    let labels = std::fs::read_dir(&split)
        .expect("labels")
        .flatten()
        .next()
        .expect("a split")
        .path();
    let own = folder.path().join("own");
    std::fs::create_dir(&own).expect("a folder");
    std::os::unix::fs::symlink(&labels, own.join("labels")).expect("a link");
    let (data, own) = (text(&data), text(&own));
    let split = labels.file_name().expect("a name").to_string_lossy().into_owned();
    let val = [
        "val",
        "--weights",
        &weights,
        "--data",
        &data,
        "--task",
        &split,
        "--img",
        "64",
        "--save-txt",
        "--save-dir",
        &own,
    ];
    yolo(folder.path(), &val).fails(2, &["labels of the data would be overwritten"]);
    assert_eq!(read(), before);
}
