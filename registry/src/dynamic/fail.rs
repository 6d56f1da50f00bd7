//! From the status of a plugin's function to an error.

use std::path::Path;

use yolo_abi::{TextBuffer, status};
use yolo_core::Error;

use crate::error::{Code, PluginError};

/// Longest message that is passed on.
const MAX_MESSAGE: usize = 4000;

/// Text of a plugin as it may be printed: no control characters but line ends, not longer than a page.
pub(super) fn printable(text: &str) -> String {
    let clean = text
        .trim()
        .chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c });
    let mut short: String = clean.take(MAX_MESSAGE).collect();
    if short.is_empty() {
        short.push_str("(it did not say why)");
    }
    short
}

/// What a plugin's function returned, if not success.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: i32,
    pub text: String,
}

impl Failure {
    /// `Ok` for [`status::OK`].
    pub fn check(code: i32, error: &TextBuffer) -> Result<(), Self> {
        if code == status::OK {
            Ok(())
        } else {
            Err(Self {
                code,
                text: printable(&error.lossy()),
            })
        }
    }

    /// As an error of the component `name` in the library at `path`.
    pub fn error(self, name: &str, path: &Path) -> Error {
        match self.code {
            status::CANCELLED => Error::Cancelled,
            status::IMPOSSIBLE => Error::Impossible(self.text),
            status::OPTIONS => Error::Build {
                plugin: name.to_owned(),
                reason: self.text,
            },
            _ => self.plugin_error(name, path).into(),
        }
    }

    /// As an error with a code, whatever it is.
    pub fn plugin_error(self, name: &str, path: &Path) -> PluginError {
        let Self { code, text } = self;
        let error = match code {
            status::OPTIONS => PluginError::new(Code::BadOptions, format!("`{name}` refuses its options: {text}")),
            status::TORCH => PluginError::new(
                Code::Torch,
                format!("libtorch reported an error inside of `{name}`: {text}"),
            ),
            status::PANIC => PluginError::new(Code::Panicked, format!("`{name}` panicked: {text}"))
                .help("this is a mistake in the plugin, tell its author; yolo itself is unharmed"),
            status::UNSUPPORTED => PluginError::new(Code::Unsupported, format!("`{name}` does not offer this: {text}")),
            status::CANCELLED | status::HOST | status::IMPOSSIBLE | status::FAILED => {
                PluginError::new(Code::PluginFailed, format!("`{name}` gave up: {text}"))
            }
            other => PluginError::new(
                Code::BadResult,
                format!("`{name}` returned the status {other}, which means nothing: {text}"),
            ),
        };
        error.detail("library", path.display())
    }
}
