//! Backbones, neck blocks and custom ops.

use tch::Tensor;

use super::{Report, because};
use crate::graph::CustomOp;
use crate::plugin::BlockRequest;
use crate::prune::{ChannelGroups, Rounding, apply, select};
use crate::{Backbone, Features, Graph, GraphBuilder, Mode, NeckBlock, Op, Params, Program, Scale, nn, testing};

/// Sizes of images that are odd multiples of the coarsest stride.
const SIZES: [(i64, i64); 2] = [(2, 3), (3, 1)];
const SMALL: Scale = Scale {
    depth: 0.33,
    width: 0.25,
};

/// A backbone at a small scale: what it declares, that it runs, learns and can be pruned.
pub fn backbone(backbone: &dyn Backbone) -> Report {
    let mut report = Report::default();
    let built = report.get("it builds at scale n, with strides that double up to 32", || {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let maps = backbone.build(&mut g, image, SMALL).map_err(because)?;
        maps.check("it").map_err(because)?;
        let last = maps.0.last().map_or(0, |map| map.stride);
        if last < 32 {
            return Err(format!("the coarsest map has stride {last}"));
        }
        let graph = g
            .finish(maps.0.iter().map(|map| map.value).collect(), None)
            .map_err(because)?;
        Ok((graph, maps, last))
    });
    report.check("it builds at scale l", || {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        backbone
            .build(&mut g, image, Scale::default())
            .map(drop)
            .map_err(because)
    });
    let Some((graph, maps, coarsest)) = built else {
        return report;
    };
    report.check("its maps have the shapes that it declares", || {
        declared(&graph, &maps, coarsest)
    });
    runs(&mut report, &graph, coarsest);
    prunes(&mut report, &graph, coarsest);
    report
}

fn declared(graph: &Graph, maps: &Features, coarsest: i64) -> Result<(), String> {
    for (h, w) in SIZES.map(|(h, w)| (h * coarsest, w * coarsest)) {
        let shapes = graph.shapes([1, 3, h, w]).map_err(because)?;
        for map in &maps.0 {
            let wanted = [1, map.channels, h / map.stride, w / map.stride];
            let shape = &shapes[map.value.index()];
            if shape[..] != wanted {
                return Err(format!("{shape:?} instead of {wanted:?} for an image of {h} x {w}"));
            }
        }
    }
    Ok(())
}

/// Forward in eval, then in training with a gradient for everything that is trained.
fn runs(report: &mut Report, graph: &Graph, coarsest: i64) {
    let trained: Vec<String> = graph
        .param_specs()
        .into_iter()
        .filter(|spec| spec.role.trainable())
        .map(|spec| spec.key)
        .collect();
    report.check("the same seed gives the same parameters", || {
        let (one, other) = (Params::init(graph, 1), Params::init(graph, 1));
        let differs = trained.iter().find(|key| match (one.get(key), other.get(key)) {
            (Some(a), Some(b)) => !a.equal(b),
            _ => true,
        });
        differs.map_or(Ok(()), |key| Err(key.clone()))
    });
    report.check("its results are finite, for odd sizes", || {
        let params = Params::init(graph, 1);
        let program = Program::new(graph, &params).map_err(because)?;
        for (h, w) in SIZES.map(|(h, w)| (h * coarsest, w * coarsest)) {
            let image = testing::input(1, graph.input_channels(), h, w);
            for value in tch::no_grad(|| program.run(&image, Mode::Eval)).map_err(because)? {
                finite(&value).map_err(|reason| format!("{h} x {w}: {reason}"))?;
            }
        }
        Ok(())
    });
    report.check("every trained parameter gets a finite gradient", || {
        let params = Params::init(graph, 1);
        for key in &trained {
            let _ = params.require(key).map_err(because)?.set_requires_grad(true);
        }
        let program = Program::new(graph, &params).map_err(because)?;
        let (h, w) = SIZES[0];
        let image = testing::input(2, graph.input_channels(), h * coarsest, w * coarsest);
        let results = program.run(&image, Mode::Train).map_err(because)?;
        results.iter().try_for_each(finite)?;
        backward(&results)?;
        for key in &trained {
            let grad = params.require(key).map_err(because)?.grad();
            if !grad.defined() {
                return Err(format!("`{key}` gets none"));
            }
            finite(&grad).map_err(|reason| format!("`{key}`: {reason}"))?;
        }
        Ok(())
    });
}

