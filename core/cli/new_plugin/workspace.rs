//! Makes a crate a part of the workspace of yolo: a member, a dependency by name, and linked by plugins/builtin.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use toml_edit::{DocumentMut, InlineTable, Item, Table, Value};

use super::files::Names;
use crate::error::{CliError, CliResult, io_error};
use yolo_jobs::files;

/// The checkout of yolo that `start` is in.
pub fn above(start: &Path) -> Option<PathBuf> {
    let is_root = |folder: &&Path| {
        ["Cargo.toml", "core/sdk/Cargo.toml", "plugins/builtin/src/lib.rs"]
            .iter()
            .all(|file| folder.join(file).is_file())
    };
    start.ancestors().find(is_root).map(Path::to_owned)
}

/// Adds the crate in `folder`. All new texts are made before the first is written.
pub fn add(root: &Path, folder: &Path, names: &Names) -> CliResult {
    let inside = folder
        .strip_prefix(root)
        .map_err(|_| CliError::Usage(format!("{} is not inside of {}", folder.display(), root.display())))?;
    let member = inside
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/");
    let files = [
        root.join("Cargo.toml"),
        root.join("plugins/builtin/Cargo.toml"),
        root.join("plugins/builtin/src/lib.rs"),
    ];
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| io_error("can't read", path, &e));
    let [manifest, builtin, source] = [read(&files[0])?, read(&files[1])?, read(&files[2])?];
    let bad = |path: &Path| {
        let path = path.display().to_string();
        move |reason: String| CliError::Failed(format!("{path}: {reason}"))
    };
    let texts = [
        with_member(&manifest, &member, &names.package).map_err(bad(&files[0]))?,
        with_dependency(&builtin, &names.package).map_err(bad(&files[1]))?,
        with_use(&source, &names.crate_name),
    ];
    for (path, text) in files.iter().zip(texts) {
        files::write(path, text.as_bytes())?;
    }
    Ok(())
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// Whether a folder is among the members of a workspace: named, or met by a pattern. As in cargo, no wildcard stands for a `/`.
fn is_member(members: &[&str], folder: &str) -> bool {
    let options = MatchOptions {
        require_literal_separator: true,
        ..MatchOptions::new()
    };
    let meets = |pattern: &str| Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(folder, options));
    members.iter().any(|own| *own == folder || meets(own))
}

/// The workspace's manifest with the path of one more crate among the dependencies, and with one more member, unless a pattern meets it.
fn with_member(text: &str, member: &str, package: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let workspace = document
        .get_mut("workspace")
        .and_then(Item::as_table_like_mut)
        .ok_or("there is no [workspace]")?;
    let members = workspace
        .get_mut("members")
        .and_then(Item::as_array_mut)
        .ok_or("[workspace] has no list of members")?;
    let own: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
    if !is_member(&own, member) {
        let mut value = Value::from(member);
        // On a line of its own, as the others. What stands before the last one may begin with the comment of the line above.
        let before = members
            .iter()
            .last()
            .and_then(|last| last.decor().prefix()?.as_str()?.rsplit_once('\n'))
            .map_or_else(|| " ".to_owned(), |(_, indent)| format!("\n{indent}"));
        value.decor_mut().set_prefix(before);
        members.push_formatted(value);
    }
    let dependencies = workspace
        .get_mut("dependencies")
        .and_then(Item::as_table_like_mut)
        .ok_or("there is no [workspace.dependencies]")?;
    if !dependencies.contains_key(package) {
        let mut path = InlineTable::new();
        path.insert("path", member.into());
        dependencies.insert(package, Item::Value(Value::InlineTable(path)));
    }
    Ok(document.to_string())
}

/// The manifest of plugins/builtin with one more dependency.
fn with_dependency(text: &str, package: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let dependencies = document
        .get_mut("dependencies")
        .and_then(Item::as_table_like_mut)
        .ok_or("there are no [dependencies]")?;
    if !dependencies.contains_key(package) {
        let mut inherit = Table::new();
        inherit.set_dotted(true);
        inherit.insert("workspace", true.into());
        dependencies.insert(package, Item::Table(inherit));
    }
    Ok(document.to_string())
}

