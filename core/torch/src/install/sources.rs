//! The C++ sources that travel with the program.

use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::Problem;

/// What the build script packed; see there for the format.
static BUNDLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sources.bin"));

/// How libraries are built from the sources. To be counted up when flags change.
const RECIPE: u32 = 3;

/// One source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its place: the name of its file, or `folder/name` for headers in folders.
    pub name: String,
    /// Its text.
    pub text: Vec<u8>,
}

/// Says which sources these are: 16 hexadecimal digits.
pub fn hash() -> String {
    let mut hasher = Sha256::new();
    hasher.update(RECIPE.to_le_bytes());
    hasher.update(BUNDLE);
    short(&hasher.finalize())
}

/// The first 16 hexadecimal digits of a hash.
pub fn short(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// All sources.
///
/// # Errors
/// Where the program holds none: it was built for a system on which libtorch is linked.
pub fn all() -> Result<Vec<Source>, Problem> {
    unpack(BUNDLE).filter(|sources| !sources.is_empty()).ok_or_else(|| {
        Problem::new(
            "this program holds no C++ sources to build for another PyTorch",
            "that works on Linux on x86-64 only",
        )
    })
}

/// Writes the sources into a folder that is there.
pub fn write(sources: &[Source], folder: &Path) -> std::io::Result<()> {
    sources.iter().try_for_each(|source| {
        let path = folder.join(&source.name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(path, &source.text)
    })
}

fn unpack(bundle: &[u8]) -> Option<Vec<Source>> {
    let mut bytes = Vec::new();
    flate2::read::DeflateDecoder::new(bundle).read_to_end(&mut bytes).ok()?;
    let mut rest = &bytes[..];
    let mut take = || -> Option<Option<Vec<u8>>> {
        if rest.is_empty() {
            return Some(None);
        }
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(Some(part.to_vec()))
    };
    let mut sources = Vec::new();
    while let Some(name) = take()? {
        let name = String::from_utf8(name).ok()?;
        sources.push(Source { name, text: take()?? });
    }
    Some(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_holds_what_a_build_needs() {
        let sources = all().unwrap();
        for name in [
            "torch_api.cpp",
            "torch_api.h",
            "torch_api_generated.cpp",
            "torch_api_generated.h",
            "stb_image.h",
            "native.h",
            "step.cpp",
        ] {
            let source = sources.iter().find(|source| source.name == name).unwrap();
            assert!(source.text.len() > 500, "{name}");
        }
        assert!(sources.iter().all(|source| !source.name.contains("python")));
        // Whatever one of them includes by a name of its own is there, too.
        for source in sources.iter().filter(|source| !source.name.starts_with("stb_")) {
            for line in String::from_utf8_lossy(&source.text).lines() {
                let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next()) else {
                    continue;
                };
                let name = name.trim_start_matches("../");
                let known = sources
                    .iter()
                    .any(|other| other.name == name || other.name.ends_with(&format!("/{name}")));
                assert!(known, "{}: {name}", source.name);
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_no_bundle() {
        assert!(unpack(&BUNDLE[..BUNDLE.len() / 2]).is_none());
        assert_eq!(hash().len(), 16);
    }
}
