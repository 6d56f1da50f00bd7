//! `cargo xtask bench torch`: builds for an installed PyTorch and computes on it, beside the libtorch of the repository.

use std::path::Path;
use std::process::Command;

use crate::light::output;
use crate::{Outcome, fail, root, run};

/// How far the outputs of one network may be apart on the two, relative to the larger of them and 1: rounding alone lies between.
const APART: f64 = 1e-3;

/// Builds for `torch` (with nothing cached), describes it, trains one epoch on synthetic images, runs a forward of
/// what was trained on both.
pub fn installed(yolo: &dyn Fn() -> Command, torch: &str) -> Outcome {
    let folder = root().join("runs/torch");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| format!("can't remove {}: {e}", folder.display()))?;
    }
    let data = folder.join("data/data.yaml");
    run(with(yolo, "default", &folder)
        .args(["data", "synth", "--images", "96", "--img", "160", "--out"])
        .arg(folder.join("data")))?;
    println!("{}", output(with(yolo, torch, &folder).args(["doctor", "--json"]))?);
    let mut train = with(yolo, torch, &folder);
    train.args([
        "train",
        "--cfg",
        "yolov5n",
        "--epochs",
        "1",
        "--img",
        "160",
        "--batch-size",
        "8",
        "--noplots",
        "--json",
        "--name",
        "run",
    ]);
    println!(
        "{}",
        output(train.arg("--data").arg(&data).arg("--project").arg(&folder))?
    );
    let weights = folder.join("run/weights/last.safetensors");
    let input = folder.join("input.safetensors");
    std::fs::write(&input, pattern()).map_err(|e| format!("can't write {}: {e}", input.display()))?;
    let forward = |which: &str, name: &str| -> Outcome<Vec<u8>> {
        let result = folder.join(name);
        let mut forward = with(yolo, which, &folder);
        forward
            .arg("forward")
            .arg("--weights")
            .arg(&weights)
            .arg("--input")
            .arg(&input)
            .arg("--output")
            .arg(&result);
        run(&mut forward)?;
        std::fs::read(&result).map_err(|e| format!("can't read {}: {e}", result.display()))
    };
    let apart = apart(
        &forward("default", "ours.safetensors")?,
        &forward(torch, "theirs.safetensors")?,
    )?;
    println!("outputs of the trained network on both: relative difference {apart:.1e} at most");
    if apart.is_nan() || apart > APART {
        return fail(format!("that is more than {APART:.0e}"));
    }
    Ok(())
}

/// A file of safetensors with one image in it: two waves across each other.
fn pattern() -> Vec<u8> {
    let side = 160u16;
    let elements = 3 * usize::from(side) * usize::from(side);
    let header = format!(
        "{{\"images\":{{\"dtype\":\"F32\",\"shape\":[1,3,{side},{side}],\"data_offsets\":[0,{}]}}}}",
        4 * elements
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for channel in 0..3u16 {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let wave = (f32::from(x) / 7.0).sin() * (f32::from(y) / f32::from(5 + channel)).cos();
            bytes.extend((0.5 + 0.5 * wave).to_le_bytes());
        }
    }
    bytes
}

/// The largest relative difference of two files of safetensors that hold the same tensors of f32.
fn apart(one: &[u8], other: &[u8]) -> Outcome<f64> {
    fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
    }
    let (Some(one), Some(other)) = (split(one), split(other)) else {
        return fail("an output is no file of safetensors");
    };
    if one.0 != other.0 || one.1.is_empty() {
        return fail("the outputs are not the same tensors");
    }
    let values = |bytes: &'_ [u8]| -> Vec<f64> {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|four| f64::from(f32::from_le_bytes(*four)))
            .collect()
    };
    let pairs = values(one.1).into_iter().zip(values(other.1));
    let differences = pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0));
    // Not a number is not close to anything.
    Ok(differences.fold(0.0, |most, d| if most.is_nan() || d <= most { most } else { d }))
}

/// `yolo` on a PyTorch, with a cache and a configuration of its own.
fn with(yolo: &dyn Fn() -> Command, torch: &str, folder: &Path) -> Command {
    let mut command = yolo();
    command.env("YOLO_TORCH", torch);
    command
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("XDG_CONFIG_HOME", folder.join("config"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_seen() {
        let file = pattern();
        assert_eq!(apart(&file, &file), Ok(0.0));
        let mut other = file.clone();
        let end = other.len();
        other[end - 4..].copy_from_slice(&3.0f32.to_le_bytes());
        assert!(apart(&file, &other).unwrap() > 1.0);
        other[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(apart(&file, &other).unwrap().is_nan());
        other[9] = b'x';
        assert!(apart(&file, &other).is_err());
        assert!(apart(&file[..4], &file).is_err());
    }
}
