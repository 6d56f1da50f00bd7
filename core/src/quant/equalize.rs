//! Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
//! section 4.1): a channel between two convolutions is made smaller in the first and larger in the second, such that the ranges of both
//! weights are alike. For grids with one scale per tensor.
//!
//! `f(W x + b)` with `W / s` and `b / s` is `f(W x + b) / s` only where `f(a x) = a f(x)` for every `a > 0`: the identity, ReLU, leaky ReLU.
//! SiLU, hard-swish, ReLU6 and sigmoids don't let a factor through; between convolutions that have one of them nothing is done.

use tch::{Kind, Tensor};

use crate::graph::{Activation, Graph, Op, ValueId};
use crate::{Error, Params, Result};

/// Rounds over all pairs; chains of convolutions settle after a few.
const ROUNDS: usize = 40;

/// Factors nearer to 1 than this change nothing any more.
const SETTLED: f64 = 1e-3;

/// Equalizes all pairs of a network whose batch norms are folded; how many there are.
///
/// # Errors
/// [`Error::Impossible`] where there is none, with the activation that stands between.
pub(super) fn equalize(graph: &Graph, params: &mut Params) -> Result<usize> {
    let (pairs, obstacle) = pairs(graph);
    if pairs.is_empty() {
        let between = obstacle.map_or_else(
            || "it has no two convolutions of which only the second reads the first".to_owned(),
            |act| {
                format!(
                    "{} stands between its convolutions, which lets no factor through",
                    title(act)
                )
            },
        );
        return Err(Error::Impossible(format!(
            "equalization is exact only where nothing, ReLU or leaky ReLU stands between two convolutions: {between}; leave it out"
        )));
    }
    for _ in 0..ROUNDS {
        let mut farthest = 0.0f64;
        for (first, second) in &pairs {
            farthest = farthest.max(tch::no_grad(|| equalize_pair(graph, params, *first, *second))?);
        }
        if farthest < SETTLED {
            break;
        }
    }
    Ok(pairs.len())
}

/// Convolutions of which the second alone reads the first, through activations that let factors through; and an activation that does not,
/// if one was met.
fn pairs(graph: &Graph) -> (Vec<(ValueId, ValueId)>, Option<Activation>) {
    let consumers = graph.consumers();
    let only = |value: ValueId| match consumers[value.index()].as_slice() {
        [only] if !graph.outputs.contains(&value) => Some(*only),
        _ => None,
    };
    let (mut pairs, mut obstacle) = (Vec::new(), None);
    for value in graph.values().filter(|value| channelwise(&graph.node(*value).op)) {
        let mut at = only(value);
        while let Some(reader) = at {
            match &graph.node(reader).op {
                Op::Act {
                    act: Activation::Relu | Activation::LeakyRelu(_),
                } => at = only(reader),
                Op::Act { act } => {
                    obstacle.get_or_insert(*act);
                    break;
                }
                op => {
                    if channelwise(op) {
                        pairs.push((value, reader));
                    }
                    break;
                }
            }
        }
        // A SiLU that is written as a product has two readers.
        let gate = |reader: &ValueId| {
            matches!(
                graph.node(*reader).op,
                Op::Act {
                    act: Activation::Sigmoid
                }
            )
        };
        if consumers[value.index()].len() == 2 && consumers[value.index()].iter().any(gate) {
            obstacle.get_or_insert(Activation::Silu);
        }
    }
    (pairs, obstacle)
}

/// Convolutions that are dense, or have one channel in and one out per group.
fn channelwise(op: &Op) -> bool {
    matches!(op, Op::Conv2d { cin, cout, groups, .. } if *groups == 1 || (groups == cin && groups == cout))
}

