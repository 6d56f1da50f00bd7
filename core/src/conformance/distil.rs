//! Distillers.

use tch::{Kind, Tensor};

use super::model::finite;
use super::{Report, because};
use crate::distil::{DistilBatch, Distiller, HeadWeights, Layout, Level, NetworkMaps, checked_loss};
use crate::params::init_tensor;
use crate::testing::Stream;
use crate::{ParamSpec, Params, Result};

const CLASSES: i64 = 3;
const ANCHORS: usize = 3;
const IMAGES: i64 = 2;

/// A head of two levels with maps of these widths.
fn layout(widths: [i64; 2]) -> Layout {
    let level = |(stride, channels): (i64, i64)| Level {
        stride,
        channels,
        anchors: vec![[2.0 * stride as f64, 3.0 * stride as f64]; ANCHORS],
    };
    Layout {
        classes: CLASSES,
        levels: [8, 16].into_iter().zip(widths).map(level).collect(),
    }
}

/// Numbers that are the same everywhere.
fn noise(key: &str, shape: &[i64], scale: f64) -> Tensor {
    let stream = Stream::new(key);
    let count = shape.iter().product::<i64>() as u32;
    let values: Vec<f32> = (0..count).map(|i| (scale * stream.signed(i)) as f32).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// A network as its feature maps and its head.
struct Network {
    layout: Layout,
    necks: Vec<Tensor>,
    head: Vec<(Tensor, Tensor)>,
}

impl Network {
    fn new(key: &str, widths: [i64; 2], scale: f64) -> Self {
        let layout = layout(widths);
        let outputs = ANCHORS as i64 * (CLASSES + 5);
        let each = layout.levels.iter().enumerate();
        let (necks, head) = each
            .map(|(index, level)| {
                let (side, channels) = (96 / level.stride, level.channels);
                let neck = noise(
                    &format!("{key}.{index}.neck"),
                    &[IMAGES, channels, side, side - 1],
                    scale,
                );
                let weight = noise(&format!("{key}.{index}.weight"), &[outputs, channels, 1, 1], 0.7);
                (neck, (weight, noise(&format!("{key}.{index}.bias"), &[outputs], 0.5)))
            })
            .unzip();
        Self { layout, necks, head }
    }

    /// Its maps as leaves, with the raw maps that its head makes; `twice`: of the same images once more.
    fn maps(&self, twice: bool, leaves: bool) -> Result<NetworkMaps> {
        let leaf = |tensor: &Tensor| -> Result<Tensor> {
            let tensor = if twice {
                Tensor::f_cat(&[tensor, tensor], 0)?
            } else {
                tensor.copy()
            };
            Ok(tensor.detach().set_requires_grad(leaves))
        };
        let raw = |(neck, (weight, bias)): (&Tensor, &(Tensor, Tensor))| -> Result<Tensor> {
            leaf(&neck.f_conv2d(weight, Some(bias), [1, 1], [0, 0], [1, 1], 1)?)
        };
        Ok(NetworkMaps {
            raw: self.necks.iter().zip(&self.head).map(raw).collect::<Result<_>>()?,
            neck: self.necks.iter().map(leaf).collect::<Result<_>>()?,
        })
    }

    fn weights(&self) -> Vec<HeadWeights> {
        let own = |(weight, bias): &(Tensor, Tensor)| HeadWeights {
            weight: weight.shallow_clone(),
            bias: bias.shallow_clone(),
        };
        self.head.iter().map(own).collect()
    }
}

/// A student, a teacher, and the adapters between them.
struct Case {
    student: Network,
    teacher: Network,
    specs: Vec<ParamSpec>,
    adapters: Params,
}

/// What came of a comparison.
struct Outcome {
    loss: f64,
    parts: Tensor,
    student: NetworkMaps,
}

impl Case {
    fn new(distiller: &dyn Distiller, student: Network, teacher: Network) -> Result<Self> {
        let specs = distiller.adapters(&student.layout, &teacher.layout)?;
        let adapters = specs
            .iter()
            .map(|spec| (spec.key.clone(), init_tensor(spec, 1).set_requires_grad(true)))
            .collect();
        Ok(Self {
            student,
            teacher,
            specs,
            adapters,
        })
    }

    /// The loss of maps; the same seed for what is random.
    fn compare(&self, distiller: &dyn Distiller, student: NetworkMaps, twice: bool) -> Result<Outcome> {
        tch::manual_seed(7);
        let batch = DistilBatch {
            student_layout: &self.student.layout,
            teacher_layout: &self.teacher.layout,
            student,
            teacher: self.teacher.maps(twice, false)?,
            teacher_head: self.teacher.weights(),
            adapters: &self.adapters,
        };
        let parts = checked_loss("it", distiller, &batch)?;
        Ok(Outcome {
            loss: parts.f_sum(Kind::Double)?.double_value(&[]),
            parts,
            student: batch.student,
        })
    }

    fn run(&self, distiller: &dyn Distiller) -> Result<Outcome> {
        self.compare(distiller, self.student.maps(false, true)?, false)
    }
}

impl Outcome {
    fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        self.student.raw.iter().chain(&self.student.neck)
    }

    /// The student's maps with their gradients; maps that nobody looked at are left out.
    fn differentiate(&self) -> Result<Vec<(&Tensor, Tensor)>> {
        self.parts.f_sum(None::<Kind>)?.f_backward()?;
        Ok(self
            .leaves()
            .map(|leaf| (leaf, leaf.grad()))
            .filter(|(_, grad)| grad.defined())
            .collect())
    }
}

