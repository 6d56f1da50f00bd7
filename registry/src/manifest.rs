//! `yolo-plugin.toml`: what a folder of the search path holds, readable without loading any code.
//!
//! ```toml
//! manifest = 1
//! name = "fpgm-pruner"
//! version = "0.3.1"
//! license = "MIT"
//! authors = ["A. Researcher <a@uni.example>"]
//! description = "Filter pruning via geometric median"
//!
//! [library]                    # exactly one of dynamic and wasm
//! dynamic = "libfpgm_pruner"   # `lib` and `.so` are added where they lack
//! sha256 = "9f2c..."           # optional; checked before anything is loaded
//! abi = "1.0"                  # optional; lets a listing say that it won't fit
//! libtorch = "2.13"            # optional; likewise
//!
//! [[provides]]
//! kind = "pruner"
//! name = "fpgm"
//! summary = "Prunes filters closest to the geometric median"
//! paper = "https://arxiv.org/abs/1811.00250"
//! ```

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use yolo_core::{Kind, suggest};

use crate::describe::{Paper, bad_name};
use crate::error::{Code, PluginError, Result};

/// Name of the file.
pub const FILE_NAME: &str = "yolo-plugin.toml";
/// Version of the format.
pub const FORMAT: i64 = 1;
/// Manifests are a page of text; anything longer is no manifest.
pub const MAX_BYTES: u64 = 256 << 10;

/// A manifest that has been read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Where it stands.
    pub file: PathBuf,
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// SPDX expression.
    pub license: String,
    /// Who wrote it.
    pub authors: Vec<String>,
    /// What the package is.
    pub description: String,
    /// The code.
    pub library: Library,
    /// What the code offers.
    pub provides: Vec<Provides>,
}

/// How the code is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// A shared library: its file name as written (`libx`, `x` or `libx.so`).
    Dynamic(String),
    /// A WebAssembly module.
    Wasm(String),
}

/// The `[library]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub packing: Packing,
    /// Name of the Rust crate, which is part of the name of the entry table; else taken from the file name.
    pub crate_name: Option<String>,
    /// SHA-256 of the file, lower case hex.
    pub sha256: Option<String>,
    /// Plugin ABI that it was built for, `(major, minor)`.
    pub abi: Option<(u16, u16)>,
    /// libtorch that it was built against, as written.
    pub libtorch: Option<String>,
}

