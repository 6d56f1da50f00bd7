//! The shared library for one PyTorch: built once into the user's cache, whole or not at all, by one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::compile::{Compiler, Job, errors_of};
use super::find::Torch;
use super::headers::{self, Extra};
use super::{Env, Problem, sources};

/// Name of the library: with the version of torch-sys in it. Plugins find the library of the program by it.
pub const LIBRARY: &str = env!("YOLO_TORCH_LIBRARY");

/// A library that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The library.
    pub library: PathBuf,
    /// Functions of torch-sys that this PyTorch has not.
    pub omitted: Vec<String>,
    /// Whether it can speak to other processes by NCCL.
    pub nccl: bool,
    /// Seconds that the build took; `None` where it had been there.
    pub seconds: Option<f64>,
}

/// `yolo/torch` in the user's cache.
///
/// # Errors
/// Where neither XDG_CACHE_HOME nor HOME is set.
pub fn cache(env: Env<'_>) -> Result<PathBuf, Problem> {
    folder(env, "XDG_CACHE_HOME", ".cache", "cache").map(|folder| folder.join("yolo/torch"))
}

/// A folder of the user: an absolute path in variable `name`, or `usual` in the home.
pub(super) fn folder(env: Env<'_>, name: &str, usual: &str, what: &str) -> Result<PathBuf, Problem> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(name)
        .or_else(|| absolute("HOME").map(|home| home.join(usual)))
        .ok_or_else(|| {
            Problem::new(
                format!("no folder for the {what} is known"),
                format!("set HOME or {name}"),
            )
        })
}

/// The library for a PyTorch; built where it is not in the cache. `say` gets a line when that begins, and one when it is done.
///
/// # Errors
/// No compiler, errors of the compiler, a full disk.
pub fn build(torch: &Torch, env: Env<'_>, say: &dyn Fn(&str)) -> Result<Built, Problem> {
    let extra = headers::cuda(&torch.path, torch.cuda.as_deref(), &headers::toolkits(env));
    let cache = cache(env)?;
    let key = key(torch, &extra);
    let target = cache.join(&key);
    if let Some(built) = read(&target) {
        return Ok(built);
    }
    let compiler = Compiler::find(env)?;
    let failed = |what: &str, error: &std::io::Error| {
        Problem::new(
            format!("{}: {what}: {error}", cache.display()),
            "make room there, or set XDG_CACHE_HOME to a folder that can be written",
        )
    };
    fs::create_dir_all(&cache).map_err(|error| failed("the folder can't be made", &error))?;
    // Held until the end: processes that start together build once.
    let lock = fs::File::create(cache.join(format!("{key}.lock"))).map_err(|error| failed("can't write", &error))?;
    if lock.try_lock().is_err() {
        say("torch: waiting for another process, which builds for the same PyTorch");
        lock.lock().map_err(|error| failed("can't lock", &error))?;
    }
    if let Some(built) = read(&target) {
        return Ok(built);
    }
    let start = Instant::now();
    say(&format!(
        "torch: building for PyTorch {} in {} (once, a minute or two on one core)",
        torch.version,
        torch.path.display()
    ));
    let making = cache.join(format!("{key}.making"));
    let log = cache.join(format!("{key}.log"));
    let result = make(torch, &extra, &compiler, &making, &log);
    let result = result.and_then(|mut about| {
        about["seconds"] = json!(start.elapsed().as_secs_f64());
        fs::write(making.join("build.json"), format!("{about:#}\n")).map_err(|error| failed("can't write", &error))?;
        // A folder there is one that can't be read.
        let _ = fs::remove_dir_all(&target);
        fs::rename(&making, &target).map_err(|error| failed("can't rename", &error))
    });
    let _ = fs::remove_dir_all(&making);
    result?;
    let _ = fs::remove_file(&log);
    let mut built = read(&target).ok_or_else(|| {
        let what = format!("{}: what was built is not there", target.display());
        Problem::new(what, "start the command again")
    })?;
    let seconds = start.elapsed().as_secs_f64();
    built.seconds = Some(seconds);
    let omitted = match built.omitted.len() {
        0 => String::new(),
        count => format!(", without {count} functions that this PyTorch has not"),
    };
    say(&format!("torch: built in {seconds:.0} s{omitted}"));
    Ok(built)
}

/// Where the library for a PyTorch lies in the cache.
fn key(torch: &Torch, extra: &Extra) -> String {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(torch.path.as_os_str().as_encoded_bytes());
    for text in [&torch.version, &sources::hash(), LIBRARY, "cxx11"] {
        part(text.as_bytes());
    }
    extra
        .include
        .iter()
        .for_each(|folder| part(folder.as_os_str().as_encoded_bytes()));
    extra.defines.iter().for_each(|name| part(name.as_bytes()));
    let version: String = torch
        .version
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    format!("{version}-{}", sources::short(&hasher.finalize()))
}

/// Builds in folder `making`; what is to be remembered of it.
fn make(
    torch: &Torch,
    extra: &Extra,
    compiler: &Compiler,
    making: &Path,
    log: &Path,
) -> Result<serde_json::Value, Problem> {
    let _ = fs::remove_dir_all(making);
    let work = making.join("work");
    let failed = |error: std::io::Error| {
        let what = format!("{}: can't write: {error}", making.display());
        Problem::new(
            what,
            "make room there, or set XDG_CACHE_HOME to a folder that can be written",
        )
    };
    fs::create_dir_all(&work).map_err(failed)?;
    let all = sources::all()?;
    sources::write(&all, &work).map_err(failed)?;
    let job = Job {
        compiler,
        torch: &torch.path,
        extra,
        folder: &work,
        name: LIBRARY,
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let done = job.run(&all, workers).map_err(|text| {
        let _ = fs::write(log, &text);
        Problem::new(
            format!(
                "{}: PyTorch {}: the C++ sources don't compile ({})\n    {}",
                torch.path.display(),
                torch.version,
                compiler.version,
                errors_of(&text)
            ),
            format!(
                "all that the compiler said is in {}; CXX chooses another compiler",
                log.display()
            ),
        )
    })?;
    fs::rename(&done.library, making.join(LIBRARY)).map_err(failed)?;
    fs::remove_dir_all(&work).map_err(failed)?;
    let with = |name: &str| extra.defines.contains(&name) && done.without_cuda.is_empty();
    Ok(json!({
        "torch": torch.path.display().to_string(),
        "version": torch.version,
        "cuda": torch.cuda,
        "sources": sources::hash(),
        "compiler": compiler.version,
        "cuda_headers": with("YOLO_CUDA_HEADERS"),
        "nccl_headers": with("YOLO_NCCL_HEADERS"),
        "without_cuda": done.without_cuda,
        "omitted": done.omitted,
    }))
}

/// What was built into a folder, if it was.
pub fn read(folder: &Path) -> Option<Built> {
    let library = folder.join(LIBRARY);
    let text = fs::read_to_string(folder.join("build.json")).ok()?;
    let about: serde_json::Value = serde_json::from_str(&text).ok()?;
    let omitted = about.get("omitted")?.as_array()?.iter();
    library.is_file().then(|| Built {
        library: library.clone(),
        omitted: omitted.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        nccl: about["nccl_headers"] == true,
        seconds: None,
    })
}
