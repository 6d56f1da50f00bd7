//! The jobs as a library: a recipe without the binary, seen and stopped by a listener, and what a recipe may say.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use yolo_builtin as _;
use yolo_core::model::Linked;
use yolo_jobs::compress::{self, Mode, Recipe, Stage};
use yolo_jobs::{Compute, Error, Progress, Session};

/// Writes down what it is told; ends the job at a piece of work of this name.
#[derive(Default)]
struct Log {
    lines: RefCell<Vec<String>>,
    open: RefCell<Vec<String>>,
    stop_at: Option<&'static str>,
}

impl Progress for Log {
    fn say(&self, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }

    fn begin(&self, label: &str, _: usize) {
        self.open.borrow_mut().push(label.to_owned());
        self.lines.borrow_mut().push(format!("begin {label}"));
    }

    fn end(&self) {
        let label = self.open.borrow_mut().pop().expect("it has begun");
        self.lines.borrow_mut().push(format!("end {label}"));
    }

    fn go_on(&self) -> bool {
        self.open.borrow().last().map(String::as_str) != self.stop_at || self.stop_at.is_none()
    }
}

fn session(log: &Log) -> Session<'_> {
    Session {
        plugins: &Linked,
        progress: log,
    }
}

/// A recipe with these stages, beside a data set of a few small pictures and a network of 60 thousand parameters.
fn write(folder: &Path, stages: &str) -> PathBuf {
    let settings = yolo_data::synth::Settings {
        images: 12,
        size: 96,
        ..Default::default()
    };
    if !folder.join("data").exists() {
        yolo_data::synth::write(&folder.join("data"), &settings, &|_| {}).expect("a data set");
    }
    std::fs::write(
        folder.join("tiny.yaml"),
        "extends: yolov5n\nscale: {depth: 0.33, width: 0.0625}\n",
    )
    .expect("a file");
    let text = format!(
        "name: small\ndata: data/data.yaml\ncfg: {}\nimg: 96\nbatch-size: 4\nworkers: 1\nout: {}\nhyp: {{mosaic: 0.0, \
         warmup_epochs: 0.0}}\nstages:\n{stages}",
        folder.join("tiny.yaml").display(),
        folder.join("out").display()
    );
    let path = folder.join("recipe.yaml");
    std::fs::write(&path, text).expect("a file");
    path
}

#[test]
fn a_recipe_runs_without_the_binary_stops_when_told_to_and_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, optimizer: adamw, freeze: 1, noautoanchor: true}\n  - prune: {flops: 0.8, multiple: 2, \
                  calib-batches: 1}\n  - bench: {engine: torch, threads: 1, runs: 2}\n";
    let recipe = Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    let stopped = Log {
        stop_at: Some("val"),
        ..Log::default()
    };
    let end = compress::run(session(&stopped), &recipe, Mode::Keep, Compute::cpu());
    let Err(Error::Interrupted(text)) = end else {
        panic!("it was told to stop in its second stage: {end:?}");
    };
    assert!(text.contains("2-prune"), "{text}");
    assert!(stopped.open.borrow().is_empty(), "every piece of work has ended");
    let log = Log::default();
    let result = compress::run(session(&log), &recipe, Mode::Resume, Compute::cpu()).expect("it goes on");
    let status: Vec<_> = result
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.status.name()))
        .collect();
    assert_eq!(
        status,
        [("1-train", "cached"), ("2-prune", "done"), ("3-bench", "done")]
    );
    assert!(result.rows[1].gflops <= 0.8 * result.rows[0].gflops);
    assert!(
        result.rows[0].fps.is_some_and(|fps| fps > 0.0),
        "the bench stage gives all a speed"
    );
    assert!(result.folder.join("results.md").is_file());
    let lines = log.lines.borrow();
    assert!(
        lines.iter().any(|line| line.contains("1-train: done before")),
        "{lines:?}"
    );
    assert!(lines.contains(&"begin prune".to_owned()) && lines.contains(&"end prune".to_owned()));
}

