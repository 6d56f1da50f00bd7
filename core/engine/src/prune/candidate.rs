//! Candidates of a search, and what remembers them.

use std::fmt::Debug;

use yolo_core::prune::{Evaluation, PrunePlan};

use crate::Result;

/// A pruned network that a search looks at.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What stays.
    pub plan: &'a PrunePlan,
    /// Optimizer steps that it is tuned for before it is measured.
    pub steps: usize,
    /// How often the pruner trained the model before.
    pub trained: usize,
    /// Share of the multiply-adds that stays.
    pub flops: f64,
    /// Share of the parameters that stays.
    pub params: f64,
}

/// Remembers candidates, so that a search that was interrupted need not measure them again. A pruner whose choices follow from its seed
/// asks for the same ones in the same order.
pub trait Journal: Debug + Sync {
    /// What this candidate was worth, if it was measured before.
    fn known(&self, candidate: &Candidate<'_>) -> Option<Evaluation>;
    /// Remembers what it is worth.
    ///
    /// # Errors
    /// Where it can't be kept.
    fn note(&self, candidate: &Candidate<'_>, worth: Evaluation) -> Result<()>;
}
