//! Time of a plan without building the model: what each convolution takes at its kept widths, looked up in a table that was measured on
//! an engine ([`OpTimes`]), as in NetAdapt (arXiv 1804.03230, section 3.3), and a part that grows with the elements of all maps.
//!
//! What must not live here: measuring.

use serde::{Deserialize, Serialize};

use super::ChannelGroups;
use super::cost::{Channels, Width};
use crate::graph::{Activation, Graph, GraphBuilder, Op, ReduceKind};
use crate::{Error, Result, ValueId};

/// Version of the file; raised when an old reader could misread a new file.
pub const OP_TIMES_VERSION: u32 = 1;

/// A convolution with the activation behind it, without its widths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvShape {
    /// Height and width of the kernel.
    pub kernel: [i64; 2],
    /// Vertical and horizontal stride.
    pub stride: [i64; 2],
    /// Zeros at top and bottom, left and right.
    pub padding: [i64; 2],
    /// Dilation.
    pub dilation: [i64; 2],
    /// One filter per channel.
    pub depthwise: bool,
    /// What follows.
    pub act: Option<Activation>,
    /// Height and width of the map that goes in.
    pub input: [i64; 2],
}

impl std::fmt::Display for ConvShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([kh, kw], [sh, sw], [h, w]) = (self.kernel, self.stride, self.input);
        let kind = if self.depthwise { "depthwise " } else { "" };
        write!(
            f,
            "{kind}{kh}x{kw} convolution of stride {sh}x{sw} on maps of {h} x {w}"
        )
    }
}

impl ConvShape {
    /// Multiply-adds at these widths.
    pub fn macs(&self, cin: i64, cout: i64) -> i64 {
        let places = |axis: usize| (self.input[axis] / self.stride[axis].max(1)).max(1);
        let channels = if self.depthwise { cin } else { cin * cout };
        self.kernel.iter().product::<i64>() * places(0) * places(1) * channels
    }

    /// A network that is so many of these convolutions beside each other on one map of `cin` channels. Each is followed by a mean over its
    /// places, so that hardly anything has to be given back.
    ///
    /// # Errors
    /// A convolution that can't be: [`Error::Shape`].
    pub fn network(&self, cin: i64, cout: i64, copies: usize) -> Result<Graph> {
        let mut b = GraphBuilder::new(cin);
        let mut outputs = Vec::new();
        for copy in 0..copies {
            let conv = Op::Conv2d {
                cin,
                cout: if self.depthwise { cin } else { cout },
                kernel: self.kernel,
                stride: self.stride,
                padding: self.padding,
                dilation: self.dilation,
                groups: if self.depthwise { cin } else { 1 },
                bias: true,
                weight_quant: None,
                bias_quant: None,
            };
            let mut value = b.add(&format!("conv{copy}"), conv, &[ValueId::IMAGE])?;
            if let Some(act) = self.act {
                value = b.add(&format!("act{copy}"), Op::Act { act }, &[value])?;
            }
            let mean = Op::Reduce {
                kind: ReduceKind::Mean,
                dims: vec![2, 3],
            };
            outputs.push(b.add(&format!("mean{copy}"), mean, &[value])?);
        }
        b.finish(outputs, None)
    }
}

/// Milliseconds of a convolution on a grid of widths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpTime {
    /// Which.
    pub conv: ConvShape,
    /// Input channels, rising.
    pub cin: Vec<i64>,
    /// Output channels, rising; none for a depthwise convolution, which has as many as go in.
    pub cout: Vec<i64>,
    /// For each `cin` the times of all `cout`.
    pub ms: Vec<f64>,
}

impl OpTime {
    fn check(&self) -> Result<(), String> {
        let conv = &self.conv;
        let rising =
            |widths: &[i64]| widths.iter().all(|width| *width > 0) && widths.windows(2).all(|two| two[0] < two[1]);
        if self.cin.is_empty() || self.cout.is_empty() != conv.depthwise || !rising(&self.cin) || !rising(&self.cout) {
            return Err(format!(
                "{conv}: `cin` and `cout` are not rising widths (a depthwise convolution has no `cout`)"
            ));
        }
        if self.ms.len() != self.cin.len() * self.cout.len().max(1) {
            let wanted = self.cin.len() * self.cout.len().max(1);
            return Err(format!("{conv}: {} times stand where {wanted} belong", self.ms.len()));
        }
        match self.ms.iter().find(|ms| !(ms.is_finite() && **ms >= 0.0)) {
            Some(ms) => Err(format!("{conv}: {ms} is no time")),
            None => Ok(()),
        }
    }