/// A search is kept in the folder of its stage, chooses by images that no stage trains on, and is another one with other images.
#[test]
fn candidates_are_compared_on_images_that_were_held_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, noautoanchor: true}\n  - prune: {pruner: {type: eagleeye, candidates: 2, window: 0.2}, flops: 0.8, \
                  multiple: 1, calib-batches: 1}\n";
    let path = write(dir.path(), stages);
    let run = |changes: &[String]| {
        let recipe = Recipe::read(&path, changes).expect("a recipe");
        let result = compress::run(session(&Log::default()), &recipe, Mode::Resume, Compute::cpu());
        let status: Vec<_> = result
            .as_ref()
            .map_err(ToString::to_string)?
            .rows
            .iter()
            .map(|row| row.status.name())
            .collect();
        Ok::<_, String>(status)
    };
    let held = ["hold-out=3".to_owned()];
    assert_eq!(run(&held).expect("it runs"), ["done", "done"]);
    let folder = dir.path().join("out/2-prune/candidates");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
    assert_eq!(text("candidates.csv").lines().count(), 3);
    let search: serde_json::Value = serde_json::from_str(&text("search.json")).expect("JSON");
    assert_eq!(search["held out"], 3);
    assert!(text("best-1.json").contains("fingerprint") && text("candidates.svg").contains("<circle"));
    assert_eq!(run(&held).expect("nothing to do"), ["cached", "cached"]);
    assert_eq!(
        run(&[]).expect("it runs"),
        ["done", "done"],
        "other training images are other stages"
    );
    let error = run(&["hold-out=99".to_owned()]).expect_err("more than there are");
    assert!(error.contains("99 images are to be held out of `train`"), "{error}");
}

#[test]
fn a_stage_may_say_all_that_its_command_can_and_is_cached_by_all_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let read = |stages: &str| Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    let key = |stages: &str| read(stages).stages[0].key().expect("a key");
    let plain = key("  - train: {epochs: 2}\n");
    for option in [
        "optimizer: adam",
        "freeze: [0, 1]",
        "multi-scale: true",
        "image-weights: true",
        "rect: true",
        "label-smoothing: 0.1",
        "noautoanchor: true",
        "batch-size: 2",
        "nominal-batch: 8",
        "img: 64",
        "seed: 3",
        "patience: 5",
        "cos-lr: true",
        "hyp: {lr0: 0.5}",
        "sparsify: slimming",
        "amp: bf16",
    ] {
        let other = key(&format!("  - train: {{epochs: 2, {option}}}\n"));
        assert_ne!(plain, other, "{option} is another training");
    }
    for option in ["workers: 3", "cache: disk", "save-period: 1"] {
        let other = key(&format!("  - train: {{epochs: 2, {option}}}\n"));
        assert_eq!(plain, other, "{option} changes no weight");
    }
    let plain = key("  - quantize: {}\n");
    for option in [
        "float-layers: auto",
        "float-layers: [model.24, model.0.conv]",
        "max-drop: 0.5",
        "select-images: 64",
        "bias-correction: true",
        "fit-ranges: true",
        "rounding: adaround",
        "equalize: true",
        "force: true",
    ] {
        let other = key(&format!("  - quantize: {{{option}}}\n"));
        assert_ne!(plain, other, "{option} is another quantization");
    }
    // What the recipe says for all of them stands in the stage, with its own on top.
    let recipe = read("  - train: {epochs: 2, hyp: {lr0: 0.5}}\n  - export: {}\n  - quantize: {hyp: {lr0: 0.25}}\n");
    let [Stage::Train(train), Stage::Export(export), Stage::Quantize(quantize)] = recipe.stages.as_slice() else {
        panic!("{:?}", recipe.stages);
    };
    let hyp = train.hyp().expect("values");
    assert_eq!((hyp.lr0, hyp.mosaic, train.img, train.patience), (0.5, 0.0, 96, 0));
    assert_eq!(export.formats, ["onnx", "onnx-qdq"]);
    assert_eq!(quantize.qat_hyp.as_ref().map(|own| &own["lr0"]), Some(&0.25.into()));
}

#[test]
fn a_stage_counts_as_done_while_what_its_model_extends_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = write(dir.path(), "  - train: {epochs: 1}\n");
    std::fs::write(dir.path().join("child.yaml"), "extends: tiny.yaml\n").expect("a file");
    let recipe = std::fs::read_to_string(&path)
        .expect("it")
        .replace("tiny.yaml", "child.yaml");
    std::fs::write(&path, recipe).expect("a file");
    let run = || {
        let recipe = Recipe::read(&path, &[]).expect("a recipe");
        let result = compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
        (result.rows[0].status.name(), result.rows[0].params)
    };
    let (_, params) = run();
    assert_eq!(run(), ("cached", params));
    let wider = "extends: yolov5n\nscale: {depth: 0.33, width: 0.125}\n";
    std::fs::write(dir.path().join("tiny.yaml"), wider).expect("a file");
    let (status, more) = run();
    assert!(status == "done" && more > params, "{status} {more}");
}

