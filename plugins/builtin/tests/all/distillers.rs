//! Distillers against their formulas, computed number by number in f64, and gradients against differences. Each formula is also computed
//! with a mistake in it, which must not pass for it.

use serde_json::{Value, json};
use tch::{Kind, Tensor};
use yolo_core::Distiller;
use yolo_core::distil::{DistilBatch, HeadWeights, Layout, Level, NetworkMaps, Params, checked_loss};
use yolo_core::params::init_tensor;
use yolo_core::testing::Stream;

const N: usize = 2;
const ANCHORS: usize = 2;
const CLASSES: usize = 3;
const NO: usize = CLASSES + 5;
/// Height and width of the two levels.
const SIZES: [[usize; 2]; 2] = [[4, 5], [2, 3]];
const WIDTHS: [usize; 2] = [6, 4];
const STRIDES: [i64; 2] = [8, 16];

fn layout(widths: [usize; 2]) -> Layout {
    let level = |at: usize| Level {
        stride: STRIDES[at],
        channels: widths[at] as i64,
        anchors: (1..=ANCHORS).map(|n| [(n * 7) as f64, (n * 11) as f64]).collect(),
    };
    Layout {
        classes: CLASSES as i64,
        levels: vec![level(0), level(1)],
    }
}

/// A network: feature maps and a head.
#[derive(Clone)]
struct Side {
    widths: [usize; 2],
    neck: [Vec<f64>; 2],
    raw: [Vec<f64>; 2],
    weight: [Vec<f64>; 2],
    bias: [Vec<f64>; 2],
}

fn numbers(key: &str, count: usize, scale: f64) -> Vec<f64> {
    let stream = Stream::new(key);
    (0..count as u32).map(|i| scale * stream.signed(i)).collect()
}

impl Side {
    fn new(key: &str, widths: [usize; 2]) -> Self {
        let cells = |at: usize| SIZES[at][0] * SIZES[at][1];
        let each = |what: &str, count: &dyn Fn(usize) -> usize, scale: f64| {
            [0, 1].map(|at| numbers(&format!("{key}.{what}.{at}"), count(at), scale))
        };
        let mut side = Self {
            widths,
            neck: each("neck", &|at| N * widths[at] * cells(at), 2.0),
            raw: [Vec::new(), Vec::new()],
            weight: each("weight", &|at| ANCHORS * NO * widths[at], 0.8),
            bias: each("bias", &|_| ANCHORS * NO, 0.5),
        };
        side.raw = [0, 1].map(|at| crossed(&side.neck, &side, at));
        side
    }

    fn tensor(&self, values: &[f64], channels: usize, at: usize) -> Tensor {
        let [h, w] = SIZES[at];
        Tensor::from_slice(values).reshape([N as i64, channels as i64, h as i64, w as i64])
    }

    fn maps(&self) -> NetworkMaps {
        NetworkMaps {
            raw: [0, 1].map(|at| self.tensor(&self.raw[at], ANCHORS * NO, at)).into(),
            neck: [0, 1].map(|at| self.tensor(&self.neck[at], self.widths[at], at)).into(),
        }
    }
}

/// What the head of `side` makes of feature maps of its width.
fn crossed(neck: &[Vec<f64>; 2], side: &Side, at: usize) -> Vec<f64> {
    let ([h, w], width) = (SIZES[at], side.widths[at]);
    let mut out = vec![0.0; N * ANCHORS * NO * h * w];
    for n in 0..N {
        for o in 0..ANCHORS * NO {
            for cell in 0..h * w {
                let terms =
                    (0..width).map(|c| side.weight[at][o * width + c] * neck[at][(n * width + c) * h * w + cell]);
                out[(n * ANCHORS * NO + o) * h * w + cell] = side.bias[at][o] + terms.sum::<f64>();
            }
        }
    }
    out
}

fn made(config: Value) -> Box<dyn Distiller> {
    serde_json::from_value(config).expect("a distiller")
}

