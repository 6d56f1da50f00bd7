//! Makes libtorch a library that is loaded at the first call into it, not with the program: to start it takes libtorch longer than
//! `yolo list-plugins` may take in all.
//!
//! torch-sys compiles its C functions into an archive. Here that archive, and C functions of our own (`native/*.cpp`) for what
//! torch-sys leaves out, become a shared library which needs libtorch, and the program gets a trampoline of the same name for each
//! of the functions. The trampolines are linked ahead of the archive, so nothing of it, and nothing of libtorch, is linked into the
//! program. Linux on x86-64 only; elsewhere libtorch is linked as torch-sys asks for.
//!
//! The sources of all that travel with the program too (`sources.bin`), for a PyTorch that the user has (`src/install`).

#[path = "src/install/headers.rs"]
mod headers;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, String>;

fn main() {
    for file in ["build.rs", "src/bind.c", "src/trampoline.S", "src/install/headers.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for name in ["LIBTORCH", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rustc-check-cfg=cfg(lazy_libtorch)");
    let lazy = env::var("TARGET").as_deref() == Ok("x86_64-unknown-linux-gnu");
    if let Err(reason) = if lazy {
        build()
    } else {
        native(true).and_then(|_| elsewhere())
    } {
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
    // libtorch's headers take most of the time: they are read once for all files.
    let all = PathBuf::from(variable("OUT_DIR")?).join("native.cpp");
    let text: String = files
        .iter()
        .filter_map(|file| Some(format!("#include \"{}\"\n", file.file_name()?.to_str()?)))
        .collect();
    fs::write(&all, text).map_err(|error| format!("{}: {error}", all.display()))?;
    let torch = libtorch.parent().ok_or("libtorch has no folder")?;
    let extra = headers::cuda(torch, None, &headers::toolkits(&|name| env::var_os(name)));
    let mut build = cc::Build::new();
    for name in headers::DEFINES.iter().chain(&extra.defines) {
        build.define(name, None);
    }
    build
        .cpp(true)
        .pic(true)
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .includes(&extra.include)
        .include("native")
        .include(Path::new("native").join(headers::DECLARED))
        .file(&all)
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
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    println!("cargo:rustc-env=YOLO_TORCH_LIBRARY={name}");
    println!("cargo:rustc-env=YOLO_TORCH_BUILT_AT={}", library.display());
    println!("cargo:rustc-env=YOLO_TORCH_LIB={}", libtorch.display());
    bundle(&out.join("sources.bin"), &sources(&out)?)
}

/// Where libtorch is linked: nothing is chosen at run time, so no sources travel.
fn elsewhere() -> Result<()> {
    println!("cargo:rustc-env=YOLO_TORCH_LIBRARY=");
    println!("cargo:rustc-env=YOLO_TORCH_BUILT_AT=");
    println!("cargo:rustc-env=YOLO_TORCH_LIB={}", variable("DEP_TCH_LIBTORCH_LIB")?);
    bundle(&PathBuf::from(variable("OUT_DIR")?).join("sources.bin"), &[])
}

/// The C++ sources: those of torch-sys (but for its Python part) and ours.
fn sources(out: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for folder in [folder_of_torch_sys(out)?.join("libtch"), PathBuf::from("native")] {
        files_below(&folder, &folder, &mut files)?;
    }
    files.retain(|(name, _)| !name.starts_with("torch_python") && !name.starts_with("CMakeLists"));
    files.sort();
    Ok(files)
}

/// All files in a folder and its subfolders, by their place in `base`.
fn files_below(base: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.strip_prefix(base).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            files_below(base, &path, found)?;
        } else if [".cpp", ".h", ".hpp", ".inc"].iter().any(|end| name.ends_with(end)) {
            found.push((name, path));
        }
    }
    Ok(())
}

/// Where cargo has the sources of torch-sys: beside the build script that it compiled lies a list of what that was made from.
fn folder_of_torch_sys(out: &Path) -> Result<PathBuf> {
    let folder = out.ancestors().nth(2).ok_or("OUT_DIR has no parents")?;
    let version = format!("version = \"{}\"", version_of_torch_sys()?);
    // Names in the list are relative to the workspace where cargo was told to use sources in it.
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../..");
    let is_it = |folder: &Path| {
        folder.join("libtch/torch_api.cpp").exists()
            && fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains(&version))
    };
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let entry = entry.map_err(|error| error.to_string())?;
        if !entry.file_name().to_string_lossy().starts_with("torch-sys-") {
            continue;
        }
        for file in fs::read_dir(entry.path()).map_err(|error| error.to_string())?.flatten() {
            let path = file.path();
            if path.extension().is_none_or(|extension| extension != "d") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            // One line for each source, `PATH:`; spaces are escaped.
            let sources = text.lines().filter_map(|line| line.strip_suffix(':'));
            let mut folders =
                sources.filter_map(|source| Some(root.join(source.replace("\\ ", " ")).parent()?.to_owned()));
            if let Some(found) = folders.find(|folder| is_it(folder)) {
                return Ok(found);
            }
        }
    }
    Err(format!(
        "the sources of torch-sys are not named in {}/torch-sys-*/*.d",
        folder.display()
    ))
}

/// One compressed file: for each source the length of its place, its place, its length, its bytes; lengths are u32, little end first.
fn bundle(file: &Path, sources: &[(String, PathBuf)]) -> Result<()> {
    let mut sink = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let mut put = |bytes: &[u8]| -> Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| "a source is too long")?;
        let written = sink
            .write_all(&length.to_le_bytes())
            .and_then(|()| sink.write_all(bytes));
        written.map_err(|error| error.to_string())
    };
    for (name, source) in sources {
        put(name.as_bytes())?;
        put(&fs::read(source).map_err(|error| format!("{}: {error}", source.display()))?)?;
    }
    let bytes = sink.finish().map_err(|error| error.to_string())?;
    fs::write(file, bytes).map_err(|error| format!("{}: {error}", file.display()))
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
        .arg("-Wl,--no-whole-archive");
    command.args(headers::link_arguments(libtorch));
    let mut shared = compiler.to_command();
    shared.args(command.get_args()).arg(headers::SHARED_RUNTIME);
    if output(&mut shared).is_err() {
        output(&mut command)?;
    }
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
