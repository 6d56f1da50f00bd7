//! The names of all ops as a list, for what is named by people: a match on [`Op`] gives one name, not all of them.

use super::Op;

impl Op {
    /// What [`Op::name`] may give, in the order of the enum.
    pub const NAMES: [&str; 36] = [
        "input",
        "conv2d",
        "deform-conv2d",
        "batch-norm",
        "layer-norm",
        "linear",
        "act",
        "add",
        "sub",
        "mul",
        "div",
        "affine",
        "concat",
        "slice",
        "channel-shuffle",
        "space-to-depth",
        "max-pool",
        "avg-pool",
        "pad",
        "reduce",
        "upsample",
        "matmul",
        "softmax",
        "reshape",
        "permute",
        "window-partition",
        "window-merge",
        "window-mask",
        "relative-position-bias",
        "add-window-mask",
        "dropout",
        "drop-path",
        "parameter",
        "constant",
        "fake-quant",
        "custom",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde knows every variant: an unknown one is answered with the list.
    #[test]
    fn every_op_has_its_name_in_the_list() {
        let error = serde_json::from_str::<Op>(r#"{"op": "?"}"#).expect_err("no op");
        let error = error.to_string();
        let plain = |name: &str| name.replace('-', "");
        let variants: Vec<String> = error.split('`').skip(3).step_by(2).map(plain).collect();
        assert_eq!(variants, Op::NAMES.map(plain), "{error}");
        for op in [Op::Add, Op::SpaceToDepth, Op::conv(1, 1, 1, 1, 0, 1, false)] {
            assert!(Op::NAMES.contains(&op.name()), "{}", op.name());
        }
    }
}