#[test]
fn the_numbers_of_a_table_have_one_size_and_one_parent() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, img: 64}\n  - prune: {flops: 0.8, multiple: 2, calib-batches: 1}\n  - reference: {}\n  - quantize: \
                  {backend: tensorrt, calib-batches: 1, img: 64}\n";
    let recipe = Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    let log = Log::default();
    let result = compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let parent = result
        .notes
        .iter()
        .find(|note| note.starts_with("int8"))
        .expect("a note");
    assert!(parent.contains("(2-prune)"), "{parent}");
    assert!(
        result
            .notes
            .iter()
            .any(|note| note.contains("of the base (3-reference")),
        "{:?}",
        result.notes
    );
    // Trained and quantized at 64, and measured at the recipe's 96.
    let validations = log.lines.borrow().iter().filter(|line| *line == "begin val").count();
    assert_eq!(
        validations, 4,
        "one for every model that was trained or quantized at another size, and for the pruned one"
    );
}

/// What a pruner trains counts in the table, as long trains the reference, and the recipe's settings hold in it.
#[test]
fn a_pruner_trains_by_the_recipe_and_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1}\n  - prune: {pruner: {type: gradual, epochs: 2}, flops: 0.8, multiple: 2, calib-batches: 1}\n  - fine-tune: \
                  {epochs: 1}\n  - reference: {}\n";
    let path = write(dir.path(), stages);
    let recipe = Recipe::read(&path, &["nominal-batch=8".to_owned()]).expect("a recipe");
    let log = Log::default();
    let result = compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let epochs: Vec<u64> = result.rows.iter().map(|row| row.epochs).collect();
    assert_eq!(epochs, [1, 3, 4, 4]);
    let pruned = yolo_engine::checkpoint::load(&result.rows[1].weights).expect("the pruned model");
    let batches: Vec<&serde_json::Value> = (pruned.meta.history.iter())
        .map(|entry| &entry.settings["nominal_batch"])
        .filter(|batch| !batch.is_null())
        .collect();
    assert_eq!(batches, [8, 8], "the training and that of the pruner");
    // A number is the user's, also that of the other stages.
    let recipe = Recipe::read(
        &path,
        &["nominal-batch=8".to_owned(), "stages.3.reference.epochs=2".to_owned()],
    );
    let result = compress::run(session(&log), &recipe.expect("a recipe"), Mode::Keep, Compute::cpu()).expect("it runs");
    assert_eq!(result.rows[3].epochs, 2);
}

#[test]
fn what_a_recipe_cannot_say_is_refused_with_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    for (stages, words) in [
        (
            "  - train: {epochs: 2, optimiser: adam}\n",
            "recipe.yaml:10:24: there is no option `optimiser`",
        ),
        (
            "  - train: {}\n",
            "recipe.yaml:10:5: `train` needs its number of epochs",
        ),
        ("  - train: 3\n", "the options of a stage are `{key: value}`"),
        ("  - trian: {epochs: 1}\n", "there is no stage `trian`"),
        ("  - train: {epochs: 2, freeze: all}\n", "one value, or a list of them"),
        (
            "  - train: {epochs: 2, batch-size: few}\n",
            "a number of images of at least 1, or `auto`",
        ),
        ("  - train: {epochs: 2, hyp: {lr0: -1}}\n", "lr0"),
        (
            "  - prune: {flops: 0.5}\n",
            "1-prune: there is no trained model before it",
        ),
        ("  - quantize: {}\n", "or give `weights`"),
        ("  - reference: {}\n", "1-reference: there is no trained model"),
        (
            "  - train: {epochs: 0}\n",
            "1-train: `epochs` and `nominal-batch` must be at least 1",
        ),
    ] {
        let recipe = Recipe::read(&write(dir.path(), stages), &[]);
        let result = recipe.and_then(|recipe| {
            let log = Log::default();
            compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).map(drop)
        });
        let error = result.expect_err(stages).to_string();
        assert!(error.contains(words), "{stages}: {error}");
        assert!(!dir.path().join("out").exists(), "nothing is written for {stages}");
    }
}

