//! Two descriptions of one network: where they compute something else. Sizes are not compared, tensors show them.

use std::collections::HashMap;

use yolo_core::{Graph, Node, Op};

/// The first op that differs between two networks, among those of one name, and how many do.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the node.
    pub node: String,
    /// What the first network computes there.
    pub left: String,
    /// What the second computes.
    pub right: String,
    /// How many nodes differ in all.
    pub count: usize,
}

/// Compares what nodes of the same name compute. A batch norm that only one has is none: it may be folded.
pub fn between(left: &Graph, right: &Graph) -> Option<Difference> {
    let others: HashMap<&str, &Node> = right.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut found: Option<Difference> = None;
    for node in &left.nodes {
        let (left, right) = match others.get(node.name.as_str()) {
            Some(other) => (settings(&node.op), settings(&other.op)),
            None if matches!(node.op, Op::Act { .. } | Op::Add) => (settings(&node.op), "nothing".to_owned()),
            None => continue,
        };
        if left != right {
            let first = found.get_or_insert_with(|| Difference {
                node: node.name.clone(),
                left,
                right,
                count: 0,
            });
            first.count += 1;
        }
    }
    for (left, right) in left.layers.iter().zip(&right.layers) {
        if left.from != right.from {
            let read = |from: &[Option<usize>]| {
                let names: Vec<String> = from
                    .iter()
                    .map(|l| l.map_or("the image".into(), |l| l.to_string()))
                    .collect();
                format!("a reader of {}", names.join(", "))
            };
            let first = found.get_or_insert_with(|| Difference {
                node: format!("model.{}", left.index),
                left: read(&left.from),
                right: read(&right.from),
                count: 0,
            });
            first.count += 1;
        }
    }
    found
}

/// An op with its settings, but for sizes and what only training uses.
fn settings(op: &Op) -> String {
    match op {
        Op::Act { act } => format!("{act:?}"),
        Op::Upsample { scale } => format!("nearest upsampling by {scale}"),
        Op::Bilinear { scale } => format!("bilinear upsampling by {scale}"),
        Op::BatchNorm { eps, .. } => format!("batch norm with eps {eps}"),
        // Whether there is a bias is a question of folding, how many groups there are often one of width.
        Op::Conv2d {
            kernel: [h, w],
            stride,
            padding,
            dilation,
            groups,
            ..
        } => {
            let mut text = format!(
                "a {h} x {w} convolution, stride {}, padding {}",
                side(stride),
                side(padding)
            );
            if *dilation != [1; 2] {
                text += &format!(", dilation {}", side(dilation));
            }
            if *groups > 1 {
                text += ", in groups";
            }
            text
        }
        Op::MaxPool {
            kernel,
            stride,
            padding,
        } => format!("max pooling {kernel}, stride {stride}, padding {padding}"),
        other => other.name().to_owned(),
    }
}

/// One number for both axes where they agree.
fn side(pair: &[i64; 2]) -> String {
    match pair {
        [h, w] if h == w => h.to_string(),
        [h, w] => format!("{h} x {w}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yolo_core::graph::Activation;

    #[test]
    fn the_first_difference_is_named_and_all_are_counted() {
        let graph = yolo_core::model::find("yolov5n").map(|(name, text)| {
            let config = yolo_core::config::Located::parse(name, text).expect("YAML");
            yolo_core::model::build(&config, Some(3)).expect("a graph")
        });
        let graph = graph.expect("yolov5n");
        assert_eq!(between(&graph, &graph), None);
        let mut other = graph.clone();
        for node in &mut other.nodes {
            match &mut node.op {
                Op::Act { act } => *act = Activation::Relu,
                Op::Upsample { scale } => node.op = Op::Bilinear { scale: *scale },
                _ => {}
            }
        }
        let difference = between(&graph, &other).expect("they differ");
        assert_eq!(
            (
                difference.node.as_str(),
                difference.left.as_str(),
                difference.right.as_str()
            ),
            ("model.0.act", "Silu", "Relu")
        );
        assert_eq!(difference.count, 57 + 2);
        let mut other = graph.clone();
        other.layers[12].from.reverse();
        let difference = between(&graph, &other).expect("they differ");
        assert_eq!((difference.node.as_str(), difference.count), ("model.12", 1));
        assert!(difference.left.starts_with("a reader of 11, 6"), "{difference:?}");
    }
}