/// One entry of `[[provides]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Provides {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Other accepted names.
    pub aliases: Vec<String>,
    /// One line.
    pub summary: String,
    /// The publication.
    pub paper: Option<Paper>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    manifest: i64,
    name: String,
    version: String,
    #[serde(default)]
    license: String,
    #[serde(default)]
    authors: Vec<String>,
    #[serde(default)]
    description: String,
    library: RawLibrary,
    #[serde(default)]
    provides: Vec<RawProvides>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLibrary {
    dynamic: Option<String>,
    wasm: Option<String>,
    #[serde(rename = "crate")]
    crate_name: Option<String>,
    sha256: Option<String>,
    abi: Option<String>,
    libtorch: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvides {
    kind: String,
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    summary: String,
    paper: Option<String>,
    paper_title: Option<String>,
    year: Option<u16>,
}

impl Manifest {
    /// Reads the manifest at `file`.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with file and line for everything that can be wrong with it.
    pub fn read(file: &Path) -> Result<Self> {
        let bad = |reason: String| PluginError::new(Code::BadManifest, format!("{}: {reason}", file.display()));
        let size = std::fs::metadata(file)
            .map_err(|error| bad(format!("can't be read: {error}")))?
            .len();
        if size > MAX_BYTES {
            return Err(bad(format!(
                "{size} bytes are too many for a manifest (at most {MAX_BYTES})"
            )));
        }
        let bytes = std::fs::read(file).map_err(|error| bad(format!("can't be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            bad(format!(
                "this is not UTF-8 text (at byte {})",
                error.utf8_error().valid_up_to()
            ))
        })?;
        Self::parse(file, &text)
    }

    /// Reads a manifest's text; `file` is where it stands, for messages and for finding the library.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let raw: RawManifest = toml::from_str(text).map_err(|error| explain(file, text, &error))?;
        let bad = |needle: &str, reason: String, help: &str| {
            let line = line_of(text, needle).map_or(String::new(), |line| format!(":{line}"));
            Err(PluginError::new(Code::BadManifest, format!("{}{line}: {reason}", file.display())).help(help))
        };
        if raw.manifest != FORMAT {
            let reason = format!("`manifest = {}`, but this yolo reads version {FORMAT}", raw.manifest);
            return bad("manifest", reason, "install a newer yolo, or write the older format");
        }
        if let Some(complaint) = bad_name(&raw.name) {
            return bad(
                "name",
                complaint,
                "`name` is the name of the package, for example `fpgm-pruner`",
            );
        }
        let library = match library(&raw.library) {
            Ok(library) => library,
            Err((key, reason, help)) => return bad(key, reason, help),
        };
        if raw.provides.is_empty() {
            let help = "add a table:  [[provides]]  kind = \"metric\"  name = \"my-metric\"";
            return bad("", "it provides nothing".into(), help);
        }
        let mut provides: Vec<Provides> = Vec::with_capacity(raw.provides.len());
        for entry in raw.provides {
            let at = format!("\"{}\"", entry.kind);
            let Some(kind) = Kind::parse(&entry.kind) else {
                let names = || Kind::ALL.iter().map(|kind| kind.name());
                let help = suggest::did_you_mean(&entry.kind, names())
                    .unwrap_or_else(|| format!("kinds: {}", names().collect::<Vec<_>>().join(", ")));
                return bad(&at, format!("there is no kind `{}`", shown(&entry.kind)), &help);
            };
            if matches!(library.packing, Packing::Wasm(_)) && kind != Kind::Metric {
                let help = "build it as a shared library instead";
                return bad(
                    &at,
                    format!("a WASM module can't be a {}, only a metric", kind.title()),
                    help,
                );
            }
            for name in std::iter::once(&entry.name).chain(&entry.aliases) {
                if let Some(complaint) = bad_name(name) {
                    return bad(&format!("\"{name}\""), complaint, "for example `my-metric`");
                }
            }
            if let Some(other) = provides.iter().find(|other| {
                other.kind == kind && crate::describe::answers_to(&other.name, &other.aliases, &entry.name)
            }) {
                let reason = format!("two entries are called `{}`: both are {}s", other.name, kind.title());
                return bad(&format!("\"{}\"", entry.name), reason, "rename one");
            }
            let paper = entry.paper.map(|url| Paper {
                title: entry.paper_title,
                url,
                year: entry.year,
                short: None,
            });
            provides.push(Provides {
                kind,
                name: entry.name,
                aliases: entry.aliases,
                summary: entry.summary,
                paper,
            });
        }
        Ok(Self {
            file: file.to_owned(),
            name: raw.name,
            version: raw.version,
            license: raw.license,
            authors: raw.authors,
            description: raw.description,
            library,
            provides,
        })
    }

    /// Every place where the code may be, the usual one first.
    fn candidates(&self) -> Vec<PathBuf> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("."));
        match &self.library.packing {
            Packing::Wasm(name) => vec![folder.join(name)],
            Packing::Dynamic(name) => dynamic_names(name).into_iter().map(|name| folder.join(name)).collect(),
        }
    }

    /// Where the code goes when it has been built.
    pub fn code_target(&self) -> PathBuf {
        self.candidates().swap_remove(0)
    }

    /// Where the code is: beside the manifest, under the name as written or with the system's prefix and suffix.
    ///
    /// # Errors
    /// [`Code::NotFound`] with the names that were tried.
    pub fn code_file(&self) -> Result<PathBuf> {
        let candidates = self.candidates();
        if let Some(found) = candidates.iter().find(|path| path.is_file()) {
            return Ok(found.clone());
        }
        let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        Err(
            PluginError::new(Code::NotFound, format!("the library of `{}` is not there", self.name))
                .detail("manifest", self.file.display())
                .detail("tried", tried.join(", "))
                .help("build it first: `yolo plugin build` in its folder"),
        )
    }
}

