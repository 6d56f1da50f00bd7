//! Mixed precision: which kind products are computed in, and the scale of the loss that f16 needs.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use yolo_torch::native::step;

use crate::{Error, Result};

/// Kind of the products of a network while it trains. Weights, sums, statistics, losses and quantizers are f32 in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32: nothing is mixed.
    #[default]
    Off,
    /// bfloat16: the range of f32 with 8 bits of mantissa; needs no scale.
    Bf16,
    /// float16: 11 bits of mantissa, a range so small that the loss is scaled (arXiv 1710.03740, section 3.2).
    F16,
}

impl Precision {
    /// The kind that products are computed in, where it is not f32.
    pub fn half(self) -> Option<Kind> {
        match self {
            Self::Off => None,
            Self::Bf16 => Some(Kind::BFloat16),
            Self::F16 => Some(Kind::Half),
        }
    }

    /// Runs `work` in this precision on `device`.
    ///
    /// # Errors
    /// Those of `work` and of libtorch.
    pub fn run<T>(self, device: Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.half() {
            None => work(),
            Some(kind) => step::autocast(device, kind, work),
        }
    }
}

/// State of a [`Scaler`], to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScalerState {
    /// Factor of the loss.
    pub scale: f64,
    /// Steps since it changed.
    pub good_steps: i64,
    /// Steps that were skipped so far, since a gradient was not finite.
    pub skipped: i64,
}

impl Default for ScalerState {
    fn default() -> Self {
        Self {
            scale: 65536.0,
            good_steps: 0,
            skipped: 0,
        }
    }
}

/// Scales the loss so that small gradients don't vanish in f16: halves the scale (and skips the step) when a gradient is not finite,
/// doubles it after 2000 steps that were. Nothing is read back from the device.
#[derive(Debug)]
pub struct Scaler {
    scale: Tensor,
    good_steps: Tensor,
    found_inf: Tensor,
    skipped: Tensor,
}

const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;
/// A scale below this means that the loss itself is not finite, not that it was scaled too much.
const LEAST_SCALE: f64 = 1e-4;

impl Scaler {
    /// A scaler in a state, on a device.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(state: ScalerState, device: Device) -> Result<Self> {
        let number = |value: f64| Tensor::f_full([1].as_slice(), value, (Kind::Float, device));
        Ok(Self {
            scale: number(state.scale)?,
            good_steps: Tensor::f_full([1].as_slice(), state.good_steps, (Kind::Int, device))?,
            found_inf: number(0.0)?,
            skipped: number(state.skipped as f64)?,
        })
    }

    /// The loss `[]` to differentiate, from the loss `[]`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(loss.f_mul(&self.scale.f_reshape([0i64; 0].as_slice())?)?)
    }

    /// Takes the scale out of the gradients and looks whether all are finite; returns a number (`[1]`, on the device) that is not 0 where
    /// one isn't.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn unscale(&mut self, params: &[&Tensor]) -> Result<&Tensor> {
        let _ = self.found_inf.f_zero_()?;
        let inverse = self.scale.f_reciprocal()?;
        step::unscale_gradients(params, &self.found_inf, &inverse)?;
        let _ = self.skipped.f_add_(&self.found_inf)?;
        Ok(&self.found_inf)
    }

    /// After the step: the scale of the next one.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn update(&mut self) -> Result<()> {
        Ok(step::update_scale(
            &self.scale,
            &self.good_steps,
            &self.found_inf,
            (GROWTH, BACKOFF),
            GROWTH_INTERVAL,
        )?)
    }

    /// Its state; waits for the device.
    ///
    /// # Errors
    /// Where the scale has sunk so low that no loss would fit: the loss itself is not finite.
    pub fn state(&self) -> Result<ScalerState> {
        let state = ScalerState {
            scale: self.scale.f_double_value(&[0])?,
            good_steps: self.good_steps.f_int64_value(&[0])?,
            skipped: self.skipped.f_double_value(&[0])? as i64,
        };
        if state.scale < LEAST_SCALE {
            return Err(Error::Settings(format!(
                "the gradients are not finite in f16, however small the loss is scaled ({} steps were skipped): use --amp bf16 or \
                 --amp off, or lower the learning rate (lr0)",
                state.skipped
            )));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_gradient(values: &[f32]) -> Tensor {
        let param = Tensor::from_slice(&vec![1f32; values.len()]).set_requires_grad(true);
        (&param * Tensor::from_slice(values)).sum(Kind::Float).backward();
        param
    }

    #[test]
    fn an_infinity_halves_the_scale_and_is_counted() {
        let mut scaler = Scaler::new(ScalerState::default(), Device::Cpu).expect("a scaler");
        let (good, bad) = (with_gradient(&[65536.0, 2.0]), with_gradient(&[1.0, f32::INFINITY]));
        let found = scaler.unscale(&[&good]).expect("gradients").double_value(&[0]);
        assert_eq!(found, 0.0);
        assert_eq!(good.grad().double_value(&[0]), 1.0, "the scale is taken out");
        scaler.update().expect("numbers");
        assert_ne!(
            scaler.unscale(&[&good, &bad]).expect("gradients").double_value(&[0]),
            0.0
        );
        scaler.update().expect("numbers");
        let state = scaler.state().expect("a finite scale");
        assert_eq!((state.scale, state.good_steps, state.skipped), (32768.0, 0, 1));
    }

    #[test]
    fn the_scale_grows_after_enough_good_steps() {
        let state = ScalerState {
            good_steps: GROWTH_INTERVAL - 1,
            ..ScalerState::default()
        };
        let mut scaler = Scaler::new(state, Device::Cpu).expect("a scaler");
        scaler.unscale(&[&with_gradient(&[1.0])]).expect("gradients");
        scaler.update().expect("numbers");
        let state = scaler.state().expect("a finite scale");
        assert_eq!((state.scale, state.good_steps, state.skipped), (131_072.0, 0, 0));
    }

    #[test]
    fn gradients_that_are_never_finite_end_the_training() {
        let state = ScalerState {
            scale: LEAST_SCALE,
            ..ScalerState::default()
        };
        let mut scaler = Scaler::new(state, Device::Cpu).expect("a scaler");
        scaler.unscale(&[&with_gradient(&[f32::NAN])]).expect("gradients");
        scaler.update().expect("numbers");
        let error = scaler.state().expect_err("nothing fits").to_string();
        assert!(
            error.contains("--amp bf16") && error.contains("1 steps were skipped"),
            "{error}"
        );
    }
}
