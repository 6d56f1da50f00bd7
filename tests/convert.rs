//! `yolo convert`: to a plain state dict and back.

use yolo_engine::checkpoint;

use crate::support::{self, tiny_model, yolo};

#[test]
fn a_state_dict_becomes_a_checkpoint_again_when_the_model_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| yolo(folder.path(), arguments);
    let config = tiny_model(folder.path()).display().to_string();
    let weights = support::random_weights(&tiny_model(folder.path()), folder.path(), 4);
    run(&[
        "convert",
        &weights.display().to_string(),
        "state.safetensors",
        "--state-dict",
    ])
    .ok();
    run(&["model", "state.safetensors"]).fails(1, &["state.safetensors"]);

    run(&[
        "convert",
        "state.safetensors",
        "back.safetensors",
        "--cfg",
        &config,
        "--nc",
        "4",
    ])
    .ok();
    let (before, after) = (
        checkpoint::load(&weights),
        checkpoint::load(&folder.path().join("back.safetensors")),
    );
    let (before, after) = (before.expect("a checkpoint"), after.expect("a checkpoint"));
    let graph = |model: &checkpoint::Checkpoint| serde_json::to_value(&model.graph).expect("JSON");
    assert_eq!(graph(&before), graph(&after));
    assert_eq!(after.meta.names, ["thing0", "thing1", "thing2", "thing3"]);
    assert_eq!(before.params.iter().count(), after.params.iter().count());
    for (key, tensor) in before.params.iter() {
        assert_eq!(Some(tensor), after.params.get(key), "{key}");
    }

    run(&[
        "convert",
        "state.safetensors",
        "other.safetensors",
        "--cfg",
        &config,
        "--nc",
        "5",
    ])
    .fails(1, &["state.safetensors", "don't fit", "model.24.m.0"]);
    assert!(!folder.path().join("other.safetensors").exists());
    run(&["convert", "state.safetensors", "other.safetensors", "--nc", "4"]).fails(2, &["--cfg"]);
}

#[test]
fn an_untrained_checkpoint_is_that_of_its_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = tiny_model(folder.path()).display().to_string();
    let write = |file: &str, seed: &str| {
        let arguments = ["model", &config, "--nc", "4", "--init-weights", file, "--seed", seed];
        yolo(folder.path(), &arguments).ok();
        checkpoint::load(&folder.path().join(file)).expect("a checkpoint")
    };
    let (first, again, other) = (
        write("a.safetensors", "0"),
        write("b.safetensors", "0"),
        write("c.safetensors", "1"),
    );
    assert_eq!(first.meta.names, ["0", "1", "2", "3"]);
    let key = "model.0.conv.weight";
    assert_eq!(first.params.get(key), again.params.get(key));
    assert_ne!(first.params.get(key), other.params.get(key));
    let bytes = |file: &str| std::fs::read(folder.path().join(file)).expect("a file");
    assert_eq!(bytes("a.safetensors"), bytes("b.safetensors"));

    let wrong = ["model", &config, "--init-weights", "weights.pt"];
    yolo(folder.path(), &wrong).fails(2, &["--init-weights weights.pt", ".safetensors"]);
}
