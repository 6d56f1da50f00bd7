//! What a build against some PyTorch needs besides its own headers: folders of CUDA's headers, and which libraries are linked. Shared
//! with the build script, which builds the same shared library against the PyTorch that the program is built with.

use std::path::{Path, PathBuf};

/// Macros for our own sources.
pub const DEFINES: [&str; 2] = ["USE_DISTRIBUTED", "USE_C10D_GLOO"];

/// A folder of our sources: declarations that headers of libtorch include and its packages leave out. Looked through last, so that
/// installed ones win.
pub const DECLARED: &str = "declared";

/// Folders and macros for the compiler.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Folders with headers, to be looked through in this order.
    pub include: Vec<PathBuf>,
    /// Macros: `YOLO_CUDA_HEADERS`, `YOLO_NCCL_HEADERS`.
    pub defines: Vec<&'static str>,
}

/// Whether the PyTorch in folder `torch` is a CUDA build.
pub fn is_cuda(torch: &Path) -> bool {
    torch.join("lib/libtorch_cuda.so").exists()
}

/// Headers of CUDA and NCCL for the PyTorch in folder `torch`; none where it is no CUDA build. Looked for in the `nvidia` wheels
/// beside it, then in the tool kits `toolkits`, of which those of another major version than `cuda` (`13.0`) are left out.
pub fn cuda(torch: &Path, cuda: Option<&str>, toolkits: &[PathBuf]) -> Extra {
    if !is_cuda(torch) {
        return Extra::default();
    }
    let mut include = of_wheels(torch);
    for toolkit in toolkits {
        let folder = toolkit.join("include");
        let fits = match (cuda.and_then(major), major_of_headers(&folder)) {
            (Some(wanted), Some(has)) => wanted == has,
            (_, has) => has.is_some(),
        };
        if fits && !include.contains(&folder) {
            include.push(folder);
        }
    }
    let mut defines = Vec::new();
    let has = |name: &str, usual: &str| {
        include.iter().any(|folder| folder.join(name).exists()) || Path::new(usual).join(name).exists()
    };
    if include.iter().any(|folder| folder.join("cuda_runtime_api.h").exists()) {
        defines.push("YOLO_CUDA_HEADERS");
        if has("nccl.h", "/usr/include") {
            defines.push("YOLO_NCCL_HEADERS");
        }
    }
    Extra { include, defines }
}

/// Where a tool kit of CUDA may be: what the environment says, and the usual folder.
pub fn toolkits(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Vec<PathBuf> {
    let said = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env);
    let mut out: Vec<PathBuf> = said.filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    out.push(PathBuf::from("/usr/local/cuda"));
    out
}

/// `nvidia/*/include` beside the folder of torch.
fn of_wheels(torch: &Path) -> Vec<PathBuf> {
    let wheels = torch.parent().map(|folder| folder.join("nvidia"));
    let entries = wheels.and_then(|folder| std::fs::read_dir(folder).ok());
    let folders = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("include"));
    let mut found: Vec<PathBuf> = folders.filter(|folder| folder.is_dir()).collect();
    found.sort();
    found
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.trim().parse().ok()
}

/// `#define CUDA_VERSION 13000` of cuda.h is 13.
fn major_of_headers(folder: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(folder.join("cuda.h")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("#define CUDA_VERSION "))?;
    line.trim().parse::<u32>().ok().map(|version| version / 1000)
}

/// Arguments for the linker that bring PyTorch in `lib` along: all of its libraries, also those that no symbol asks for. The folder
/// comes before LD_LIBRARY_PATH, so that it is this PyTorch and no other.
pub fn link_arguments(lib: &Path) -> Vec<String> {
    let mut arguments = vec![
        "-Wl,--no-as-needed,--disable-new-dtags,-z,lazy".to_owned(),
        format!("-L{}", lib.display()),
        // In pieces, since a comma in a path would end an argument of -Wl.
        "-Xlinker".to_owned(),
        "-rpath".to_owned(),
        "-Xlinker".to_owned(),
        lib.display().to_string(),
    ];
    for part in ["torch_cuda", "c10_cuda", "torch_hip", "c10_hip"] {
        if lib.join(format!("lib{part}.so")).exists() {
            arguments.push(format!("-l{part}"));
        }
    }
    arguments.extend(["-ltorch_cpu", "-ltorch", "-lc10"].map(str::to_owned));
    arguments
}

/// Names the shared C++ library before the compiler adds its own choice. Some compilers link it statically: a second copy of its
/// functions in the process then frees what the first made, for PyTorch and every other library that is loaded later
/// (`free(): invalid pointer`). Where the linker doesn't find it, it must be left out.
pub const SHARED_RUNTIME: &str = "-l:libstdc++.so.6";