/// `x` as `x`, `x.so`, `libx.so` (on Linux), in this order.
fn dynamic_names(name: &str) -> Vec<PathBuf> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let path = Path::new(name);
    let (folder, file) = (
        path.parent(),
        path.file_name().and_then(|file| file.to_str()).unwrap_or(name),
    );
    let within = |file: String| folder.map_or_else(|| PathBuf::from(&file), |folder| folder.join(&file));
    if file.ends_with(DLL_SUFFIX) {
        return vec![within(file.to_owned())];
    }
    let mut names = vec![within(format!("{file}{DLL_SUFFIX}"))];
    if !file.starts_with(DLL_PREFIX) {
        names.insert(0, within(format!("{DLL_PREFIX}{file}{DLL_SUFFIX}")));
    }
    names
}

type Complaint = (&'static str, String, &'static str);

/// The checked `[library]` table, or the key that is wrong, why, and what to write.
fn library(raw: &RawLibrary) -> Result<Library, Complaint> {
    let packing = match (&raw.dynamic, &raw.wasm) {
        (Some(name), None) => Packing::Dynamic(name.clone()),
        (None, Some(name)) => Packing::Wasm(name.clone()),
        (Some(_), Some(_)) => {
            return Err((
                "wasm",
                "`[library]` names both `dynamic` and `wasm`".into(),
                "keep one of them",
            ));
        }
        (None, None) => {
            let help = "write `dynamic = \"libx\"` or `wasm = \"x.wasm\"`";
            return Err((
                "[library]",
                "`[library]` names neither `dynamic` nor `wasm`".into(),
                help,
            ));
        }
    };
    let (key, name) = match &packing {
        Packing::Dynamic(name) => ("dynamic", name),
        Packing::Wasm(name) => ("wasm", name),
    };
    let beside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !beside {
        let reason = format!("`{key} = \"{}\"` leads out of the folder of the manifest", shown(name));
        return Err((key, reason, "the library stands beside its manifest"));
    }
    if let Some(hash) = &raw.sha256
        && (hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()))
    {
        return Err((
            "sha256",
            "`sha256` is not 64 hexadecimal digits".into(),
            "`sha256sum FILE` prints it",
        ));
    }
    let abi = match raw.abi.as_deref().map(|text| (text, version_pair(text))) {
        None => None,
        Some((_, Some(pair))) => Some(pair),
        Some((text, None)) => {
            return Err((
                "abi",
                format!("`abi = \"{}\"` is no version", shown(text)),
                "write `abi = \"1.0\"`",
            ));
        }
    };
    if let Some(text) = &raw.libtorch
        && version_pair(text).is_none()
    {
        let reason = format!("`libtorch = \"{}\"` is no version", shown(text));
        return Err(("libtorch", reason, "write it like `libtorch = \"2.13\"`"));
    }
    let sha256 = raw.sha256.as_ref().map(|hash| hash.to_ascii_lowercase());
    Ok(Library {
        packing,
        crate_name: raw.crate_name.clone(),
        sha256,
        abi,
        libtorch: raw.libtorch.clone(),
    })
}

/// Major and minor of `1.0` or `2.13.0`.
pub(crate) fn version_pair(text: &str) -> Option<(u16, u16)> {
    let mut parts = text.split('.');
    let pair = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '+'))
        .then_some(pair)
}

/// Text from a file as it can be shown: without control characters, and not a page of it.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// The first line (from 1) whose text holds `needle`.
fn line_of(text: &str, needle: &str) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    text.lines().position(|line| line.contains(needle)).map(|line| line + 1)
}

