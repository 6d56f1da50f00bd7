//! Makes libtorch a library that is loaded at the first call into it, not with the program: to start it takes libtorch longer than
//! `yolo list-plugins` may take in all.
//!
//! torch-sys compiles its C functions into an archive. Here that archive, and C functions of our own (`native/*.cpp`) for what
//! torch-sys leaves out, become a shared library which needs libtorch, and the program gets a trampoline of the same name for each
//! of the functions. The trampolines are linked ahead of the archive, so nothing of it, and nothing of libtorch, is linked into the
//! program. Linux on x86-64 only; elsewhere libtorch is linked as torch-sys asks for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, String>;

fn main() {
    for file in ["build.rs", "src/bind.c", "src/trampoline.S"] {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rustc-check-cfg=cfg(lazy_libtorch)");
    let lazy = env::var("TARGET").as_deref() == Ok("x86_64-unknown-linux-gnu");
    if let Err(reason) = if lazy { build() } else { native(true).map(drop) } {
        println!("cargo:error={reason}");
    }
}

/// Compiles our own functions; returns the archive.
fn native(link: bool) -> Result<PathBuf> {
    let libtorch = PathBuf::from(variable("DEP_TCH_LIBTORCH_LIB")?);
    let include = libtorch.parent().ok_or("libtorch has no folder")?.join("include");
    let mut files = Vec::new();
    for entry in fs::read_dir("native").map_err(|error| format!("native: {error}"))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            files.push(path);
        }
    }
    files.sort();
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .files(&files)
        .cargo_metadata(link)
        .try_compile("yolo_native")
        .map_err(|error| error.to_string())?;
    Ok(PathBuf::from(variable("OUT_DIR")?).join("libyolo_native.a"))
}

fn build() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let libtorch = PathBuf::from(variable("DEP_TCH_LIBTORCH_LIB")?);
    let archive = archive_of_torch_sys(&out, &libtorch)?;
    println!("cargo:rerun-if-changed={}", archive.display());
    let archives = [archive, native(false)?];
    let functions = functions_of(&archives)?;
    let library = link_shared(&archives, &libtorch, &out)?;
    fs::write(out.join("functions.h"), tables(&functions, &library)?).map_err(|error| error.to_string())?;
    fs::write(out.join("functions.S"), trampolines(&functions)).map_err(|error| error.to_string())?;
    // `cc` prints the archive without the modifier that this needs: all of it is linked, before torch-sys is looked at.
    cc::Build::new()
        .files(["src/bind.c", "src/trampoline.S"])
        .include(&out)
        .pic(true)
        .opt_level(2)
        .cargo_metadata(false)
        .try_compile("yolo_torch_lazy")
        .map_err(|error| error.to_string())?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=yolo_torch_lazy");
    println!("cargo:rustc-cfg=lazy_libtorch");
    Ok(())
}

/// The one version that the workspace asks for.
fn version_of_torch_sys() -> Result<String> {
    let manifest = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../../Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("torch-sys = \"=")?.strip_suffix('"'));
    version
        .map(str::to_owned)
        .ok_or_else(|| format!("{}: no line `torch-sys = \"=VERSION\"`", manifest.display()))
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// The archive that torch-sys made against this libtorch, the newest if there are several (of other profiles).
fn archive_of_torch_sys(out: &Path, libtorch: &Path) -> Result<PathBuf> {
    let folder = out.ancestors().nth(2).ok_or("OUT_DIR has no parents")?;
    let says = format!("cargo:libtorch_lib={}\n", libtorch.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let entry = entry.map_err(|error| error.to_string())?;
        let archive = entry.path().join("out/libtch.a");
        let ours = entry.file_name().to_string_lossy().starts_with("torch-sys-")
            && fs::read_to_string(entry.path().join("output")).is_ok_and(|output| output.contains(&says));
        if let Some(time) = archive
            .metadata()
            .ok()
            .filter(|_| ours)
            .and_then(|meta| meta.modified().ok())
        {
            found.push((time, archive));
        }
    }
    let newest = found.into_iter().max();
    newest.map(|(_, archive)| archive).ok_or_else(|| {
        format!(
            "no build of torch-sys against {} in {}",
            libtorch.display(),
            folder.display()
        )
    })
}

/// The names of the C functions in the archives. What C++ mangled is called by nobody outside of them.
fn functions_of(archives: &[PathBuf]) -> Result<Vec<String>> {
    let nm = env::var("NM").unwrap_or_else(|_| "nm".to_owned());
    let text = output(
        Command::new(nm)
            .args(["--defined-only", "--extern-only", "--format=posix"])
            .args(archives),
    )?;
    let mut names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(" T "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("_Z"))
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err("torch-sys' archive has no C functions".to_owned());
    }
    Ok(names)
}

/// Links the archives as a shared library that brings libtorch with it; that of CUDA too, which no symbol asks for.
fn link_shared(archives: &[PathBuf], libtorch: &Path, out: &Path) -> Result<PathBuf> {
    // Plugins share the library of the program, whatever version of yolo they were built with. With the version of torch-sys in
    // the name they never get functions of other signatures.
    let name = format!("libyolo_tch_{}.so", version_of_torch_sys()?);
    let library = out.join(&name);
    let compiler = cc::Build::new().cpp(true).cargo_metadata(false).get_compiler();
    let mut command = compiler.to_command();
    command
        .args(["-shared", "-o"])
        .arg(&library)
        .arg(format!("-Wl,-soname,{name}"))
        .arg("-Wl,--whole-archive")
        .args(archives)
        .arg("-Wl,--no-whole-archive,--no-as-needed")
        .arg(format!("-L{}", libtorch.display()))
        .arg(format!("-Wl,-rpath,{}", libtorch.display()));
    for part in ["torch_cuda", "torch_hip"] {
        if libtorch.join(format!("lib{part}.so")).exists() {
            command.arg(format!("-l{part}"));
        }
    }
    output(command.args(["-ltorch_cpu", "-ltorch", "-lc10"]))?;
    Ok(library)
}

/// The C side's tables: the names in one string, since pointers to each would have to be relocated at every start.
fn tables(functions: &[String], library: &Path) -> Result<String> {
    let mut text = String::new();
    let name = library.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
    let path = library.to_str().ok_or("the build folder's name is not UTF-8")?;
    let _ = writeln!(text, "static const char LIBRARY[] = {name:?};");
    let _ = writeln!(text, "static const char BUILT_AT[] = {path:?};");
    let _ = writeln!(text, "#define FUNCTIONS {}", functions.len());
    text.push_str("static const unsigned OFFSETS[FUNCTIONS] = {");
    let mut offset = 0;
    for name in functions {
        let _ = write!(text, "{offset},");
        offset += name.len() + 1;
    }
    text.push_str("};\nstatic const char NAMES[] =\n");
    for name in functions {
        let _ = writeln!(text, "\"{name}\\0\"");
    }
    text.push_str(";\n");
    Ok(text)
}

/// One line for each function, of the macro that `trampoline.S` defines.
fn trampolines(functions: &[String]) -> String {
    let mut text = String::new();
    for (index, name) in functions.iter().enumerate() {
        let _ = writeln!(text, "trampoline {name} {index}");
    }
    text
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|error| format!("`{program}`: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(format!(
        "`{program}` failed: {}",
        String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")
    ))
}
