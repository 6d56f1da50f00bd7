//! The main job on the project's own data: what a newcomer runs first.

use std::process::Command;

use crate::{Outcome, cargo, root, run, setup};

/// Sets up, builds, makes the data set, compresses a detector, says where to look.
pub fn demo() -> Outcome {
    setup::setup()?;
    // The whole workspace, as the tests build it: the same features, so nothing is built twice.
    run(cargo().args(["build", "--workspace"]))?;
    let yolo = || {
        let mut yolo = Command::new(root().join("target/debug/yolo"));
        yolo.current_dir(root());
        yolo
    };
    let data = root().join("runs/demo/scenes/data.yaml");
    if !data.exists() {
        run(yolo().args([
            "data",
            "synth",
            "--out",
            "runs/demo/scenes",
            "--images",
            "320",
            "--img",
            "128",
            "--zoom",
            "2.5",
        ]))?;
    }
    run(yolo().args(["compress", "configs/recipes/demo.yaml", "--resume"]))?;
    println!(
        "\npictures, tables and models: {}",
        root().join("runs/demo/compress").display()
    );
    Ok(())
}
