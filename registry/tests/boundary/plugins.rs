//! One plugin of each kind, and some that misbehave.

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, align_specs};
use yolo_sdk::prelude::prune::{
    self, ChannelGroups, GroupTensors, MetricInputs, PruneHost, PrunePlan, Regulariser, Step,
};
use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Placement, Ranges, Scheme};
use yolo_sdk::prelude::*;

macro_rules! options {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
        #[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
        #[schemars(crate = "yolo_sdk::schemars")]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

options! {
    /// Three convolutions.
    Steps {
        /// Channels of the first map.
        channels: i64 = 16,
    }
}

#[typetag::serde(name = "steps")]
impl Backbone for Steps {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        if self.channels < 8 {
            return Err(Error::Build {
                plugin: "steps".into(),
                reason: "`channels` must be at least 8".into(),
            });
        }
        let mut x = image;
        let mut maps = Vec::new();
        for level in 0..5 {
            let channels = scale.channels(self.channels << level);
            x = g.layer("Conv", &[x], |g| nn::conv(g, "cv1", x.value, channels, 3, 2))?;
            let block = g.layer("Gain", &[x], |g| {
                let gain = Gain {
                    channels,
                    factor: 0.1 + 0.2,
                };
                g.add("gain", Op::Custom { custom: Box::new(gain) }, &[x.value])
            })?;
            x = block;
            maps.push(x);
        }
        Ok(Features(maps))
    }
}

options! {
    /// Joins two maps.
    Join {
        /// Kernel.
        kernel: i64 = 3,
    }
}

#[typetag::serde(name = "join")]
impl NeckBlock for Join {
    fn arity(&self) -> Arity {
        Arity { min: 2, max: 2 }
    }
    fn layer_name(&self) -> &str {
        "Join"
    }
    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let both = g.add("cat", Op::Concat { dim: 1 }, &[inputs[0].value, inputs[1].value])?;
        g.scope("m", |g| nn::conv(g, "cv1", both, request.channels, self.kernel, 1))
    }
}

options! {
    /// A trained factor per channel.
    Gain {
        /// Channels.
        channels: i64 = 4,
        /// Multiplied in besides.
        factor: f64 = 1.0,
    }
}

#[typetag::serde(name = "gain")]
impl CustomOp for Gain {
    fn name(&self) -> &str {
        "gain"
    }
    fn params(&self) -> Vec<ParamSpec> {
        let (role, init) = (ParamRole::Table, Init::Const(1.5));
        vec![ParamSpec {
            key: "weight".into(),
            shape: vec![1, self.channels, 1, 1],
            role,
            init,
        }]
    }
    fn shape(&self, inputs: &[&[i64]]) -> Result<Vec<i64>> {
        match inputs {
            [x] if x.get(1) == Some(&self.channels) => Ok(x.to_vec()),
            _ => Err(Error::Config(format!("gain takes {} channels", self.channels))),
        }
    }
    fn macs(&self, _: &[&[i64]], output: &[i64]) -> i64 {
        output.iter().product()
    }
    fn forward(&self, inputs: &[&tch::Tensor], params: &[&tch::Tensor], train: bool) -> Result<tch::Tensor> {
        let scaled = inputs[0].f_mul(params[0])?.f_mul_scalar(self.factor)?;
        if train {
            Ok(scaled.f_add(&scaled.f_zeros_like()?)?)
        } else {
            Ok(scaled)
        }
    }
    fn lower(&self, g: &mut GraphBuilder, inputs: &[ValueId]) -> Option<Result<ValueId>> {
        let (role, init) = (ParamRole::Table, Init::Const(1.5));
        let lowered = (|| {
            let weight = g.add(
                "weight",
                Op::Parameter {
                    shape: vec![1, self.channels, 1, 1],
                    role,
                    init,
                },
                &[],
            )?;
            let scaled = g.add("mul", Op::Mul, &[inputs[0], weight])?;
            g.add(
                "factor",
                Op::Affine {
                    mul: self.factor,
                    add: 0.0,
                },
                &[scaled],
            )
        })();
        Some(lowered)
    }
    fn boxed_clone(&self) -> Box<dyn CustomOp> {
        Box::new(self.clone())
    }
}

options! {
    /// Largest absolute weight, weighted by the scale of the norm.
    Peak {
        /// Exponent.
        power: f64 = 1.0,
        /// Looks at what images say, too.
        images: bool = false,
        /// What goes wrong.
        wrong: String = String::new(),
    }
}

