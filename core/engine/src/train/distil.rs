//! Learning from a teacher: the teacher as a frozen program beside the student, the adapters between both, and the loss of a distiller.
//!
//! What must not be here: a formula of a distiller, the loss of the labels.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tch::{Kind, Tensor};
use yolo_core::distil::{
    DistilBatch, DistilNeeds, HeadMaps, HeadWeights, Layout, Misfit, NetworkMaps, checked_loss, pair_levels,
};
use yolo_core::{Distiller, Graph, Mode, Op, ParamSpec, Params, Program, ValueId, passes};
use yolo_data::Loader;

use super::fingerprint::hash_of;
use super::{Precision, TrainOptions};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// What the keys of adapters start with in the state of a training. No tensor of a model does.
const PREFIX: &str = "distil.";

/// A teacher and a distiller: an option of a training. Copies share the teacher.
#[derive(Clone)]
pub struct Distillation(Arc<Source>);

struct Source {
    distiller: Box<dyn Distiller>,
    config: Value,
    graph: Graph,
    /// Tensors may move between threads, but not be looked at by two of them.
    params: Mutex<Params>,
    names: Vec<String>,
    hash: String,
}

impl Distillation {
    /// `teacher` as it is run outside of training: batch norms folded, no gradients. Its tensors are not copied where nothing is folded,
    /// so they must not change while a student learns.
    ///
    /// # Errors
    /// A teacher without a head.
    pub fn new(distiller: Box<dyn Distiller>, teacher: &Checkpoint) -> Result<Self> {
        HeadMaps::of(&teacher.graph)?;
        let (graph, params) = tch::no_grad(|| passes::for_inference(&teacher.graph, &teacher.params))?;
        let params: Params = params
            .iter()
            .map(|(key, tensor)| (key.to_owned(), tensor.detach()))
            .collect();
        Ok(Self(Arc::new(Source {
            config: serde_json::to_value(&*distiller).map_err(yolo_core::Error::from)?,
            hash: hash_of(&teacher.params)?,
            distiller,
            graph,
            params: Mutex::new(params),
            names: teacher.meta.names.clone(),
        })))
    }

    /// The configuration of the distiller.
    pub fn distiller(&self) -> &Value {
        &self.0.config
    }

    /// The name of the distiller.
    pub fn name(&self) -> &str {
        let config = &self.0.config;
        let name = config.get("name").or_else(|| config.get("type"));
        name.and_then(Value::as_str).unwrap_or_default()
    }

    /// Names of the parts of the loss.
    pub fn parts(&self) -> Vec<String> {
        self.0.distiller.parts()
    }

    /// Whether `student` can learn from this teacher on images of `size` pixels; to be asked before anything is written.
    ///
    /// # Errors
    /// What does not fit, with both sides ([`Misfit`]).
    pub fn check(&self, student: &Checkpoint, size: usize) -> Result<()> {
        let source = &*self.0;
        let (own, other) = (&student.meta.names, &source.names);
        let differs = own.iter().zip(other).position(|(own, other)| own != other);
        if let Some(index) = differs.filter(|_| own.len() == other.len()) {
            return Err(core(Misfit::Names {
                index,
                student: own[index].clone(),
                teacher: other[index].clone(),
            }));
        }
        let fit = Fit::of(source, &student.graph)?;
        fit.same_maps(&student.graph, &source.graph, size as i64)?;
        if source.distiller.needs().head {
            fit.levels
                .iter()
                .try_for_each(|level| plain_head(&source.graph, fit.teacher.convs[*level]))?;
        }
        source.distiller.adapters(&fit.student.layout, &fit.teacher_layout)?;
        Ok(())
    }
}

impl fmt::Debug for Distillation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distillation")
            .field("distiller", &self.0.config)
            .field("teacher", &self.0.hash)
            .finish()
    }
}

impl PartialEq for Distillation {
    fn eq(&self, other: &Self) -> bool {
        self.0.config == other.0.config && self.0.hash == other.0.hash
    }
}

/// As a setting of a run: the distiller, and a hash of the teacher's weights.
impl Serialize for Distillation {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serde_json::json!({"distiller": self.0.config, "teacher": {"weights": self.0.hash}}).serialize(serializer)
    }
}

fn core(misfit: Misfit) -> Error {
    yolo_core::Error::from(misfit).into()
}

/// How two networks go together.
struct Fit {
    student: HeadMaps,
    teacher: HeadMaps,
    /// The teacher's level of each level of the student.
    levels: Vec<usize>,
    /// Those levels of the teacher, in the student's order.
    teacher_layout: Layout,
}

