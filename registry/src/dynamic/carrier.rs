//! Components of shared libraries as entries of the index.

use yolo_core::model::names::Found;

use super::{TAG, announce, load_package};
use crate::carrier::{Carrier, Fact, announce_as, fields};
use crate::describe::Description;
use crate::entry::Entry;
use crate::error::{Code, PluginError, Result};
use crate::manifest::{Manifest, version_pair};

/// Brings in what libraries hold.
#[derive(Debug)]
pub(crate) struct Libraries;

impl Carrier for Libraries {
    fn load(&self, entry: &Entry) -> Result<()> {
        load_package(entry.package()?).map(|_| ())
    }

    fn describe(&self, entry: &Entry) -> Result<Description> {
        let library = load_package(entry.package()?)?;
        let about = entry.kind.and_then(|kind| library.description(kind, &entry.name));
        about
            .cloned()
            .ok_or_else(|| PluginError::new(Code::ManifestDrift, format!("`{}` is not in its library", entry.name)))
    }

    fn resolved(&self, entry: &Entry) -> Result<Found> {
        Ok(Found::Foreign {
            tag: TAG,
            fields: fields("plugin", &entry.package()?.name(), &entry.name),
        })
    }

    fn announce(&self, entry: &Entry) {
        // A part names its package, so that has to be known as well.
        if let Ok(package) = entry.package() {
            announce(package);
        }
        announce_as(entry, self.resolved(entry));
    }

    fn misfit(&self, manifest: &Manifest) -> Option<PluginError> {
        let (major, minor) = (yolo_abi::ABI_MAJOR, yolo_abi::ABI_MINOR);
        let named = |built: &str| format!("`{}` {} was built {built}", manifest.name, manifest.version);
        if let Some((wanted_major, wanted_minor)) = manifest.library.abi
            && (wanted_major != major || wanted_minor > minor)
        {
            let built = named(&format!("for plugin ABI {wanted_major}.{wanted_minor}"));
            let error = PluginError::new(Code::AbiMismatch, format!("{built}, this yolo speaks {major}.{minor}"));
            return Some(
                error
                    .detail("manifest", manifest.file.display())
                    .help("rebuild the plugin with this yolo's `yolo-sdk`, or install the yolo that it was built for"),
            );
        }
        let wanted = manifest.library.libtorch.as_deref()?;
        if version_pair(wanted) == version_pair(yolo_abi::LIBTORCH) {
            return None;
        }
        let built = named(&format!("against libtorch {wanted}"));
        let message = format!("{built}, yolo runs {}", yolo_abi::LIBTORCH);
        Some(
            PluginError::new(Code::LibtorchMismatch, message)
                .detail("manifest", manifest.file.display())
                .help("rebuild the plugin against the libtorch of yolo: `yolo plugin build`"),
        )
    }

    fn facts(&self, entry: &Entry) -> Vec<Fact> {
        let Ok(library) = entry.package().and_then(load_package) else {
            return Vec::new();
        };
        let facts = library.facts();
        let or_none = |text: &str| {
            if text.is_empty() {
                "none of its own".to_owned()
            } else {
                text.to_owned()
            }
        };
        let (major, minor) = facts.abi;
        vec![
            ("crate", library.crate_name().to_owned()),
            (
                "ABI",
                format!("{major}.{minor} (this yolo speaks {})", crate::abi_version()),
            ),
            ("libtorch", or_none(&facts.libtorch)),
            ("built with", or_none(&facts.sdk)),
            ("built for", or_none(&facts.target)),
        ]
    }
}
