//! libtorch, loaded at the first call into it instead of with the program. Commands that need no tensors start in milliseconds.
//!
//! What lives here: the trampolines between C functions and the library that has them (`build.rs`, `trampoline.S`, `bind.c`),
//! what torch-sys has no function for ([`native`]), the choice of the PyTorch that is loaded ([`install`]), and the threads that it
//! will compute with ([`threads`]). What must not: models, data, training.

pub mod install;
pub mod native;
pub mod threads;

// Keeps torch-sys in the link, behind the trampolines.
use torch_sys as _;

#[cfg(lazy_libtorch)]
unsafe extern "C" {
    fn yolo_torch_load() -> *const std::ffi::c_char;
}

/// Loads libtorch now, if it is not loaded. The first call of any of its functions does so too; this is for those who need it in
/// the process before other code runs, or want the reason why it can't be loaded instead of the end of the process.
///
/// # Errors
/// A choice of PyTorch that can't be used, or the dynamic linker's reason, which names the file.
pub fn load() -> Result<(), install::Problem> {
    #[cfg(lazy_libtorch)]
    {
        // SAFETY: takes nothing; returns null or a C string that lives until this thread's next such call.
        let reason = unsafe { yolo_torch_load() };
        if !reason.is_null() {
            // SAFETY: as above.
            let text = unsafe { std::ffi::CStr::from_ptr(reason) }.to_string_lossy();
            let (what, help) = text.split_once("\n  help: ").unwrap_or((&text, ""));
            return Err(install::Problem::new(what, help));
        }
    }
    Ok(())
}
