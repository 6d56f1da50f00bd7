//! Prune metrics against their formulas, written out in f64.

use serde_json::{Value, json};
use tch::Tensor;
use yolo_core::PruneMetric;
use yolo_core::prune::GroupTensors;
use yolo_core::testing::Stream;

const CHANNELS: usize = 7;
/// Elements per channel of the layers of a group.
const LAYERS: [usize; 2] = [12, 5];

/// Numbers `[CHANNELS, elements]`.
type Rows = Vec<Vec<f64>>;

fn rows(name: &str, elements: usize, positive: bool) -> Rows {
    let stream = Stream::new(name);
    let at = |i: usize| {
        let value = f64::from(stream.signed(i as u32) as f32);
        if positive { value.abs() } else { value }
    };
    (0..CHANNELS)
        .map(|row| (0..elements).map(|i| at(row * elements + i)).collect())
        .collect()
}

fn tensor(rows: &Rows) -> Tensor {
    let flat: Vec<f32> = rows.iter().flatten().map(|v| *v as f32).collect();
    let tensor = Tensor::from_slice(&flat);
    match rows[0].len() {
        1 => tensor,
        elements => tensor.view([CHANNELS as i64, elements as i64]),
    }
}

/// A group of `layers` layers and all that may be known of it.
struct Group {
    weights: Vec<Rows>,
    grads: Vec<Rows>,
    squares: Vec<Rows>,
    gammas: Vec<Rows>,
    gamma_grads: Vec<Rows>,
    gamma_squares: Vec<Rows>,
    activations: Vec<Rows>,
}

impl Group {
    fn new(layers: usize) -> Self {
        let each = |name: &str, wide: bool, positive: bool| -> Vec<Rows> {
            let own = LAYERS[..layers].iter().enumerate();
            own.map(|(at, elements)| rows(&format!("{name}.{at}"), if wide { *elements } else { 1 }, positive))
                .collect()
        };
        Self {
            weights: each("weight", true, false),
            grads: each("grad", true, false),
            squares: each("square", true, true),
            gammas: each("gamma", false, false),
            gamma_grads: each("gamma_grad", false, false),
            gamma_squares: each("gamma_square", false, true),
            activations: each("activation", false, true),
        }
    }

    fn tensors(&self) -> GroupTensors {
        let all = |list: &[Rows]| list.iter().map(tensor).collect();
        GroupTensors {
            name: "group".into(),
            index: (0, 1),
            channels: CHANNELS,
            weights: all(&self.weights),
            weight_grads: all(&self.grads),
            weight_squares: all(&self.squares),
            gammas: all(&self.gammas),
            gamma_grads: all(&self.gamma_grads),
            gamma_squares: all(&self.gamma_squares),
            betas: Vec::new(),
            activations: all(&self.activations),
        }
    }