/// The parts of the loss with these adapters.
fn compare(
    distiller: &dyn Distiller,
    student: NetworkMaps,
    widths: [usize; 2],
    teacher: &Side,
    adapters: &Params,
) -> Tensor {
    let (own, other) = (layout(widths), layout(teacher.widths));
    let head = [0, 1].map(|at| HeadWeights {
        weight: Tensor::from_slice(&teacher.weight[at]).reshape([-1, teacher.widths[at] as i64, 1, 1]),
        bias: Tensor::from_slice(&teacher.bias[at]),
    });
    let batch = DistilBatch {
        student_layout: &own,
        teacher_layout: &other,
        student,
        teacher: teacher.maps(),
        teacher_head: head.into(),
        adapters,
    };
    checked_loss("it", distiller, &batch).expect("a loss")
}

fn parts(distiller: &dyn Distiller, student: &Side, teacher: &Side) -> Vec<f64> {
    assert_eq!(student.widths, teacher.widths, "no adapters here");
    let none = Params::new();
    Vec::try_from(compare(distiller, student.maps(), student.widths, teacher, &none)).expect("numbers")
}

#[track_caller]
fn assert_formula(got: &[f64], wanted: &[f64], mistakes: &[(&str, Vec<f64>)]) {
    let apart = |a: &[f64], b: &[f64]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs() / b.abs().max(1e-12))
            .fold(0.0, f64::max)
    };
    assert_eq!(got.len(), wanted.len());
    assert!(apart(got, wanted) < 1e-9, "{got:?} is not {wanted:?}");
    for (what, wrong) in mistakes {
        assert!(apart(got, wrong) > 1e-3, "{what} would pass: {wrong:?}");
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// All predictions of a level: student and teacher, `5 + classes` each.
fn predictions<'a>(s: &'a [f64], t: &'a [f64], at: usize) -> impl Iterator<Item = (usize, Vec<f64>, Vec<f64>)> + 'a {
    let cells = SIZES[at][0] * SIZES[at][1];
    (0..N * ANCHORS).flat_map(move |row| {
        (0..cells).map(move |cell| {
            let take = |x: &[f64]| (0..NO).map(|o| x[(row * NO + o) * cells + cell]).collect::<Vec<_>>();
            (row % ANCHORS, take(s), take(t))
        })
    })
}

fn student_and_teacher() -> (Side, Side) {
    (Side::new("student", WIDTHS), Side::new("teacher", WIDTHS))
}

#[test]
fn logits_are_squared_distances_weighted_by_the_teachers_objectness() {
    let formula = |s: &Side, t: &Side, weight: &dyn Fn(&[f64], &[f64]) -> f64| {
        let mut sums = [0.0; 3];
        for (at, [h, w]) in SIZES.into_iter().enumerate() {
            let count = (N * ANCHORS * h * w) as f64;
            for (_, s, t) in predictions(&s.raw[at], &t.raw[at], at) {
                let square = |range: std::ops::Range<usize>| range.map(|i| (s[i] - t[i]).powi(2)).sum::<f64>();
                let w = weight(&s, &t) / count;
                sums[0] += w * square(0..4) / 4.0;
                sums[1] += w * square(4..5);
                sums[2] += w * square(5..NO) / CLASSES as f64;
            }
        }
        vec![3.0 * 0.05 * sums[0], 3.0 * 0.9 * sums[1], 3.0 * 0.5 * sums[2]]
    };
    let (s, t) = student_and_teacher();
    let distiller = made(json!({"type": "logits", "weight": 3.0, "obj": 0.9}));
    let by_teacher = |_: &[f64], t: &[f64]| sigmoid(t[4]);
    assert_formula(
        &parts(&*distiller, &s, &t),
        &formula(&s, &t, &by_teacher),
        &[
            ("student and teacher swapped", formula(&t, &s, &by_teacher)),
            ("the student's objectness", formula(&s, &t, &|s, _| sigmoid(s[4]))),
            ("no objectness", formula(&s, &t, &|_, _| 1.0)),
            ("objectness before its sigmoid", formula(&s, &t, &|_, t| t[4])),
        ],
    );
    assert_eq!(parts(&*distiller, &t, &t), [0.0; 3]);
}

#[test]
fn cwd_is_the_divergence_of_channels_over_cells() {
    fn softmax(row: &[f64], tau: f64) -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| (x / tau).exp()).sum();
        row.iter().map(|x| (x / tau).exp() / sum).collect()
    }
    let formula = |s: &Side, t: &Side, tau: f64, scale: f64| {
        let mut loss = 0.0;
        for (at, [h, w]) in SIZES.into_iter().enumerate() {
            let cells = h * w;
            let rows = s.neck[at].chunks(cells).zip(t.neck[at].chunks(cells));
            let sum: f64 = rows
                .map(|(s, t)| {
                    let (s, t) = (softmax(s, tau), softmax(t, tau));
                    t.iter().zip(&s).map(|(t, s)| t * (t / s).ln()).sum::<f64>()
                })
                .sum();
            loss += scale * sum / (N * t.widths[at]) as f64;
        }
        vec![0.7 * loss]
    };
    let (s, t) = student_and_teacher();
    let distiller = made(json!({"type": "cwd", "tau": 4.0, "weight": 0.7}));
    assert_formula(
        &parts(&*distiller, &s, &t),
        &formula(&s, &t, 4.0, 16.0),
        &[
            ("student and teacher swapped", formula(&t, &s, 4.0, 16.0)),
            ("no temperature", formula(&s, &t, 1.0, 1.0)),
            ("no square of the temperature", formula(&s, &t, 4.0, 1.0)),
            ("a temperature in the square only", formula(&s, &t, 1.0, 16.0)),
        ],
    );
    assert!(parts(&*distiller, &t, &t)[0].abs() < 1e-15);
}

