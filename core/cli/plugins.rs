//! Which plugins this run may use. The flags are the program's own, so every command takes them.

use std::path::PathBuf;
use std::sync::OnceLock;

use yolo_registry::{Index, PluginError, SearchPath, dynamic};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Where plugins are looked for, besides YOLO_PLUGIN_PATH and the folders of the user and the system
#[derive(clap::Args, Debug, Clone, Default)]
pub struct PluginArgs {
    /// A plugin, or a folder of plugins: .wasm file, library, or folder with a yolo-plugin.toml (repeatable)
    #[arg(long = "plugin", value_name = "PATH", global = true, help_heading = "Plugins")]
    plugins: Vec<PathBuf>,
    /// Also use the plugins in .yolo/plugins of the current folder
    #[arg(long, global = true, help_heading = "Plugins")]
    trust_project: bool,
}

static ARGS: OnceLock<PluginArgs> = OnceLock::new();
static INDEX: OnceLock<Result<Index, PluginError>> = OnceLock::new();

/// Notes the flags of this run. The first call counts.
pub fn configure(args: PluginArgs) {
    let _ = ARGS.set(args);
}

/// Every plugin of this run; looked for on the first call.
pub fn index() -> CliResult<&'static Index> {
    let found = INDEX.get_or_init(|| {
        dynamic::log_to(|_, line| ui::say(line));
        let args = ARGS.get().cloned().unwrap_or_default();
        let search = SearchPath::standard(&args.plugins, args.trust_project, &|name| std::env::var_os(name))?;
        Ok(Index::scan(search))
    });
    found.as_ref().map_err(|error| CliError::from(error.clone()))
}