    /// Sum over layers of a number per row, divided by its elements where there are several layers.
    fn per_layer(&self, of: impl Fn(&Rows, usize) -> f64, growth: impl Fn(f64) -> f64) -> Vec<f64> {
        let several = self.weights.len() > 1;
        let each = |channel: usize| {
            self.weights
                .iter()
                .map(|layer| of(layer, channel) / if several { growth(layer[0].len() as f64) } else { 1.0 })
                .sum()
        };
        (0..CHANNELS).map(each).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The point with the smallest sum of distances to all rows, by descent along the sub-gradient: another way than the metric's.
fn median(rows: &Rows) -> Vec<f64> {
    let count = rows.len() as f64;
    let mut x: Vec<f64> = (0..rows[0].len())
        .map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / count)
        .collect();
    let cost = |x: &[f64]| rows.iter().map(|row| distance(row, x)).sum::<f64>();
    let mut step = 0.1;
    while step > 1e-9 {
        let gradient: Vec<f64> = (0..x.len())
            .map(|i| {
                rows.iter()
                    .map(|row| (x[i] - row[i]) / distance(row, &x).max(1e-12))
                    .sum()
            })
            .collect();
        let next: Vec<f64> = x.iter().zip(&gradient).map(|(x, g)| x - step * g).collect();
        if cost(&next) < cost(&x) {
            x = next;
        } else {
            step /= 2.0;
        }
    }
    x
}

fn expected(metric: &str, group: &Group) -> Vec<f64> {
    let all = |of: &dyn Fn(usize) -> f64| (0..CHANNELS).map(of).collect::<Vec<f64>>();
    let squared = group.per_layer(|rows, at| dot(&rows[at], &rows[at]), |n| n);
    let to_all = |rows: &Rows, at: usize, between: &dyn Fn(&[f64], &[f64]) -> f64| -> f64 {
        rows.iter().map(|other| between(&rows[at], other)).sum()
    };
    match metric {
        "l1" => group.per_layer(|rows, at| rows[at].iter().map(|v| v.abs()).sum(), |n| n),
        "l2" => squared.into_iter().map(f64::sqrt).collect(),
        "lamp" => all(&|at| squared[at] / squared.iter().filter(|other| **other >= squared[at]).sum::<f64>()),
        "fpgm" => group.per_layer(|rows, at| to_all(rows, at, &distance), f64::sqrt),
        "fpgm-l1" => {
            let between = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
            group.per_layer(|rows, at| to_all(rows, at, &between), |n| n)
        }
        "fpgm-cosine" => {
            let between = |a: &[f64], b: &[f64]| 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            group.per_layer(|rows, at| to_all(rows, at, &between), |_| 1.0)
        }
        "geometric-median" => group.per_layer(|rows, at| distance(&rows[at], &median(rows)), f64::sqrt),
        "bn-gamma" => all(&|at| {
            let sum: f64 = group.gammas.iter().map(|rows| rows[at][0].abs()).sum();
            sum / group.gammas.len() as f64
        }),
        "taylor" => all(&|at| {
            let sum = |values: &[Rows], grads: &[Rows]| -> f64 {
                values.iter().zip(grads).map(|(v, g)| dot(&v[at], &g[at]).powi(2)).sum()
            };
            sum(&group.weights, &group.grads) + sum(&group.gammas, &group.gamma_grads)
        }),
        "hessian" => all(&|at| {
            let sum = |values: &[Rows], squares: &[Rows]| -> f64 {
                let own = |(v, s): (&Rows, &Rows)| v[at].iter().zip(&s[at]).map(|(v, s)| v * v * s).sum::<f64>();
                values.iter().zip(squares).map(own).sum()
            };
            sum(&group.weights, &group.squares) + sum(&group.gammas, &group.gamma_squares)
        }),
        "activation" => all(&|at| {
            let sum: f64 = group.activations.iter().map(|rows| rows[at][0]).sum();
            sum / group.activations.len() as f64
        }),
        other => panic!("{other}"),
    }
}

/// Largest relative difference of the scores from the formula.
fn off(config: &Value, formula: &str, group: &Group) -> f64 {
    let metric: Box<dyn PruneMetric> = serde_json::from_value(config.clone()).expect("a metric");
    let scores = metric.score(&group.tensors()).expect("scores");
    assert_eq!(scores.len(), CHANNELS);
    let each = scores.iter().zip(expected(formula, group));
    each.map(|(score, expected)| (f64::from(*score) - expected).abs() / expected.abs().max(1e-12))
        .fold(0.0, f64::max)
}

#[test]
fn scores_are_the_formulas() {
    let metrics = [
        ("l1", json!({"type": "l1"})),
        ("l2", json!({"type": "l2"})),
        ("lamp", json!({"type": "lamp"})),
        ("fpgm", json!({"type": "fpgm"})),
        ("fpgm-l1", json!({"type": "fpgm", "distance": "l1"})),
        ("fpgm-cosine", json!({"type": "fpgm", "distance": "cosine"})),
        (
            "geometric-median",
            json!({"type": "geometric-median", "iterations": 1000}),
        ),
        ("bn-gamma", json!({"type": "bn-gamma"})),
        ("taylor", json!({"type": "taylor"})),
        ("hessian", json!({"type": "hessian"})),
        ("activation", json!({"type": "activation"})),
    ];
    for layers in [1, 2] {
        let group = Group::new(layers);
        for (name, config) in &metrics {
            // Products and sums of f32; the median's two searches end before their limit.
            let limit = if *name == "geometric-median" { 1e-4 } else { 2e-5 };
            let found = off(config, name, &group);
            assert!(found < limit, "{name} of {layers} layers is off by {found}");
            // No other formula would do.
            for (other, _) in &metrics {
                assert!(other == name || off(config, other, &group) > 1e-3, "{name} is {other}");
            }
        }
    }
}