#[test]
fn pkd_is_one_minus_the_correlation() {
    /// Correlation of one channel over images and cells.
    fn correlation(s: &[f64], t: &[f64], eps: f64, centred: bool) -> f64 {
        let count = s.len() as f64;
        let mean = |x: &[f64]| if centred { x.iter().sum::<f64>() / count } else { 0.0 };
        let (ms, mt) = (mean(s), mean(t));
        let var = |x: &[f64], m: f64| x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / count + eps;
        let (ds, dt) = (var(s, ms).sqrt(), var(t, mt).sqrt());
        let apart = s.iter().zip(t).map(|(s, t)| ((s - ms) / ds - (t - mt) / dt).powi(2));
        apart.sum::<f64>() / count / 2.0
    }
    let formula = |s: &Side, t: &Side, centred: bool, per_image: bool| {
        let mut loss = 0.0;
        for (at, [h, w]) in SIZES.into_iter().enumerate() {
            let (cells, width) = (h * w, t.widths[at]);
            let channel = |x: &[f64], c: usize, images: std::ops::Range<usize>| -> Vec<f64> {
                images
                    .flat_map(|n| x[(n * width + c) * cells..][..cells].to_vec())
                    .collect()
            };
            let mut sum = 0.0;
            for c in 0..width {
                let size = if per_image { 1 } else { N };
                let groups: Vec<_> = (0..N).step_by(size).map(|n| n..n + size).collect();
                for images in &groups {
                    let own = channel(&s.neck[at], c, images.clone());
                    let other = channel(&t.neck[at], c, images.clone());
                    sum += correlation(&own, &other, 1e-6, centred) / groups.len() as f64;
                }
            }
            loss += sum / width as f64;
        }
        vec![6.0 * loss]
    };
    let (mut s, t) = student_and_teacher();
    s.neck.iter_mut().flatten().for_each(|x| *x += 0.4);
    let distiller = made(json!({"type": "pkd", "weight": 6.0}));
    let wanted = formula(&s, &t, true, false);
    assert_formula(
        &parts(&*distiller, &s, &t),
        &wanted,
        &[
            ("no means", formula(&s, &t, false, false)),
            ("each image by itself", formula(&s, &t, true, true)),
            ("no half", vec![2.0 * wanted[0]]),
        ],
    );
    // Scale and offset of the student make no difference; its sign does.
    let mut other = t.clone();
    other.neck.iter_mut().flatten().for_each(|x| *x = 3.0 * *x - 5.0);
    assert!(parts(&*distiller, &other, &t)[0] < 1e-9);
    other.neck.iter_mut().flatten().for_each(|x| *x = -*x);
    assert!(
        (parts(&*distiller, &other, &t)[0] - 2.0 * 6.0 * 2.0).abs() < 1e-3,
        "r = -1 on both levels"
    );
}

