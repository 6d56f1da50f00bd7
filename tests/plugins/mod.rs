//! Plugins that are not linked in, as a user meets them.

mod c_plugin;
mod docs;
mod dynamic;
mod growth;
mod hostile;
mod listing;
mod mutations;
mod scaffold;
mod twin;
mod wasm;
