//! What a person sees while work goes on: bars on a terminal, plain lines elsewhere, always on stderr; and signals to stop.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use yolo_jobs::{Progress, Session};

/// Set by the first Ctrl-C, SIGTERM or SIGHUP; jobs look at it between steps. A second one ends the process at once.
pub fn stop_flag() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(|| {
        // Without a handler a signal still ends the process, only less gently.
        let stays = yolo_registry::hangup_ignored();
        let _ = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            if !is_hushed() {
                eprintln!("\nstopping after this step (again: at once)");
            }
        });
        // What was started with `nohup` outlives its terminal.
        if stays {
            yolo_registry::ignore_hangup();
        }
    });
    &STOP
}

/// As a signal does, for whoever else may stop this process.
pub fn stop() {
    stop_flag().store(true, Ordering::SeqCst);
}

fn hushed() -> &'static AtomicBool {
    static HUSHED: AtomicBool = AtomicBool::new(false);
    &HUSHED
}

/// From now on nothing is said but errors: another process of the same job speaks.
pub fn hush() {
    hushed().store(true, Ordering::SeqCst);
}

/// Whether [`hush`] was called.
pub fn is_hushed() -> bool {
    hushed().load(Ordering::SeqCst)
}

/// Whether a signal asked to stop.
pub fn stopped() -> bool {
    stop_flag().load(Ordering::SeqCst)
}

/// Whether stderr is a terminal.
pub fn interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// A line about what happens now.
pub fn say(text: impl AsRef<str>) {
    if !is_hushed() {
        eprintln!("{}", text.as_ref());
    }
}

/// One bar for a job of known length.
#[derive(Debug)]
pub struct Bar {
    bar: Option<ProgressBar>,
    label: String,
    last_percent: u64,
}

impl Bar {
    /// A bar that shows `label`; on a pipe, nothing until [`Bar::finish`].
    pub fn new(label: &str, total: u64) -> Self {
        let bar = (interactive() && !is_hushed()).then(|| {
            let style = ProgressStyle::with_template("{prefix:>14} [{bar:28}] {pos}/{len} {elapsed}<{eta} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            bar,
            label: label.to_owned(),
            last_percent: 0,
        }
    }

    /// `done` of `total` are done.
    pub fn set(&mut self, done: u64, total: u64, note: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(note.to_owned());
            }
            None => {
                // On a pipe: a line at every quarter of long jobs.
                let percent = (done * 4).checked_div(total).unwrap_or(0) * 25;
                if percent > self.last_percent && total >= 20 {
                    self.last_percent = percent;
                    say(format!("{}: {percent} % ({done}/{total}) {note}", self.label));
                }
            }
        }
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The listener of every job that a command starts: bars and lines on stderr, and a signal stops it.
#[derive(Debug, Default)]
pub struct Terminal {
    bar: RefCell<Option<Bar>>,
    /// Notes that were said: data that is opened for several steps is no news the second time.
    notes: RefCell<HashSet<String>>,
}

impl Progress for Terminal {
    fn say(&self, line: &str) {
        if line.starts_with("note: ") && !self.notes.borrow_mut().insert(line.to_owned()) {
            return;
        }
        match &*self.bar.borrow() {
            Some(bar) => bar.line(line),
            None => say(line),
        }
    }

    fn begin(&self, label: &str, total: usize) {
        stop_flag();
        self.end();
        *self.bar.borrow_mut() = Some(Bar::new(label, total as u64));
    }

    fn advance(&self, done: usize, total: usize, note: &str) {
        if let Some(bar) = &mut *self.bar.borrow_mut() {
            bar.set(done as u64, total as u64, note);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish();
        }
    }

    fn go_on(&self) -> bool {
        !stopped()
    }
}

thread_local! {
    static TERMINAL: &'static Terminal = Box::leak(Box::default());
}

/// The plugins of this run, and the terminal: what jobs are started with.
pub fn session() -> Result<Session<'static>, crate::error::CliError> {
    Ok(Session {
        plugins: crate::plugins::index()?,
        progress: TERMINAL.with(|terminal| *terminal),
    })
}

/// Prints the one JSON document of a command on stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), crate::error::CliError> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: i64) -> String {
    let digits = n.abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if n < 0 {
        out.push('-');
    }
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