    /// Between the points of the grid linear in both widths; below it as at its edge, above it as many times as much as there are channels.
    fn at(&self, cin: i64, cout: i64) -> f64 {
        let columns = self.cout.len().max(1);
        let row = |row: usize| {
            if self.conv.depthwise {
                return self.ms[row];
            }
            between(&self.cout, cout, |column| self.ms[row * columns + column])
        };
        between(&self.cin, cin, row)
    }
}

/// The value at `x` of a function that is known at `knots`.
fn between(knots: &[i64], x: i64, value: impl Fn(usize) -> f64) -> f64 {
    let after = knots.partition_point(|knot| *knot < x);
    if after == 0 {
        return value(0);
    }
    let Some(high) = knots.get(after) else {
        let last = knots.len() - 1;
        return value(last) * x as f64 / knots[last] as f64;
    };
    let low = knots[after - 1];
    let share = (x - low) as f64 / (high - low) as f64;
    value(after - 1) * (1.0 - share) + value(after) * share
}

/// Times of convolutions on one engine of one machine: a file that may come from the chip that a network is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpTimes {
    /// [`OP_TIMES_VERSION`].
    pub version: u32,
    /// What ran them.
    pub engine: String,
    /// On how many threads.
    pub threads: usize,
    /// The machine, in words.
    pub machine: String,
    /// The times.
    pub ops: Vec<OpTime>,
}

