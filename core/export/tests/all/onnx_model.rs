//! A whole detector: the file against our executor and against the reference's own numbers.

use yolo_export::{
    onnx::{self, Nms, NmsKind, Options, Outputs, check},
    ort::Session,
};

use crate::support::{engine, fill, image, tiny, yolov5n};

fn open(exported: &onnx::Exported) -> Session {
    Session::from_bytes(&prost::Message::encode_to_vec(&exported.model), 1).unwrap()
}

#[test]
fn yolov5n_decodes_to_the_same_boxes() {
    if !engine() {
        return;
    }
    let graph = yolov5n(10);
    let params = fill(&graph, 2.906_25);
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    let options = Options {
        image: [320; 2],
        outputs: Outputs::Both,
        names,
        ..Options::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("yolov5n.onnx");
    onnx::write(&graph, &params, &options, &path).unwrap();
    let mut session = Session::open(&path, 1).unwrap();
    assert_eq!(session.outputs(), ["output", "raw.0", "raw.1", "raw.2"]);
    assert_eq!(session.metadata("stride").unwrap(), "32");
    assert!(session.metadata("names").unwrap().contains("class 9"));
    let x = image(1, 3, 320, 320);
    let d = check(&mut session, &graph, &params, &x).unwrap();
    // The project's bounds for a float export.
    assert!(d.boxes < 0.05 && d.scores < 1e-3 && d.raw < 1e-3, "{d:?}");

    // The reference's own decoded values (golden_forward.json, yolov5n: idx, val_f64, 10 x max_abs_diff_f32_f64).
    let golden: serde_json::Value = serde_json::from_str(include_str!("../fixtures/yolov5n_decoded.json")).unwrap();
    let decoded = session.run(&[("images", &x)]).unwrap().remove(0).1.reshape([-1]);
    let tolerance = golden["tolerance"].as_f64().unwrap();
    for (index, want) in golden["idx"]
        .as_array()
        .unwrap()
        .iter()
        .zip(golden["val_f64"].as_array().unwrap())
    {
        let got = decoded.double_value(&[index.as_i64().unwrap()]);
        let want = want.as_f64().unwrap();
        assert!(
            (got - want).abs() <= tolerance,
            "element {index}: {got} instead of {want}"
        );
    }
}

#[test]
fn an_open_batch_takes_any_number_of_images() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let exported = onnx::export(
        &graph,
        &params,
        &Options {
            image: [64, 96],
            batch: None,
            ..Options::default()
        },
    )
    .unwrap();
    let mut session = open(&exported);
    assert_eq!(session.inputs(), [("images".to_owned(), vec![-1, 3, 64, 96])]);
    for n in [1, 3] {
        let d = check(&mut session, &graph, &params, &image(n, 3, 64, 96)).unwrap();
        assert!(d.boxes < 0.05 && d.scores < 1e-3, "{n} images: {d:?}");
    }
}

#[test]
fn wrong_sizes_are_refused_with_the_reason() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let error = onnx::export(
        &graph,
        &params,
        &Options {
            image: [100, 96],
            ..Options::default()
        },
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("100") && error.to_string().contains("32"),
        "{error}"
    );
    let error = onnx::export(
        &graph,
        &params,
        &Options {
            batch: Some(0),
            ..Options::default()
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("at least one"), "{error}");
}

#[test]
fn a_broken_file_is_an_error_of_one_line() {
    if !engine() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.onnx");
    std::fs::write(&path, b"\x08\x08garbage").unwrap();
    let text = Session::open(&path, 1).unwrap_err().to_string();
    assert!(text.contains("broken.onnx") && !text.contains('\n'), "{text}");
    let text = Session::open(&dir.path().join("absent.onnx"), 1)
        .unwrap_err()
        .to_string();
    assert!(text.contains("absent.onnx"), "{text}");

    // An input of another size is refused by the engine, with its name.
    let graph = tiny(3);
    let exported = onnx::export(
        &graph,
        &fill(&graph, 2.5),
        &Options {
            image: [64; 2],
            ..Options::default()
        },
    )
    .unwrap();
    let error = open(&exported).run(&[("images", &image(1, 3, 32, 32))]).unwrap_err();
    assert!(error.to_string().contains("images"), "{error}");
    let error = open(&exported).run(&[("picture", &image(1, 3, 64, 64))]).unwrap_err();
    assert!(error.to_string().contains("picture"), "{error}");
}