#[test]
fn what_a_later_stage_cannot_do_is_said_before_the_first_one_works() {
    let dir = tempfile::tempdir().expect("a folder");
    let train = "  - train: {epochs: 1}\n";
    for (stages, place, word) in [
        (
            "  - fine-tune: {epochs: 1, freeze: 99}\n",
            "recipe.yaml:11:5: 2-fine-tune",
            "`freeze` 99",
        ),
        (
            "  - export: {formats: [onnx], opset: 5}\n",
            "recipe.yaml:11:5: 2-export",
            "opset 5",
        ),
        (
            "  - quantize: {backend: tensorrt}\n  - export: {formats: [onnx-qdq], opset: 12}\n",
            "recipe.yaml:12:5: 3-export",
            "13 or more",
        ),
        (
            "  - quantize: {backend: {type: tensorrd}}\n",
            "recipe.yaml:11:5: 2-quantize",
            "tensorrt",
        ),
        (
            "  - prune: {pruner: {type: slimming, rati: 1}}\n",
            "recipe.yaml:11:5: 2-prune",
            "`rati`",
        ),
        (
            "  - prune: {flops: 0.8, exclude: [model.99]}\n",
            "recipe.yaml:11:5: 2-prune",
            "`model.99`",
        ),
        (
            "  - prune: {flops: 0.001}\n",
            "recipe.yaml:11:5: 2-prune",
            "can't be met",
        ),
        (
            "  - quantize: {backend: onnxruntime, float-layers: [model.0.conv, model.99]}\n",
            "recipe.yaml:11:5: 2-quantize",
            "`model.99`",
        ),
    ] {
        let recipe = Recipe::read(&write(dir.path(), &format!("{train}{stages}")), &[]).expect("a recipe");
        let end = compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu());
        let text = end.expect_err(stages).to_string();
        assert!(text.contains(place) && text.contains(word), "{stages}: {text}");
        assert!(!dir.path().join("out").exists(), "{stages}: nothing was begun");
    }
    let recipe = Recipe::read(&write(dir.path(), "  - bench: {}\n"), &[]).expect("a recipe");
    let end = compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu());
    let text = end.expect_err("there is no model").to_string();
    assert!(text.contains("1-bench") && text.contains("yolo bench"), "{text}");
}

#[test]
fn what_an_earlier_form_of_the_recipe_left_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = dir.path().join("out/2-export");
    std::fs::create_dir_all(&old).expect("a folder");
    std::fs::write(old.join("stage.key"), "of another recipe").expect("a file");
    let recipe =
        Recipe::read(&write(dir.path(), "  - train: {epochs: 1, noautoanchor: true}\n"), &[]).expect("a recipe");
    let log = Log::default();
    compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let lines = log.lines.borrow();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("2-export") && line.contains("no stage of this recipe")),
        "{lines:?}"
    );
    assert!(old.join("stage.key").is_file(), "it is not ours to remove");
}

#[test]
fn a_stage_whose_model_was_changed_runs_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe =
        Recipe::read(&write(dir.path(), "  - train: {epochs: 1, noautoanchor: true}\n"), &[]).expect("a recipe");
    let run = || {
        let log = Log::default();
        let result = compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
        (result.rows[0].status.name(), log.lines.into_inner().join("\n"))
    };
    assert_eq!(run().0, "done");
    assert_eq!(run().0, "cached");
    let weights = dir.path().join("out/1-train/weights/best.safetensors");
    let whole = std::fs::read(&weights).expect("a file");
    for broken in [&whole[..whole.len() / 2], b"another file"] {
        std::fs::write(&weights, broken).expect("a file");
        let (status, said) = run();
        assert!(
            status == "done" && said.contains("not the file that 1-train has left"),
            "{status}: {said}"
        );
        assert_eq!(std::fs::read(&weights).expect("a file").len(), whole.len());
    }
}

