//! Plugins in shared libraries. They run with full rights, in this process; what can be checked about them is checked before and
//! while they are used, and whatever they return is data that is looked at.
//!
//! A component of a library is `{type: "@dynamic", plugin, name, options}` wherever it is data: one implementation of each trait
//! stands for all of them, and reading it loads the library.

mod carrier;
mod component;
mod distiller;
mod elf;
mod fail;
mod host;
mod library;
mod maps;
mod metric;
mod model;
mod op;
mod pruner;
mod quantizer;
mod regulariser;
mod table;

pub(crate) use carrier::Libraries;
pub use component::{Refusal, Source, TAG};
pub use distiller::DynamicDistiller;
pub use host::{Log, log_to};
pub use library::{Facts, Library, Peek, peek};
pub use metric::DynamicMetric;
pub use model::{DynamicBackbone, DynamicNeckBlock};
pub use op::DynamicOp;
pub use pruner::DynamicPruner;
pub use quantizer::DynamicQuantizer;
pub use table::{Part, adopt, announce, announce_part, load};

use crate::error::{Code, PluginError, Result};
use crate::package::{Package, sha256};

/// Loads the library of a package and holds it against its manifest.
///
/// # Errors
/// Everything that can be wrong with a library, [`Code::Checksum`], [`Code::ManifestDrift`].
pub fn load_package(package: &Package) -> Result<&'static Library> {
    let wanted = package.manifest.as_ref();
    if package.promised_sum().is_some() {
        let bytes = std::fs::read(&package.file).map_err(|error| {
            PluginError::new(
                Code::NotFound,
                format!("{} can't be read: {error}", package.file.display()),
            )
        })?;
        package.check_sum(&sha256(&bytes))?;
    }
    let crate_name = wanted.and_then(|manifest| manifest.library.crate_name.as_deref());
    let library = load(&package.file, crate_name)?;
    if let Some(manifest) = wanted {
        no_drift(manifest, library)?;
    }
    announce(package);
    Ok(library)
}

/// A manifest promises what the library has.
fn no_drift(manifest: &crate::Manifest, library: &Library) -> Result<()> {
    let absent = manifest
        .provides
        .iter()
        .find(|entry| library.description(entry.kind, &entry.name).is_none());
    let Some(entry) = absent else { return Ok(()) };
    let has: Vec<String> = library
        .descriptions()
        .iter()
        .map(|about| format!("{} {}", about.kind.name(), about.name))
        .collect();
    let message = format!(
        "the manifest promises a {} `{}`, which the library does not have",
        entry.kind.title(),
        entry.name
    );
    Err(PluginError::new(Code::ManifestDrift, message)
        .detail("manifest", manifest.file.display())
        .detail("library", library.path().display())
        .detail("has", has.join(", "))
        .help("write in `[[provides]]` what the library has, or rebuild it"))
}

/// Root of the libtorch that this process runs (`lib` and `include` are in it). Loads it if it is not.
pub fn libtorch() -> Option<std::path::PathBuf> {
    yolo_torch::load().ok()?;
    let library = maps::loaded().into_iter().next()?;
    Some(library.parent()?.parent()?.to_owned())
}
