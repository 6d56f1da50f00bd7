//! The head in the file: raw maps to boxes in pixels, as `DetectHead::decode` does it (YOLOv5 v6: xy = (2 sigma - 0.5 +
//! cell) * stride, wh = (2 sigma)^2 * anchor), and, where asked for, non-maximum suppression.

use yolo_core::{ValueId, graph::DetectHead};

use super::{
    Nms, NmsKind,
    builder::{Size, float, int, text},
    lower::Lowering,
    proto::DataType,
};
use crate::{Error, Result};

/// Name of the decoded output `[N, boxes, 5 + classes]`.
pub const OUTPUT: &str = "output";

/// Name of a raw output.
pub fn raw_name(level: usize) -> String {
    format!("raw.{level}")
}

/// Adds the raw maps as outputs `raw.0`, `raw.1`, ... `[N, A, h, w, 5 + classes]` before sigmoid.
pub(super) fn raw(l: &mut Lowering<'_>, head: &DetectHead) -> Result<()> {
    for (level, &value) in l.graph.outputs.iter().enumerate() {
        let split = split_map(l, head, value, level)?;
        let name = raw_name(level);
        l.b.node_named(
            "Transpose",
            &name,
            &[&split],
            vec![super::builder::ints("perm", &[0, 1, 3, 4, 2])],
        );
        let sizes = level_sizes(l, head, value);
        l.b.output(&name, DataType::Float, &sizes);
    }
    Ok(())
}

fn level_sizes(l: &Lowering<'_>, head: &DetectHead, value: ValueId) -> Vec<Size> {
    let mut sizes = l.sizes(value);
    let (h, w) = (sizes[2].clone(), sizes[3].clone());
    sizes.truncate(1);
    sizes.extend([
        Size::Fixed(head.anchors_per_level()),
        h,
        w,
        Size::Fixed(head.outputs_per_anchor()),
    ]);
    sizes
}

/// `[N, A * no, h, w]` to `[N, A, no, h, w]`.
fn split_map(l: &mut Lowering<'_>, head: &DetectHead, value: ValueId, level: usize) -> Result<String> {
    let [n, c, h, w] = *l.shape(value) else {
        return Err(Error::Unsupported(format!("output {level} is no map")));
    };
    if c != head.anchors_per_level() * head.outputs_per_anchor() {
        return Err(Error::Unsupported(format!(
            "output {level} has {c} channels, the head needs {} x {}",
            head.anchors_per_level(),
            head.outputs_per_anchor()
        )));
    }
    let (map, n) = (l.values[value.index()].clone(), l.batch(n));
    let target = [n, head.anchors_per_level(), head.outputs_per_anchor(), h, w];
    Ok(l.reshape(&format!("{}.level{level}.split", head.prefix), &map, &target))
}