/// Makes the ranges of a channel alike in both: `s = sqrt(r1 / r2)`. How far the farthest factor is from 1.
fn equalize_pair(graph: &Graph, params: &mut Params, first: ValueId, second: ValueId) -> Result<f64> {
    let (first, second) = (graph.node(first), graph.node(second));
    let dense = matches!(second.op, Op::Conv2d { groups: 1, .. });
    let key = |name: &str, tensor: &str| format!("{name}.{tensor}");
    let before = params.require(&key(&first.name, "weight"))?.to_kind(Kind::Double);
    let after = params.require(&key(&second.name, "weight"))?.to_kind(Kind::Double);
    let r1 = before.f_abs()?.f_amax([1, 2, 3], false)?;
    let r2 = after
        .f_abs()?
        .f_amax(if dense { [0, 2, 3] } else { [1, 2, 3] }, false)?;
    let used = r1.f_gt(0.0)?.f_logical_and(&r2.f_gt(0.0)?)?;
    // A channel that one side does not use stays.
    let s = r1.f_div(&r2)?.f_sqrt()?.f_where_self(&used, &r1.f_ones_like()?)?;
    let rows = |s: &Tensor| s.f_reshape([-1, 1, 1, 1]);
    let columns = if dense { s.f_reshape([1, -1, 1, 1])? } else { rows(&s)? };
    let kind = params.require(&key(&first.name, "weight"))?.kind();
    let mut put = |name: String, tensor: Tensor| params.insert(name, tensor.to_kind(kind));
    put(key(&first.name, "weight"), before.f_div(&rows(&s)?)?);
    put(key(&second.name, "weight"), after.f_mul(&columns)?);
    if let Op::Conv2d { bias: true, .. } = first.op {
        let name = key(&first.name, "bias");
        let bias = params.require(&name)?.to_kind(Kind::Double).f_div(&s)?;
        params.insert(name, bias.to_kind(kind));
    }
    Ok(s.f_sub_scalar(1.0)?.f_abs()?.f_max()?.f_double_value(&[])?)
}

fn title(act: Activation) -> String {
    match act {
        Activation::Silu => "SiLU".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GraphBuilder, Mode, Program, testing};

    /// Dense, depthwise and dense again, with an activation between.
    fn network(act: Option<Activation>) -> Graph {
        let mut g = GraphBuilder::new(3);
        let mut x = ValueId::IMAGE;
        for (name, op) in [
            ("a", Op::conv(3, 6, 3, 1, 1, 1, true)),
            ("b", Op::conv(6, 6, 3, 1, 1, 6, true)),
            ("c", Op::conv(6, 4, 1, 1, 0, 1, true)),
        ] {
            x = g.add(name, op, &[x]).expect("a node");
            if let Some(act) = act {
                x = g.add(&format!("{name}.act"), Op::Act { act }, &[x]).expect("a node");
            }
        }
        g.finish(vec![x], None).expect("a graph")
    }

    /// Weights whose channels have very different ranges, one of them unused.
    fn uneven(graph: &Graph) -> Params {
        let params = testing::fill_params(graph, 2.0);
        let factors = Tensor::from_slice(&[1e-3f32, 0.1, 1.0, 10.0, 1e3, 0.0]).reshape([-1, 1, 1, 1]);
        let _ = params
            .get("a.weight")
            .expect("a weight")
            .shallow_clone()
            .f_mul_(&factors)
            .expect("a product");
        params
    }

    fn run(graph: &Graph, params: &Params) -> Tensor {
        let program = Program::new(graph, &params.to(tch::Device::Cpu, Kind::Double)).expect("tensors fit");
        let image = testing::input(1, 3, 9, 9).to_kind(Kind::Double);
        tch::no_grad(|| program.run(&image, Mode::Eval))
            .expect("a forward")
            .remove(0)
    }

    #[test]
    fn ranges_become_alike_and_the_network_stays_what_it_is() {
        for act in [None, Some(Activation::Relu), Some(Activation::LeakyRelu(0.1))] {
            let graph = network(act);
            let mut params = uneven(&graph).to(tch::Device::Cpu, Kind::Double);
            let wanted = run(&graph, &params);
            assert_eq!(equalize(&graph, &mut params).expect("pairs"), 2, "{act:?}");
            let apart = (run(&graph, &params) - &wanted).abs().max().double_value(&[]);
            assert!(apart < 1e-9 * wanted.abs().max().double_value(&[]), "{act:?}: {apart}");
            let range = |key: &str, dims: [i64; 3]| params.get(key).expect("a weight").abs().amax(dims, false);
            for (first, second) in [
                (range("a.weight", [1, 2, 3]), range("b.weight", [1, 2, 3])),
                (range("b.weight", [1, 2, 3]), range("c.weight", [0, 2, 3])),
            ] {
                let ratio = (first / second).narrow(0, 0, 5);
                assert!((ratio - 1.0).abs().max().double_value(&[]) < 1e-2, "{act:?}");
            }
        }
    }

    #[test]
    fn activations_that_let_no_factor_through_are_named() {
        for (act, name) in [(Activation::Silu, "SiLU"), (Activation::Relu6, "Relu6")] {
            let graph = network(Some(act));
            let mut params = uneven(&graph);
            let error = equalize(&graph, &mut params).expect_err("nothing is exact").to_string();
            assert!(error.contains(name) && error.contains("exact"), "{error}");
        }
        let graph = network(Some(Activation::Silu));
        let split = crate::passes::split_silu(&graph).expect("a graph");
        let error = equalize(&split, &mut uneven(&split))
            .expect_err("nothing is exact")
            .to_string();
        assert!(error.contains("SiLU"), "{error}");
    }
}
