//! Puts the native libraries in place: libtorch (needed to build) and onnxruntime (an engine that is found at run time); on request the
//! engines OpenVINO and ncnn, too. Pinned, hash-checked, whole or not at all; does nothing when they are there. python3 with pip is the
//! only tool.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Outcome, engines, fail, root, run};

/// A library or tool that comes as wheels.
pub struct Bundle {
    /// Folder below the repository root.
    pub folder: &'static str,
    /// What is pinned: requirement, sha256 of the wheel.
    pub wheels: &'static [(&'static str, &'static str)],
    /// Version of Python whose wheels are taken: any where only libraries of C are unpacked.
    pub python: &'static str,
    /// Members to unpack: start of their names, and the folder that they go to.
    pub members: &'static [(&'static str, &'static str)],
    /// Text files that the wheels lack.
    pub written: &'static [(&'static str, &'static str)],
}

/// The version whose wheels hold the libraries that are unpacked.
pub const ANY: &str = "3.11";

/// tch 0.26 is made for libtorch 2.13.0. libtorch_cpu.so of the wheel needs the two CUDA libraries to load, even on a CPU; the
/// wheels' own folders are kept, so that the libraries find each other. torch-sys links `-ltorch` (here a linker script) and
/// checks `build-version`.
const LIBTORCH: Bundle = Bundle {
    folder: ".libtorch",
    wheels: &[
        (
            "torch==2.13.0",
            "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
        ),
        (
            "nvidia-cuda-runtime==13.0.96",
            "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        ),
        (
            "nvidia-cuda-cupti==13.0.85",
            "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        ),
    ],
    python: ANY,
    members: &[
        ("torch/include/", "torch/include"),
        ("torch/lib/libtorch_cpu.so", "torch/lib"),
        ("torch/lib/libc10.so", "torch/lib"),
        ("torch/lib/libgomp", "torch/lib"),
        ("nvidia/cu13/lib/libcudart.so", "nvidia/cu13/lib"),
        ("nvidia/cu13/lib/libcupti.so", "nvidia/cu13/lib"),
        ("torch-2.13.0.dist-info/licenses/", "licenses/torch"),
        (
            "nvidia_cuda_runtime-13.0.96.dist-info/licenses/",
            "licenses/nvidia-cuda-runtime",
        ),
        (
            "nvidia_cuda_cupti-13.0.85.dist-info/licenses/",
            "licenses/nvidia-cuda-cupti",
        ),
    ],
    written: &[
        ("torch/lib/libtorch.so", "INPUT(libtorch_cpu.so)\n"),
        ("torch/build-version", "2.13.0\n"),
    ],
};

/// The same version with all that it needs on GPUs: libtorch_cuda.so and every library that it loads, each wheel that `torch` of this
/// version asks for on Linux but those of its compiler for Python. The headers that the wheels have come along.
const LIBTORCH_CUDA: Bundle = Bundle {
    folder: ".libtorch",
    wheels: &[
        (
            "torch==2.13.0",
            "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
        ),
        (
            "nvidia-cublas==13.1.1.3",
            "37936a16db8fe4ac1f065c2139360608a543a09275cb1a1af612e08cfa065436",
        ),
        (
            "nvidia-cuda-cupti==13.0.85",
            "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        ),
        (
            "nvidia-cuda-nvrtc==13.0.88",
            "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        ),
        (
            "nvidia-cuda-runtime==13.0.96",
            "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        ),
        (
            "nvidia-cudnn-cu13==9.20.0.48",
            "0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304",
        ),
        (
            "nvidia-cufft==12.0.0.61",
            "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
        ),
        (
            "nvidia-cufile==1.15.1.6",
            "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
        ),
        (
            "nvidia-curand==10.4.0.35",
            "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
        ),
        (
            "nvidia-cusolver==12.0.4.66",
            "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
        ),
        (
            "nvidia-cusparse==12.6.3.3",
            "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
        ),
        (
            "nvidia-cusparselt-cu13==0.8.1",
            "786ce87568c303fadb5afcc7102d454cd3040d75f6f8626f5db460d1871f4dd0",
        ),
        (
            "nvidia-nccl-cu13==2.29.7",
            "edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d",
        ),
        (
            "nvidia-nvjitlink==13.5.37",
            "280d7cb9649704145f074b8dbde500de04ce02d0872e066e20a83c17bcaa93eb",
        ),
        (
            "nvidia-nvshmem-cu13==3.4.5",
            "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
        ),
        (
            "nvidia-nvtx==13.0.85",
            "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
        ),
    ],
    python: ANY,
    members: &[
        ("torch/include/", "torch/include"),
        ("torch/version.py", "torch"),
        ("torch/lib/libtorch.so", "torch/lib"),
        ("torch/lib/libtorch_cpu.so", "torch/lib"),
        ("torch/lib/libtorch_cuda", "torch/lib"),
        ("torch/lib/libtorch_nvshmem.so", "torch/lib"),
        ("torch/lib/libc10", "torch/lib"),
        ("torch/lib/libcaffe2_nvrtc.so", "torch/lib"),
        ("torch/lib/libgomp", "torch/lib"),
        ("nvidia/", "nvidia"),
        ("torch-2.13.0.dist-info/licenses/", "licenses/torch"),
        ("nvidia_", "licenses/nvidia"),
    ],
    written: &[("torch/build-version", "2.13.0+cu130\n")],
};

const ONNXRUNTIME: Bundle = Bundle {
    folder: ".onnxruntime",
    wheels: &[(
        "onnxruntime==1.32.0",
        "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
    )],
    python: ANY,
    members: &[
        ("onnxruntime/capi/libonnxruntime.so", "."),
        ("onnxruntime/LICENSE", "licenses"),
        ("onnxruntime/ThirdPartyNotices", "licenses"),
    ],
    written: &[],
};

/// Platform tags of the pinned wheels, newest first: each is tagged with the oldest system that it runs on.
const PLATFORMS: [&str; 10] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
];

/// `cargo xtask setup [--cuda] [--engines]`.
pub fn command(arguments: &[String]) -> Outcome {
    const FLAGS: [&str; 2] = ["--cuda", "--engines"];
    if arguments.iter().any(|argument| !FLAGS.contains(&argument.as_str())) {
        return fail(
            "cargo xtask setup [--cuda] [--engines]\n  --cuda: the libtorch for GPUs\n  --engines: OpenVINO and ncnn, too",
        );
    }
    let (root, wants) = (root(), |flag: &str| arguments.iter().any(|argument| argument == flag));
    if wants("--cuda") {
        if std::env::var_os("LIBTORCH").is_some_and(|path| Path::new(&path) != root.join(".libtorch/torch")) {
            return fail("LIBTORCH is set, so what is fetched would not be used: unset it first");
        }
        install(&LIBTORCH_CUDA, &root)?;
    }
    setup()?;
    if wants("--engines") {
        engines::install_all(&root)
    } else {
        Ok(())
    }
}

/// Makes sure that both libraries are there.
pub fn setup() -> Outcome {
    let root = root();
    match std::env::var_os("LIBTORCH").filter(|path| Path::new(path) != root.join(".libtorch/torch")) {
        Some(path) if Path::new(&path).join("lib").is_dir() => {}
        Some(path) => {
            let path = path.to_string_lossy();
            return fail(format!(
                "LIBTORCH is {path}, where there is no lib/; point it to libtorch 2.13.0 or unset it"
            ));
        }
        // That for GPUs computes on CPUs too.
        None if is_installed(&LIBTORCH_CUDA, &root) => {}
        None => install(&LIBTORCH, &root)?,
    }
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && supported() {
        install(&ONNXRUNTIME, &root)?;
    }
    Ok(())
}

fn supported() -> bool {
    cfg!(all(target_os = "linux", target_arch = "x86_64"))
}

/// Text of the marker: what the folder was made from.
pub fn pin(bundle: &Bundle) -> String {
    bundle
        .wheels
        .iter()
        .map(|(wheel, hash)| format!("{wheel} --hash=sha256:{hash}\n"))
        .collect()
}

/// Whether the folder was made from what is pinned.
fn is_installed(bundle: &Bundle, root: &Path) -> bool {
    let marker = root.join(bundle.folder).join("pinned.txt");
    std::fs::read_to_string(marker).is_ok_and(|text| text == pin(bundle))
}

/// Puts a bundle in its folder, unless it is there.
pub fn install(bundle: &Bundle, root: &Path) -> Outcome {
    if is_installed(bundle, root) {
        return Ok(());
    }
    if !supported() {
        return fail(format!(
            "{} is fetched for Linux on x86-64 only; install it yourself (libtorch: 2.13.0, with LIBTORCH pointing to it)",
            bundle.folder
        ));
    }
    let pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        return fail(
            "set-up needs python3 with pip (Debian: apt install python3-pip), or LIBTORCH with libtorch 2.13.0",
        );
    }
    let names: Vec<&str> = bundle.wheels.iter().map(|(name, _)| *name).collect();
    eprintln!("setup: fetching {} ...", names.join(", "));
    // Beside the target, so that renaming moves no bytes; with the process id, so that two set-ups don't meet.
    let making = root.join(format!("{}.making-{}", bundle.folder, std::process::id()));
    let result = fetch(bundle, &making).and_then(|()| replace(&making, &root.join(bundle.folder)));
    let _ = std::fs::remove_dir_all(&making);
    // Somebody else may have been faster.
    if is_installed(bundle, root) {
        eprintln!("setup: {} is ready", bundle.folder);
        return Ok(());
    }
    result
}

/// Downloads, checks and unpacks into `making/content`.
fn fetch(bundle: &Bundle, making: &Path) -> Outcome {
    let wheels = making.join("wheels");
    std::fs::create_dir_all(&wheels).map_err(|e| format!("can't make {}: {e}", wheels.display()))?;
    let requirements = making.join("requirements.txt");
    write(&requirements, &pin(bundle))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ])
    .args([
        "--only-binary=:all:",
        "--python-version",
        bundle.python,
        "--implementation",
        "cp",
    ])
    .args([
        "--abi",
        &format!("cp{}", bundle.python.replace('.', "")),
        "--abi",
        "none",
    ])
    .args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]))
    .arg("--dest")
    .arg(&wheels)
    .arg("--requirement")
    .arg(&requirements);
    run(&mut pip)?;
    let content = making.join("content");
    let mut unpack = Command::new("python3");
    unpack
        .args(["-c", include_str!("unpack.py")])
        .arg(&content)
        .arg(&wheels);
    unpack.args(
        bundle
            .members
            .iter()
            .map(|(prefix, folder)| format!("{prefix}={folder}")),
    );
    run(&mut unpack)?;
    for (file, text) in bundle.written {
        write(&content.join(file), text)?;
    }
    write(&content.join("pinned.txt"), &pin(bundle))
}

