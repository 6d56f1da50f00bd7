//! The examples of docs/plugins/static.md and dynamic.md, as a reader would try them. (Those of wasm.md: see `wasm`.)

use std::path::Path;
use std::process::Command;

use super::twin::{succeed, twin};
use super::wasm::{blocks, words};
use crate::support::{random_weights, root, small_data, yolo};

fn page(name: &str) -> Vec<(String, String)> {
    blocks(&std::fs::read_to_string(root().join("docs/plugins").join(name)).expect("the page"))
}

/// Writes a block whose first line names its file, in a comment.
fn save(blocks: &[(String, String)], language: &str, folder: &Path) {
    let (_, text) = blocks
        .iter()
        .find(|(own, _)| own == language)
        .unwrap_or_else(|| panic!("no {language} block"));
    let first = text.lines().next().expect("a line");
    let name = first
        .trim_start_matches(['/', '*', '#', ' '])
        .trim_end_matches(" */")
        .trim();
    std::fs::write(folder.join(name), text).expect("a file");
}

fn shell(blocks: &[(String, String)]) -> Vec<Vec<String>> {
    blocks
        .iter()
        .filter(|(language, _)| language == "sh")
        .flat_map(|(_, text)| text.lines())
        .map(words)
        .collect()
}

#[test]
fn a_linked_block_as_the_page_makes_it() {
    let twin = twin();
    let here = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("static-md-{}", std::process::id()));
    std::fs::create_dir_all(&here).expect("a folder");
    let blocks = page("static.md");
    save(&blocks, "yaml", &here);
    let lines = shell(&blocks);
    assert_eq!(lines[0][..2], ["yolo", "new-plugin"], "the twin has run it");
    let mut ran = 0;
    for line in &lines[1..] {
        match line.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            // With the others: see `scaffold::every_crate_passes_its_own_tests`.
            ["cargo", "test", "-p", "yolo-plugin-star"] => {}
            ["cargo", "run", "--", ref rest @ ..] => {
                let output = Command::new(twin.yolo())
                    .current_dir(&here)
                    .args(rest)
                    .output()
                    .expect("yolo starts");
                succeed(&line.join(" "), &output);
                ran += 1;
            }
            _ => panic!("the page says {line:?}"),
        }
    }
    assert_eq!(ran, 3);
    let output = Command::new(twin.yolo())
        .current_dir(&here)
        .args(["model", "star.yaml", "--layers"])
        .output();
    let text = String::from_utf8_lossy(&output.expect("yolo starts").stdout).into_owned();
    assert!(text.contains("Star"), "{text}");
    let _ = std::fs::remove_dir_all(here);
}

#[test]
fn a_pruner_in_a_library_as_the_page_makes_it() {
    let twin = twin();
    let here = twin.pages();
    let blocks = page("dynamic.md");
    // The twin stays from run to run as long as nothing changes.
    let _ = std::fs::remove_dir_all(here.join("data"));
    let _ = std::fs::remove_file(here.join("pruned.safetensors"));
    let data = small_data(&here, 24, 64);
    let model = here.join("model.yaml");
    std::fs::write(&model, "extends: yolov5n\nscale: {depth: 0.33, width: 0.125}\n").expect("a file");
    std::fs::copy(random_weights(&model, &here, 4), here.join("best.safetensors")).expect("weights");
    let mut ran = 0;
    let lines = shell(&blocks);
    assert_eq!(lines[0][..2], ["yolo", "new-plugin"], "the twin has run it");
    for line in &lines[1..] {
        let mut rest: Vec<&str> = line.iter().skip(1).map(String::as_str).collect();
        match (line[0].as_str(), rest.as_slice()) {
            ("yolo", ["plugin", "test", "."]) | ("cc", _) => continue,
            ("yolo", ["plugin", "build", ..]) => rest.extend(twin.debug()),
            ("yolo", ["prune", ..]) => {
                for word in &mut rest {
                    if *word == "data.yaml" {
                        *word = data.to_str().expect("UTF-8");
                    }
                }
                rest.extend([
                    "--img",
                    "64",
                    "--batch-size",
                    "8",
                    "--calib-batches",
                    "1",
                    "--select-images",
                    "4",
                    "--noval",
                ]);
            }
            ("yolo", _) => {}
            _ => panic!("the page says {line:?}"),
        }
        let output = twin.command(&here).args(&rest).output().expect("yolo starts");
        succeed(&line.join(" "), &output);
        ran += 1;
    }
    assert_eq!(ran, 4);
    assert!(here.join("pruned.safetensors").is_file());
}

#[test]
fn a_metric_in_c_as_the_page_makes_it() {
    let here = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dynamic-md-{}", std::process::id()));
    std::fs::create_dir_all(&here).expect("a folder");
    let blocks = page("dynamic.md");
    save(&blocks, "c", &here);
    save(&blocks, "toml", &here);
    let lines = shell(&blocks);
    let line = lines.iter().find(|line| line[0] == "cc").expect("a compiler's line");
    let include = root().join("core/abi/include").display().to_string();
    let flags = line[1..]
        .iter()
        .map(|word| if word == "core/abi/include" { &include } else { word });
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(compiler)
        .current_dir(&here)
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(flags)
        .output();
    succeed(&line.join(" "), &output.expect("a C compiler, as for torch-sys"));
    let said = yolo(&here, &["plugin", "test", "."]).ok();
    assert!(said.out.contains("largest"), "{}", said.out);
    let _ = std::fs::remove_dir_all(here);
}
