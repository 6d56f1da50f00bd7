//! The end of a process that has foreign code in it.

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
