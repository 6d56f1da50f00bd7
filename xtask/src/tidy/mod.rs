//! Checks that the compiler can't make: edges between crates, forbidden words, sizes, plugin folders, what an op touches.

mod edges;
mod ops;
mod plugins;
mod words;

use std::path::Path;
use std::process::Command;

use crate::{Outcome, fail, root};

/// Runs every check; lists all complaints.
pub fn tidy() -> Outcome {
    let files = tracked()?;
    let mut complaints = edges::complaints()?;
    complaints.extend(plugins::complaints(&files)?);
    complaints.extend(ops::complaints(&files)?);
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

/// Folders of the workspace's members below its root, with the root package; patterns are written out.
fn members(manifest: &toml::Table) -> Outcome<Vec<String>> {
    members_in(&root(), manifest)
}

fn members_in(root: &Path, manifest: &toml::Table) -> Outcome<Vec<String>> {
    let list = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(toml::Value::as_array);
    let mut members = vec![".".to_owned()];
    for name in list.into_iter().flatten().filter_map(toml::Value::as_str) {
        if !name.contains(['*', '?', '[']) {
            members.push(name.to_owned());
            continue;
        }
        let pattern = format!("{}/{name}", glob::Pattern::escape(&root.display().to_string()));
        let found = glob::glob(&pattern).map_err(|e| format!("members = {name}: {e}"))?;
        let folders = found.flatten().filter(|path| path.is_dir());
        members.extend(folders.filter_map(|path| Some(path.strip_prefix(root).ok()?.to_str()?.to_owned())));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_among_the_members_are_written_out() {
        let folder = std::env::temp_dir().join(format!("yolo-tidy-members-{}", std::process::id()));
        for name in ["plugins/as/x", "plugins/as/y", "plugins/bs/z", "plugins/_t/u"] {
            std::fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        std::fs::write(folder.join("plugins/as/notes.txt"), "none").expect("a file");
        let manifest = "[workspace]\nmembers = ['core', 'plugins/*s/*']\n"
            .parse()
            .expect("TOML");
        let members = members_in(&folder, &manifest);
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(
            members.expect("patterns"),
            [".", "core", "plugins/as/x", "plugins/as/y", "plugins/bs/z"]
        );
        let here = members_in(&root(), &read_toml("Cargo.toml").expect("the manifest")).expect("patterns");
        assert!(here.contains(&"plugins/metrics/l1".to_owned()) && here.contains(&"core/abi".to_owned()));
        assert!(
            here.iter()
                .all(|member| root().join(member).join("Cargo.toml").is_file())
        );
    }
}