#[typetag::serde(name = "peak")]
impl PruneMetric for Peak {
    fn needs(&self) -> MetricInputs {
        assert!(self.wrong != "needs", "needs on purpose");
        MetricInputs {
            weight: true,
            bn: true,
            grad: self.images,
            grad_square: self.images,
            activation: self.images,
        }
    }
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let channels = group.channels;
        match self.wrong.as_str() {
            "panic" => panic!("score on purpose"),
            "payload" => std::panic::panic_any(7),
            "nan" => return Ok((0..channels).map(|i| if i == 2 { f32::NAN } else { 1.0 }).collect()),
            "short" => return Ok(vec![1.0; channels - 1]),
            "long" => return Ok(vec![1.0; channels + 9]),
            "torch" => {
                drop(group.weights[0].f_matmul(&tch::Tensor::zeros([1, 1, 1], (tch::Kind::Int, tch::Device::Cpu)))?)
            }
            "error" => {
                return Err(Error::Plugin {
                    plugin: "peak".into(),
                    reason: "no peak\u{1b}[31m today".into(),
                });
            }
            _ => {}
        }
        let mut peaks = group.weights[0].f_abs()?.f_amax(1, false)?;
        if self.images {
            let rows = group.weight_grads[0].f_mul(&group.weight_squares[0])?;
            peaks = peaks
                .f_add(&rows.f_sum_dim_intlist(1, false, tch::Kind::Float)?)?
                .f_mul(&group.gamma_squares[0])?
                .f_add(&group.activations[1])?;
        }
        let gammas = group
            .gammas
            .first()
            .map_or_else(|| Ok(peaks.ones_like()), tch::Tensor::f_abs)?;
        Ok(Vec::<f32>::try_from(
            peaks.f_mul(&gammas)?.f_pow_tensor_scalar(self.power)?,
        )?)
    }
}

options! {
    /// Uses everything that the host offers.
    Everything {
        /// What it does: plan, evaluate, train, named, unknown, tensor, cancel, impossible, panic.
        mode: String = "plan".into(),
        /// The metric, of anywhere.
        metric: prune::Metric = prune::Metric::named("spread"),
        /// Share of channels to remove.
        ratio: f64 = 0.5,
    }
}

#[typetag::serde(name = "everything")]
impl Pruner for Everything {
    fn regulariser(&self) -> Option<Box<dyn Regulariser>> {
        assert!(self.mode != "bad-regulariser", "regulariser on purpose");
        (self.mode != "none").then(|| Box::new(Shrink { calls: 0 }) as Box<dyn Regulariser>)
    }
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let cut = |host: &dyn PruneHost, scores: &prune::Scores, ratio: f64| {
            let widths = prune::select::uniform_widths(host.groups(), ratio, host.rounding());
            prune::select::top(host.groups(), scores, &widths)
        };
        let scores = match self.mode.as_str() {
            "named" => host.scores(&*self.metric)?,
            "unknown" => host.scores(&*prune::Metric::named("spreadd"))?,
            _ => host.scores(&Peak::default())?,
        };
        match self.mode.as_str() {
            "evaluate" => {
                let mut best = (0.0, 0.0);
                for ratio in [0.25, 0.5, 0.75] {
                    let plan = cut(host, &scores, ratio);
                    let result = host.evaluate_tuned(&plan, (ratio * 8.0) as usize)?;
                    host.progress(1, 3, &format!("mAP {:.2}", result.map))?;
                    if result.map50 > best.0 {
                        best = (result.map50, ratio);
                    }
                }
                Ok(cut(host, &scores, best.1))
            }
            "train" => {
                let mut shrink = Shrink { calls: 0 };
                host.train(3, &mut shrink)?;
                Ok(cut(host, &scores, f64::from(shrink.calls) / 100.0))
            }
            "tensor" => {
                let key = host.groups().groups[0].cuts[0].key.clone();
                let sum = host.tensor(&key)?.f_abs()?.f_sum(tch::Kind::Double)?.double_value(&[]);
                assert!(host.tensor("no.such.tensor").is_err(), "the host has no such tensor");
                Ok(cut(host, &scores, (sum / 1000.0).clamp(0.1, 0.9)))
            }
            "cancel" => host.progress(7, 9, "cancel").map(|()| PrunePlan::full()),
            "impossible" => Err(Error::Impossible("the budget can't be met at all".into())),
            "panic" => panic!("plan on purpose"),
            "budget" => {
                let rounding = host.rounding();
                let widths = prune::select::fit(host.budget(), host.cost(), |ratio| {
                    prune::select::global_widths(host.groups(), &scores, ratio, rounding)
                })?;
                Ok(prune::select::top(host.groups(), &scores, &widths))
            }
            "nonsense" => {
                let mut plan = PrunePlan::full();
                plan.keep.insert("no.such.group".into(), vec![0]);
                Ok(plan)
            }
            _ => Ok(cut(host, &scores, self.ratio)),
        }
    }
}

/// Adds the sign of each norm scale to its gradient, then halves the scales of the first group.
#[derive(Debug)]
pub struct Shrink {
    calls: u32,
}

impl Regulariser for Shrink {
    fn before_step(&mut self, groups: &ChannelGroups, params: &prune::Params, step: Step) -> Result<()> {
        self.calls += 1;
        if step.step > 1000 {
            return Err(Error::Plugin {
                plugin: "everything".into(),
                reason: "too many steps".into(),
            });
        }
        tch::no_grad(|| -> Result<()> {
            for key in groups.norm_weights() {
                let gamma = params.require(&key)?;
                let mut grad = gamma.grad();
                if grad.defined() {
                    let _ = grad.f_add_(&gamma.f_sign()?)?;
                }
            }
            Ok(())
        })
    }
    fn after_step(&mut self, groups: &ChannelGroups, params: &prune::Params, step: Step) -> Result<()> {
        self.calls += 10 * (step.total - step.step) as u32;
        let key = groups.norm_weights()[0].clone();
        tch::no_grad(|| {
            let _: () = drop(params.require(&key)?.shallow_clone().f_mul_scalar_(0.5)?);
            Ok(())
        })
    }
}