impl OpTimes {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Impossible`] with the place of what is no table, the convolution whose widths or times can't be, or another version.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Impossible(format!("it is no table of times: {reason}"));
        let times: Self = serde_json::from_str(text).map_err(|error| wrong(crate::config::in_words(&error)))?;
        if times.version != OP_TIMES_VERSION {
            return Err(wrong(format!(
                "its version is {}, this program reads {OP_TIMES_VERSION}",
                times.version
            )));
        }
        times.ops.iter().try_for_each(OpTime::check).map_err(wrong)?;
        if times.ops.iter().flat_map(|op| &op.ms).all(|ms| *ms == 0.0) {
            return Err(wrong("all of its times are 0".to_owned()));
        }
        Ok(times)
    }

    fn of(&self, conv: &ConvShape) -> Option<usize> {
        self.ops.iter().position(|op| op.conv == *conv)
    }
}

/// The convolutions of a network on square images of `size` pixels, each with the node and its widths; of those with groups only
/// depthwise ones.
///
/// # Errors
/// A network that takes no image of this size.
pub fn convolutions(graph: &Graph, size: i64) -> Result<Vec<(ValueId, ConvShape, [i64; 2])>> {
    let shapes = graph.shapes([1, graph.input_channels(), size, size])?;
    let consumers = graph.consumers();
    // What reads a value, if one node does.
    let next = |value: ValueId| match consumers[value.index()].as_slice() {
        [one] => Some((*one, &graph.node(*one).op)),
        _ => None,
    };
    let mut found = Vec::new();
    for value in graph.values() {
        let node = graph.node(value);
        let Op::Conv2d {
            cin,
            cout,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            ..
        } = &node.op
        else {
            continue;
        };
        let depthwise = *groups == *cin && *cin == *cout && *groups > 1;
        if *groups != 1 && !depthwise {
            continue;
        }
        let behind = match next(value) {
            Some((norm, Op::BatchNorm { .. })) => next(norm),
            other => other,
        };
        let act = match behind {
            Some((_, Op::Act { act })) => Some(*act),
            _ => None,
        };
        let [.., height, width] = *shapes[node.inputs[0].index()].as_slice() else {
            continue;
        };
        let conv = ConvShape {
            kernel: *kernel,
            stride: *stride,
            padding: *padding,
            dilation: *dilation,
            depthwise,
            act,
            input: [height, width],
        };
        found.push((value, conv, [*cin, *cout]));
    }
    Ok(found)
}

/// A convolution of the network: which times are its, and its widths.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TimedConv {
    times: usize,
    input: Width,
    output: Width,
}

/// Time as a function of group widths: `scale[0]` times the times of the convolutions, and `scale[1]` milliseconds per element of all maps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TimeModel {
    ops: Vec<OpTime>,
    convs: Vec<TimedConv>,
    /// Places and channels of each map.
    maps: Vec<(i64, Width)>,
    scale: [f64; 2],
}

impl TimeModel {
    /// For square images of `size` pixels; the scale is that of the table alone until it is [fitted](Self::fitted).
    ///
    /// # Errors
    /// [`Error::Impossible`] names a convolution that is not in the table.
    pub fn of(graph: &Graph, groups: &ChannelGroups, size: i64, times: &OpTimes) -> Result<Self> {
        let channels = Channels::of(groups);
        let shapes = graph.shapes([1, graph.input_channels(), size, size])?;
        let mut convs = Vec::new();
        for (value, conv, _) in convolutions(graph, size)? {
            let node = graph.node(value);
            let times = times.of(&conv).ok_or_else(|| {
                Error::Impossible(format!(
                    "the table of times has no {conv} (`{}`): it is of another network or another image size",
                    node.name
                ))
            })?;
            convs.push(TimedConv {
                times,
                input: channels.width(node.inputs[0]),
                output: channels.width(value),
            });
        }
        let map = |value: ValueId| match shapes[value.index()].as_slice() {
            [_, _, height, width] => Some((height * width, channels.width(value))),
            _ => None,
        };
        Ok(Self {
            ops: times.ops.clone(),
            convs,
            maps: graph.values().filter_map(map).collect(),
            scale: [1.0, 0.0],
        })
    }

    /// Milliseconds of all convolutions as the table has them, and elements of all maps.
    fn parts(&self, kept: &[usize]) -> [f64; 2] {
        let conv = |conv: &TimedConv| self.ops[conv.times].at(conv.input.at(kept), conv.output.at(kept));
        let map = |(places, width): &(i64, Width)| (places * width.at(kept)) as f64;
        [self.convs.iter().map(conv).sum(), self.maps.iter().map(map).sum()]
    }

    /// Milliseconds with these widths.
    pub fn milliseconds(&self, kept: &[usize]) -> f64 {
        let [convs, elements] = self.parts(kept);
        self.scale[0] * convs + self.scale[1] * elements
    }

    /// The same, scaled so that two networks take the time that was measured: least squares where both parts can be, else the one that
    /// explains more. Neither part is ever negative.
    #[must_use]
    pub fn fitted(mut self, measured: [(&[usize], f64); 2]) -> Self {
        let [(a, ta), (b, tb)] = measured;
        let ([ca, ea], [cb, eb]) = (self.parts(a), self.parts(b));
        let determinant = ca * eb - cb * ea;
        let both = [(ta * eb - tb * ea) / determinant, (ca * tb - cb * ta) / determinant];
        let alone = |x: [f64; 2]| (x[0] * ta + x[1] * tb) / (x[0] * x[0] + x[1] * x[1]);
        let error = |scale: [f64; 2]| {
            let miss = |c: f64, e: f64, t: f64| (scale[0] * c + scale[1] * e - t).powi(2);
            miss(ca, ea, ta) + miss(cb, eb, tb)
        };
        let candidates = [both, [alone([ca, cb]), 0.0], [0.0, alone([ea, eb])]];
        let possible = candidates
            .into_iter()
            .filter(|scale| scale.iter().all(|part| part.is_finite() && *part >= 0.0));
        if let Some(best) = possible.min_by(|x, y| error(*x).total_cmp(&error(*y))) {
            self.scale = best;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::select::{fit, uniform_widths};
    use crate::prune::{Budget, CostModel, Rounding};

    fn shape(depthwise: bool) -> ConvShape {
        ConvShape {
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            dilation: [1, 1],
            depthwise,
            act: Some(Activation::Silu),
            input: [256, 256],
        }
    }

    /// Times that are exactly `cin * cout / 1000`.
    fn table(graph: &Graph, size: i64) -> OpTimes {
        let mut ops: Vec<OpTime> = Vec::new();
        for (_, conv, _) in convolutions(graph, size).unwrap() {
            if ops.iter().any(|op| op.conv == conv) {
                continue;
            }
            let (cin, cout) = (vec![1, 64], if conv.depthwise { vec![] } else { vec![1, 64] });
            let ms = if conv.depthwise {
                vec![0.001, 0.064]
            } else {
                vec![0.001, 0.064, 0.064, 4.096]
            };
            ops.push(OpTime { conv, cin, cout, ms });
        }
        OpTimes {
            version: OP_TIMES_VERSION,
            engine: "test".into(),
            threads: 1,
            machine: String::new(),
            ops,
        }
    }

    fn network() -> Graph {
        let mut b = GraphBuilder::new(3);
        let conv = |cin, cout| Op::Conv2d {
            cin,
            cout,
            kernel: [3, 3],
            stride: [2, 2],
            padding: [1, 1],
            dilation: [1, 1],
            groups: 1,
            bias: true,
            weight_quant: None,
            bias_quant: None,
        };
        let a = b.add("a", conv(3, 32), &[ValueId::IMAGE]).unwrap();
        let a = b.add("act", Op::Act { act: Activation::Relu }, &[a]).unwrap();
        let c = b.add("c", conv(32, 64), &[a]).unwrap();
        let d = b.add("d", conv(64, 8), &[c]).unwrap();
        b.finish(vec![d], None).unwrap()
    }

    #[test]
    fn times_between_measured_widths_are_linear() {
        let op = OpTime {
            conv: shape(false),
            cin: vec![8, 16],
            cout: vec![8, 32],
            ms: vec![1.0, 4.0, 2.0, 8.0],
        };
        assert_eq!(op.check(), Ok(()));
        for (cin, cout, ms) in [
            (8, 8, 1.0),
            (16, 32, 8.0),
            (12, 8, 1.5),
            (8, 20, 2.5),
            (12, 20, 3.75),
            (4, 2, 1.0),
            (32, 32, 16.0),
        ] {
            assert!(
                (op.at(cin, cout) - ms).abs() < 1e-12,
                "{cin} {cout}: {}",
                op.at(cin, cout)
            );
        }
        let depthwise = OpTime {
            conv: shape(true),
            cin: vec![8, 16],
            cout: vec![],
            ms: vec![1.0, 2.0],
        };
        assert_eq!((depthwise.check(), depthwise.at(12, 12)), (Ok(()), 1.5));
    }

    #[test]
    fn a_table_that_is_none_is_refused_by_name() {
        let whole = table(&network(), 256);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(OpTimes::parse(&text).unwrap(), whole);
        let changed = |change: &dyn Fn(&mut OpTimes)| {
            let mut other = whole.clone();
            change(&mut other);
            OpTimes::parse(&serde_json::to_string(&other).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(changed(&|t| t.version = 2).contains("version is 2"));
        assert!(changed(&|t| t.ops[0].ms.truncate(3)).contains("3 times stand where 4 belong"));
        assert!(changed(&|t| t.ops[0].cin.reverse()).contains("rising"));
        assert!(changed(&|t| t.ops[1].ms[0] = -1.0).contains("-1 is no time"));
        assert!(OpTimes::parse("{").unwrap_err().to_string().contains("no table"));
    }

    #[test]
    fn a_budget_of_time_is_met_by_the_measured_widths() {
        let graph = network();
        let groups = ChannelGroups::of(&graph).unwrap();
        let model = TimeModel::of(&graph, &groups, 256, &table(&graph, 256)).unwrap();
        let cost = CostModel::of(&graph, &groups, 256).unwrap().timed(model.clone());
        let full = cost.full().to_vec();
        // a: 3 x 32, c: 32 x 64, d: 64 x 8; in between linear.
        let expected = (3.0 * 32.0 + 32.0 * 64.0 + 64.0 * 8.0) / 1000.0;
        assert!((cost.milliseconds(&full).unwrap() - expected).abs() < 1e-9);
        let rounding = Rounding {
            multiple: 1,
            ..Rounding::default()
        };
        let budget = Budget {
            latency: Some(0.5),
            ..Budget::default()
        };
        let kept = fit(budget, &cost, |ratio| uniform_widths(&groups, ratio, rounding)).unwrap();
        let share = cost.milliseconds(&kept).unwrap() / expected;
        assert!(share <= 0.5 && share > 0.45, "{share}");
        let bare = CostModel::of(&graph, &groups, 256).unwrap();
        assert!(
            !budget.allows(&bare, &full),
            "without times nothing is within a budget of time"
        );
        let Err(error) = TimeModel::of(&graph, &groups, 320, &table(&graph, 256)) else {
            panic!("a table of another size")
        };
        assert!(
            error.to_string().contains("`a`") && error.to_string().contains("another image size"),
            "{error}"
        );
    }

    #[test]
    fn the_scale_comes_from_two_measured_networks() {
        let graph = network();
        let groups = ChannelGroups::of(&graph).unwrap();
        let model = TimeModel::of(&graph, &groups, 256, &table(&graph, 256)).unwrap();
        let full: Vec<usize> = groups.groups.iter().map(crate::prune::ChannelGroup::len).collect();
        let half: Vec<usize> = full.iter().map(|width| width / 2).collect();
        let truth = |kept: &[usize]| {
            let [convs, elements] = model.parts(kept);
            2.0 * convs + 1e-5 * elements
        };
        let fitted = model.clone().fitted([(&full, truth(&full)), (&half, truth(&half))]);
        let third: Vec<usize> = full.iter().map(|width| width / 4).collect();
        assert!((fitted.milliseconds(&third) / truth(&third) - 1.0).abs() < 1e-9);
        // A pruned network that is slower leaves no part negative.
        let odd = model.clone().fitted([(&full, 1.0), (&half, 1.5)]);
        assert!(odd.scale.iter().all(|part| *part >= 0.0), "{:?}", odd.scale);
    }

    #[test]
    fn the_network_that_is_timed_has_the_convolution_so_many_times() {
        let graph = shape(false).network(16, 24, 5).unwrap();
        let found = convolutions(&graph, 256).unwrap();
        assert_eq!(found.len(), 5);
        assert!(
            found
                .iter()
                .all(|(_, conv, widths)| *conv == shape(false) && *widths == [16, 24])
        );
        let depthwise = shape(true).network(16, 24, 1).unwrap();
        assert_eq!(convolutions(&depthwise, 256).unwrap()[0].2, [16, 16]);
    }
}
