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

impl From<yolo_jobs::Error> for CliError {
    fn from(error: yolo_jobs::Error) -> Self {
        match error {
            yolo_jobs::Error::Usage(text) => Self::Usage(text),
            yolo_jobs::Error::Failed(text) => Self::Failed(text),
            yolo_jobs::Error::Interrupted(text) => Self::Interrupted(text),
        }
    }
}

/// What jobs make of an error is what commands make of it.
macro_rules! as_jobs_do {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                yolo_jobs::Error::from(error).into()
            }
        }
    )*};
}

as_jobs_do!(
    yolo_core::Error,
    yolo_core::PluginError,
    yolo_core::config::ConfigError,
    yolo_data::Error,
    yolo_engine::Error,
    yolo_export::Error,
    yolo_report::Error,
    serde_json::Error,
    tch::TchError,
);

/// Result of a command.
pub type CliResult<T = ()> = Result<T, CliError>;

/// A failed file operation with the name of the file.
pub fn io_error(what: &str, path: &std::path::Path, error: &std::io::Error) -> CliError {
    yolo_jobs::error::io_error(what, path, error).into()
}