options! {
    /// Int8 with a table of ranges.
    TableOfRanges {
        /// Bits of weights.
        bits: u32 = 7,
        /// The op whose inputs are quantized besides those of sums.
        on: String = "conv2d".into(),
    }
}

#[typetag::serde(name = "ranges")]
impl Quantizer for TableOfRanges {
    fn backend(&self) -> BackendSpec {
        let weight = Scheme {
            bits: self.bits,
            per_channel: true,
            ..Scheme::INT8
        };
        BackendSpec {
            weight,
            activation: Scheme::INT8,
            placement: Placement::inputs_of(&[&self.on, "add"]),
            linear: false,
            ..BackendSpec::default()
        }
    }
    fn quantizes(&self, node: &Node) -> Result<bool> {
        assert!(!node.name.contains("boom"), "quantizes on purpose");
        Ok(!node.name.ends_with("cv1.conv"))
    }
    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let mut text = String::new();
        for range in ranges.activations.iter().chain(&ranges.weights) {
            text.push_str(&format!("{} {:?} {:?}\n", range.tensor, range.scales, range.extremes));
        }
        Ok(vec![Artifact {
            name: format!("{model}.ranges"),
            text,
        }])
    }
}

options! {
    /// Squared distances of everything that can be compared.
    Mimic {
        /// What goes wrong.
        wrong: String = String::new(),
    }
}

#[typetag::serde(name = "mimic")]
impl Distiller for Mimic {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            raw: true,
            neck: true,
            head: self.wrong != "headless",
        }
    }
    fn parts(&self) -> Vec<String> {
        match self.wrong.as_str() {
            "names" => vec!["\u{1b}[31m".into()],
            _ => ["raw", "neck", "crossed"].map(str::to_owned).to_vec(),
        }
    }
    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        let mut specs = align_specs(student, teacher);
        match self.wrong.as_str() {
            "adapters" => specs[0].shape = vec![-1],
            "refuses" => return Err(Error::Config(format!("{} classes are too many", teacher.classes))),
            _ => {}
        }
        Ok(specs)
    }
    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<tch::Tensor>> {
        let count = match self.wrong.as_str() {
            "panic" => panic!("loss on purpose"),
            "short" => 2,
            _ => 3,
        };
        let apart = |a: &tch::Tensor, b: &tch::Tensor| -> Result<tch::Tensor> {
            Ok(a.f_sub(b)?.f_square()?.f_mean(tch::Kind::Float)?)
        };
        let mut losses = Vec::new();
        for level in 0..batch.student_layout.levels.len() {
            let own = batch.aligned(level)?;
            losses.push(apart(&batch.student.raw[level], &batch.teacher.raw[level])?);
            losses.push(apart(&own, &batch.teacher.neck[level])?);
            losses.push(match batch.teacher_head.get(level) {
                Some(head) => {
                    let crossed = own.f_conv2d(&head.weight, Some(&head.bias), [1, 1], [0, 0], [1, 1], 1)?;
                    apart(&crossed, &batch.teacher.raw[level])?
                }
                None => own.f_mean(tch::Kind::Float)?.f_mul_scalar(0.0)?,
            });
        }
        (0..count)
            .map(|part| {
                Ok(
                    tch::Tensor::f_stack(&losses.iter().skip(part).step_by(3).collect::<Vec<_>>(), 0)?
                        .f_sum(tch::Kind::Float)?,
                )
            })
            .collect()
    }
}

/// A metric of the host that is not in the list of the package: the sum of the channel's index.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Spread {}

#[typetag::serde(name = "spread")]
impl PruneMetric for Spread {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        Ok((0..group.channels).map(|i| ((i * 7) % 5) as f32).collect())
    }
}

yolo_sdk::plugin! {
    backbone Steps = "steps" { summary: "Five strided convolutions with gains" }
    neck_block Join = "join" { summary: "Joins two maps with a convolution" }
    op Gain = "gain" { summary: "A trained factor per channel" }
    metric Peak = "peak" {
        summary: "Largest absolute weight",
        paper: ("A Paper", "https://arxiv.org/abs/1608.08710", 2017, "Peak (2017)"),
        aliases: ["top"],
        example: { "type": "peak", "power": 2.0 },
        stability: experimental,
    }
    metric Spread = "spread" { summary: "Every fifth channel alike" }
    pruner Everything = "everything" { summary: "Uses everything that the host offers" }
    quantizer TableOfRanges = "ranges" { summary: "Int8 with a table of ranges" }
    distiller Mimic = "mimic" { summary: "Squared distances of everything" }
}
