//! Learning rate, momentum and gradient accumulation over time, as YOLOv5 does it.

use serde::{Deserialize, Serialize};

use super::TrainOptions;

/// Usual nominal batch size: gradients of smaller batches are accumulated to it.
pub const NOMINAL_BATCH: usize = 64;

/// How the learning rate falls from 1 to `lrf` over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine: YOLOv5's `one_cycle(1, lrf, epochs)`, the default of v6.0.
    Cosine,
    /// A straight line that reaches `lrf` after the last epoch (the default of v7.0; v6.0's reached it in the last epoch).
    #[default]
    Linear,
}

/// The plan of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Learning rate after warm-up.
    pub lr0: f64,
    /// Last learning rate as a fraction of `lr0`.
    pub lrf: f64,
    /// Shape of the fall.
    pub decay: Decay,
    /// Momentum after warm-up.
    pub momentum: f64,
    /// Momentum at the start.
    pub warmup_momentum: f64,
    /// Learning rate of biases at the start.
    pub warmup_bias_lr: f64,
    /// Iterations of warm-up.
    pub warmup_iterations: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Images per batch.
    pub batch: usize,
    /// Images per update: gradients of smaller batches are accumulated to it.
    pub nominal: usize,
    /// Batches of an epoch: no update waits for more, as the gradients of an epoch end with it.
    pub batches: usize,
}

/// Settings of one iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRates {
    /// Learning rate of weights.
    pub lr: f64,
    /// Learning rate of biases.
    pub bias_lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// An update follows when this many batches were added up.
    pub accumulate: usize,
}

/// Optimizer steps of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updates {
    /// In all.
    pub total: usize,
    /// In an epoch after warm-up, at least 1.
    pub per_epoch: usize,
}

impl Schedule {
    /// The plan of a training with so many batches in an epoch.
    pub fn of(options: &TrainOptions, batches: usize) -> Self {
        let hyp = &options.hyp;
        let warmup = (hyp.warmup_epochs * batches as f64).round() as usize;
        Self {
            lr0: hyp.lr0,
            lrf: hyp.lrf,
            decay: options.decay,
            momentum: hyp.momentum,
            warmup_momentum: hyp.warmup_momentum,
            warmup_bias_lr: hyp.warmup_bias_lr,
            // At least 100 iterations, as YOLOv5, but never more than half of a short training.
            warmup_iterations: if hyp.warmup_epochs > 0.0 {
                warmup.max(100).min(options.epochs * batches / 2)
            } else {
                0
            },
            epochs: options.epochs,
            batch: options.batch,
            nominal: options.nominal_batch,
            batches: batches.max(1),
        }
    }

    /// How many optimizer steps follow from so many batches in an epoch: an update happens when as many batches were added up as
    /// [`Schedule::step`] says.
    pub fn updates(&self, batches: usize) -> Updates {
        let mut last = -1i64;
        let mut total = 0;
        for iteration in 0..self.epochs * batches {
            let due = self.step(iteration, iteration / batches.max(1)).accumulate as i64;
            if iteration as i64 - last >= due {
                last = iteration as i64;
                total += 1;
            }
        }
        Updates {
            total,
            per_epoch: (batches / self.full_accumulate()).max(1),
        }
    }

    /// Fraction of `lr0` in an epoch.
    pub fn factor(&self, epoch: usize) -> f64 {
        let progress = epoch as f64 / self.epochs.max(1) as f64;
        match self.decay {
            Decay::Cosine => (1.0 - (progress * std::f64::consts::PI).cos()) / 2.0 * (self.lrf - 1.0) + 1.0,
            Decay::Linear => (1.0 - progress) * (1.0 - self.lrf) + self.lrf,
        }
    }

    /// Batches per update after warm-up.
    pub fn full_accumulate(&self) -> usize {
        self.accumulate(self.nominal as f64 / self.batch.max(1) as f64)
    }

    fn accumulate(&self, batches: f64) -> usize {
        (batches.round_ties_even() as usize).clamp(1, self.batches.max(1))
    }

    /// What to know of this plan where it is not the one that was asked for.
    pub fn remarks(&self, warmup_epochs: f64) -> Vec<String> {
        let mut remarks = Vec::new();
        let (images, nominal) = (self.batches * self.batch, self.nominal);
        if images < nominal {
            remarks.push(format!(
                "{} batches of {} are at most {images} images an epoch, fewer than the nominal batch of {nominal}: one update per epoch (--nominal-batch {} gives \
                 one per batch)",
                self.batches, self.batch, self.batch
            ));
        }
        let asked = (warmup_epochs * self.batches as f64).round() as usize;
        if asked > self.warmup_iterations {
            remarks.push(format!(
                "warm-up is over after {} batches, half of the training, instead of {asked} (warmup_epochs: {warmup_epochs})",
                self.warmup_iterations
            ));
        }
        remarks
    }

    /// Weight decay for the batch that is really used.
    pub fn scaled_decay(&self, weight_decay: f64) -> f64 {
        weight_decay * (self.batch * self.full_accumulate()) as f64 / self.nominal.max(1) as f64
    }

