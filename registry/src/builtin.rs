//! Components that are linked into the program. There is nothing to load, and what they are stands in their [`PluginInfo`].

use yolo_core::PluginInfo;
use yolo_core::model::names::Found;

use crate::carrier::Carrier;
use crate::describe::Description;
use crate::entry::Entry;
use crate::error::{Code, PluginError, Result};

/// Brings in what is linked.
#[derive(Debug)]
pub(crate) struct Linked;

impl Carrier for Linked {
    fn load(&self, _entry: &Entry) -> Result<()> {
        Ok(())
    }

    fn describe(&self, entry: &Entry) -> Result<Description> {
        info(entry).map(Description::from)
    }

    fn resolved(&self, entry: &Entry) -> Result<Found> {
        info(entry).map(|info| Found::Linked(info.name))
    }
}

fn info(entry: &Entry) -> Result<&'static PluginInfo> {
    PluginInfo::linked()
        .into_iter()
        .find(|info| Some(info.kind) == entry.kind && info.name == entry.name)
        .ok_or_else(|| PluginError::new(Code::UnknownName, format!("`{}` is not linked in", entry.name)))
}