#[test]
fn crosskd_reads_the_students_features_with_the_teachers_head() {
    fn corners(p: &[f64], anchor: [f64; 2], stride: f64) -> [f64; 4] {
        let side = |i: usize| (2.0 * sigmoid(p[2 + i])).powi(2) * anchor[i] / stride;
        let centre = |i: usize| 2.0 * sigmoid(p[i]) - 0.5;
        let (w, h) = (side(0), side(1));
        [
            centre(0) - w / 2.0,
            centre(1) - h / 2.0,
            centre(0) + w / 2.0,
            centre(1) + h / 2.0,
        ]
    }
    fn giou(a: [f64; 4], b: [f64; 4]) -> f64 {
        let area = |x: [f64; 4]| (x[2] - x[0]).max(0.0) * (x[3] - x[1]).max(0.0);
        let inner = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
        let outer = area([a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]) + 1e-7;
        let union = area(a) + area(b) - inner + 1e-7;
        inner / union - (outer - union) / outer
    }
    fn focal(p: f64, t: f64, beta: f64) -> f64 {
        let (q, r) = (sigmoid(p), sigmoid(t));
        (q - r).abs().powf(beta) * -(r * q.ln() + (1.0 - r) * (1.0 - q).ln())
    }
    let formula = |own: &dyn Fn(usize) -> Vec<f64>, t: &Side, beta: f64, weighted: bool| {
        let mut sums = [0.0; 3];
        for at in 0..2 {
            let (about, own) = (layout(WIDTHS).levels[at].clone(), own(at));
            let (mut total, mut level, mut count) = (0.0, [0.0; 3], 0.0);
            for (anchor, p, t) in predictions(&own, &t.raw[at], at) {
                let w = if weighted { sigmoid(t[4]) } else { 1.0 };
                let [a, b] = [&p, &t].map(|x| corners(x, about.anchors[anchor], about.stride as f64));
                level[0] += w * (1.0 - giou(a, b));
                level[1] += focal(p[4], t[4], beta);
                level[2] += w * (5..NO).map(|i| focal(p[i], t[i], beta)).sum::<f64>() / CLASSES as f64;
                total += w;
                count += 1.0;
            }
            sums[0] += level[0] / (total + 1e-7);
            sums[1] += level[1] / count;
            sums[2] += level[2] / (total + 1e-7);
        }
        vec![2.0 * 0.05 * sums[0], 2.0 * sums[1], 2.0 * 0.5 * sums[2]]
    };
    let (s, t) = student_and_teacher();
    let distiller = made(json!({"type": "crosskd", "weight": 2.0, "beta": 1.5}));
    let through_teacher = |at: usize| crossed(&s.neck, &t, at);
    assert_formula(
        &parts(&*distiller, &s, &t),
        &formula(&through_teacher, &t, 1.5, true),
        &[
            (
                "the student's own head",
                formula(&|at| s.raw[at].clone(), &t, 1.5, true),
            ),
            ("another exponent", formula(&through_teacher, &t, 1.0, true)),
            ("no objectness", formula(&through_teacher, &t, 1.5, false)),
        ],
    );
    let equal = parts(&*distiller, &t, &t);
    assert!(equal.iter().all(|part| part.abs() < 1e-6), "{equal:?}");
}

