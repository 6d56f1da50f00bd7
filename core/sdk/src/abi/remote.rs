//! The host of a pruner, as seen from the library.

use tch::Tensor;
use yolo_abi::{FloatRows, TextBuffer, YoloEvaluation, YoloPruneHost, YoloStr};
use yolo_core::prune::{
    Budget, ChannelGroups, CostModel, Evaluation, NamedMetric, PruneHost, PrunePlan, Regulariser, Rounding, Scores,
};
use yolo_core::wire::PruneFacts;
use yolo_core::{Error, PruneMetric, Result};

use super::guard::of_host;
use super::metric::LENT;
use super::regulariser::{Lent, Owner, REGULARISER};

/// What the host tells once, and the way to ask for the rest.
pub(super) struct Remote<'a> {
    host: &'a YoloPruneHost,
    groups: ChannelGroups,
    cost: CostModel,
    budget: Budget,
    rounding: Rounding,
    seed: u64,
}

impl<'a> Remote<'a> {
    pub fn connect(host: &'a YoloPruneHost) -> Result<Self> {
        let (mut text, mut error) = (TextBuffer::new(), TextBuffer::new());
        // SAFETY: the host lends its table for the call of `plan`, of which this is a part; so below.
        let code = unsafe { (host.describe)(host.cx, text.text(), error.text()) };
        of_host(code, &error)?;
        let facts: PruneFacts<'_> = serde_json::from_str(&text.finish().map_err(Error::other)?)?;
        Ok(Self {
            host,
            groups: ChannelGroups::from_parts(facts.groups.into_owned()),
            cost: facts.cost.into_owned(),
            budget: facts.budget,
            rounding: facts.rounding,
            seed: facts.seed,
        })
    }
}

impl PruneHost for Remote<'_> {
    fn groups(&self) -> &ChannelGroups {
        &self.groups
    }

    fn cost(&self) -> &CostModel {
        &self.cost
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn rounding(&self) -> Rounding {
        self.rounding
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn scores(&mut self, metric: &dyn PruneMetric) -> Result<Scores> {
        let mut error = TextBuffer::new();
        let channels = self.groups.groups.iter().map(yolo_core::prune::ChannelGroup::len).sum();
        let mut rows = FloatRows::with_limit(channels);
        let named = NamedMetric::of(metric).map(|config| config.to_string());
        let code = match &named {
            // SAFETY: see `connect`.
            Some(config) => unsafe {
                let none = (std::ptr::null(), std::ptr::null_mut());
                (self.host.scores)(
                    self.host.cx,
                    YoloStr::new(config),
                    none.0,
                    none.1,
                    rows.floats(),
                    error.text(),
                )
            },
            // SAFETY: see `connect`; the host uses the metric during the call only.
            None => unsafe {
                let lent = std::ptr::from_ref(&metric).cast_mut().cast();
                let nothing = YoloStr::new("");
                (self.host.scores)(
                    self.host.cx,
                    nothing,
                    &raw const LENT,
                    lent,
                    rows.floats(),
                    error.text(),
                )
            },
        };
        of_host(code, &error)?;
        Ok(rows.rows)
    }

    fn tensor(&self, key: &str) -> Result<Tensor> {
        let mut error = TextBuffer::new();
        let mut handle = std::ptr::null_mut();
        // SAFETY: see `connect`.
        let code = unsafe { (self.host.tensor)(self.host.cx, YoloStr::new(key), &raw mut handle, error.text()) };
        of_host(code, &error)?;
        if handle.is_null() {
            return Err(Error::Params(format!("the host gave no tensor `{key}`")));
        }
        // SAFETY: the handle is ours.
        Ok(unsafe { Tensor::from_ptr(handle.cast()) })
    }

    fn evaluate(&mut self, plan: &PrunePlan) -> Result<Evaluation> {
        self.evaluate_tuned(plan, 0)
    }

    fn evaluate_tuned(&mut self, plan: &PrunePlan, steps: usize) -> Result<Evaluation> {
        let mut error = TextBuffer::new();
        let mut result = YoloEvaluation::default();
        let plan = serde_json::to_string(plan)?;
        // SAFETY: see `connect`.
        let code = unsafe {
            let plan = YoloStr::new(&plan);
            (self.host.evaluate)(self.host.cx, plan, steps as u64, &raw mut result, error.text())
        };
        of_host(code, &error)?;
        Ok(Evaluation {
            map50: result.map50,
            map: result.map,
        })
    }

    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> Result<()> {
        let mut error = TextBuffer::new();
        let owner = Owner::new(Box::new(Lent(regulariser))).into_raw();
        // SAFETY: see `connect`; the host uses the regulariser during the call only.
        let code =
            unsafe { (self.host.train)(self.host.cx, epochs as u64, &raw const REGULARISER, owner, error.text()) };
        // SAFETY: made above, and the host never frees what it is lent.
        drop(unsafe { Owner::from_raw(owner) });
        of_host(code, &error)
    }

    fn progress(&mut self, done: usize, total: usize, note: &str) -> Result<()> {
        let mut error = TextBuffer::new();
        // SAFETY: see `connect`.
        let code = unsafe {
            (self.host.progress)(
                self.host.cx,
                done as u64,
                total as u64,
                YoloStr::new(note),
                error.text(),
            )
        };
        of_host(code, &error)
    }
}
