//! Compilers of WebAssembly guests, so that the tests build metrics from C, AssemblyScript and Rust: zig as a wheel (pinned,
//! hash-checked), asc through npm (pinned by `tests/compilers/package-lock.json`), Rust's target through rustup. A compiler that
//! can't be had here is said so and left out; its guests are then skipped with a printed reason.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup::{ANY, Bundle, install};
use crate::{Outcome, fail, root, run};

/// A whole C compiler for WebAssembly; of its library only what a guest without a system needs.
const ZIG: Bundle = Bundle {
    folder: ".zig",
    wheels: &[(
        "ziglang==0.17.1",
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
    )],
    python: ANY,
    members: &[
        ("ziglang/zig", "."),
        ("ziglang/lib/std/", "lib/std"),
        ("ziglang/lib/include/", "lib/include"),
        ("ziglang/lib/compiler/", "lib/compiler"),
        ("ziglang/lib/compiler_rt/", "lib/compiler_rt"),
        ("ziglang/lib/compiler_rt.zig", "lib"),
        ("ziglang/lib/ubsan_rt.zig", "lib"),
        ("ziglang/LICENSE", "licenses"),
    ],
    written: &[],
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Puts the compilers in place; returns `PATH` with them.
pub fn compilers() -> Outcome<OsString> {
    let root = root();
    let asc = root.join(".asc");
    for (language, result) in [
        ("C", zig(&root)),
        ("AssemblyScript", npm(&root, &asc)),
        ("Rust", target(&root)),
    ] {
        if let Err(reason) = result {
            eprintln!("setup: no compiler for guests in {language}: {reason}");
        }
    }
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let own = [root.join(ZIG.folder), asc.join("node_modules/.bin")];
    std::env::join_paths(std::env::split_paths(&usual).chain(own)).map_err(|e| format!("PATH: {e}"))
}

fn zig(root: &Path) -> Outcome {
    install(&ZIG, root)?;
    // Wheels keep no file modes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let zig = root.join(ZIG.folder).join("zig");
        std::fs::set_permissions(&zig, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", zig.display()))?;
    }
    Ok(())
}

fn npm(root: &Path, folder: &Path) -> Outcome {
    let pinned = root.join("tests/compilers");
    let lock = "package-lock.json";
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let wanted = read(pinned.join(lock));
    if wanted.is_some()
        && read(folder.join("installed.json")) == wanted
        && folder.join("node_modules/.bin/asc").exists()
    {
        return Ok(());
    }
    if !quiet(Command::new("npm").arg("--version")) {
        return fail("npm is not here");
    }
    let at = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(at)?;
    for file in ["package.json", lock] {
        std::fs::copy(pinned.join(file), folder.join(file)).map_err(at)?;
    }
    let mut npm = Command::new("npm");
    npm.args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel",
        "error",
    ]);
    run(npm.current_dir(folder).stdout(Stdio::null()))?;
    // Last: an installation that was cut off is made again.
    std::fs::copy(pinned.join(lock), folder.join("installed.json")).map_err(at)?;
    Ok(())
}

/// Of the toolchain that the repository asks for.
fn target(root: &Path) -> Outcome {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    rustc.current_dir(root);
    let folder = rustc.output().map_err(|e| format!("can't run `rustc`: {e}"))?.stdout;
    if Path::new(String::from_utf8_lossy(&folder).trim()).is_dir() {
        return Ok(());
    }
    if quiet(Command::new("rustup").args(["target", "add", TARGET]).current_dir(root)) {
        return Ok(());
    }
    fail(format!("`rustup target add {TARGET}` failed"))
}

/// Whether a command can be run and succeeds.
fn quiet(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
