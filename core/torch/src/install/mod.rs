//! The PyTorch that is there: how one is found, checked, built for and chosen.
//!
//! The program reaches libtorch through a shared library of C functions. It is built with the program against the libtorch of the
//! repository; here the same sources, which travel with the program, are built against a PyTorch that the user has, once, by the
//! machine's C++ compiler, into a folder of the user's cache.
//!
//! What lives here: places, checks, the build, the user's choice. What must not: printing, the command line, tensors.

pub mod build;
pub mod choose;
mod compile;
pub mod find;
mod headers;
mod omit;
pub mod sources;

use std::fmt;

/// The oldest PyTorch that the sources can be built against.
pub const OLDEST: (u32, u32) = (2, 11);

/// What is wrong, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, and where.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Problem {
    /// A problem.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: help.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl std::error::Error for Problem {}

/// How the environment is asked: `std::env::var_os`, or a test's own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;
