//! SGD with Nesterov momentum, Adam and AdamW (libtorch's fused ones) over three groups of parameters, with state that can be saved
//! and restored.
//!
//! The groups are those of YOLOv5: scales of norms and tables (no decay), weights (decay), biases (no decay, own warm-up).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use yolo_core::{Graph, ParamRole, ParamSpec, Params};
use yolo_torch::native::step::{self, Scaled};

use crate::{Error, Result};

/// Which rule updates the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with Nesterov momentum.
    #[default]
    Sgd,
    /// Adam (arXiv 1412.6980), decay added to the gradient.
    Adam,
    /// Adam with decoupled decay (arXiv 1711.05101).
    AdamW,
}

/// Index of the group of biases, whose learning rate falls during warm-up.
pub const BIASES: usize = 2;

/// Parameters that share a learning rate and a decay.
#[derive(Debug)]
pub struct Group {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub decay: f64,
    params: Vec<(String, Tensor)>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

impl Group {
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether it has no tensors.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Keys of the tensors.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|(key, _)| key.as_str())
    }
}

/// An optimizer bound to the tensors that it changes in place.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// Scales of norms and tables; weights; biases.
    pub groups: [Group; 3],
    /// Momentum, or Adam's beta1.
    pub momentum: f64,
    /// Updates so far (`[]`, f32, beside the parameters: steps that a loss scaler skips don't count).
    steps: Tensor,
}

const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

impl Optimizer {
    /// Groups the trainable tensors of a model by their role; `frozen` keys are left out. All of them must require gradients.
    ///
    /// # Errors
    /// Where nothing is left to train.
    pub fn new(
        kind: OptimizerKind,
        graph: &Graph,
        params: &Params,
        lr: f64,
        momentum: f64,
        decay: f64,
        frozen: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let group = |decay| Group {
            lr,
            decay,
            params: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
        };
        let groups = [group(0.0), group(decay), group(0.0)];
        let mut made = Self {
            kind,
            groups,
            momentum,
            steps: Tensor::zeros([0i64; 0].as_slice(), (tch::Kind::Float, params.device())),
        };
        for spec in graph.param_specs() {
            if spec.role.trainable() && !frozen(&spec.key) {
                let tensor = params.require(&spec.key)?;
                made.include(spec, tensor);
            }
        }
        if made.groups.iter().all(Group::is_empty) {
            return Err(Error::Settings(
                "there is nothing to train: every parameter is frozen".into(),
            ));
        }
        Ok(made)
    }

    /// Trains another tensor in the group of its role, if it requires gradients.
    pub fn include(&mut self, spec: ParamSpec, tensor: &Tensor) {
        let index = match spec.role {
            ParamRole::NormWeight | ParamRole::Table | ParamRole::Quant => 0,
            ParamRole::Weight => 1,
            ParamRole::Bias | ParamRole::NormBias => BIASES,
            ParamRole::Buffer | ParamRole::Counter => return,
        };
        if !tensor.requires_grad() {
            return;
        }
        let group = &mut self.groups[index];
        group.first.push(tensor.detach().zeros_like());
        if self.kind != OptimizerKind::Sgd {
            group.second.push(tensor.detach().zeros_like());
        }
        group.params.push((spec.key, tensor.shallow_clone()));
    }

    /// One update from the gradients that are there. With `found_inf` (`[1]`, f32) nothing happens where it is not 0; the host does not
    /// wait to learn that.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn step(&mut self, found_inf: Option<&Tensor>) -> Result<()> {
        let _ = self.steps.f_add_scalar_(1.0)?;
        let one;
        let scaler = match found_inf {
            Some(found_inf) => {
                one = found_inf.f_ones_like()?;
                Some(Scaled { scale: &one, found_inf })
            }
            None => None,
        };
        for group in &mut self.groups {
            let params: Vec<&Tensor> = group.params.iter().map(|(_, param)| param).collect();
            match self.kind {
                OptimizerKind::Sgd => {
                    step::fused_sgd(&params, &group.first, group.lr, self.momentum, group.decay, scaler)?;
                }
                kind => {
                    let steps: Vec<Tensor> = params.iter().map(|_| self.steps.shallow_clone()).collect();
                    let adam = step::Adam {
                        decoupled: kind == OptimizerKind::AdamW,
                        lr: group.lr,
                        beta1: self.momentum,
                        beta2: BETA2,
                        decay: group.decay,
                        eps: EPS,
                    };
                    step::fused_adam(&params, &group.first, &group.second, &steps, adam, scaler)?;
                }
            }
        }
        if let Some(found_inf) = found_inf {
            let _ = self.steps.f_sub_(&found_inf.f_reshape([0i64; 0].as_slice())?)?;
        }
        Ok(())
    }

    /// All parameters that it changes.
    pub fn params(&self) -> impl Iterator<Item = &Tensor> {
        self.groups
            .iter()
            .flat_map(|group| group.params.iter().map(|(_, param)| param))
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn zero_grad(&mut self) -> Result<()> {
        Ok(step::zero_gradients(&self.params().collect::<Vec<_>>())?)
    }

    /// Scales gradients so that their common norm is at most `limit`; returns the norm before (`[]`, on the device), or `None` without
    /// gradients.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn clip_gradients(&self, limit: f64) -> Result<Option<Tensor>> {
        Ok(step::clip_gradients(&self.params().collect::<Vec<_>>(), limit)?)
    }

    /// Number of updates so far.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn steps(&self) -> Result<i64> {
        Ok(self.steps.f_double_value(&[])? as i64)
    }

    /// Its state: `KEY.first` and `KEY.second` for each parameter.
    pub fn state(&self) -> IndexMap<String, Tensor> {
        let mut out = IndexMap::new();
        for group in &self.groups {
            for (index, (key, _)) in group.params.iter().enumerate() {
                out.insert(format!("{key}.first"), group.first[index].shallow_clone());
                if let Some(second) = group.second.get(index) {
                    out.insert(format!("{key}.second"), second.shallow_clone());
                }
            }
        }
        out
    }

    /// Puts a saved state back. Every entry must be there with its shape.
    ///
    /// # Errors
    /// Names the entry that is missing or has another shape.
    pub fn restore(&mut self, steps: i64, get: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        let _ = self.steps.f_fill_(steps)?;
        tch::no_grad(|| {
            for group in &mut self.groups {
                for (slots, suffix) in [(&mut group.first, "first"), (&mut group.second, "second")] {
                    for (slot, (key, _)) in slots.iter_mut().zip(&group.params) {
                        let name = format!("{key}.{suffix}");
                        let saved = get(&name).filter(|t| t.size() == slot.size()).ok_or_else(|| {
                            Error::Settings(format!("the saved optimizer has no `{name}` of the right shape"))
                        })?;
                        slot.f_copy_(&saved)?;
                    }
                }
            }
            Ok(())
        })
    }
}
