//! The end of a process that has foreign code in it.

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
