//! Tells the crate which libtorch it is built against, and dependents where that lies (`DEP_YOLO_SDK_LIBTORCH_LIB`), so that the
//! tests of a plugin find it without a setting.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let version = Path::new(&lib)
        .parent()
        .and_then(|folder| std::fs::read_to_string(folder.join("build-version")).ok());
    // A build of libtorch may call itself 2.13.0+cpu.
    let version = version
        .as_deref()
        .and_then(|text| text.trim().split('+').next())
        .filter(|text| !text.is_empty());
    println!("cargo:rustc-env=YOLO_SDK_LIBTORCH={}", version.unwrap_or("2.13.0"));
    println!(
        "cargo:rustc-env=YOLO_SDK_TARGET={}",
        std::env::var("TARGET").unwrap_or_default()
    );
    println!("cargo:libtorch_lib={lib}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
