//! NMS, IoU, mAP, the confusion matrix and COCO's numbers against the reference.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{fixture, numbers, r, u};
use serde_json::Value;
use yolo_engine::eval::*;

/// The hash-filled predictions of the reference: 600 rows of 15 columns.
fn predictions(image: usize) -> Vec<f32> {
    let key = |name: &str| format!("nms.{name}.{image}");
    let mut out = Vec::with_capacity(600 * 15);
    for n in 0..600 {
        let k = n % 40;
        let centre = [0, 1].map(|i| u(&key("center"), k * 2 + i) * 560.0 + 40.0);
        let size = [0, 1].map(|i| u(&key("size"), k * 2 + i) * 112.0 + 16.0);
        let jitter = [0, 1, 2, 3].map(|i| r(&key("jitter"), n * 4 + i));
        for i in 0..2 {
            out.push((centre[i] + jitter[i] * size[i] * 0.35) as f32);
        }
        for i in 0..2 {
            out.push((size[i] * (1.0 + 0.4 * jitter[2 + i])) as f32);
        }
        out.push(u(&key("obj"), n).powi(2) as f32);
        for class in 0..10 {
            let p = u(&key("cls"), n * 10 + class).powi(4);
            let main = 0.6 + 0.4 * u(&key("main"), n);
            out.push(if class == k % 10 { p.max(main) } else { p } as f32);
        }
    }
    out
}

fn options(args: &Value) -> NmsOptions {
    NmsOptions {
        conf: args["conf_thres"].as_f64().unwrap() as f32,
        iou: args["iou_thres"].as_f64().unwrap() as f32,
        classes: args
            .get("classes")
            .map(|c| numbers(c).iter().map(|v| *v as u32).collect()),
        agnostic: args["agnostic"].as_bool().unwrap_or(false),
        multi_label: args["multi_label"].as_bool().unwrap_or(false),
        max_det: args["max_det"].as_u64().unwrap_or(300) as usize,
        max_nms: 30_000,
        one_class: false,
    }
}

#[test]
fn nms_gives_the_boxes_of_the_reference() {
    let golden = fixture("nms.json");
    let input = [predictions(0), predictions(1)];
    let sum: f64 = input.iter().flatten().map(|v| f64::from(*v)).sum();
    assert!(
        (sum / golden["input_sum"].as_f64().unwrap() - 1.0).abs() < 1e-9,
        "the input is the reference's"
    );
    let mut nms = Nms::default();
    for case in golden["cases"].as_array().unwrap() {
        for (image, rows) in input.iter().enumerate() {
            let known: Vec<[f32; 5]> = case["args"]["labels"][image]
                .as_array()
                .into_iter()
                .flatten()
                .map(|row| {
                    let v = numbers(row);
                    [v[0] as f32, v[1] as f32, v[2] as f32, v[3] as f32, v[4] as f32]
                })
                .collect();
            let mut found = Vec::new();
            nms.run(rows, 15, &known, &options(&case["args"]), &mut found);
            let what = format!("{} image {image}", case["args"]);
            let expected = numbers(&case["dets"][image]);
            assert_eq!(found.len(), case["n"][image].as_u64().unwrap() as usize, "{what}");
            for (d, e) in found.iter().zip(expected.chunks_exact(6)) {
                assert_eq!(f64::from(d.class), e[5], "{what}");
                // The fixture is rounded to 1e-3 and 1e-6.
                assert!((f64::from(d.conf) - e[4]).abs() < 1e-6, "{what}: {d:?} {e:?}");
                assert!(
                    d.xyxy.iter().zip(e).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3),
                    "{what}: {d:?} {e:?}"
                );
            }
        }
    }
}

