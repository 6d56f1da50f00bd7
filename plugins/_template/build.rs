//! Lets the tests find libtorch. The library itself gets no such path: in `yolo`, libtorch is loaded already.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_YOLO_SDK_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{folder}");
    }
}
