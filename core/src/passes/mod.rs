//! Transformations `Graph -> Graph` with `Params -> Params`, and the lists of them that a network goes through. None knows a plugin by
//! name.

mod fuse;
mod gate;
mod lower;
mod upsample;

pub use fuse::fuse;
pub use gate::split_silu;
pub use lower::lower_custom;
pub use upsample::upsample_late;

use crate::{Graph, Params, Result};

/// A pass with its name. Parameters that it leaves as they are share their storage.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Its name in messages.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Graph, &Params) -> Result<(Graph, Params)>,
}

/// [`fuse`].
pub const FUSE: Pass = Pass {
    name: "fuse",
    run: fuse,
};
/// [`upsample_late`].
pub const UPSAMPLE_LATE: Pass = Pass {
    name: "upsample-late",
    run: upsample_late,
};
/// [`lower_custom`].
pub const LOWER_CUSTOM: Pass = Pass {
    name: "lower-custom",
    run: lower_custom,
};
/// [`split_silu`].
pub const SPLIT_SILU: Pass = Pass {
    name: "split-silu",
    run: |graph, params| Ok((split_silu(graph)?, params.shallow_clone())),
};

/// [`baked`](crate::quant::baked).
pub const BAKE: Pass = Pass {
    name: "bake",
    run: crate::quant::baked,
};

/// For a network that runs on libtorch outside of training: validation, detection, bench.
pub const INFERENCE: &[Pass] = &[FUSE, UPSAMPLE_LATE];
/// For a network that is written for another engine.
pub const EXPORT: &[Pass] = &[FUSE, UPSAMPLE_LATE, LOWER_CUSTOM, BAKE];
/// For a network that gets quantizers.
pub const QUANTIZATION: &[Pass] = &[FUSE];
/// For a network that gets quantizers for an engine which runs ops on integers.
pub const INTEGER_QUANTIZATION: &[Pass] = &[FUSE, SPLIT_SILU];

/// Goes through a list in order.
///
/// # Errors
/// Those of the passes.
pub fn through(passes: &[Pass], graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let start = (graph.clone(), params.shallow_clone());
    passes
        .iter()
        .try_fold(start, |(graph, params), pass| (pass.run)(&graph, &params))
}

/// The network as it is run outside of training: [`INFERENCE`].
///
/// # Errors
/// Those of the passes.
pub fn for_inference(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    through(INFERENCE, graph, params)
}

/// The network as exporters write it: [`EXPORT`].
///
/// # Errors
/// Those of the passes.
pub fn for_export(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    through(EXPORT, graph, params)
}

/// The network as quantizers are put into it: [`QUANTIZATION`], or [`INTEGER_QUANTIZATION`] where the engine runs ops on integers.
///
/// # Errors
/// Those of the passes.
pub fn for_quantization(graph: &Graph, params: &Params, integer_ops: bool) -> Result<(Graph, Params)> {
    let passes = if integer_ops {
        INTEGER_QUANTIZATION
    } else {
        QUANTIZATION
    };
    through(passes, graph, params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GraphBuilder, Mode, Op, Program, ValueId, nn, testing};

    /// A network with what each pass looks for: a batch norm, dropout, a wide concatenation, a SiLU.
    fn network() -> Graph {
        let mut g = GraphBuilder::new(3);
        let fine = nn::conv(&mut g, "a", ValueId::IMAGE, 8, 3, 2).expect("a convolution");
        let dropped = g.add("drop", Op::Dropout { p: 0.5 }, &[fine]).expect("dropout");
        let coarse = nn::conv(&mut g, "b", dropped, 8, 3, 2).expect("a convolution");
        let up = g.add("up", Op::Upsample { scale: 2 }, &[coarse]).expect("a map");
        let wide = g.add("cat", Op::Concat { dim: 1 }, &[up, dropped]).expect("a map");
        let read = nn::conv(&mut g, "c", wide, 8, 1, 1).expect("a convolution");
        g.finish(vec![read], None).expect("a graph")
    }

    #[test]
    fn lists_do_what_their_passes_do_and_keep_the_outputs() {
        let graph = network();
        let params = testing::fill_params(&graph, 2.5);
        let image = testing::input(1, 3, 16, 16);
        let run = |graph: &Graph, params: &Params| {
            let maps = tch::no_grad(|| Program::new(graph, params)?.run(&image, Mode::Eval));
            maps.expect("a forward").remove(0)
        };
        let wanted = run(&graph, &params);
        let count = |graph: &Graph, name: &str| graph.nodes.iter().filter(|node| node.op.name() == name).count();
        for (passes, [norms, dropouts, concats, gates]) in [
            (&[][..], [3, 1, 1, 0]),
            (INFERENCE, [0, 0, 0, 0]),
            (EXPORT, [0, 0, 0, 0]),
            (QUANTIZATION, [0, 0, 1, 0]),
            (INTEGER_QUANTIZATION, [0, 0, 1, 3]),
        ] {
            let (made, own) = through(passes, &graph, &params).expect("a graph");
            let names: Vec<&str> = passes.iter().map(|pass| pass.name).collect();
            let found = ["batch-norm", "dropout", "concat", "mul"].map(|name| count(&made, name));
            assert_eq!(found, [norms, dropouts, concats, gates], "{names:?}");
            let apart = (run(&made, &own) - &wanted).abs().max().double_value(&[]);
            assert!(apart < 1e-5, "{names:?}: {apart}");
        }
    }
}