/// serde's words with the line, and with a suggestion for a misspelt key.
fn explain(file: &Path, text: &str, error: &toml::de::Error) -> PluginError {
    let before = error.span().map(|span| &text[..text.floor_char_boundary(span.start)]);
    let place = before.map_or(String::new(), |before| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(":{line}:{column}")
    });
    let message = error.message().lines().next().unwrap_or_default();
    let at = |reason: String| PluginError::new(Code::BadManifest, format!("{}{place}: {reason}", file.display()));
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), quoted.split_first()) {
        (true, Some((field, known))) => {
            let all = format!("keys: {}", known.join(", "));
            let help = suggest::did_you_mean(field, known.iter().copied());
            at(format!("there is no key `{}`", shown(field)))
                .help(help.map_or(all.clone(), |hint| format!("{hint} ({all})")))
        }
        _ => at(shown(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "manifest = 1\nname = \"fpgm-pruner\"\nversion = \"0.3.1\"\nlicense = \"MIT\"\n\n[library]\n\
        dynamic = \"libfpgm_pruner\"\nabi = \"1.0\"\nlibtorch = \"2.13\"\n\n[[provides]]\nkind = \"pruner\"\n\
        name = \"fpgm\"\npaper = \"https://arxiv.org/abs/1811.00250\"\n";

    fn error(text: &str) -> String {
        let error = Manifest::parse(Path::new("p/yolo-plugin.toml"), text).expect_err(text);
        assert_eq!(error.code, Code::BadManifest);
        error.to_string()
    }

    #[test]
    fn a_manifest_says_what_a_library_offers() {
        let manifest = Manifest::parse(Path::new("yolo-plugin.toml"), GOOD).expect("valid");
        assert_eq!(manifest.library.packing, Packing::Dynamic("libfpgm_pruner".into()));
        assert_eq!(manifest.library.abi, Some((1, 0)));
        assert_eq!(
            (manifest.provides[0].kind, manifest.provides[0].name.as_str()),
            (Kind::Pruner, "fpgm")
        );
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_a_way_out() {
        let text = error(&GOOD.replace("license", "licence"));
        assert!(
            text.starts_with("p/yolo-plugin.toml:4:1: there is no key `licence`"),
            "{text}"
        );
        assert!(text.contains("did you mean `license`?"), "{text}");
        let text = error(&GOOD.replace("dynamic =", "dinamic ="));
        assert!(
            text.contains(":7:1: there is no key `dinamic`") && text.contains("`dynamic`"),
            "{text}"
        );
        let text = error(&GOOD.replace("\"pruner\"", "\"prunner\""));
        assert!(
            text.contains(":12: there is no kind `prunner`") && text.contains("did you mean `pruner`"),
            "{text}"
        );
        let text = error(&GOOD.replace("manifest = 1", "manifest = 2"));
        assert!(
            text.contains(":1: `manifest = 2`, but this yolo reads version 1"),
            "{text}"
        );
        let text = error(&GOOD.replace("libfpgm_pruner", "../../etc/evil"));
        assert!(text.contains("leads out of the folder"), "{text}");
        let text = error(&GOOD.replace("abi = \"1.0\"", "wasm = \"x.wasm\""));
        assert!(text.contains("names both"), "{text}");
        let text = error(&GOOD.replace("dynamic = \"libfpgm_pruner\"", "wasm = \"x.wasm\""));
        assert!(text.contains("a WASM module can't be a pruner"), "{text}");
        let text = error(&GOOD.replace("abi = \"1.0\"", "abi = \"one\""));
        assert!(text.contains(":8: `abi = \"one\"` is no version"), "{text}");
        let text = error(&GOOD.replace("abi = \"1.0\"", "sha256 = \"12\""));
        assert!(text.contains("64 hexadecimal digits"), "{text}");
        let text = error(GOOD.split("[[provides]]").next().unwrap_or_default());
        assert!(text.contains("provides nothing"), "{text}");
        let twice = format!("{GOOD}\n[[provides]]\nkind = \"pruner\"\nname = \"FPGM\"\n");
        assert!(error(&twice).contains("is no name"), "{}", error(&twice));
        let twice = format!("{GOOD}\n[[provides]]\nkind = \"pruner\"\nname = \"f-p-g-m\"\n");
        assert!(
            error(&twice).contains("two entries are called `fpgm`"),
            "{}",
            error(&twice)
        );
        let text = error("name = [");
        assert!(text.starts_with("p/yolo-plugin.toml:1:"), "{text}");
        assert!(error("manifest = 1").contains("missing field `name`"));
    }

    #[test]
    fn libraries_are_found_under_the_names_of_the_system() {
        use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
        let full = PathBuf::from(format!("{DLL_PREFIX}x{DLL_SUFFIX}"));
        assert_eq!(dynamic_names("x")[0], full);
        assert_eq!(dynamic_names(&full.display().to_string()), std::slice::from_ref(&full));
        assert_eq!(version_pair("2.13.0"), Some((2, 13)));
        assert_eq!(version_pair("2.13.0+cpu"), Some((2, 13)));
        assert_eq!(version_pair("2"), None);
    }
}