/// Runs a recipe: what became of each stage, and what was said.
fn states_of(recipe: &Recipe) -> (Vec<&'static str>, String) {
    let log = Log::default();
    let result = compress::run(session(&log), recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let states = result.rows.iter().map(|row| row.status.name()).collect();
    (states, log.lines.into_inner().join("\n"))
}

/// A stage that is done again may leave another model: what was made from the former one is no result of it.
#[test]
fn a_stage_made_from_another_model_runs_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, noautoanchor: true}\n  - prune: {flops: 0.9, multiple: 2, calib-batches: 1}\n  - reference: \
                  {epochs: 1}\n";
    let recipe = Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    let run = || states_of(&recipe);
    run();
    // Done again with the same result: later stages stay.
    std::fs::remove_file(dir.path().join("out/1-train/weights/best.safetensors")).expect("a file");
    assert_eq!(run().0, ["done", "cached", "cached"]);
    let path = dir.path().join("out/2-prune/stage.json");
    let text = std::fs::read_to_string(&path).expect("a record");
    let mut record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // A record of an earlier version does not say what it was made from.
    record
        .as_object_mut()
        .expect("a map")
        .remove("from")
        .expect("it says what it was made from");
    std::fs::write(&path, record.to_string()).expect("a file");
    assert_eq!(run().0, ["cached", "cached", "cached"]);
    record["from"] = serde_json::json!("of another model");
    std::fs::write(&path, record.to_string()).expect("a file");
    let (states, said) = run();
    assert_eq!(states, ["cached", "done", "cached"]);
    assert!(said.contains("2-prune: it was made from another model"), "{said}");
}

/// A training goes on with the quantizers of what it starts from: the files of integers are its own, the float file is of the network before.
#[test]
fn a_training_behind_the_quantization_is_what_is_exported() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, noautoanchor: true}\n  - quantize: {backend: onnxruntime, calib-batches: 1}\n  - fine-tune: {epochs: 2, \
                  nominal-batch: 4}\n  - export: {formats: [onnx-qdq, onnx]}\n";
    let recipe = Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let out = dir.path().join("out");
    let exported = |weights: &str, format| {
        let model = yolo_engine::checkpoint::load(&out.join(weights)).expect("a checkpoint");
        let request = yolo_export::checked::Request {
            profile: yolo_export::onnx::Profile::Ort,
            batch: None,
            names: model.meta.names.clone(),
            check: false,
            ..yolo_export::checked::Request::new(format, [96; 2])
        };
        let path = dir.path().join("own.onnx");
        yolo_export::checked::write(&model.graph, &model.params, &request, &path).expect("a file");
        std::fs::read(path).expect("a file")
    };
    use yolo_export::checked::Format;
    let there = |name: &str| std::fs::read(out.join("4-export").join(name)).expect("a file");
    let int8 = there("small-int8.onnx");
    assert!(
        int8 == exported("3-fine-tune/weights/best.safetensors", Format::OnnxQdq),
        "what was trained last"
    );
    assert!(int8 != exported("2-quantize/quantized.safetensors", Format::OnnxQdq));
    assert!(
        there("small.onnx") == exported("1-train/weights/best.safetensors", Format::Onnx),
        "the last float network"
    );
}

#[test]
fn keys_that_change_nothing_are_refused_or_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let train = "  - train: {epochs: 1, noautoanchor: true}\n";
    for (export, said) in [
        ("{conf-thres: 0.9}", "`conf-thres` is that of the suppression"),
        ("{agnostic-nms: true}", "`agnostic-nms`"),
        ("{max-det: 7}", "`max-det`"),
        ("{raw: true, nms: standard}", "`raw` gives raw maps"),
    ] {
        let recipe =
            Recipe::read(&write(dir.path(), &format!("{train}  - export: {export}\n")), &[]).expect("a recipe");
        let end = compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu());
        let text = end.expect_err(export).to_string();
        assert!(
            text.contains("recipe.yaml:11:5: 2-export") && text.contains(said),
            "{export}: {text}"
        );
        assert!(!dir.path().join("out").exists(), "{export}: nothing was begun");
    }
    // A plan has decided what a pruner would; an engine is asked only for times; without images there are no statistics.
    std::fs::write(dir.path().join("plan.json"), "{}").expect("a file");
    for (prune, said) in [
        (
            "{plan: plan.json, flops: 0.7}",
            "`flops` has no say where a plan is replayed",
        ),
        ("{plan: plan.json, pruner: oneshot}", "`pruner` has no say"),
        (
            "{pruner: oneshot, flops: 0.7, engine: torch}",
            "`engine` has no say without `latency`",
        ),
        ("{pruner: oneshot, flops: 0.7, calib-batches: 0}", "calib-batches"),
    ] {
        let recipe = Recipe::read(&write(dir.path(), &format!("{train}  - prune: {prune}\n")), &[]).expect("a recipe");
        let end = compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu());
        let text = end.expect_err(prune).to_string();
        assert!(text.contains("2-prune") && text.contains(said), "{prune}: {text}");
    }
    let stages = format!(
        "{train}  - quantize: {{backend: qdq, calib-batches: 1, hyp: {{lr0: 0.5}}}}\n  - export: {{formats: onnx, profile: openvino}}\n"
    );
    let recipe = Recipe::read(&write(dir.path(), &stages), &[]).expect("a recipe");
    let log = Log::default();
    compress::run(session(&log), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let lines = log.lines.into_inner().join("\n");
    assert!(
        lines.contains("recipe.yaml:11:") && lines.contains("`hyp` changes nothing without"),
        "{lines}"
    );
    assert!(lines.contains("--profile changes nothing"), "{lines}");
}