/// Adds the decoding; returns the name of `[N, boxes, 5 + classes]` and the number of boxes.
pub(super) fn decode(l: &mut Lowering<'_>, head: &DetectHead) -> Result<(String, i64)> {
    let (na, no) = (head.anchors_per_level(), head.outputs_per_anchor());
    if head.anchors.len() != l.graph.outputs.len() || head.strides.len() != l.graph.outputs.len() {
        return Err(Error::Unsupported(format!(
            "the head describes {} levels, the network has {}",
            head.anchors.len(),
            l.graph.outputs.len()
        )));
    }
    let (two, half) = (l.b.scalar(2.0), 0.5);
    let mut levels = Vec::new();
    let mut boxes = 0;
    for (level, &value) in l.graph.outputs.iter().enumerate() {
        let part = |s: &str| format!("{}.level{level}.{s}", head.prefix);
        let split = split_map(l, head, value, level)?;
        let (h, w) = (l.shape(value)[2], l.shape(value)[3]);
        let y = l.transpose(&part("last"), &split, &[0, 1, 3, 4, 2]);
        let y = l.b.node("Sigmoid", &part("sigmoid"), &[&y], vec![]);
        let sizes = [2, 2, no - 4];
        let names = [part("xy_raw"), part("wh_raw"), part("scores")];
        let parts = if l.old {
            let attributes = vec![int("axis", 4), super::builder::ints("split", &sizes)];
            l.b.node_multi("Split", &names, &[&y], attributes)
        } else {
            let sizes = l.b.i64(&sizes);
            l.b.node_multi("Split", &names, &[&y, &sizes], vec![int("axis", 4)])
        };
        // xy = (2 y + (cell - 0.5)) * stride
        let cells: Vec<f32> = (0..h)
            .flat_map(|r| (0..w).flat_map(move |c| [c as f32 - half, r as f32 - half]))
            .collect();
        let cells = l.b.f32(&part("cells"), &[1, 1, h, w, 2], &cells);
        let stride = l.b.scalar(head.strides[level] as f32);
        let xy = l.b.node("Mul", &part("xy_double"), &[&parts[0], &two], vec![]);
        let xy = l.b.node("Add", &part("xy_cell"), &[&xy, &cells], vec![]);
        let xy = l.b.node("Mul", &part("xy"), &[&xy, &stride], vec![]);
        // wh = (2 y)^2 * anchor
        let anchors: Vec<f32> = head.anchors[level].iter().flatten().map(|&v| v as f32).collect();
        let anchors = l.b.f32(&part("anchors"), &[1, na, 1, 1, 2], &anchors);
        let wh = l.b.node("Mul", &part("wh_double"), &[&parts[1], &two], vec![]);
        let wh = l.b.node("Mul", &part("wh_square"), &[&wh, &wh], vec![]);
        let wh = l.b.node("Mul", &part("wh"), &[&wh, &anchors], vec![]);
        let all =
            l.b.node("Concat", &part("boxes"), &[&xy, &wh, &parts[2]], vec![int("axis", 4)]);
        let count = na * h * w;
        let n = l.batch(l.shape(value)[0]);
        levels.push(l.reshape(&part("rows"), &all, &[n, count, no]));
        boxes += count;
    }
    let refs: Vec<&str> = levels.iter().map(String::as_str).collect();
    let decoded = l.b.node(
        "Concat",
        &format!("{}.decoded", head.prefix),
        &refs,
        vec![int("axis", 1)],
    );
    Ok((decoded, boxes))
}

/// Declares the decoded boxes the output [`OUTPUT`].
pub(super) fn output(l: &mut Lowering<'_>, head: &DetectHead, decoded: &str, boxes: i64) {
    l.b.rename(decoded, OUTPUT);
    let batch = l.sizes(l.graph.outputs[0])[0].clone();
    l.b.output(
        OUTPUT,
        DataType::Float,
        &[batch, Size::Fixed(boxes), Size::Fixed(head.outputs_per_anchor())],
    );
}

