//! The error type of the graph, its passes and the plugin traits. Says what is wrong and what to do; the crates that
//! know a file add its name.

/// What can go wrong while a model is described, built, transformed or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node's inputs do not fit its op.
    #[error("`{node}` ({op}): {reason}")]
    Shape {
        /// Scoped name of the node.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// A graph that is not well formed (an input that comes later, an output that does not exist, ...).
    #[error("the graph is not well formed: {0}")]
    Graph(String),
    /// A plugin refused to build with its options.
    #[error("`{plugin}` can't be built: {reason}")]
    Build {
        /// Name of the plugin.
        plugin: String,
        /// Why, and what would fit.
        reason: String,
    },
    /// A tensor that the graph needs is absent or has another shape.
    #[error("the weights don't fit the model: {0}")]
    Params(String),
    /// A configuration that can be read but makes no sense.
    #[error("{0}")]
    Config(String),
    /// A configuration value with the place where it stands.
    #[error(transparent)]
    Located(#[from] crate::config::ConfigError),
    /// libtorch reported an error.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] tch::TchError),
    /// A pruner, metric or quantizer gave up.
    #[error("{plugin}: {reason}")]
    Plugin {
        /// Name of the plugin.
        plugin: String,
        /// Why.
        reason: String,
    },
    /// A budget or option outside what the model allows.
    #[error("{0}")]
    Impossible(String),
    /// A student that can't learn from a teacher.
    #[error(transparent)]
    Misfit(#[from] crate::distil::Misfit),
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// JSON that crosses a boundary (graph files, plugin options) could not be read.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A failure that has a code and a page: a plugin that can't be loaded or used.
    #[error(transparent)]
    Coded(Box<crate::PluginError>),
    /// An error of a layer above (data, checkpoints) that passes through a core trait.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an error of another crate so that it can pass through a core trait.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

/// libtorch appends a C++ stack trace to its messages; a person needs the first line only.
fn first_line(error: &tch::TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