/// What is refused at its start replaces nothing.
#[test]
fn a_stage_that_cannot_begin_leaves_what_was_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe =
        Recipe::read(&write(dir.path(), "  - train: {epochs: 1, noautoanchor: true}\n"), &[]).expect("a recipe");
    compress::run(session(&Log::default()), &recipe, Mode::Keep, Compute::cpu()).expect("it runs");
    let out = dir.path().join("out");
    let names = || {
        let mut names = Vec::new();
        let mut open = vec![out.clone()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => open.push(path),
                    false => names.push(path),
                }
            }
        }
        names.sort();
        names
    };
    let (before, key) = (names(), std::fs::read(out.join("1-train/stage.key")).expect("a key"));
    let labels = dir.path().join("data/labels/train");
    let label = std::fs::read_dir(&labels)
        .expect("a folder")
        .next()
        .expect("a file")
        .expect("an entry");
    std::fs::write(label.path(), "99 0.5 0.5 0.2 0.2\n").expect("a file");
    for mode in [Mode::Keep, Mode::Resume, Mode::Fresh] {
        let end = compress::run(session(&Log::default()), &recipe, mode, Compute::cpu());
        let error = end.expect_err("a class that is not there").to_string();
        assert!(error.contains("99"), "{error}");
        assert_eq!(names(), before, "{mode:?}");
        assert_eq!(
            std::fs::read(out.join("1-train/stage.key")).expect("a key"),
            key,
            "{mode:?}"
        );
    }
}

/// What is handed on is looked at, too; one value needs no brackets.
#[test]
fn a_stage_whose_file_is_gone_runs_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let stages = "  - train: {epochs: 1, noautoanchor: true}\n  - export: {formats: onnx, img: 96}\n";
    let recipe = Recipe::read(&write(dir.path(), stages), &[]).expect("a recipe");
    let run = || states_of(&recipe);
    assert_eq!(run().0, ["done", "done"]);
    assert_eq!(run().0, ["cached", "cached"]);
    let export = dir.path().join("out/2-export");
    let names = || -> std::collections::BTreeSet<_> {
        let entries = std::fs::read_dir(&export).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let made = names();
    let files: Vec<_> = made
        .iter()
        .filter(|name| !name.to_string_lossy().starts_with("stage."))
        .collect();
    assert!(files.len() >= 2, "a file and what is to be known of it: {made:?}");
    for file in files {
        std::fs::remove_file(export.join(file)).expect("a file");
        let (states, said) = run();
        assert_eq!(states, ["cached", "done"], "{file:?}");
        assert!(said.contains("not the file that 2-export has left"), "{said}");
        assert_eq!(names(), made);
    }
}

#[test]
fn the_name_of_a_recipe_leads_nowhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = write(dir.path(), "  - train: {epochs: 1}\n");
    for name in ["../../esc", "a/b", "..", "", ".hidden"] {
        let error = Recipe::read(&path, &[format!("name=\"{name}\"")])
            .expect_err(name)
            .to_string();
        assert!(
            error.contains("name of a folder") && error.contains("recipe.yaml"),
            "{error}"
        );
    }
}
