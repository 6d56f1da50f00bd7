//! `cargo xtask wheel`: the release binary as a Python wheel. It holds the program alone, no libtorch: installed beside a PyTorch the
//! program finds and uses that one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;

use crate::{Outcome, cargo, fail, root, run, setup};

/// A file of a wheel.
struct Member {
    name: String,
    bytes: Vec<u8>,
    /// Whether it is a program.
    runs: bool,
}

/// Builds the release binary and packs it: `cargo xtask wheel [--dir FOLDER]`.
pub fn wheel(arguments: &[String]) -> Outcome {
    let folder = match arguments {
        [] => root().join("target/wheels"),
        [flag, folder] if flag == "--dir" => PathBuf::from(folder),
        _ => return fail("cargo xtask wheel [--dir FOLDER]"),
    };
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return fail("wheels are made on Linux on x86-64 only");
    }
    setup::setup()?;
    run(cargo().args(["build", "--release", "--bin", "yolo"]))?;
    let path = pack(&root().join("target/release/yolo"), &version()?, &folder)?;
    eprintln!("wheel: {}", path.display());
    Ok(())
}

/// The version of the workspace.
fn version() -> Outcome<String> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).map_err(|e| format!("Cargo.toml: {e}"))?;
    let manifest: toml::Table = text.parse().map_err(|e| format!("Cargo.toml: {e}"))?;
    let version = manifest
        .get("workspace")
        .and_then(|table| table.get("package")?.get("version")?.as_str());
    version
        .map(str::to_owned)
        .ok_or_else(|| "Cargo.toml: no version of the workspace".to_owned())
}

/// Writes the wheel of a program into a folder; its path.
fn pack(program: &Path, version: &str, folder: &Path) -> Outcome<PathBuf> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("can't read {}: {e}", path.display()));
    let info = format!("yolo-{version}.dist-info");
    let text = |name: &str, text: String| Member {
        name: format!("{info}/{name}"),
        bytes: text.into_bytes(),
        runs: false,
    };
    let mut members = vec![Member {
        name: format!("yolo-{version}.data/scripts/yolo"),
        bytes: read(program)?,
        runs: true,
    }];
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let bytes = read(&root().join(license))?;
        members.push(Member {
            name: format!("{info}/licenses/{license}"),
            bytes,
            runs: false,
        });
    }
    members.push(text("METADATA", metadata(version)));
    members.push(text(
        "WHEEL",
        "Wheel-Version: 1.0\nGenerator: cargo xtask wheel\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n"
            .to_owned(),
    ));
    // The last one lists all, itself without a hash.
    let record: String = members
        .iter()
        .map(|member| {
            format!(
                "{},sha256={},{}\n",
                member.name,
                base64(&Sha256::digest(&member.bytes)),
                member.bytes.len()
            )
        })
        .collect();
    members.push(text("RECORD", format!("{record}{info}/RECORD,,\n")));
    let path = folder.join(format!("yolo-{version}-py3-none-linux_x86_64.whl"));
    let bytes = zipped(&members).map_err(|e| format!("can't pack {}: {e}", path.display()))?;
    let making = path.with_extension(format!("making-{}", std::process::id()));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&making, bytes))
        .and_then(|()| std::fs::rename(&making, &path))
        .map_err(|e| format!("can't write {}: {e}", path.display()))?;
    Ok(path)
}

/// A PyTorch is no requirement: pip would put one of its own in the place of a vendor's, whose version it can't compare.
fn metadata(version: &str) -> String {
    format!(
        "Metadata-Version: 2.1\nName: yolo\nVersion: {version}\nSummary: Trains, prunes, quantizes, exports and measures YOLOv5-family \
         detectors\nLicense: MIT OR Apache-2.0\nRequires-Python: >=3.8\nProvides-Extra: torch\nRequires-Dist: torch >=2.11 ; extra == 'torch'\n\n\
         The command `yolo`. It computes on the PyTorch (2.11 or newer) of the environment that it is installed in, for which it builds a small \
         library once with the C++ compiler of the machine. `yolo doctor` says what was found.\n"
    )
}

/// All members in one archive, the same bytes each time.
fn zipped(members: &[Member]) -> zip::result::ZipResult<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for member in members {
        let mode = if member.runs { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(mode);
        archive.start_file(member.name.as_str(), options)?;
        archive.write_all(&member.bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

/// Base64 for file names, without padding, as RECORD has it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn pip_installs_the_command() {
        let folder = std::env::temp_dir().join(format!("xtask-wheel-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        std::fs::write(&program, "#!/bin/sh\necho it runs\n").unwrap();
        let wheel = pack(&program, "0.1.0", &folder).unwrap();
        assert_eq!(
            std::fs::read(&wheel).unwrap(),
            std::fs::read(pack(&program, "0.1.0", &folder).unwrap()).unwrap()
        );
        let target = folder.join("target");
        let mut pip = std::process::Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--target",
        ]);
        let out = pip.arg(&target).arg(&wheel).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = std::process::Command::new(target.join("bin/yolo")).output().unwrap();
        assert_eq!(said.stdout, b"it runs\n");
        assert!(target.join("yolo-0.1.0.dist-info/METADATA").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