/// Gradients of all that is trained, adapters included, against central differences in f64.
#[test]
fn gradients_are_those_of_the_formulas() {
    const NARROW: [usize; 2] = [3, 5];
    for config in [
        json!({"type": "logits"}),
        json!({"type": "cwd", "tau": 2.0}),
        json!({"type": "pkd"}),
        json!({"type": "crosskd"}),
    ] {
        let distiller = made(config.clone());
        let (student, teacher) = (Side::new("narrow", NARROW), Side::new("teacher", WIDTHS));
        let specs = distiller.adapters(&layout(NARROW), &layout(WIDTHS)).expect("adapters");
        assert_eq!(specs.len(), if distiller.needs().neck { 2 } else { 0 }, "{config}");
        let adapters: Params = specs
            .iter()
            .map(|spec| {
                let tensor = init_tensor(spec, 3).to_kind(Kind::Double).set_requires_grad(true);
                (spec.key.clone(), tensor)
            })
            .collect();
        let maps = student.maps();
        let leaves: Vec<Tensor> = maps
            .raw
            .iter()
            .chain(&maps.neck)
            .map(|map| map.set_requires_grad(true))
            .chain(adapters.iter().map(|(_, tensor)| tensor.shallow_clone()))
            .collect();
        let view = || NetworkMaps {
            raw: maps.raw.iter().map(Tensor::shallow_clone).collect(),
            neck: maps.neck.iter().map(Tensor::shallow_clone).collect(),
        };
        let loss = || compare(&*distiller, view(), NARROW, &teacher, &adapters).sum(Kind::Double);
        loss().backward();
        let mut compared = 0;
        for leaf in &leaves {
            let grad = leaf.grad();
            if !grad.defined() {
                continue;
            }
            let (flat, grad) = (leaf.detach().view([-1]), grad.reshape([-1]));
            for index in (0..flat.size()[0]).step_by(7) {
                let mut element = flat.get(index);
                let at = |element: &mut Tensor, step: f64| {
                    let _ = element.g_add_scalar_(step);
                    tch::no_grad(loss).double_value(&[])
                };
                let high = at(&mut element, 1e-5);
                let low = at(&mut element, -2e-5);
                let _ = at(&mut element, 1e-5);
                let (measured, said) = ((high - low) / 2e-5, grad.double_value(&[index]));
                assert!(
                    (measured - said).abs() < 1e-5 * said.abs().max(1e-3),
                    "{config}: {measured} by differences, {said} by autograd"
                );
                compared += 1;
            }
        }
        assert!(compared > 20, "{config}: {compared}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused_before_a_training() {
    for (config, word) in [
        (json!({"type": "cwd", "tau": 0.0}), "tau: 0"),
        (json!({"type": "cwd", "tau": -1.0}), "tau: -1"),
        (json!({"type": "crosskd", "beta": 0.5}), "beta: 0.5"),
    ] {
        let refused = made(config)
            .adapters(&layout(WIDTHS), &layout(WIDTHS))
            .expect_err(word)
            .to_string();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn weights_that_teach_nothing_or_the_opposite_are_refused() {
    let check = |options: Value| {
        let distiller: Box<dyn Distiller> = serde_json::from_value(options).expect("a distiller");
        distiller
            .adapters(&layout(WIDTHS), &layout(WIDTHS))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for name in ["logits", "cwd", "pkd", "crosskd"] {
        assert_eq!(check(json!({ "type": name })), Ok(()));
        for weight in [0.0, -1.0] {
            let error = check(json!({ "type": name, "weight": weight })).expect_err(name);
            assert!(error.contains(&format!("{name}: `weight: {weight}`")), "{error}");
        }
    }
    assert!(
        check(json!({ "type": "cwd", "tau": -1.0 }))
            .expect_err("tau")
            .contains("`tau: -1`")
    );
    assert!(
        check(json!({ "type": "logits", "obj": -1.0 }))
            .expect_err("obj")
            .contains("`obj: -1`")
    );
    assert_eq!(check(json!({ "type": "logits", "obj": 0.0 })), Ok(()));
}
