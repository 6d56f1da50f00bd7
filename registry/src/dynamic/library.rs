//! Opening a library: everything that can be told from the file is told before its code runs.

use std::fmt;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use yolo_abi::{ABI_MAJOR, ABI_MINOR, LIBTORCH, MAGIC, SYMBOL_PREFIX, TextBuffer, YoloPluginV1, YoloStr};
use yolo_core::Kind;

use super::elf::Elf;
use super::fail::{Failure, printable};
use super::maps;
use crate::describe::Description;
use crate::error::{Code, PluginError, Result};

/// A library that has been loaded and checked. Never unloaded: code of it may be on any thread's stack or in its exit handlers.
pub struct Library {
    path: PathBuf,
    crate_name: String,
    table: &'static YoloPluginV1,
    facts: Facts,
    descriptions: Vec<Description>,
}

/// What a library was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Plugin ABI, major and minor.
    pub abi: (u16, u16),
    /// libtorch; empty where it uses none.
    pub libtorch: String,
    /// SDK.
    pub sdk: String,
    /// Target.
    pub target: String,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .field("crate", &self.crate_name)
            .field("facts", &self.facts)
            .finish()
    }
}

/// What the file of a library says, with nothing loaded.
#[derive(Debug, Clone)]
pub struct Peek {
    /// Name of the crate, from the name of its table.
    pub crate_name: String,
    /// Plugin ABI in its table.
    pub abi: (u16, u16),
    /// Libraries that it needs.
    pub needed: Vec<String>,
}

impl Library {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of its crate.
    pub fn crate_name(&self) -> &str {
        &self.crate_name
    }

    /// What it was built with.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its components.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// The component of this kind and exact name.
    pub fn description(&self, kind: Kind, name: &str) -> Option<&Description> {
        self.descriptions
            .iter()
            .find(|about| about.kind == kind && about.name == name)
    }

    pub(super) fn table(&self) -> &'static YoloPluginV1 {
        self.table
    }

    /// Opens the file at `path`, which must not be open yet.
    pub(super) fn open(path: &Path, crate_name: Option<&str>) -> Result<Self> {
        let peek = peek(path, crate_name)?;
        // The program's libtorch comes first: a library that asks for one by name then gets that.
        yolo_torch::load().map_err(|reason| no_libtorch(&reason))?;
        let before = maps::loaded();
        // SAFETY: the library's constructors run. That is what the user asked for: plugins in libraries run with full rights.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let handle = handle.map_err(|error| refused(path, &peek, &error))?;
        // Never closed; also where what follows fails, since its constructors have run.
        let handle = std::mem::ManuallyDrop::new(handle);
        one_libtorch(path, &before)?;
        let symbol = format!("{SYMBOL_PREFIX}{}", peek.crate_name);
        // SAFETY: the symbol is that of a table, by its name; what is in it is checked below.
        let table = unsafe { handle.get::<*const YoloPluginV1>(symbol.as_bytes()) }
            .map(|symbol| *symbol)
            .map_err(|error| not_a_plugin(path, &format!("it has no symbol `{symbol}`: {error}")))?;
        Self::check(path, &peek.crate_name, table)
    }

    /// The library behind a table.
    pub(super) fn check(path: &Path, crate_name: &str, table: *const YoloPluginV1) -> Result<Self> {
        let bad = |reason: String| {
            PluginError::new(Code::BadTable, format!("{}: {reason}", path.display()))
                .help("rebuild it with this yolo's SDK; a plugin in C sets every field of its table, `struct_size` with sizeof")
        };
        if table.is_null() || !table.addr().is_multiple_of(align_of::<YoloPluginV1>()) {
            return Err(bad("its entry table has a null or crooked address".into()));
        }
        // SAFETY: exported under the name of a table, whose first fields are the same in every version.
        let (magic, abi, size) = unsafe {
            (
                (*table).magic,
                ((*table).abi_major, (*table).abi_minor),
                (*table).struct_size as usize,
            )
        };
        check_head(path, magic, abi, size)?;
        // SAFETY: the table is as long as ours, lives as long as the library (for ever), and is constant.
        let table: &'static YoloPluginV1 = unsafe { &*table };
        for (function, there) in [
            ("describe", table.describe.is_some()),
            ("create", table.create.is_some()),
            ("destroy", table.destroy.is_some()),
            ("vtable", table.vtable.is_some()),
        ] {
            if !there {
                return Err(bad(format!("its entry table lacks the function `{function}`")));
            }
        }
        let text = |text: YoloStr, what: &str| {
            // SAFETY: texts of a table are constant and live as long as the library.
            let text = if text.len > 200 {
                None
            } else {
                unsafe { text.text() }.ok()
            };
            text.map(printable_word)
                .ok_or_else(|| bad(format!("the text `{what}` of its table is too long or not UTF-8")))
        };
        let facts = Facts {
            abi,
            libtorch: text(table.libtorch, "libtorch")?,
            sdk: text(table.sdk, "sdk")?,
            target: text(table.target, "target")?,
        };
        same_libtorch(path, &facts)?;
        let descriptions = describe(path, table)?;
        Ok(Self {
            path: path.to_owned(),
            crate_name: crate_name.to_owned(),
            table,
            facts,
            descriptions,
        })
    }
}

