//! `yolo new-plugin`.

mod files;
mod workspace;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use yolo_core::Kind;
use yolo_jobs::files as output;

use crate::error::{CliError, CliResult, io_error};
use crate::{plugins, ui};

pub use files::{File, Language, Names, Way};

/// Write a plugin crate that builds, passes its conformance tests and shows up in `yolo list-plugins`
///
/// Examples: yolo new-plugin pruner my-pruner --dynamic
///           yolo new-plugin metric my-metric --wasm --lang c
///           yolo new-plugin backbone tiny-net --static
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct NewPluginArgs {
    /// backbone, neck-block, op, pruner, metric, quantizer or distiller
    kind: String,
    /// Its name: lower case letters, digits and `-`
    name: String,
    /// A crate of the workspace of yolo, linked into the program
    #[arg(long = "static", group = "way")]
    linked: bool,
    /// A shared library that yolo loads (the default)
    #[arg(long, group = "way")]
    dynamic: bool,
    /// A sandboxed WebAssembly module (metrics only)
    #[arg(long, group = "way")]
    wasm: bool,
    /// Language of a WebAssembly module
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Its folder (default: the name in the current folder; with --static, the place for its kind under plugins/)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Folder of yolo-sdk, core/sdk in a checkout of yolo (default: that of this yolo)
    #[arg(long)]
    sdk: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &NewPluginArgs) -> CliResult {
    let kind = Kind::parse(&args.kind).ok_or_else(|| {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        CliError::Usage(format!(
            "there is no kind `{}`\n  help: kinds are {}",
            args.kind,
            kinds.join(", ")
        ))
    })?;
    let way = match (args.linked, args.wasm) {
        (true, _) => Way::Static,
        (_, true) => Way::Wasm(args.lang),
        _ => Way::Dynamic,
    };
    if matches!(way, Way::Wasm(_)) && kind != Kind::Metric {
        return Err(CliError::Usage(format!(
            "a WebAssembly module can't be a {}, only a metric\n  help: use --dynamic",
            kind.title()
        )));
    }
    free(kind, &args.name)?;
    let names = Names::new(&args.name, way).map_err(CliError::Usage)?;
    let place = Place::find(args, kind, way)?;
    let files = files::files(kind, way, &names, &place.settings);
    write_crate(&place.folder, &files)?;
    if let Some(root) = &place.root {
        workspace::add(root, &place.folder, &names)?;
    }
    report(args, kind, way, &names, &place, &files)
}

/// Where the crate goes, and what it needs to know of its surroundings.
struct Place {
    folder: PathBuf,
    /// The workspace that it becomes a part of.
    root: Option<PathBuf>,
    settings: files::Settings,
}

impl Place {
    fn find(args: &NewPluginArgs, kind: Kind, way: Way) -> CliResult<Self> {
        let here = std::env::current_dir().map_err(|e| io_error("can't read", Path::new("."), &e))?;
        let named = args.dir.as_ref().map(|dir| here.join(dir));
        let mut settings = files::Settings::default();
        let (folder, root) = match way {
            Way::Static => {
                let start = named.as_deref().unwrap_or(&here);
                let root = workspace::above(start).ok_or_else(|| {
                    CliError::Usage(format!(
                        "{} is not in a checkout of yolo, to which a --static plugin belongs\n  help: change into one, or use --dynamic",
                        start.display()
                    ))
                })?;
                let folder = named.unwrap_or_else(|| root.join("plugins").join(files::folder(kind)).join(&args.name));
                (folder, Some(root))
            }
            Way::Dynamic => {
                settings.sdk = sdk(args.sdk.as_deref(), &here)?;
                settings.libtorch = yolo_registry::dynamic::libtorch();
                if let Some(root) = settings.sdk.parent().and_then(Path::parent) {
                    settings.target = root.join("target");
                    settings.lock = std::fs::read_to_string(root.join("Cargo.lock")).ok();
                }
                (named.unwrap_or_else(|| here.join(&args.name)), None)
            }
            Way::Wasm(_) => (named.unwrap_or_else(|| here.join(&args.name)), None),
        };
        Ok(Self { folder, root, settings })
    }
}