fn square(tensor: &Tensor) -> f64 {
    tensor.square().sum(Kind::Double).double_value(&[])
}

/// A distiller on maps of networks of equal and of other widths.
pub fn distiller(distiller: &dyn Distiller) -> Report {
    const EQUAL: [i64; 2] = [8, 16];
    const WIDER: [i64; 2] = [12, 24];
    let mut report = Report::default();
    report.check("the parts of its loss have names", || named(&distiller.parts()));
    report.check("it looks at something", || {
        let needs = distiller.needs();
        if needs.raw || needs.neck || needs.head {
            Ok(())
        } else {
            Err("neither at raw maps nor at feature maps".into())
        }
    });
    let case = |student: [i64; 2], scale: f64| {
        let (student, teacher) = (
            Network::new("student", student, scale),
            Network::new("teacher", WIDER, scale),
        );
        Case::new(distiller, student, teacher).map_err(because)
    };
    let Some(narrow) = report.get("its adapters can be trained", || {
        let case = case(EQUAL, 1.0)?;
        sound(&case.specs)?;
        Ok(case)
    }) else {
        return report;
    };
    report.check("a student unlike its teacher has a finite loss above zero", || {
        let loss = narrow.run(distiller).map_err(because)?.loss;
        if loss.is_finite() && loss > 0.0 {
            Ok(())
        } else {
            Err(format!("{loss}"))
        }
    });
    report.check("gradients reach the student and every adapter", || {
        reaches(distiller, &narrow)
    });
    report.check("the loss falls as fast as its gradient says", || {
        falls(distiller, &narrow)
    });
    report.check("a student that equals its teacher has the least to learn", || {
        least(distiller, WIDER)
    });
    report.check("the loss is a mean over the images", || {
        let (once, twice) = (narrow.run(distiller).map_err(because)?.loss, {
            let maps = narrow.student.maps(true, true).map_err(because)?;
            narrow.compare(distiller, maps, true).map_err(because)?.loss
        });
        // What is random is drawn for other shapes: near is enough.
        if (twice / once - 1.0).abs() < 0.2 {
            Ok(())
        } else {
            Err(format!("{once} for {IMAGES} images, {twice} for the same images twice"))
        }
    });
    report.check("the same batch has the same loss", || {
        let [a, b] = [0, 1].map(|_| narrow.run(distiller).map(|outcome| outcome.loss));
        let (a, b) = (a.map_err(because)?, b.map_err(because)?);
        if a == b { Ok(()) } else { Err(format!("{a}, then {b}")) }
    });
    report.check("maps of zeros have a finite loss and finite gradients", || {
        stays_finite(distiller, &case(EQUAL, 0.0)?)
    });
    report.check("large maps have a finite loss and finite gradients", || {
        stays_finite(distiller, &case(EQUAL, 1e3)?)
    });
    report
}

fn named(parts: &[String]) -> Result<(), String> {
    if parts.is_empty() {
        return Err("there are none".into());
    }
    for (index, part) in parts.iter().enumerate() {
        if !super::is_kebab(part) {
            return Err(format!("`{part}` is not kebab-case"));
        }
        if parts[..index].contains(part) {
            return Err(format!("there are two of the name `{part}`"));
        }
    }
    Ok(())
}

