//! Why a job did not come to its end. Each has said nothing yet: whoever started the job tells it.

use std::fmt;
use std::path::Path;

/// Result of a job.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// A job that did not come to its end.
#[derive(Debug)]
pub enum Error {
    /// What was asked for makes no sense: options, a configuration, or files that don't belong together. Nothing was written.
    Usage(String),
    /// The job failed; what was finished is kept.
    Failed(String),
    /// The listener wanted it to end ([`yolo_core::Progress::go_on`]); what was finished is kept.
    Interrupted(String),
}

impl Error {
    /// Changes the text.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Usage(text) => Self::Usage(change(text)),
            Self::Failed(text) => Self::Failed(change(text)),
            Self::Interrupted(text) => Self::Interrupted(change(text)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::Interrupted(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<yolo_core::Error> for Error {
    fn from(error: yolo_core::Error) -> Self {
        use yolo_core::Error as Core;
        match error {
            Core::Cancelled => Self::Interrupted("stopped".into()),
            Core::Located(error) => error.into(),
            Core::Config(_) | Core::Build { .. } | Core::Impossible(_) => Self::Usage(error.to_string()),
            Core::Coded(error) => (*error).into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<yolo_core::PluginError> for Error {
    fn from(error: yolo_core::PluginError) -> Self {
        if error.code.is_usage() {
            Self::Usage(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<yolo_core::config::ConfigError> for Error {
    fn from(error: yolo_core::config::ConfigError) -> Self {
        let more = error
            .code
            .map_or(String::new(), |code| format!("\n  more: yolo explain {}", code.name()));
        Self::Usage(format!("{error}{more}"))
    }
}

impl From<yolo_data::Error> for Error {
    fn from(error: yolo_data::Error) -> Self {
        match error {
            yolo_data::Error::Config(error) => error.into(),
            yolo_data::Error::Settings(text) => Self::Usage(text),
            yolo_data::Error::Stopped => Self::Interrupted("stopped".into()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<yolo_engine::Error> for Error {
    fn from(error: yolo_engine::Error) -> Self {
        match error {
            yolo_engine::Error::Core(error) => error.into(),
            yolo_engine::Error::Settings(text) => Self::Usage(text),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<yolo_export::Error> for Error {
    fn from(error: yolo_export::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<yolo_report::Error> for Error {
    fn from(error: yolo_report::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(format!("JSON: {error}"))
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        yolo_core::Error::from(error).into()
    }
}

/// A failed file operation with the name of the file.
pub fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Failed(format!("{}: {what}: {error}", path.display()))
}

/// There is no such choice; which there are.
pub fn unknown(what: &str, name: &str, choices: &[&str]) -> Error {
    let help = yolo_core::suggest::did_you_mean(name, choices.iter().copied())
        .unwrap_or_else(|| format!("choices: {}", choices.join(", ")));
    Error::Usage(format!("there is no {what} `{name}`\n  help: {help}"))
}