/// Puts `making/content` where `target` is; an older version is moved aside first.
fn replace(making: &Path, target: &Path) -> Outcome {
    let fail = |e: std::io::Error| format!("can't put {} in place: {e}", target.display());
    if target.exists() {
        std::fs::rename(target, making.join("old")).map_err(fail)?;
    }
    std::fs::rename(making.join("content"), target).map_err(fail)
}

fn write(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|e| format!("can't write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_decides() {
        let root = std::env::temp_dir().join(format!("xtask-setup-{}", std::process::id()));
        let folder = root.join(ONNXRUNTIME.folder);
        std::fs::create_dir_all(&folder).unwrap();
        assert!(
            !is_installed(&ONNXRUNTIME, &root),
            "an unfinished folder does not count"
        );
        std::fs::write(folder.join("pinned.txt"), pin(&ONNXRUNTIME)).unwrap();
        assert!(is_installed(&ONNXRUNTIME, &root));
        std::fs::write(folder.join("pinned.txt"), "onnxruntime==1.0.0").unwrap();
        assert!(!is_installed(&ONNXRUNTIME, &root), "another version does not count");
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn every_wheel_is_pinned_by_name_version_and_hash() {
        for bundle in [&LIBTORCH, &LIBTORCH_CUDA, &ONNXRUNTIME]
            .into_iter()
            .chain(engines::all())
        {
            for (wheel, hash) in bundle.wheels {
                assert!(
                    wheel
                        .split_once("==")
                        .is_some_and(|(name, version)| !name.is_empty() && !version.is_empty())
                );
                assert!(
                    hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit()),
                    "{wheel}"
                );
            }
        }
        // One torch, whichever of the two is there.
        assert_eq!(LIBTORCH.wheels[0], LIBTORCH_CUDA.wheels[0]);
        assert!(LIBTORCH.wheels.iter().all(|wheel| LIBTORCH_CUDA.wheels.contains(wheel)));
        assert_eq!(LIBTORCH.folder, LIBTORCH_CUDA.folder);
    }

    #[test]
    fn an_older_version_is_replaced() {
        let root = std::env::temp_dir().join(format!("xtask-replace-{}", std::process::id()));
        let (making, target) = (root.join("making"), root.join("library"));
        std::fs::create_dir_all(making.join("content")).unwrap();
        std::fs::create_dir_all(&target).unwrap();
        std::fs::write(making.join("content/new"), "").unwrap();
        std::fs::write(target.join("old"), "").unwrap();
        replace(&making, &target).unwrap();
        assert!(target.join("new").exists() && !target.join("old").exists());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