impl Fit {
    fn of(source: &Source, student: &Graph) -> Result<Self> {
        let channels = [student, &source.graph].map(Graph::input_channels);
        if channels[0] != channels[1] {
            return Err(core(Misfit::Images {
                student: channels[0],
                teacher: channels[1],
            }));
        }
        let (student, teacher) = (HeadMaps::of(student)?, HeadMaps::of(&source.graph)?);
        let levels = pair_levels(&student.layout, &teacher.layout, source.distiller.needs()).map_err(core)?;
        let teacher_layout = Layout {
            classes: teacher.layout.classes,
            levels: levels
                .iter()
                .map(|level| teacher.layout.levels[*level].clone())
                .collect(),
        };
        Ok(Self {
            student,
            teacher,
            levels,
            teacher_layout,
        })
    }

    /// Maps of one level have one size, and the teacher can read the student's images at all.
    fn same_maps(&self, student: &Graph, teacher: &Graph, size: i64) -> Result<()> {
        let steps = [student.size_step()?, teacher.size_step()?];
        if size % steps[1] != 0 {
            return Err(core(Misfit::Size {
                size,
                student: steps[0],
                teacher: steps[1],
            }));
        }
        let shapes = |graph: &Graph| graph.shapes([1, graph.input_channels(), size, size]);
        let (own, other) = (shapes(student)?, shapes(teacher)?);
        let side = |shapes: &[Vec<i64>], value: ValueId| {
            [2, 3].map(|axis| shapes[value.index()].get(axis).copied().unwrap_or(0))
        };
        for (index, level) in self.levels.iter().enumerate() {
            let pair = (
                side(&own, self.student.convs[index]),
                side(&other, self.teacher.convs[*level]),
            );
            if pair.0 != pair.1 {
                return Err(core(Misfit::Maps {
                    size,
                    stride: self.student.layout.levels[index].stride,
                    student: pair.0,
                    teacher: pair.1,
                }));
            }
        }
        Ok(())
    }
}

/// A teacher at work beside a student.
#[derive(Debug)]
pub(super) struct Teacher {
    of: Distillation,
    program: Program,
    /// Positions of the compared levels among the teacher's.
    levels: Vec<usize>,
    student_layout: Layout,
    teacher_layout: Layout,
    head: Vec<HeadWeights>,
    needs: DistilNeeds,
    /// What the student keeps of its forward.
    necks: Vec<ValueId>,
    specs: Vec<ParamSpec>,
    adapters: Params,
}

