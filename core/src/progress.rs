//! Whoever waits for a job: the one way in which work says how far it is and asks whether it goes on.
//!
//! What must not live here: drawing, and where words go.

use crate::{Error, Result};

/// Sees work go on, and may end it. Every method has a default, so `()` is the listener that looks at nothing.
///
/// Methods take `&self`: a job holds the listener in several places at once. One piece of work goes on at a time, between
/// [`Progress::begin`] and [`Progress::end`].
pub trait Progress {
    /// A line that a person should read: what was chosen, left out, or is odd about the input.
    fn say(&self, _line: &str) {}

    /// A piece of work begins that is called `label` and has `total` parts (0: it is not known yet).
    fn begin(&self, _label: &str, _total: usize) {}

    /// `done` of `total` parts are done; `note` says what they brought.
    fn advance(&self, _done: usize, _total: usize, _note: &str) {}

    /// The piece of work has ended, well or not.
    fn end(&self) {}

    /// Whether to go on. Asked between steps; after a `false` the job ends with [`Error::Cancelled`] and keeps what is finished.
    fn go_on(&self) -> bool {
        true
    }
}

impl Progress for () {}

impl dyn Progress + '_ {
    /// Begins a piece of work that ends when the result is dropped.
    pub fn task(&self, label: &str, total: usize) -> Task<'_> {
        self.begin(label, total);
        Task { progress: self }
    }

    /// Says how far the present work is, and asks whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where the listener wants the job to end.
    pub fn step(&self, done: usize, total: usize, note: &str) -> Result<()> {
        self.advance(done, total, note);
        self.ask()
    }

    /// Asks whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where the listener wants the job to end.
    pub fn ask(&self) -> Result<()> {
        if self.go_on() { Ok(()) } else { Err(Error::Cancelled) }
    }
}

/// A piece of work that goes on.
pub struct Task<'a> {
    progress: &'a dyn Progress,
}

impl<'a> std::ops::Deref for Task<'a> {
    type Target = dyn Progress + 'a;

    fn deref(&self) -> &Self::Target {
        self.progress
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.progress.end();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Writes down what it is told, and stops after so many steps.
    struct Log(RefCell<Vec<String>>, usize);

    impl Progress for Log {
        fn begin(&self, label: &str, total: usize) {
            self.0.borrow_mut().push(format!("{label} {total}"));
        }
        fn advance(&self, done: usize, total: usize, note: &str) {
            self.0.borrow_mut().push(format!("{done}/{total} {note}"));
        }
        fn end(&self) {
            self.0.borrow_mut().push("end".into());
        }
        fn go_on(&self) -> bool {
            self.0.borrow().iter().filter(|line| line.contains('/')).count() < self.1
        }
    }

    #[test]
    fn a_task_ends_however_it_ends_and_stops_when_told_to() {
        let log = Log(RefCell::default(), 2);
        let port: &dyn Progress = &log;
        let work = || -> Result<()> {
            let task = port.task("work", 3);
            for done in 1..=3 {
                task.step(done, 3, "x")?;
            }
            Ok(())
        };
        assert!(matches!(work(), Err(Error::Cancelled)));
        assert_eq!(*log.0.borrow(), ["work 3", "1/3 x", "2/3 x", "end"]);
    }
}
