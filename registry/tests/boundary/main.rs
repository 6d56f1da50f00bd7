//! The C boundary without a library: this program's own table is used as if it had been loaded, so that whatever crosses can be held
//! against the same component used directly.

mod hostile;
mod kinds;
mod plugins;
mod pruning;

use serde_json::{Value, json};
use yolo_abi::YoloPluginV1;
use yolo_registry::dynamic;

/// The name of the package in configurations.
const PLUGIN: &str = "<boundary>";

unsafe extern "C" {
    #[link_name = "yolo_plugin_v1_boundary"]
    static TABLE: YoloPluginV1;
}

/// The table of `plugins.rs`, adopted once.
fn adopt() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: `plugin!` in plugins.rs exports it.
        let library = dynamic::adopt("boundary", unsafe { &TABLE }).expect("a good table");
        assert!(library.descriptions().len() > 5);
    });
}

/// The component behind the boundary.
fn far<T: serde::de::DeserializeOwned>(name: &str, options: Value) -> Result<T, String> {
    adopt();
    let config = json!({"type": "@dynamic", "plugin": PLUGIN, "name": name, "options": options});
    serde_json::from_value(config).map_err(|error| error.to_string())
}

/// The same component, used directly.
fn near<T: serde::de::DeserializeOwned>(name: &str, mut options: Value) -> T {
    options["type"] = name.into();
    serde_json::from_value(options).expect("good options")
}
