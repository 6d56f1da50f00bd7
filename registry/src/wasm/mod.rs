//! Prune metrics as WebAssembly modules: pure functions, bounded in instructions, time and memory, with the same scores on every
//! machine. `docs/plugins/wasm.md` is the contract for authors.

mod cache;
mod call;
mod carrier;
mod engine;
mod metric;
mod module;
pub mod section;

use std::path::Path;

use crate::describe::Description;
use crate::error::{Code, PluginError, Result};

pub(crate) use carrier::Modules;
pub use metric::WasmMetric;
pub use module::{Loaded, load};

/// Name of the custom section with the description.
pub const SECTION: &str = "yolo.plugin";
/// Largest module.
pub const MAX_MODULE: u64 = 16 << 20;
/// Version of the metric ABI.
pub const ABI: (u16, u16) = (1, 0);
/// Name of the component that runs modules, in resolved configurations.
pub const TAG: &str = "@wasm";

/// How the module in this file describes itself. Nothing is compiled or run.
///
/// # Errors
/// [`Code::WasmBadModule`], [`Code::WasmTooLarge`], [`Code::WasmMetadata`].
pub fn describe(file: &Path) -> Result<Description> {
    let bytes = read(file)?;
    described(file, &bytes)?.ok_or_else(|| {
        PluginError::new(Code::WasmMetadata, format!("{} has no section `{SECTION}`", file.display()))
            .help(format!("`yolo plugin describe {} DESCRIPTION.json` adds one; the shortest: {{\"kind\": \"metric\", \"name\": \"my-metric\"}}", file.display()))
    })
}

/// Whether a path is that of a module, by its ending.
pub(crate) fn is_module(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "wasm" || e == "wat")
}

/// A module as bytes; text form (`.wat`) is translated.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    let bad = |reason: String| PluginError::new(Code::WasmBadModule, format!("{}: {reason}", file.display()));
    let meta = std::fs::metadata(file)
        .map_err(|error| PluginError::new(Code::NotFound, format!("{} can't be read: {error}", file.display())))?;
    if !meta.is_file() {
        return Err(bad("this is no file".into()));
    }
    if meta.len() > MAX_MODULE {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let message = format!(
            "{} has {:.1} MiB; a metric may have {:.0} MiB",
            file.display(),
            mib(meta.len()),
            mib(MAX_MODULE)
        );
        return Err(PluginError::new(Code::WasmTooLarge, message)
            .help("strip it: `wasm-opt -Oz`, `strip = true` in Cargo's profile"));
    }
    let bytes = std::fs::read(file).map_err(|error| bad(format!("can't be read: {error}")))?;
    if bytes.starts_with(&section::MAGIC) || file.extension().is_none_or(|e| e != "wat") {
        return Ok(bytes);
    }
    let translated = wat::parse_bytes(&bytes).map_err(|error| bad(format!("the text can't be read: {error}")))?;
    Ok(translated.into_owned())
}

/// The checked description in a module's section; `None` without a section.
pub(crate) fn described(file: &Path, bytes: &[u8]) -> Result<Option<Description>> {
    let content = section::find(bytes, SECTION).map_err(|error| {
        let message = format!("{} is no WebAssembly module: {} (at offset {:#x})", file.display(), error.reason, error.offset);
        PluginError::new(Code::WasmBadModule, message)
            .help("metrics are core modules for wasm32-unknown-unknown; `file` should call it a \"WebAssembly (wasm) binary module\"")
    })?;
    content.map(|content| parse(file, content)).transpose()
}

/// The description in the content of a section.
///
/// # Errors
/// [`Code::WasmMetadata`].
pub fn parse(file: &Path, content: &[u8]) -> Result<Description> {
    let bad = |reason: String| {
        let message = format!("{}: the section `{SECTION}` can't be read: {reason}", file.display());
        PluginError::new(Code::WasmMetadata, message)
            .help("the shortest description: {\"kind\": \"metric\", \"name\": \"my-metric\"}")
    };
    let text = std::str::from_utf8(content)
        .map_err(|error| bad(format!("it is not UTF-8 text (at byte {})", error.valid_up_to())))?;
    // C strings bring their zero along.
    let mut about: Description =
        serde_json::from_str(text.trim_end_matches('\0')).map_err(|error| bad(error.to_string()))?;
    if about.kind != yolo_core::Kind::Metric {
        return Err(bad(format!(
            "a WASM module can't be a {}, only a metric",
            about.kind.title()
        )));
    }
    if let Some(complaint) = about.complaint().or_else(|| metric::schema_complaint(&about.schema)) {
        return Err(bad(complaint));
    }
    metric::complete(&mut about.schema);
    if about.package.is_empty() {
        about.package = file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
    }
    Ok(about)
}
