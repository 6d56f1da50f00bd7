//! What a command says when it fails, and its exit code: 1 for a job that failed, 2 for bad usage.

use std::fmt;

/// A failed command.
#[derive(Debug)]
pub enum CliError {
    /// The command line or a configuration is wrong: exit code 2.
    Usage(String),
    /// The job failed: exit code 1.
    Failed(String),
    /// The user pressed Ctrl-C, or the system asked to end: the job is not done, what was done is kept. Exit code 1.
    Interrupted(String),
    /// The reason has been printed already (a table with broken rows): this exit code.
    Said(u8),
}

impl CliError {
    /// Exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) | Self::Interrupted(_) => 1,
            Self::Said(code) => *code,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::Interrupted(text) => f.write_str(text),
            Self::Said(_) => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

impl From<yolo_core::Error> for CliError {
    fn from(error: yolo_core::Error) -> Self {
        use yolo_core::Error;
        match error {
            Error::Cancelled => Self::Interrupted("stopped".into()),
            Error::Located(error) => error.into(),
            Error::Config(_) | Error::Build { .. } | Error::Impossible(_) => Self::Usage(error.to_string()),
            Error::Coded(error) => (*error).into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<yolo_core::PluginError> for CliError {
    fn from(error: yolo_core::PluginError) -> Self {
        if error.code.is_usage() {
            Self::Usage(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<yolo_core::config::ConfigError> for CliError {
    fn from(error: yolo_core::config::ConfigError) -> Self {
        let more = error
            .code
            .map_or(String::new(), |code| format!("\n  more: yolo explain {}", code.name()));
        Self::Usage(format!("{error}{more}"))
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(format!("JSON: {error}"))
    }
}

impl From<tch::TchError> for CliError {
    fn from(error: tch::TchError) -> Self {
        yolo_core::Error::from(error).into()
    }
}

/// Result of a command.
pub type CliResult<T = ()> = Result<T, CliError>;

/// A failed file operation with the name of the file.
pub fn io_error(what: &str, path: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("{}: {what}: {error}", path.display()))
}