#[test]
fn overlaps_are_those_of_the_reference() {
    let golden = &fixture("nms.json")["iou"];
    let boxes = |key: &str| -> Vec<[f64; 4]> {
        golden[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| numbers(b).try_into().unwrap())
            .collect()
    };
    let (first, second) = (boxes("box1_xyxy"), boxes("box2_xyxy"));
    for (name, kind) in [
        ("IoU", IouKind::Iou),
        ("GIoU", IouKind::Giou),
        ("DIoU", IouKind::Diou),
        ("CIoU", IouKind::Ciou),
    ] {
        for (i, a) in first.iter().enumerate() {
            for (j, b) in second.iter().enumerate() {
                let expected = golden[name][i][j].as_f64().unwrap();
                assert!((iou(*a, *b, kind) - expected).abs() < 1e-9, "{name} {i} {j}");
            }
        }
    }
    for (i, a) in first.iter().enumerate() {
        for (j, b) in second.iter().enumerate() {
            let value = box_iou(a.map(|v| v as f32), b.map(|v| v as f32));
            assert!((f64::from(value) - golden["box_iou"][i][j].as_f64().unwrap()).abs() < 1e-7);
        }
    }
}

fn images(golden: &Value) -> Vec<(Vec<Detection>, Vec<Truth>)> {
    let rows = |v: &Value| -> Vec<Vec<f64>> { v.as_array().unwrap().iter().map(numbers).collect() };
    let labels = golden["labels_cls_xyxy"].as_array().unwrap();
    let detections = golden["dets_xyxy_conf_cls"].as_array().unwrap();
    let corners = |v: &[f64]| [v[0] as f32, v[1] as f32, v[2] as f32, v[3] as f32];
    labels
        .iter()
        .zip(detections)
        .map(|(l, d)| {
            let detections = rows(d)
                .iter()
                .map(|v| Detection {
                    xyxy: corners(v),
                    conf: v[4] as f32,
                    class: v[5] as u32,
                })
                .collect();
            let truths = rows(l)
                .iter()
                .map(|v| Truth {
                    class: v[0] as u32,
                    xyxy: corners(&v[1..]),
                })
                .collect();
            (detections, truths)
        })
        .collect()
}