impl Teacher {
    /// For a student on the device and in the kind of `params`. The same seed gives the same adapters.
    ///
    /// # Errors
    /// Networks that don't fit.
    pub fn new(of: &Distillation, student: &Graph, params: &Params, seed: u64) -> Result<Self> {
        let source = &*of.0;
        let fit = Fit::of(source, student)?;
        let needs = source.distiller.needs();
        let device = params.device();
        let kind = params
            .iter()
            .map(|(_, tensor)| tensor)
            .find(|tensor| tensor.is_floating_point());
        let kind = kind.map_or(Kind::Float, Tensor::kind);
        let specs = source.distiller.adapters(&fit.student.layout, &fit.teacher_layout)?;
        let adapters = specs
            .iter()
            .map(|spec| {
                let tensor = yolo_core::params::init_tensor(spec, seed)
                    .to_kind(kind)
                    .to_device(device);
                (spec.key.clone(), tensor.set_requires_grad(true))
            })
            .collect();
        let own = source.params.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Params = own
            .to(device, kind)
            .iter()
            .map(|(key, tensor)| (key.to_owned(), yolo_core::exec::channels_last(tensor)))
            .collect();
        let necks = |maps: &HeadMaps| if needs.neck { maps.necks.clone() } else { Vec::new() };
        let head = if needs.head {
            fit.levels
                .iter()
                .map(|level| head_weights(&source.graph, &own, fit.teacher.convs[*level]))
                .collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(Self {
            of: of.clone(),
            program: Program::new(&source.graph, &own)?.keeping(&necks(&fit.teacher))?,
            levels: fit.levels,
            necks: necks(&fit.student),
            student_layout: fit.student.layout,
            teacher_layout: fit.teacher_layout,
            head,
            needs,
            specs,
            adapters,
        })
    }

    /// What the student's program must keep.
    pub fn wanted(&self) -> &[ValueId] {
        &self.necks
    }

    /// The adapters with the keys that they have in an optimizer and in a state.
    pub fn adapters(&self) -> impl Iterator<Item = (ParamSpec, &Tensor)> {
        self.specs.iter().zip(self.adapters.iter()).map(|(spec, (_, tensor))| {
            let spec = ParamSpec {
                key: format!("{PREFIX}{}", spec.key),
                ..spec.clone()
            };
            (spec, tensor)
        })
    }

    /// Puts saved adapters back.
    ///
    /// # Errors
    /// Names the one that is missing or has another shape.
    pub fn restore(&self, get: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        tch::no_grad(|| {
            for (spec, tensor) in self.adapters() {
                let saved = get(&spec.key)
                    .filter(|saved| saved.size() == spec.shape)
                    .ok_or_else(|| {
                        Error::Settings(format!("the saved training has no `{}` of the right shape", spec.key))
                    })?;
                tensor.shallow_clone().f_copy_(&saved)?;
            }
            Ok(())
        })
    }

    /// The parts of the loss `[parts]`, each a mean over `images` `[N, 3, H, W]`, of a student that made of them `raw` (the maps of its
    /// head) and `necks` (what its head reads, `[N, C, h, w]`), finest stride first.
    ///
    /// # Errors
    /// Those of the teacher's network and of the distiller.
    pub fn loss(&self, images: &Tensor, raw: &[Tensor], necks: &[Tensor], precision: Precision) -> Result<Tensor> {
        let (outputs, kept) = tch::no_grad(|| {
            precision.run(self.program.device(), || {
                Ok(self.program.run_kept(images, Mode::Eval)?)
            })
        })?;
        let paired = |maps: &[Tensor]| -> Result<Vec<Tensor>> {
            let chosen = self.levels.iter().filter_map(|level| maps.get(*level));
            chosen.map(whole).collect()
        };
        let batch = DistilBatch {
            student_layout: &self.student_layout,
            teacher_layout: &self.teacher_layout,
            student: NetworkMaps {
                raw: if self.needs.raw {
                    raw.iter().map(whole).collect::<Result<_>>()?
                } else {
                    Vec::new()
                },
                neck: necks.iter().map(whole).collect::<Result<_>>()?,
            },
            teacher: NetworkMaps {
                raw: if self.needs.raw || self.needs.head {
                    paired(&outputs)?
                } else {
                    Vec::new()
                },
                neck: paired(&kept)?,
            },
            teacher_head: self
                .head
                .iter()
                .map(|head| HeadWeights {
                    weight: head.weight.shallow_clone(),
                    bias: head.bias.shallow_clone(),
                })
                .collect(),
            adapters: &self.adapters,
        };
        Ok(checked_loss(self.of.name(), &*self.of.0.distiller, &batch)?)
    }
}

/// In f32 at least: half precision is too coarse for a loss.
fn whole(map: &Tensor) -> Result<Tensor> {
    Ok(match map.kind() {
        Kind::Half | Kind::BFloat16 => map.f_to_kind(Kind::Float)?,
        _ => map.shallow_clone(),
    })
}

/// Whether a map may be seen through this convolution of a teacher.
fn plain_head(graph: &Graph, conv: ValueId) -> Result<()> {
    let node = graph.node(conv);
    let plain = matches!(
        node.op,
        Op::Conv2d {
            kernel: [1, 1],
            groups: 1,
            bias: true,
            weight_quant: None,
            bias_quant: None,
            ..
        }
    );
    if plain {
        return Ok(());
    }
    Err(core(Misfit::Head {
        node: node.name.clone(),
    }))
}

fn head_weights(graph: &Graph, params: &Params, conv: ValueId) -> Result<HeadWeights> {
    plain_head(graph, conv)?;
    let node = graph.node(conv);
    let tensor = |name: &str| Ok::<_, Error>(params.require(&format!("{}.{name}", node.name))?.shallow_clone());
    Ok(HeadWeights {
        weight: tensor("weight")?,
        bias: tensor("bias")?,
    })
}

/// The tensors of a training that are no part of its model, by their keys in a state.
pub(super) fn state(optimizer: IndexMap<String, Tensor>, teacher: Option<&Teacher>) -> IndexMap<String, Tensor> {
    let adapters = teacher.into_iter().flat_map(Teacher::adapters);
    let adapters = adapters.map(|(spec, tensor)| (spec.key, tensor.detach()));
    optimizer.into_iter().chain(adapters).collect()
}

/// Whether a training of `start` can be taught as its options say; to be asked before anything is written.
///
/// # Errors
/// Those of [`Distillation::check`].
pub fn check(options: &TrainOptions, start: &Checkpoint, train: &Loader) -> Result<()> {
    let Some(distillation) = &options.distil else {
        return Ok(());
    };
    distillation.check(start, options.size)?;
    if options.multi_scale || train.options().rect {
        // Batches come in all multiples of the student's stride.
        distillation.check(start, options.size + start.max_stride() as usize)?;
    }
    Ok(())
}
