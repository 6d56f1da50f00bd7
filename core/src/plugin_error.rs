//! What goes wrong with plugins and with the names and options of a configuration: one message, the facts beside it, the way out, and a
//! code that `yolo explain CODE` documents. Whoever loads plugins makes these errors; they are declared here because they come back
//! through the traits of this crate.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

/// A failure with a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// Which failure this is; never changes its name.
    pub code: Code,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Facts beside the message: a label and a value, in order ("library", "/opt/libx.so").
    pub details: Vec<(String, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl PluginError {
    /// An error of this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            help: None,
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn detail(mut self, label: &str, value: impl fmt::Display) -> Self {
        self.details.push((label.to_owned(), value.to_string()));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `{code, message}` and, where there are any, `details` and `help`.
    pub fn to_json(&self) -> Value {
        let mut json = json!({"code": self.code.name(), "message": self.message});
        if !self.details.is_empty() {
            // A list: labels may come twice.
            json["details"] = self
                .details
                .iter()
                .map(|(label, value)| json!({"label": label, "value": value}))
                .collect();
        }
        if let Some(help) = &self.help {
            json["help"] = help.as_str().into();
        }
        json
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let width = self
            .details
            .iter()
            .map(|(label, _)| label.chars().count())
            .max()
            .unwrap_or(0);
        for (label, value) in &self.details {
            write!(f, "\n  {label:width$}  {value}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        write!(f, "\n  more: yolo explain {}", self.code.name())
    }
}

impl std::error::Error for PluginError {}

impl From<PluginError> for crate::Error {
    fn from(error: PluginError) -> Self {
        Self::Coded(Box::new(error))
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Declares [`Code`] with its names and the pages of `docs/errors`, so that a code without a page does not compile.
macro_rules! codes {
    ($($variant:ident = $area:literal, $short:literal, $doc:literal;)+) => {
        /// A stable name for a failure. Each has a page, which is embedded here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $doc] $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that people see: `yolo::plugin::abi_mismatch`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("yolo::", $area, "::", $short),)+
                }
            }

            /// The page: what happened, an example, what to do. Markdown.
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!("../../docs/errors/", $area, "/", $short, ".md"))
                    })+
                }
            }

            /// One line about it.
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $doc,)+
                }
            }
        }
    };
}

codes! {
    AbiMismatch = "plugin", "abi_mismatch", "The library was built for another plugin ABI";
    BadGraph = "plugin", "bad_graph", "A plugin returned a graph that is not well formed";
    BadInfo = "plugin", "bad_info", "A plugin describes itself in a way that can't be read";
    BadManifest = "plugin", "bad_manifest", "`yolo-plugin.toml` can't be read";
    BadOptions = "plugin", "bad_options", "A plugin refused its options";
    BadResult = "plugin", "bad_result", "A plugin returned something that can't be used";
    BadTable = "plugin", "bad_table", "The entry table of a library is truncated or damaged";
    BuildFailed = "plugin", "build_failed", "A plugin crate did not build";
    Checksum = "plugin", "checksum", "The library is not the one that the manifest was written for";
    DuplicateName = "plugin", "duplicate_name", "Two plugins of a kind have the same name";
    LibtorchMismatch = "plugin", "libtorch_mismatch", "The library was built against another libtorch";
    LoadFailed = "plugin", "load_failed", "The system's loader refused the library";
    ManifestDrift = "plugin", "manifest_drift", "Manifest and library disagree about what is inside";
    NotAPlugin = "plugin", "not_a_plugin", "The library exports no entry table";
    NotFound = "plugin", "not_found", "There is no file or folder at this path";
    Panicked = "plugin", "panicked", "The code of a plugin panicked";
    PluginFailed = "plugin", "failed", "A plugin gave up with a message of its own";
    Torch = "plugin", "torch", "libtorch reported an error inside of a plugin";
    TwoLibtorch = "plugin", "two_libtorch", "The library brought a second libtorch into the process";
    Unsupported = "plugin", "unsupported", "A plugin does not offer what was asked of it";
    WasmAbi = "wasm", "abi_mismatch", "The module was built for another metric ABI";
    WasmAlloc = "wasm", "alloc_failed", "`yolo_alloc` gave no usable memory";
    WasmBadModule = "wasm", "bad_module", "The file is no valid WebAssembly module";
    WasmBadResult = "wasm", "bad_result", "A metric's scores can't be used";
    WasmExports = "wasm", "exports", "The module lacks an export, or one has another type";
    WasmFailed = "wasm", "failed", "A metric returned an error code of its own";
    WasmImports = "wasm", "imports", "The module imports something";
    WasmMetadata = "wasm", "bad_metadata", "The custom section `yolo.plugin` is absent or can't be read";
    WasmNeeds = "wasm", "unknown_needs", "The metric asks for inputs that this yolo does not have";
    WasmOutOfFuel = "wasm", "out_of_fuel", "A metric used its whole budget of instructions";
    WasmOutOfMemory = "wasm", "out_of_memory", "A metric wanted more memory than it may have";
    WasmOutOfTime = "wasm", "out_of_time", "A metric ran longer than it may";
    WasmTooLarge = "wasm", "too_large", "The module is larger than a metric may be";
    WasmTrap = "wasm", "trap", "The code of a metric trapped";
    AmbiguousName = "config", "ambiguous_name", "A name stands for plugins of several kinds";
    BadValue = "config", "bad_value", "An option has a value that can't be used";
    UnknownName = "config", "unknown_name", "There is no plugin of this name";
    UnknownOption = "config", "unknown_option", "A plugin has no such option";
    WrongKind = "config", "wrong_kind", "The name belongs to a plugin of another kind";
}

impl Code {
    /// The code of this name: `yolo::plugin::checksum`, or without the `yolo::`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim().trim_start_matches("yolo::");
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.name().trim_start_matches("yolo::") == name)
    }

    /// Whether the user's configuration or command line is at fault, rather than the plugin.
    pub fn is_usage(self) -> bool {
        matches!(
            self,
            Self::AmbiguousName
                | Self::BadValue
                | Self::UnknownName
                | Self::UnknownOption
                | Self::WrongKind
                | Self::BadOptions
                | Self::NotFound
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let error = PluginError::new(
            Code::AbiMismatch,
            "`x` was built for plugin ABI 2.0, this yolo speaks 1.0",
        )
        .detail("library", "lib/libx.so")
        .detail("yolo", "0.1.0")
        .help("rebuild it");
        assert_eq!(
            error.to_string(),
            "`x` was built for plugin ABI 2.0, this yolo speaks 1.0\n  library  lib/libx.so\n  yolo     0.1.0\n  \
             help: rebuild it\n  more: yolo explain yolo::plugin::abi_mismatch"
        );
        assert_eq!(
            error.to_json()["details"][1],
            json!({"label": "yolo", "value": "0.1.0"})
        );
    }

    #[test]
    fn every_code_has_one_name_and_a_page_with_a_way_out() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(Code::parse(code.name()), Some(*code));
            let page = code.page();
            assert!(
                page.starts_with(&format!("# {}\n", code.name())),
                "{}: the title",
                code.name()
            );
            assert!(page.contains("\n## What to do\n"), "{}: no way out", code.name());
            assert!(page.contains("```"), "{}: no example", code.name());
        }
    }
}
