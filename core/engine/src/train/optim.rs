//! SGD with Nesterov momentum, Adam and AdamW over three groups of parameters, with state that can be saved and restored.
//!
//! The groups are those of YOLOv5: scales of norms and tables (no decay), weights (decay), biases (no decay, own warm-up).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use yolo_core::{Graph, ParamRole, Params};

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
    steps: i64,
}

const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

impl Optimizer {
    /// Groups the trainable tensors of a model by their role; `frozen` keys are left out. All of them must require gradients.
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
        let mut groups = [group(0.0), group(decay), group(0.0)];
        for spec in graph.param_specs() {
            let index = match spec.role {
                ParamRole::NormWeight | ParamRole::Table | ParamRole::Quant => 0,
                ParamRole::Weight => 1,
                ParamRole::Bias | ParamRole::NormBias => BIASES,
                ParamRole::Buffer | ParamRole::Counter => continue,
            };
            if frozen(&spec.key) {
                continue;
            }
            let tensor = params.require(&spec.key)?;
            if !tensor.requires_grad() {
                continue;
            }
            let group = &mut groups[index];
            group.first.push(tensor.detach().zeros_like());
            if kind != OptimizerKind::Sgd {
                group.second.push(tensor.detach().zeros_like());
            }
            group.params.push((spec.key, tensor.shallow_clone()));
        }
        if groups.iter().all(Group::is_empty) {
            return Err(Error::Settings(
                "there is nothing to train: every parameter is frozen".into(),
            ));
        }
        Ok(Self {
            kind,
            groups,
            momentum,
            steps: 0,
        })
    }

    /// One update from the gradients that are there.
    pub fn step(&mut self) -> Result<()> {
        self.steps += 1;
        tch::no_grad(|| {
            for group in &mut self.groups {
                for (index, (_, param)) in group.params.iter().enumerate() {
                    let grad = param.grad();
                    if !grad.defined() {
                        continue;
                    }
                    match self.kind {
                        OptimizerKind::Sgd => sgd(
                            param,
                            &grad,
                            &mut group.first[index],
                            group.lr,
                            group.decay,
                            self.momentum,
                        )?,
                        kind => adam(
                            kind,
                            param,
                            &grad,
                            (&mut group.first[index], &mut group.second[index]),
                            (group.lr, group.decay, self.momentum, self.steps),
                        )?,
                    }
                }
            }
            Ok(())
        })
    }

    /// Sets all gradients to zero.
    pub fn zero_grad(&mut self) {
        for (_, param) in self.groups.iter_mut().flat_map(|g| &mut g.params) {
            param.zero_grad();
        }
    }

    /// Scales gradients so that their common norm is at most `limit`; returns the norm before.
    pub fn clip_gradients(&self, limit: f64) -> Result<f64> {
        tch::no_grad(|| {
            let grads: Vec<Tensor> = self
                .groups
                .iter()
                .flat_map(|g| &g.params)
                .map(|(_, p)| p.grad())
                .filter(Tensor::defined)
                .collect();
            let mut sum = 0.0;
            for grad in &grads {
                sum += grad.f_square()?.f_sum(Some(tch::Kind::Double))?.f_double_value(&[])?;
            }
            let norm = sum.sqrt();
            if norm > limit {
                for mut grad in grads {
                    let _ = grad.f_mul_scalar_(limit / (norm + 1e-6))?;
                }
            }
            Ok(norm)
        })
    }

    /// Number of updates so far.
    pub fn steps(&self) -> i64 {
        self.steps
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
    pub fn restore(&mut self, steps: i64, get: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.steps = steps;
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

/// v = m v + g; p -= lr (g + m v), with g including the decay (the Nesterov form of PyTorch).
fn sgd(param: &Tensor, grad: &Tensor, velocity: &mut Tensor, lr: f64, decay: f64, momentum: f64) -> Result<()> {
    let mut grad = grad.shallow_clone();
    if decay != 0.0 {
        let _ = grad.f_add_(&param.f_mul_scalar(decay)?)?;
    }
    let _ = velocity.f_mul_scalar_(momentum)?.f_add_(&grad)?;
    let _ = grad.f_add_(&velocity.f_mul_scalar(momentum)?)?.f_mul_scalar_(lr)?;
    let _ = param.shallow_clone().f_sub_(&grad)?;
    Ok(())
}

fn adam(
    kind: OptimizerKind,
    param: &Tensor,
    grad: &Tensor,
    (first, second): (&mut Tensor, &mut Tensor),
    (lr, decay, beta1, step): (f64, f64, f64, i64),
) -> Result<()> {
    let mut param = param.shallow_clone();
    let mut grad = grad.shallow_clone();
    if kind == OptimizerKind::AdamW {
        let _ = param.f_mul_scalar_(1.0 - lr * decay)?;
    } else if decay != 0.0 {
        let _ = grad.f_add_(&param.f_mul_scalar(decay)?)?;
    }
    let _ = first.f_lerp_(&grad, 1.0 - beta1)?;
    let _ = second
        .f_mul_scalar_(BETA2)?
        .f_add_(&grad.f_square()?.f_mul_scalar(1.0 - BETA2)?)?;
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let denominator = second
        .f_sqrt()?
        .f_div_scalar(correction(BETA2).sqrt())?
        .f_add_scalar(EPS)?;
    let _ = param.f_sub_(&first.f_div(&denominator)?.f_mul_scalar(lr / correction(beta1))?)?;
    Ok(())
}
