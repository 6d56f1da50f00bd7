//! The end of a process that has foreign code in it.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dynamic::Library;

thread_local! {
    /// The library whose function runs. No destructor: it is read when the thread's own have run.
    static INSIDE: Cell<Option<&'static Library>> = const { Cell::new(None) };
}

/// Calls a function of a library, so that it can be named if it ends the process ([`watch_exit`]).
pub(crate) fn inside<T>(library: &'static Library, call: impl FnOnce() -> T) -> T {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // What is registered last runs first, and must before libtorch takes itself apart, parts of which are made at their first use: so at
    // the first calls, and seldom later.
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    if calls <= 64 || calls.is_power_of_two() {
        // SAFETY: the handler is a function of this program, which is never unloaded.
        unsafe { libc::atexit(ended) };
    }
    let before = INSIDE.replace(Some(library));
    let result = call();
    INSIDE.set(before);
    result
}

/// What is said of a library that has ended the process.
static SAY: OnceLock<fn(&str)> = OnceLock::new();

/// From here on a library that calls `exit` ends the process as a failure, of which `say` tells a person.
pub fn watch_exit(say: fn(&str)) {
    let _ = SAY.set(say);
}

/// Runs when somebody calls `exit`, which this program does not ([`leave`]).
extern "C" fn ended() {
    if let (Some(library), Some(say)) = (INSIDE.get(), SAY.get()) {
        say(&format!(
            "the plugin library {} has ended the process (exit), nothing is finished\n  help: this is a mistake in the plugin, tell its author",
            library.path().display()
        ));
        leave(1);
    }
}

/// Whether whoever started this process (`nohup`) has it ignore the end of its terminal.
pub fn hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (libc::SIGHUP - 1) & 1 == 1)
}

/// Ignores the end of the terminal, also where a handler was set.
pub fn ignore_hangup() {
    // SAFETY: sets a disposition that has no code of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Ends the process with this exit code, now: without the exit handlers of libraries.
///
/// libtorch spends a third of the run time of a short command on taking apart its table of operators, which nobody will read again;
/// and handlers of plugins would run when what they rely on may be gone already. Files are closed and flushed where they are
/// written, so the one thing left to do is to flush standard output.
pub fn leave(code: u8) -> ! {
    use std::io::Write as _;
    // A reader that has gone away is no reason to end in another way.
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: ends the process; no code of ours runs afterwards.
    unsafe { libc::_exit(i32::from(code)) }
}
