//! Where plugins are looked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Code, PluginError, Result};

/// Folders (and files) in their order. Between levels the first plugin of a name wins; inside of a level two are an error.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// The levels, first one first.
    pub levels: Vec<Level>,
}

/// One source of plugins.
#[derive(Debug, Clone)]
pub struct Level {
    /// Where it comes from, for messages: `--plugin`, `YOLO_PLUGIN_PATH`, ...
    pub name: String,
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Named by the user in this very call: must be there, and must not lose against anything.
    pub explicit: bool,
}

impl SearchPath {
    /// The search path of a command: what `--plugin` names, `$YOLO_PLUGIN_PATH`, `.yolo/plugins` of the current folder if the user
    /// trusts it, `$XDG_DATA_HOME/yolo/plugins` and `/usr/lib/yolo/plugins`. `env` reads environment variables.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a path of `--plugin` that is not there.
    pub fn standard(plugins: &[PathBuf], trust_project: bool, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        if let Some(absent) = plugins.iter().find(|path| !path.exists()) {
            return Err(
                PluginError::new(Code::NotFound, format!("there is nothing at `{}`", absent.display()))
                    .help("`--plugin` takes a .wasm file, a library, or a folder with a yolo-plugin.toml"),
            );
        }
        let level = |name: &str, paths: Vec<PathBuf>| Level {
            name: name.to_owned(),
            paths,
            explicit: false,
        };
        let mut levels = vec![Level {
            explicit: true,
            ..level("--plugin", plugins.to_vec())
        }];
        if let Some(list) = env("YOLO_PLUGIN_PATH") {
            levels.push(level(
                "YOLO_PLUGIN_PATH",
                std::env::split_paths(&list)
                    .filter(|p| !p.as_os_str().is_empty())
                    .collect(),
            ));
        }
        if trust_project {
            levels.push(level("this project", vec![Path::new(".yolo").join("plugins")]));
        }
        let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local").join("share")));
        if let Some(data) = data {
            levels.push(level("this user", vec![data.join("yolo").join("plugins")]));
        }
        levels.push(level("this system", vec![PathBuf::from("/usr/lib/yolo/plugins")]));
        levels.retain(|level| !level.paths.is_empty());
        Ok(Self { levels })
    }

    /// Every path, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.levels
            .iter()
            .flat_map(|level| level.paths.iter().map(PathBuf::as_path))
    }
}

/// What stands at a path: manifests, modules, and libraries without a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    Manifest(PathBuf),
    Module(PathBuf),
    Library(PathBuf),
}

/// What is at `path` and, if it is a folder without a manifest, in the folders directly below it. Sorted, so that listings don't
/// depend on the file system. Unreadable folders hold nothing.
pub(crate) fn items(path: &Path) -> Vec<Item> {
    if path.is_file() {
        return of_file(path, true).into_iter().collect();
    }
    let manifest = path.join(crate::MANIFEST_FILE);
    if manifest.is_file() {
        return vec![Item::Manifest(manifest)];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<Item> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let manifest = path.join(crate::MANIFEST_FILE);
            if manifest.is_file() {
                Some(Item::Manifest(manifest))
            } else {
                of_file(&path, false)
            }
        })
        .collect();
    found.sort();
    found
}

/// A file by its name. A library or module that the manifest beside it speaks of is found through the manifest.
fn of_file(path: &Path, named: bool) -> Option<Item> {
    let name = path.file_name()?.to_str()?;
    if name == crate::MANIFEST_FILE {
        return Some(Item::Manifest(path.to_owned()));
    }
    if !path.is_file() {
        return None;
    }
    let item = if name.ends_with(".wasm") || (named && name.ends_with(".wat")) {
        Item::Module(path.to_owned())
    } else if named || name.ends_with(std::env::consts::DLL_SUFFIX) {
        Item::Library(path.to_owned())
    } else {
        return None;
    };
    let manifest = path
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .join(crate::MANIFEST_FILE);
    let spoken_for = manifest.is_file()
        && crate::Manifest::read(&manifest)
            .and_then(|manifest| manifest.code_file())
            .is_ok_and(|code| same_file(&code, path));
    Some(if spoken_for { Item::Manifest(manifest) } else { item })
}

/// Whether two paths lead to one file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_come_in_their_order_and_the_project_only_if_it_is_trusted() {
        let env = |name: &str| match name {
            "YOLO_PLUGIN_PATH" => Some(OsString::from("a:b")),
            "HOME" => Some(OsString::from("home")),
            _ => None,
        };
        let names = |trust| -> Vec<String> {
            let path = SearchPath::standard(&[PathBuf::from(".")], trust, &env).expect("the folder is there");
            path.paths().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            names(false),
            [".", "a", "b", "home/.local/share/yolo/plugins", "/usr/lib/yolo/plugins"]
        );
        assert!(names(true).contains(&".yolo/plugins".to_owned()));
        let error = SearchPath::standard(&[PathBuf::from("no/such")], false, &env).expect_err("nothing there");
        assert_eq!(error.code, Code::NotFound);
    }
}
