//! Metrics in WebAssembly modules as entries of the index.

use yolo_core::model::names::Found;

use super::{TAG, is_module, load};
use crate::carrier::{Carrier, Fact, fields};
use crate::describe::Description;
use crate::entry::Entry;
use crate::error::{Code, PluginError, Result};
use crate::package::hex;

/// Brings in what modules hold.
#[derive(Debug)]
pub(crate) struct Modules;

impl Carrier for Modules {
    fn load(&self, entry: &Entry) -> Result<()> {
        load(entry.package()?, &entry.name).map(|_| ())
    }

    fn describe(&self, entry: &Entry) -> Result<Description> {
        Ok(load(entry.package()?, &entry.name)?.about.clone())
    }

    fn resolved(&self, entry: &Entry) -> Result<Found> {
        let file = &entry.package()?.file;
        let path = file.to_str().ok_or_else(|| {
            let message = format!(
                "{}: this path is not UTF-8, so no configuration can name it",
                file.display()
            );
            PluginError::new(Code::NotFound, message).help("rename the folder, or move the module to another")
        })?;
        Ok(Found::Foreign {
            tag: TAG,
            fields: fields("path", path, &entry.name),
        })
    }

    fn handle(&self, entry: &Entry) -> Option<String> {
        // A module may be one that only its path finds.
        let path = entry.path.as_ref().filter(|path| is_module(path))?;
        Some(path.display().to_string())
    }

    fn facts(&self, entry: &Entry) -> Vec<Fact> {
        let Ok(module) = entry.package().and_then(|package| load(package, &entry.name)) else {
            return Vec::new();
        };
        let needs = module.needs;
        let parts = [
            (needs.weight, "weights"),
            (needs.bn, "batch norm"),
            (needs.grad, "gradients"),
        ];
        let looked: Vec<&str> = parts
            .into_iter()
            .filter(|(asked, _)| *asked)
            .map(|(_, name)| name)
            .collect();
        vec![
            ("metric ABI", format!("{}.{}", module.abi.0, module.abi.1)),
            ("looks at", looked.join(", ")),
            ("options", module.about.options().to_string()),
            ("sha256", hex(&module.sha256)),
        ]
    }
}