fn sound(specs: &[ParamSpec]) -> Result<(), String> {
    for (index, spec) in specs.iter().enumerate() {
        let key = &spec.key;
        if key.is_empty() || specs[..index].iter().any(|other| other.key == *key) {
            return Err(format!("there are two of the name `{key}`, or it has none"));
        }
        if !spec.role.trainable() || spec.shape.iter().any(|size| *size < 1) {
            return Err(format!("`{key}` {:?} is no tensor to be trained", spec.shape));
        }
    }
    Ok(())
}

fn reaches(distiller: &dyn Distiller, case: &Case) -> Result<(), String> {
    let outcome = case.run(distiller).map_err(because)?;
    let gradients = outcome.differentiate().map_err(because)?;
    if gradients.iter().map(|(_, grad)| square(grad)).sum::<f64>() == 0.0 {
        return Err("the student's maps get none".into());
    }
    gradients.iter().try_for_each(|(_, grad)| finite(grad))?;
    for (key, adapter) in case.adapters.iter() {
        let mut grad = adapter.grad();
        if !grad.defined() || square(&grad) == 0.0 {
            return Err(format!("`{key}` gets none"));
        }
        finite(&grad).map_err(|reason| format!("`{key}`: {reason}"))?;
        let _ = grad.zero_();
    }
    Ok(())
}

/// Central differences along the gradient.
fn falls(distiller: &dyn Distiller, case: &Case) -> Result<(), String> {
    let outcome = case.run(distiller).map_err(because)?;
    let gradients: Vec<Tensor> = {
        outcome.differentiate().map_err(because)?;
        outcome
            .leaves()
            .map(|leaf| {
                let grad = leaf.grad();
                if grad.defined() {
                    grad
                } else {
                    leaf.detach().zeros_like()
                }
            })
            .collect()
    };
    let slope: f64 = gradients.iter().map(square).sum();
    // Far enough for f32, near enough for a straight line.
    let step = 0.02 * outcome.loss.abs() / slope.max(1e-30);
    let at = |step: f64| -> Result<f64> {
        let moved: Vec<Tensor> = outcome
            .leaves()
            .zip(&gradients)
            .map(|(leaf, grad)| leaf.detach() + grad * step)
            .collect();
        let split = outcome.student.raw.len();
        let maps = NetworkMaps {
            raw: moved[..split].iter().map(Tensor::shallow_clone).collect(),
            neck: moved[split..].iter().map(Tensor::shallow_clone).collect(),
        };
        Ok(case.compare(distiller, maps, false)?.loss)
    };
    let measured = (at(step).map_err(because)? - at(-step).map_err(because)?) / (2.0 * step);
    if (measured / slope - 1.0).abs() < 0.05 {
        Ok(())
    } else {
        Err(format!("the gradient says {slope}, differences say {measured}"))
    }
}

/// Adapters that start at random may be what keeps an equal student away from its teacher, so only distillers without them are asked.
fn least(distiller: &dyn Distiller, widths: [i64; 2]) -> Result<(), String> {
    let teacher = || Network::new("teacher", widths, 1.0);
    let equal = Case::new(distiller, teacher(), teacher()).map_err(because)?;
    if !equal.adapters.is_empty() {
        return Ok(());
    }
    let mut near = teacher();
    for (index, neck) in near.necks.iter_mut().enumerate() {
        *neck = &*neck + noise(&format!("near.{index}"), &neck.size(), 0.3);
    }
    let near = Case::new(distiller, near, teacher()).map_err(because)?;
    let unlike = Case::new(distiller, Network::new("student", widths, 1.0), teacher()).map_err(because)?;
    let loss = |case: &Case| case.run(distiller).map(|outcome| outcome.loss).map_err(because);
    let (equal, near, unlike) = (loss(&equal)?, loss(&near)?, loss(&unlike)?);
    if equal < near && near < unlike {
        Ok(())
    } else {
        Err(format!(
            "{equal} for an equal one, {near} for a near one, {unlike} for another"
        ))
    }
}

fn stays_finite(distiller: &dyn Distiller, case: &Case) -> Result<(), String> {
    let outcome = case.run(distiller).map_err(because)?;
    finite(&outcome.parts).map_err(|_| format!("the loss is {}", outcome.loss))?;
    for (_, grad) in outcome.differentiate().map_err(because)? {
        finite(&grad)?;
    }
    let adapters = case.adapters.iter().map(|(_, adapter)| adapter.grad());
    adapters.filter(Tensor::defined).try_for_each(|grad| finite(&grad))
}
