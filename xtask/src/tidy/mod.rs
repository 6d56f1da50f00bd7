//! Checks that the compiler can't make: edges between crates, forbidden words, sizes, plugin folders.

mod edges;
mod plugins;
mod words;

use std::process::Command;

use crate::{Outcome, fail, root};

/// Runs every check; lists all complaints.
pub fn tidy() -> Outcome {
    let files = tracked()?;
    let mut complaints = edges::complaints()?;
    complaints.extend(plugins::complaints(&files)?);
    for file in &files {
        let path = root().join(file);
        let Ok(meta) = path.metadata() else { continue };
        if meta.len() > 1 << 20 {
            complaints.push(format!("{file}: tracked files stay under 1 MiB"));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            complaints.extend(words::complaints(file, &text));
        }
    }
    if complaints.is_empty() {
        eprintln!("tidy: {} files are in order", files.len());
        return Ok(());
    }
    fail(format!(
        "tidy: {} complaints\n  {}",
        complaints.len(),
        complaints.join("\n  ")
    ))
}

/// Files that git tracks or would track.
fn tracked() -> Outcome<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .output()
        .map_err(|e| format!("can't run git: {e}"))?;
    if !output.status.success() {
        return fail("tidy: `git ls-files` failed; is this a git checkout?");
    }
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(list
        .split('\0')
        .filter(|file| !file.is_empty())
        .map(str::to_owned)
        .collect())
}

fn read(file: &str) -> Outcome<String> {
    let path = root().join(file);
    std::fs::read_to_string(&path).map_err(|e| format!("can't read {}: {e}", path.display()))
}

fn read_toml(file: &str) -> Outcome<toml::Table> {
    read(file)?.parse().map_err(|e| format!("{file}: {e}"))
}

/// Members of the workspace, with the root package.
fn members(manifest: &toml::Table) -> Vec<String> {
    let list = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(toml::Value::as_array);
    let names = list
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .map(str::to_owned);
    names.chain([".".to_owned()]).collect()
}