/// The gradients of the mean squares of all results.
pub(super) fn backward(results: &[Tensor]) -> Result<(), String> {
    let mut loss = Tensor::from(0f32);
    for value in results {
        let part = value
            .f_square()
            .and_then(|square| square.f_mean(tch::Kind::Float))
            .map_err(because)?;
        loss = loss.f_add(&part).map_err(because)?;
    }
    if !loss.requires_grad() {
        return Ok(());
    }
    loss.f_backward().map_err(because)
}

/// Half of the channels of every group go, and the rest still runs.
fn prunes(report: &mut Report, graph: &Graph, coarsest: i64) {
    report.check("with half of its channels removed it still runs", || {
        let params = Params::init(graph, 1);
        let groups = ChannelGroups::of(graph).map_err(because)?;
        let scores = groups
            .groups
            .iter()
            .map(|group| (0..group.len()).map(|c| c as f32).collect())
            .collect();
        let widths = select::uniform_widths(&groups, 0.5, Rounding::default());
        let plan = select::top(&groups, &scores, &widths);
        let (smaller, kept) = apply(graph, &params, &groups, &plan).map_err(because)?;
        let program = Program::new(&smaller, &kept).map_err(because)?;
        let image = testing::input(1, graph.input_channels(), coarsest, 2 * coarsest);
        tch::no_grad(|| program.run(&image, Mode::Eval))
            .map_err(because)?
            .iter()
            .try_for_each(finite)
    });
}

pub(super) fn finite(value: &Tensor) -> Result<(), String> {
    let all = value.f_isfinite().and_then(|finite| finite.f_all()).map_err(because)?;
    if all.int64_value(&[]) == 1 {
        Ok(())
    } else {
        Err("not all numbers are finite".into())
    }
}

/// A neck block on maps of stride 8.
pub fn neck_block(block: &dyn NeckBlock) -> Report {
    let mut report = Report::default();
    report.check("the number of its inputs makes sense", || {
        let arity = block.arity();
        if arity.min >= 1 && arity.min <= arity.max {
            Ok(())
        } else {
            Err(format!("{arity:?}"))
        }
    });
    report.check("its layer has a name", || {
        if block.layer_name().trim().is_empty() {
            Err("it is empty".into())
        } else {
            Ok(())
        }
    });
    let graph = report.get("it builds and keeps the size of its maps", || {
        let mut g = GraphBuilder::new(3);
        let mut map = g.image();
        while map.stride < 8 {
            map = g
                .layer("Conv", &[map], |g| nn::conv(g, "conv", map.value, 64, 3, 2))
                .map_err(because)?;
        }
        let request = BlockRequest {
            channels: 64,
            repeats: 2,
            shortcut: true,
        };
        let inputs = vec![map; block.arity().min.max(1)];
        let out = g
            .layer(block.layer_name(), &inputs, |g| block.build(g, &inputs, request))
            .map_err(because)?;
        if out.stride != 8 {
            return Err(format!("a map of stride 8 has stride {} behind it", out.stride));
        }
        g.finish(vec![out.value], None).map_err(because)
    });
    if let Some(graph) = graph {
        runs(&mut report, &graph, 32);
        prunes(&mut report, &graph, 32);
    }
    report
}

/// A custom op on one map.
pub fn custom_op(op: &dyn CustomOp) -> Report {
    let mut report = Report::default();
    report.check("it has a name", || {
        if op.name().trim().is_empty() {
            Err("it is empty".into())
        } else {
            Ok(())
        }
    });
    let graph = report.get("it can stand in a graph, on a map of 16 channels", || {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let map = nn::conv(&mut g, "conv", image.value, 16, 3, 2).map_err(because)?;
        let out = g
            .add(
                "op",
                Op::Custom {
                    custom: op.boxed_clone(),
                },
                &[map],
            )
            .map_err(because)?;
        g.finish(vec![out], None).map_err(because)
    });
    let Some(graph) = graph else { return report };
    report.check("its result has the shape that it declares", || {
        let params = Params::init(&graph, 1);
        let program = Program::new(&graph, &params).map_err(because)?;
        for (h, w) in SIZES.map(|(h, w)| (32 * h, 32 * w)) {
            let shapes = graph.shapes([2, 3, h, w]).map_err(because)?;
            let image = testing::input(2, 3, h, w);
            let values = tch::no_grad(|| program.run(&image, Mode::Eval)).map_err(because)?;
            let wanted = graph.outputs.first().and_then(|out| shapes.get(out.index()));
            let found = values.first().map(Tensor::size);
            if found.as_ref() != wanted {
                return Err(format!("{found:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    });
    runs(&mut report, &graph, 32);
    report
}