/// Adds non-maximum suppression behind the decoded boxes and declares its outputs.
pub(super) fn suppress(l: &mut Lowering<'_>, head: &DetectHead, decoded: &str, options: &Nms) -> Result<()> {
    let classes = head.classes;
    let part = |s: &str| format!("nms.{s}");
    let boxes = l.slice(&part("boxes"), decoded, 2, 0, 4);
    let objectness = l.slice(&part("objectness"), decoded, 2, 4, 5);
    let class = l.slice(&part("classes"), decoded, 2, 5, 5 + classes);
    // The score of a class is objectness times class probability, as in YOLOv5's own suppression.
    let scores = l.b.node("Mul", &part("scores"), &[&class, &objectness], vec![]);
    // A box has one class, the likeliest, as in YOLOv5's detection: the scores of the others are nothing.
    let scores = if options.agnostic || classes == 1 {
        scores
    } else {
        let (one, zero) = (l.b.i64(&[1]), l.b.scalar(0.0));
        let names = [part("highest"), part("likeliest")];
        let best = l.b.node_multi("TopK", &names, &[&scores, &one], vec![int("axis", 2)]);
        let is_best = l.b.node("Equal", &part("is_best"), &[&scores, &best[0]], vec![]);
        l.b.node("Where", &part("own_scores"), &[&is_best, &scores, &zero], vec![])
    };
    let batch = l.sizes(l.graph.outputs[0])[0].clone();
    let k = Size::Fixed(options.max_boxes);
    match options.kind {
        NmsKind::TensorRt => {
            l.b.node_foreign(
                "TRT",
                "EfficientNMS_TRT",
                &[&boxes, &scores],
                &["num_dets", "det_boxes", "det_scores", "det_classes"],
                vec![
                    text("plugin_version", "1"),
                    int("background_class", -1),
                    int("max_output_boxes", options.max_boxes),
                    float("score_threshold", options.score),
                    float("iou_threshold", options.iou),
                    int("score_activation", 0),
                    int("class_agnostic", options.agnostic.into()),
                    // Centre, width, height; results are corners.
                    int("box_coding", 1),
                ],
            );
            l.b.output("num_dets", DataType::Int32, &[batch.clone(), Size::Fixed(1)]);
            l.b.output(
                "det_boxes",
                DataType::Float,
                &[batch.clone(), k.clone(), Size::Fixed(4)],
            );
            l.b.output("det_scores", DataType::Float, &[batch.clone(), k.clone()]);
            l.b.output("det_classes", DataType::Int32, &[batch, k]);
        }
        NmsKind::Standard => {
            // [N, boxes, C] -> [N, C, boxes]; agnostic: the best class of each box competes with all others.
            let ranked = if options.agnostic {
                l.b.node(
                    "ReduceMax",
                    &part("best"),
                    &[&scores],
                    vec![super::builder::ints("axes", &[2]), int("keepdims", 1)],
                )
            } else {
                scores.clone()
            };
            let ranked = l.transpose(&part("ranked"), &ranked, &[0, 2, 1]);
            let limit = l.b.i64(&[options.max_boxes]);
            let iou = l.b.f32(&part("iou"), &[1], &[options.iou as f32]);
            let score = l.b.f32(&part("threshold"), &[1], &[options.score as f32]);
            let kept = l.b.node(
                "NonMaxSuppression",
                &part("kept"),
                &[&boxes, &ranked, &limit, &iou, &score],
                vec![int("center_point_box", 1)],
            );
            // Rows (image, class, box): gather box and score of each.
            let image = l.slice(&part("image"), &kept, 1, 0, 1);
            let index = l.slice(&part("index"), &kept, 1, 2, 3);
            let at_box =
                l.b.node("Concat", &part("at_box"), &[&image, &index], vec![int("axis", 1)]);
            let xywh = l.b.node("GatherND", &part("xywh"), &[&boxes, &at_box], vec![]);
            let all = l.b.node("GatherND", &part("all_scores"), &[&scores, &at_box], vec![]);
            let (value, label) = if options.agnostic {
                let axes = || vec![super::builder::ints("axes", &[1]), int("keepdims", 1)];
                let value = l.b.node("ReduceMax", &part("value"), &[&all], axes());
                let label = l.b.node(
                    "ArgMax",
                    &part("label"),
                    &[&all],
                    vec![int("axis", 1), int("keepdims", 1)],
                );
                (value, label)
            } else {
                let label = l.slice(&part("label"), &kept, 1, 1, 2);
                let value =
                    l.b.node("GatherElements", &part("value"), &[&all, &label], vec![int("axis", 1)]);
                (value, label)
            };
            let as_float = |l: &mut Lowering<'_>, name: &str, x: &str| {
                l.b.node("Cast", &part(name), &[x], vec![int("to", DataType::Float as i64)])
            };
            let image = as_float(l, "image_f", &image);
            let label = as_float(l, "label_f", &label);
            // Corners.
            let (centre, size) = (
                l.slice(&part("centre"), &xywh, 1, 0, 2),
                l.slice(&part("size"), &xywh, 1, 2, 4),
            );
            let half = l.b.scalar(0.5);
            let reach = l.b.node("Mul", &part("reach"), &[&size, &half], vec![]);
            let low = l.b.node("Sub", &part("low"), &[&centre, &reach], vec![]);
            let high = l.b.node("Add", &part("high"), &[&centre, &reach], vec![]);
            let rows = [&image, &low, &high, &label, &value];
            let rows: Vec<&str> = rows.into_iter().map(String::as_str).collect();
            l.b.node_named("Concat", "detections", &rows, vec![int("axis", 1)]);
            l.b.output(
                "detections",
                DataType::Float,
                &[Size::Named("detections".into()), Size::Fixed(7)],
            );
        }
    }
    Ok(())
}
