//! What every job is given: the plugins that it may use, and whoever waits for it.

use yolo_core::Progress;
use yolo_core::model::Resolver;

/// The plugins that a job may use, and whoever waits for it.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// Names to components: `yolo_registry::Index`, or [`yolo_core::model::Linked`] for those that are linked.
    pub plugins: &'a dyn Resolver,
    /// The listener; `&()` looks at nothing.
    pub progress: &'a dyn Progress,
}

impl Session<'_> {
    /// A line that a person should read.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        self.progress.say(line.as_ref());
    }
}