fn printable_word(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        printable(text)
    }
}

/// Reads the file at `path` as a plugin, without loading it. `crate_name` is that of the manifest, if there is one.
///
/// # Errors
/// [`Code::NotFound`], [`Code::NotAPlugin`], [`Code::BadTable`], [`Code::AbiMismatch`].
pub fn peek(path: &Path, crate_name: Option<&str>) -> Result<Peek> {
    if !path.is_file() {
        return Err(
            PluginError::new(Code::NotFound, format!("there is no library at {}", path.display()))
                .help("build it first: `yolo plugin build`"),
        );
    }
    let elf = Elf::read(path).map_err(|reason| not_a_plugin(path, &reason))?;
    let tables: Vec<&str> = elf
        .exports
        .iter()
        .filter_map(|(name, ..)| name.strip_prefix(SYMBOL_PREFIX))
        .collect();
    let wanted = crate_name.map_or_else(|| crate_of(path), |name| Some(name.replace('-', "_")));
    let found = match (
        wanted
            .as_deref()
            .and_then(|wanted| tables.iter().find(|table| **table == wanted)),
        &tables[..],
    ) {
        (Some(table), _) => (*table).to_owned(),
        // A file may have any name, as long as there is no doubt.
        (None, [only]) if crate_name.is_none() => (*only).to_owned(),
        (None, _) => return Err(without_table(path, wanted.as_deref(), &tables, elf.exports.len())),
    };
    let symbol = format!("{SYMBOL_PREFIX}{found}");
    const HEAD: usize = offset_of!(YoloPluginV1, struct_size) + 4;
    let Some(head) = elf.bytes_at::<HEAD>(&symbol) else {
        return Err(PluginError::new(
            Code::BadTable,
            format!("{}: its entry table is cut off", path.display()),
        )
        .help("rebuild it with this yolo's SDK"));
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let abi = (
        half(offset_of!(YoloPluginV1, abi_major)),
        half(offset_of!(YoloPluginV1, abi_minor)),
    );
    let size = word(offset_of!(YoloPluginV1, struct_size)) as usize;
    check_head(path, word(offset_of!(YoloPluginV1, magic)), abi, size)?;
    let exported = elf
        .exports
        .iter()
        .find(|(name, ..)| *name == symbol)
        .map_or(0, |(_, _, size)| *size);
    if exported != 0 && (exported as usize) < size_of::<YoloPluginV1>() {
        return Err(truncated(path, exported as usize));
    }
    Ok(Peek {
        crate_name: found,
        abi,
        needed: elf.needed,
    })
}

/// Magic, version and size of a table.
fn check_head(path: &Path, magic: u32, abi: (u16, u16), size: usize) -> Result<()> {
    if magic != MAGIC {
        let message = format!(
            "{}: its entry table does not begin with the mark of a plugin ({magic:#010x})",
            path.display()
        );
        return Err(PluginError::new(Code::BadTable, message).help("set `magic` to YOLO_MAGIC"));
    }
    if abi.0 != ABI_MAJOR || abi.1 > ABI_MINOR {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let message = format!(
            "`{name}` was built for plugin ABI {}.{}, this yolo speaks {ABI_MAJOR}.{ABI_MINOR}",
            abi.0, abi.1
        );
        let newer = abi.0 > ABI_MAJOR || (abi.0 == ABI_MAJOR && abi.1 > ABI_MINOR);
        let help = if newer {
            "install a newer yolo, or rebuild the plugin with this yolo's SDK"
        } else {
            "rebuild the plugin with this yolo's SDK"
        };
        return Err(PluginError::new(Code::AbiMismatch, message)
            .detail("library", path.display())
            .detail("yolo", env!("CARGO_PKG_VERSION"))
            .help(help));
    }
    if size < size_of::<YoloPluginV1>() {
        return Err(truncated(path, size));
    }
    Ok(())
}

fn truncated(path: &Path, size: usize) -> PluginError {
    let message = format!(
        "{}: its entry table has {size} bytes, ABI {ABI_MAJOR}.{ABI_MINOR} has {}",
        path.display(),
        size_of::<YoloPluginV1>()
    );
    PluginError::new(Code::BadTable, message)
        .help("rebuild it with this yolo's SDK; in C, set `struct_size` with sizeof")
}

/// The crate that a file name speaks of: `libmy_net.so` is of `my_net`.
fn crate_of(path: &Path) -> Option<String> {
    let stem = path.file_name()?.to_str()?.split(".so").next()?;
    Some(stem.strip_prefix("lib").unwrap_or(stem).replace('-', "_"))
}

fn not_a_plugin(path: &Path, reason: &str) -> PluginError {
    PluginError::new(Code::NotAPlugin, format!("{} is no plugin: {reason}", path.display()))
        .help("a plugin is a shared library; a Rust crate needs crate-type = [\"cdylib\"], see docs/plugins/dynamic.md")
}

fn without_table(path: &Path, wanted: Option<&str>, tables: &[&str], exports: usize) -> PluginError {
    let wanted = wanted.unwrap_or("CRATE");
    let message = format!("{} has no symbol `{SYMBOL_PREFIX}{wanted}`", path.display());
    let mut error = PluginError::new(Code::NotAPlugin, message);
    if tables.is_empty() {
        error = error.detail(
            "exports",
            format!("{exports} symbols, none of which starts with `{SYMBOL_PREFIX}`"),
        );
        return error
            .help("does the crate call `yolo_sdk::plugin!`? A Rust library also needs crate-type = [\"cdylib\"]");
    }
    let found: Vec<String> = tables
        .iter()
        .take(5)
        .map(|name| format!("{SYMBOL_PREFIX}{name}"))
        .collect();
    error = error.detail("exports", found.join(", "));
    error.help(format!(
        "is the crate name in the manifest right? `crate = \"{}\"` would fit",
        tables[0]
    ))
}

/// The system's loader would not have it.
fn refused(path: &Path, peek: &Peek, error: &libloading::Error) -> PluginError {
    // What the system said is the cause of what libloading says.
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let text = printable(&cause.unwrap_or_else(|| error.to_string()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let reason = text
        .rsplit_once(&format!("{name}: "))
        .map_or(text.as_str(), |(_, reason)| reason);
    let message = format!("`{name}` could not be loaded: {reason}");
    let mut out = PluginError::new(Code::LoadFailed, message).detail("library", path.display());
    if !peek.needed.is_empty() {
        out = out.detail("needs", peek.needed.join(", "));
    }
    let help = if text.contains("undefined symbol") {
        "it was built against another version of a library that it shares with yolo: rebuild it".to_owned()
    } else {
        format!(
            "a library that it needs is missing: `ldd {} | grep 'not found'`",
            path.display()
        )
    };
    out.help(help)
}

/// Without libtorch no library is loaded, since it could bring one of its own.
fn no_libtorch(reason: &yolo_torch::install::Problem) -> PluginError {
    PluginError::new(Code::LoadFailed, format!("libtorch: {}", reason.what)).help(&reason.help)
}

/// Refuses a library that brought another libtorch along.
fn one_libtorch(path: &Path, before: &[PathBuf]) -> Result<()> {
    let after = maps::loaded();
    let Some(new) = after
        .iter()
        .find(|copy| !before.contains(copy))
        .filter(|_| after.len() > 1)
    else {
        return Ok(());
    };
    let message = format!(
        "loading `{}` brought a second libtorch into the process",
        path.display()
    );
    let mut error = PluginError::new(Code::TwoLibtorch, message);
    for own in before {
        error = error.detail("yolo", own.display());
    }
    Err(error.detail("plugin", new.display()).help(
        "build the plugin without rpath (`yolo plugin build` does), or unset LD_LIBRARY_PATH; then start yolo again",
    ))
}

/// Major and minor version of libtorch must be the same; a plugin that uses none fits all.
fn same_libtorch(path: &Path, facts: &Facts) -> Result<()> {
    let pair = |text: &str| text.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if facts.libtorch.is_empty() || pair(&facts.libtorch) == pair(LIBTORCH) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let message = format!(
        "`{name}` was built against libtorch {}, yolo runs {LIBTORCH}",
        facts.libtorch
    );
    Err(PluginError::new(Code::LibtorchMismatch, message)
        .detail("library", path.display())
        .help("rebuild it with LIBTORCH pointing at the libtorch that `yolo doctor` prints"))
}

/// What a library says of its components.
fn describe(path: &Path, table: &YoloPluginV1) -> Result<Vec<Description>> {
    let bad = |reason: String| {
        PluginError::new(
            Code::BadInfo,
            format!(
                "{} describes itself in a way that can't be read: {reason}",
                path.display()
            ),
        )
        .help("`describe` writes a JSON list: [{\"kind\": \"metric\", \"name\": \"my-metric\"}]")
    };
    let Some(function) = table.describe else {
        return Ok(Vec::new());
    };
    let (mut reply, mut error) = (TextBuffer::new(), TextBuffer::new());
    // SAFETY: both texts stay in their place during the call.
    let code = unsafe { function(reply.text(), error.text()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Failure::check(code, &error).map_err(|failure| failure.plugin_error(&name, path))?;
    let text = reply.finish().map_err(|error| bad(error.to_string()))?;
    let found: Vec<Description> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("it has no components".into()));
    }
    if found.len() > 1000 {
        return Err(bad(format!("it has {} components", found.len())));
    }
    for (at, about) in found.iter().enumerate() {
        if let Some(complaint) = about.complaint() {
            return Err(bad(complaint));
        }
        if found[..at]
            .iter()
            .any(|other| other.kind == about.kind && other.answers_to(&about.name))
        {
            return Err(bad(format!(
                "it has two components of kind {} called `{}`",
                about.kind.name(),
                about.name
            )));
        }
    }
    Ok(found)
}