/// The source of plugins/builtin, naming one more crate.
fn with_use(text: &str, crate_name: &str) -> String {
    let line = format!("use {crate_name} as _;");
    if text.lines().any(|own| own.trim() == line) {
        return text.to_owned();
    }
    format!("{}\n{line}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_by_a_line_and_keep_the_rest() {
        let manifest = "[workspace]\nmembers = [\n    \"core\", # first\n    \"plugins/metrics/l1\",\n]\n\n[workspace.dependencies]\n# ours\nyolo-plugin-l1 = { path = \"plugins/metrics/l1\" }\n\n[package]\nname = \"yolo\"\n";
        let grown = with_member(manifest, "plugins/metrics/my", "yolo-plugin-my").expect("TOML");
        let expected = manifest
            .replace("l1\",\n]", "l1\",\n    \"plugins/metrics/my\",\n]")
            .replace(
                "l1\" }\n",
                "l1\" }\nyolo-plugin-my = { path = \"plugins/metrics/my\" }\n",
            );
        assert_eq!(grown, expected);
        assert_eq!(
            with_member(&grown, "plugins/metrics/my", "yolo-plugin-my").expect("TOML"),
            grown,
            "once"
        );

        let builtin = "[dependencies]\nyolo-plugin-l1.workspace = true\n\n[lints]\nworkspace = true\n";
        let grown = with_dependency(builtin, "yolo-plugin-my").expect("TOML");
        assert_eq!(
            grown,
            builtin.replace("true\n\n", "true\nyolo-plugin-my.workspace = true\n\n")
        );

        // A pattern makes it a member already, where it lies in a folder for plugins.
        let globbed = manifest.replace("plugins/metrics/l1\",\n]", "plugins/*s/*\",\n]");
        let dependency = "l1\" }\nyolo-plugin-my = ";
        let grown = with_member(&globbed, "plugins/metrics/my", "yolo-plugin-my").expect("TOML");
        assert_eq!(
            grown,
            globbed.replace(
                "l1\" }\n",
                &format!("{dependency}{{ path = \"plugins/metrics/my\" }}\n")
            )
        );
        for elsewhere in ["lab/my", "plugins/my", "plugins/metrics/of/mine"] {
            let grown = with_member(&globbed, elsewhere, "yolo-plugin-my").expect("TOML");
            let members = globbed.replace("s/*\",\n]", &format!("s/*\",\n    \"{elsewhere}\",\n]"));
            let path = format!("{dependency}{{ path = \"{elsewhere}\" }}\n");
            assert_eq!(grown, members.replace("l1\" }\n", &path));
        }

        let source = "//! Links.\n\nuse yolo_plugin_l1 as _;\n";
        let grown = with_use(source, "yolo_plugin_my");
        assert_eq!(grown, format!("{source}use yolo_plugin_my as _;\n"));
        assert_eq!(with_use(&grown, "yolo_plugin_my"), grown);
        assert!(with_member("x", "a", "b").is_err());
    }

    /// Wherever `yolo new-plugin --static` puts a crate by itself, the workspace's own patterns find it; templates are not met.
    #[test]
    fn every_folder_for_plugins_is_met_by_the_workspace() {
        let manifest = parse(include_str!("../../../Cargo.toml")).expect("TOML");
        let members = manifest["workspace"]["members"].as_array().expect("a list");
        let members: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
        for kind in yolo_core::Kind::ALL {
            let folder = format!("plugins/{}/x", super::super::files::folder(kind));
            assert!(is_member(&members, &folder), "{folder}");
        }
        for other in [
            "plugins/_template/src",
            "plugins/builtin/src",
            "core/cli",
            "plugins/metrics/l1/src",
        ] {
            assert!(!is_member(&members, other), "{other}");
        }
    }
}