    /// Settings of iteration `iteration` (counted from the start of training) in `epoch`.
    pub fn step(&self, iteration: usize, epoch: usize) -> StepRates {
        let lr = self.lr0 * self.factor(epoch);
        if iteration > self.warmup_iterations || self.warmup_iterations == 0 {
            return StepRates {
                lr,
                bias_lr: lr,
                momentum: self.momentum,
                accumulate: self.full_accumulate(),
            };
        }
        let done = iteration as f64 / self.warmup_iterations as f64;
        let between = |from: f64, to: f64| from + (to - from) * done;
        StepRates {
            lr: between(0.0, lr),
            bias_lr: between(self.warmup_bias_lr, lr),
            momentum: between(self.warmup_momentum, self.momentum),
            accumulate: self.accumulate(between(1.0, self.nominal as f64 / self.batch.max(1) as f64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            lr0: 0.01,
            lrf: 0.1,
            decay: Decay::Cosine,
            momentum: 0.937,
            warmup_momentum: 0.8,
            warmup_bias_lr: 0.1,
            warmup_iterations: 100,
            epochs: 10,
            batch: 16,
            nominal: NOMINAL_BATCH,
            batches: 1000,
        }
    }

    #[test]
    fn warm_up_rises_for_weights_and_falls_for_biases() {
        let s = schedule();
        let start = s.step(0, 0);
        assert_eq!(
            (start.lr, start.bias_lr, start.momentum, start.accumulate),
            (0.0, 0.1, 0.8, 1)
        );
        let middle = s.step(50, 0);
        assert!((middle.lr - 0.005).abs() < 1e-12 && (middle.bias_lr - 0.055).abs() < 1e-12);
        assert_eq!(middle.accumulate, 2, "2.5 rounds to even, as numpy does");
        let end = s.step(101, 0);
        assert_eq!(
            (end.lr, end.bias_lr, end.momentum, end.accumulate),
            (0.01, 0.01, 0.937, 4)
        );
    }

    #[test]
    fn both_shapes_go_from_one_to_lrf() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let s = Schedule { decay, ..schedule() };
            assert!((s.factor(0) - 1.0).abs() < 1e-12 && (s.factor(10) - 0.1).abs() < 1e-12);
            assert!((s.factor(5) - 0.55).abs() < 1e-12);
        }
    }

    #[test]
    fn a_cosine_is_the_one_cycle_of_yolov5() {
        // ((1 - cos(epoch * pi / epochs)) / 2) * (lrf - 1) + 1 for lrf 0.1 and 10 epochs, computed elsewhere.
        let expected = [
            1.0,
            0.9779754323328192,
            0.9140576474687263,
            0.8145033635316129,
            0.6890576474687264,
            0.55,
            0.4109423525312737,
            0.285_496_636_468_387_2,
            0.18594235253127372,
            0.12202456766718092,
        ];
        for (epoch, expected) in expected.into_iter().enumerate() {
            let factor = schedule().factor(epoch);
            assert!(
                (factor - expected).abs() < 1e-12,
                "epoch {epoch}: {factor}, not {expected}"
            );
        }
        let linear = Schedule {
            decay: Decay::Linear,
            ..schedule()
        };
        assert!((linear.factor(1) - 0.91).abs() < 1e-12 && (linear.factor(9) - 0.19).abs() < 1e-12);
    }

    #[test]
    fn decay_is_scaled_to_the_nominal_batch() {
        assert_eq!(schedule().scaled_decay(5e-4), 5e-4);
        assert_eq!(
            Schedule {
                batch: 128,
                ..schedule()
            }
            .scaled_decay(5e-4),
            1e-3
        );
    }

    #[test]
    fn optimizer_steps_are_counted_through_the_ramp() {
        let s = Schedule {
            warmup_iterations: 0,
            ..schedule()
        };
        assert_eq!(
            s.updates(8),
            Updates {
                total: 20,
                per_epoch: 2
            },
            "80 batches, 4 for a step"
        );
        let one = Schedule {
            nominal: 16,
            batches: 1000,
            ..schedule()
        };
        assert_eq!(
            one.updates(8),
            Updates {
                total: 80,
                per_epoch: 8
            }
        );
        // 200 batches: of the first 100, steps of 1, 2 (from 2.5 on, to even), 3 and 4 batches; then 25 steps of 4.
        let ramp = schedule().updates(20);
        assert!(ramp.total > 25 + 25 && ramp.total < 25 + 100, "{ramp:?}");
        assert_eq!(ramp.per_epoch, 5);
    }

    #[test]
    fn an_epoch_of_few_images_ends_with_an_update() {
        // 3 batches of 16 images are fewer than 64: all of them make an update, and not a fourth that never comes.
        let few = Schedule {
            batches: 3,
            warmup_iterations: 0,
            ..schedule()
        };
        assert_eq!(few.full_accumulate(), 3);
        assert_eq!(few.updates(3).total, few.epochs);
        assert_eq!(few.scaled_decay(5e-4), 5e-4 * 48.0 / 64.0);
        assert!(
            few.remarks(0.0)[0]
                .contains("3 batches of 16 are at most 48 images an epoch, fewer than the nominal batch of 64"),
            "{:?}",
            few.remarks(0.0)
        );
        assert!(schedule().remarks(0.0).is_empty());
        assert!(
            schedule().remarks(3.0)[0].contains("100 batches"),
            "{:?}",
            schedule().remarks(3.0)
        );
    }

    #[test]
    fn a_nominal_batch_of_one_batch_updates_after_each() {
        let s = Schedule {
            nominal: 16,
            ..schedule()
        };
        assert!((0..200).all(|iteration| s.step(iteration, 0).accumulate == 1));
        assert_eq!(s.scaled_decay(5e-4), 5e-4);
    }
}
