//! Networks and weights for the tests: made by formula, so that no data is needed.

use tch::{Device, Kind, Tensor};
use yolo_core::{Feat, Graph, GraphBuilder, Op, ParamRole, Params, Result, ValueId, graph::DetectHead, nn, testing};

/// Weights by formula with gain `a`; quantizers as they start.
pub fn fill(graph: &Graph, a: f64) -> Params {
    let mut params = testing::fill_params(graph, a);
    for spec in graph.param_specs().iter().filter(|spec| spec.role == ParamRole::Quant) {
        let value = if spec.key.ends_with("scale") { 1.0 } else { 0.0 };
        params.insert(
            &spec.key,
            Tensor::full(spec.shape.as_slice(), value, (Kind::Float, Device::Cpu)),
        );
    }
    params
}

/// The test image.
pub fn image(n: i64, c: i64, h: i64, w: i64) -> Tensor {
    testing::input(n, c, h, w)
}

fn c3(g: &mut GraphBuilder, x: ValueId, cout: i64, depth: usize, shortcut: bool) -> Result<ValueId> {
    let hidden = cout / 2;
    let mut y = nn::conv(g, "cv1", x, hidden, 1, 1)?;
    for index in 0..depth {
        y = g.scope(format!("m.{index}"), |g| {
            let z = nn::conv(g, "cv1", y, hidden, 1, 1)?;
            let z = nn::conv(g, "cv2", z, hidden, 3, 1)?;
            if shortcut {
                g.add("add", Op::Add, &[y, z])
            } else {
                Ok(z)
            }
        })?;
    }
    let other = nn::conv(g, "cv2", x, hidden, 1, 1)?;
    let joined = g.add("cat", Op::Concat { dim: 1 }, &[y, other])?;
    nn::conv(g, "cv3", joined, cout, 1, 1)
}

fn sppf(g: &mut GraphBuilder, x: ValueId, cout: i64) -> Result<ValueId> {
    let hidden = g.channels(x) / 2;
    let x = nn::conv(g, "cv1", x, hidden, 1, 1)?;
    let pool = Op::MaxPool {
        kernel: 5,
        stride: 1,
        padding: 2,
    };
    let mut levels = vec![x];
    for index in 0..3 {
        let last = levels[index];
        levels.push(g.add(&format!("pool{index}"), pool.clone(), &[last])?);
    }
    let joined = g.add("cat", Op::Concat { dim: 1 }, &levels)?;
    nn::conv(g, "cv2", joined, cout, 1, 1)
}

/// YOLOv5 v6.0 n with `classes` classes.
pub fn yolov5n(classes: i64) -> Graph {
    build(classes, 16, 1).expect("the published network fits")
}

/// The same structure at half the width of n: fast enough for many runs.
pub fn tiny(classes: i64) -> Graph {
    build(classes, 8, 1).expect("the published network fits")
}

fn build(classes: i64, w: i64, depth: usize) -> Result<Graph> {
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let conv = |g: &mut GraphBuilder, x: Feat, cout: i64, kernel: i64, stride: i64, padding: Option<i64>| {
        g.layer("Conv", &[x], |g| {
            let o = nn::ConvOptions {
                kernel,
                stride,
                padding,
                ..Default::default()
            };
            nn::conv_bn_act(g, x.value, cout, o)
        })
    };
    let block = |g: &mut GraphBuilder, x: Feat, cout: i64, n: usize, shortcut: bool| {
        g.layer("C3", &[x], |g| c3(g, x.value, cout, n, shortcut))
    };
    let up =
        |g: &mut GraphBuilder, x: Feat| g.layer("Upsample", &[x], |g| g.add("", Op::Upsample { scale: 2 }, &[x.value]));
    let cat = |g: &mut GraphBuilder, a: Feat, b: Feat| {
        g.layer("Concat", &[a, b], |g| {
            g.add("", Op::Concat { dim: 1 }, &[a.value, b.value])
        })
    };
    let x = conv(&mut g, image, w, 6, 2, Some(2))?;
    let x = conv(&mut g, x, 2 * w, 3, 2, None)?;
    let x = block(&mut g, x, 2 * w, depth, true)?;
    let x = conv(&mut g, x, 4 * w, 3, 2, None)?;
    let p3 = block(&mut g, x, 4 * w, 2 * depth, true)?;
    let x = conv(&mut g, p3, 8 * w, 3, 2, None)?;
    let p4 = block(&mut g, x, 8 * w, 3 * depth, true)?;
    let x = conv(&mut g, p4, 16 * w, 3, 2, None)?;
    let x = block(&mut g, x, 16 * w, depth, true)?;
    let x = g.layer("SPPF", &[x], |g| sppf(g, x.value, 16 * w))?;
    let top = conv(&mut g, x, 8 * w, 1, 1, None)?;
    let x = up(&mut g, top)?;
    let x = cat(&mut g, x, p4)?;
    let x = block(&mut g, x, 8 * w, depth, false)?;
    let middle = conv(&mut g, x, 4 * w, 1, 1, None)?;
    let x = up(&mut g, middle)?;
    let x = cat(&mut g, x, p3)?;
    let n3 = block(&mut g, x, 4 * w, depth, false)?;
    let x = conv(&mut g, n3, 4 * w, 3, 2, None)?;
    let x = cat(&mut g, x, middle)?;
    let n4 = block(&mut g, x, 8 * w, depth, false)?;
    let x = conv(&mut g, n4, 8 * w, 3, 2, None)?;
    let x = cat(&mut g, x, top)?;
    let n5 = block(&mut g, x, 16 * w, depth, false)?;
    let prefix = format!("model.{}", g.next_layer());
    let mut outputs = Vec::new();
    g.layer("Detect", &[n3, n4, n5], |g| {
        for (level, feat) in [n3, n4, n5].into_iter().enumerate() {
            let op = Op::conv(feat.channels, 3 * (classes + 5), 1, 1, 0, 1, true);
            outputs.push(g.add(&format!("m.{level}"), op, &[feat.value])?);
        }
        Ok(outputs[0])
    })?;
    let anchors = [
        [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
        [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
        [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
    ];
    let head = DetectHead {
        prefix,
        classes,
        anchors: anchors.map(Vec::from).into(),
        strides: vec![8, 16, 32],
        unfitted: false,
    };
    g.finish(outputs, Some(head))
}

/// Whether onnxruntime can be used; prints why not.
pub fn engine() -> bool {
    match yolo_export::ort::available() {
        Ok(_) => true,
        Err(error) => {
            crate::skip::skipped("onnxruntime", error);
            false
        }
    }
}