#[test]
fn map_equals_the_reference() {
    let golden = fixture("map.json");
    let mut matches = Matches::default();
    matches.rule = MatchRule::Once;
    let mut per_image = Vec::new();
    for (detections, truths) in images(&golden) {
        let before = matches.hits.len();
        matches.add(&detections, &truths);
        if !detections.is_empty() || !truths.is_empty() {
            per_image.push(
                (0..10)
                    .map(|t| matches.hits[before..].iter().filter(|h| **h >> t & 1 == 1).count())
                    .collect::<Vec<_>>(),
            );
        }
    }
    let expected: Vec<Vec<usize>> = golden["correct_per_image_per_iou"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| numbers(row).iter().map(|v| *v as usize).collect())
        .collect();
    let hit = |rows: &[Vec<usize>]| {
        rows.iter()
            .filter(|r| r.iter().sum::<usize>() > 0)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(hit(&per_image), hit(&expected));
    for t in 0..10 {
        assert_eq!(
            matches.hits.iter().filter(|h| **h >> t & 1 == 1).count() as u64,
            golden["n_correct"][t].as_u64().unwrap()
        );
    }
    let metrics = evaluate(&matches);
    assert_eq!(metrics.instances as u64, golden["n_lab"].as_u64().unwrap());
    let close = |a: f64, b: &Value, what: &str| {
        assert!((a - b.as_f64().unwrap()).abs() < 1e-9, "{what}: {a} {b}");
    };
    // These numbers are of YOLOv5 v6, which looks for the best mean F1 without smoothing.
    let f1 = |curve: &ClassCurves, i: usize| {
        2.0 * curve.precision[i] * curve.recall[i] / (curve.precision[i] + curve.recall[i] + 1e-16)
    };
    let mean = |i: usize| metrics.curves.iter().map(|curve| f1(curve, i)).sum::<f64>() / metrics.curves.len() as f64;
    let best = (0..1000).fold(0, |best, i| if mean(i) > mean(best) { i } else { best });
    close(
        mean(best),
        &serde_json::json!(numbers(&golden["F1"]).iter().sum::<f64>() / 8.0),
        "mean F1",
    );
    // What is reported is read from the same curves, where the smoothed mean is highest.
    let at = (metrics.confidence * 999.0).round() as usize;
    for (curve, class) in metrics.curves.iter().zip(&metrics.classes) {
        assert_eq!([class.precision, class.recall], [curve.precision[at], curve.recall[at]]);
    }
    assert!(mean(at) <= mean(best));
    close(metrics.map50, &golden["mAP50"], "mAP50");
    close(metrics.map, &golden["mAP"], "mAP");
    close(metrics.fitness(), &golden["fitness"], "fitness");
    for (i, class) in metrics.classes.iter().enumerate() {
        assert_eq!(class.class as u64, golden["classes"][i].as_u64().unwrap());
        close(metrics.curves[i].precision[best], &golden["P"][i], "P");
        close(metrics.curves[i].recall[best], &golden["R"][i], "R");
        close(f1(&metrics.curves[i], best), &golden["F1"][i], "F1");
        close(class.ap50(), &golden["AP50"][i], "AP50");
        close(class.ap75(), &golden["AP75"][i], "AP75");
        close(class.ap_mean(), &golden["AP"][i], "AP");
        for t in 0..10 {
            close(class.ap[t], &golden["AP_all"][i][t], "AP_all");
        }
    }
}

#[test]
fn confusion_matrix_equals_the_reference() {
    let golden = fixture("map.json");
    let side = golden["confusion_matrix"].as_array().unwrap().len();
    let mut matrix = ConfusionMatrix::new(side - 1);
    for (detections, truths) in images(&golden) {
        if !truths.is_empty() && !detections.is_empty() {
            matrix.add(&detections, &truths);
        }
    }
    for (row, expected) in matrix.rows().zip(golden["confusion_matrix"].as_array().unwrap()) {
        assert_eq!(row.iter().map(|v| *v as f64).collect::<Vec<_>>(), numbers(expected));
    }
}

/// Unlike in the reference, what is found where nothing is, or where nothing matches, is counted.
#[test]
fn detections_of_nothing_are_counted_in_every_image() {
    let detection = |x: f32, class: u32, conf: f32| Detection {
        xyxy: [x, 0.0, x + 10.0, 10.0],
        conf,
        class,
    };
    let truth = |x: f32, class: u32| Truth {
        xyxy: [x, 0.0, x + 10.0, 10.0],
        class,
    };
    let mut matrix = ConfusionMatrix::new(2);
    matrix.add(
        &[detection(0.0, 0, 0.9), detection(50.0, 1, 0.8), detection(70.0, 1, 0.1)],
        &[],
    );
    matrix.add(&[detection(50.0, 1, 0.9)], &[truth(0.0, 0)]);
    matrix.add(&[detection(0.0, 0, 0.9), detection(50.0, 0, 0.9)], &[truth(0.0, 0)]);
    let rows: Vec<&[u64]> = matrix.rows().collect();
    assert_eq!(rows, [[1, 0, 2], [0, 0, 2], [1, 0, 0]]);
}

#[test]
fn coco_numbers_equal_pycocotools() {
    let golden = fixture("map.json");
    let images: Vec<_> = images(&golden)
        .into_iter()
        .map(|(detections, truths)| {
            let truths = truths
                .iter()
                .map(|t| {
                    let [x1, y1, x2, y2] = t.xyxy.map(f64::from);
                    let xywh = [x1, y1, x2 - x1, y2 - y1];
                    CocoTruth {
                        class: t.class,
                        xywh,
                        area: xywh[2] * xywh[3],
                        crowd: false,
                    }
                })
                .collect();
            (detections, truths)
        })
        .collect();
    let metrics = coco_evaluate(&images, 10);
    let expected = &golden["pycocotools"];
    let names = [
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
    ];
    for (name, value) in names.iter().zip(metrics.ap.iter().chain(&metrics.ar)) {
        assert!(
            (value - expected[name].as_f64().unwrap()).abs() < 1e-9,
            "{name}: {value} {}",
            expected[name]
        );
    }
    for class in 0..10 {
        match golden["pycocotools_per_class_AP"][class.to_string()].as_f64() {
            Some(ap) => assert!((metrics.class_ap[class] - ap).abs() < 1e-9),
            None => assert!(metrics.class_ap[class].is_nan()),
        }
        if let Some(ap) = golden["pycocotools_per_class_AP50"][class.to_string()].as_f64() {
            assert!((metrics.class_ap50[class] - ap).abs() < 1e-9);
        }
    }
}