/// The folder of the SDK: the one named, that of a checkout around, or the one that this program was built from.
fn sdk(named: Option<&Path>, here: &Path) -> CliResult<PathBuf> {
    let is_sdk = |path: &Path| path.join("Cargo.toml").is_file() && path.join("src/macros.rs").is_file();
    if let Some(named) = named {
        // Links stay as they are: the same SDK under two names would be two.
        let path = here.join(named);
        let fits = [path.clone(), path.join("core/sdk")]
            .into_iter()
            .find(|path| is_sdk(path));
        return fits.ok_or_else(|| CliError::Usage(format!("--sdk {}: yolo-sdk is not there", named.display())));
    }
    let around = workspace::above(here).map(|root| root.join("core/sdk"));
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/sdk");
    around
        .into_iter()
        .chain([built_from])
        .find(|path| is_sdk(path))
        .ok_or_else(|| {
            CliError::Usage("yolo-sdk is not found\n  help: name it with --sdk: core/sdk in a checkout of yolo".into())
        })
}

/// Names are unique per kind.
fn free(kind: Kind, name: &str) -> CliResult {
    let taken = plugins::index()?
        .entries()
        .iter()
        .find(|entry| entry.kind == Some(kind) && entry.answers_to(name));
    match taken {
        Some(entry) => Err(CliError::Usage(format!(
            "there is a {} `{}` already ({})\n  help: choose another name",
            kind.title(),
            entry.name,
            entry.origin()
        ))),
        None => Ok(()),
    }
}

/// All of the crate or nothing of it.
fn write_crate(folder: &Path, files: &[File]) -> CliResult {
    if folder.exists() {
        let empty = folder.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            return Err(CliError::Usage(format!(
                "{} exists already\n  help: name another folder with --dir",
                folder.display()
            )));
        }
    }
    let parent = folder.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| io_error("can't be made", parent, &e))?;
    let leaf = folder.file_name().unwrap_or_default().to_string_lossy();
    let fresh = parent.join(format!(".{leaf}.{}", std::process::id()));
    let write_all = || -> CliResult {
        for file in files {
            let path = fresh.join(&file.path);
            let within = path.parent().unwrap_or(&fresh);
            std::fs::create_dir_all(within).map_err(|e| io_error("can't be made", within, &e))?;
            output::write(&path, file.text.as_bytes())?;
        }
        if folder.exists() {
            std::fs::remove_dir(folder).map_err(|e| io_error("can't be replaced", folder, &e))?;
        }
        std::fs::rename(&fresh, folder).map_err(|e| io_error("can't be made", folder, &e))
    };
    write_all().inspect_err(|_| {
        // What was begun is no use to anybody.
        let _ = std::fs::remove_dir_all(&fresh);
    })
}

fn report(args: &NewPluginArgs, kind: Kind, way: Way, names: &Names, place: &Place, files: &[File]) -> CliResult {
    let folder = place.folder.display().to_string();
    if args.json {
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let value = json!({"kind": kind, "name": names.name, "package": names.package, "dir": folder, "files": paths});
        return ui::print_json(&value);
    }
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut text = format!("created {folder}  ({})\nnext:\n", paths.join(", "));
    let mut step = |command: &str, what: &str| {
        let _ = writeln!(text, "  {command:<44} # {what}");
    };
    match way {
        Way::Static => {
            step(
                &format!("cargo test -p {}", names.package),
                "the rules that every plugin keeps",
            );
            step(
                &format!("cargo run -- inspect {}", names.name),
                "it is linked into plugins/builtin already",
            );
        }
        Way::Dynamic => {
            step(
                &format!("cd {folder} && cargo test"),
                "the rules that every plugin keeps",
            );
            step(
                "yolo plugin build",
                "cargo build --release, library beside the manifest",
            );
            step(
                &format!("yolo inspect {} --plugin .", names.name),
                "what yolo sees of it",
            );
        }
        Way::Wasm(language) => {
            if language != Language::Wat {
                step(&format!("cd {folder} && {}", language.build()), "the module");
            }
            step(&format!("yolo plugin test {folder}"), "scores layers of many shapes");
            step(
                &format!("yolo inspect {} --plugin {folder}", names.name),
                "what yolo sees of it",
            );
        }
    }
    println!("{}", text.trim_end());
    Ok(())
}