/// Greedy suppression by the definition, on rows `[x, y, w, h, obj, classes...]`: (class, score, corners).
fn suppress(rows: &[Vec<f64>], iou: f64, threshold: f64, agnostic: bool) -> Vec<(usize, f64, [f64; 4])> {
    let mut candidates = Vec::new();
    for row in rows {
        let corners = [
            row[0] - row[2] / 2.0,
            row[1] - row[3] / 2.0,
            row[0] + row[2] / 2.0,
            row[1] + row[3] / 2.0,
        ];
        let scores: Vec<f64> = row[5..].iter().map(|c| c * row[4]).collect();
        let best = (0..scores.len())
            .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            .unwrap();
        for (class, &score) in scores.iter().enumerate() {
            // One class per box, as YOLOv5's detection has it.
            if score > threshold && class == best {
                candidates.push((class, score, corners));
            }
        }
    }
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
    let overlap = |a: &[f64; 4], b: &[f64; 4]| {
        let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
        let area = |c: &[f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
        let inter = side(0) * side(1);
        inter / (area(a) + area(b) - inter)
    };
    let mut kept: Vec<(usize, f64, [f64; 4])> = Vec::new();
    for c in candidates {
        if kept
            .iter()
            .all(|k| (!agnostic && k.0 != c.0) || overlap(&k.2, &c.2) <= iou)
        {
            kept.push(c);
        }
    }
    kept
}

#[test]
fn suppression_inside_the_file_keeps_the_same_boxes() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let x = image(1, 3, 64, 64);
    let plain = onnx::export(
        &graph,
        &params,
        &Options {
            image: [64; 2],
            ..Options::default()
        },
    )
    .unwrap();
    let decoded = open(&plain).run(&[("images", &x)]).unwrap().remove(0).1;
    let rows = Vec::<Vec<f64>>::try_from(&decoded.get(0).to_kind(tch::Kind::Double)).unwrap();
    for agnostic in [false, true] {
        let nms = Nms {
            max_boxes: 1000,
            agnostic,
            ..Nms::new(NmsKind::Standard)
        };
        let mut want = suppress(&rows, nms.iou, nms.score, agnostic);
        let options = Options {
            image: [64; 2],
            nms: Some(nms),
            ..Options::default()
        };
        let exported = onnx::export(&graph, &params, &options).unwrap();
        let got = open(&exported).run(&[("images", &x)]).unwrap().remove(0).1;
        let mut got = Vec::<Vec<f64>>::try_from(&got.to_kind(tch::Kind::Double)).unwrap();
        got.sort_by(|a, b| b[6].total_cmp(&a[6]));
        want.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert!(want.len() > 5, "the test needs some boxes, there are {}", want.len());
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(&want) {
            assert_eq!((g[0], g[5]), (0.0, w.0 as f64));
            assert!(
                (g[6] - w.1).abs() < 1e-5 && (0..4).all(|i| (g[1 + i] - w.2[i]).abs() < 1e-2),
                "{g:?} {w:?}"
            );
        }
    }
}

#[test]
fn the_tensorrt_plugin_node_has_its_attributes() {
    let graph = tiny(3);
    let options = Options {
        image: [64; 2],
        nms: Some(Nms::new(NmsKind::TensorRt)),
        ..Options::default()
    };
    let exported = onnx::export(&graph, &fill(&graph, 2.5), &options).unwrap();
    assert!(
        exported
            .model
            .opset_import
            .iter()
            .any(|set| set.domain == "TRT" && set.version == 1)
    );
    let network = exported.model.graph.unwrap();
    let node = network
        .node
        .iter()
        .find(|node| node.op_type == "EfficientNMS_TRT")
        .unwrap();
    assert_eq!(node.output, ["num_dets", "det_boxes", "det_scores", "det_classes"]);
    assert_eq!(node.attribute("box_coding").unwrap().i, Some(1));
    assert_eq!(node.attribute("score_activation").unwrap().i, Some(0));
    assert_eq!(network.output.len(), 4);
}
