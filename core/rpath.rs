//! Build script of every crate that links an executable: writes the folder of libtorch into it, so that `cargo test`
//! and the installed binary find the libraries with no LD_LIBRARY_PATH. Not used by libraries alone.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
