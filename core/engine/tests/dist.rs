//! Several ranks, as threads of one process: sums, copies, batch norm over all, shares of the loss, shared validation, refusals.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use yolo_builtin as _;
use yolo_core::exec::TrainNorm as _;
use yolo_core::prune::Step as HookStep;
use yolo_core::{Graph, Mode, Params, Program};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Split, synth};
use yolo_engine::dist::{Environment, World};
use yolo_engine::eval::NmsOptions;
use yolo_engine::loss::{Counts, Loss, LossOptions};
use yolo_engine::train::{Distillation, StepOptions, StepRates, Stepper, TrainOptions};
use yolo_engine::val;

/// Batches that were measured.
#[derive(Default)]
struct Seen(std::cell::Cell<usize>);

impl yolo_core::Progress for Seen {
    fn advance(&self, done: usize, _: usize, _: &str) {
        self.0.set(done);
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn environment(rank: usize, ranks: usize, port: u16) -> Environment {
    Environment {
        rank,
        world_size: ranks,
        local_rank: rank,
        master_addr: "127.0.0.1".into(),
        master_port: port,
        hosted: false,
        attempt: String::new(),
    }
}

/// Runs `work` as each of so many ranks; what each of them gives.
fn ranks<T: Send>(count: usize, work: impl Fn(&World) -> T + Sync) -> Vec<T> {
    ranks_shared(count, |world| work(world))
}

/// As [`ranks`], for those that keep their world.
fn ranks_shared<T: Send>(count: usize, work: impl Fn(&Arc<World>) -> T + Sync) -> Vec<T> {
    let port = free_port();
    let one = |rank: usize| {
        let lost = Box::new(|reason: &str| panic!("{reason}"));
        let world = World::join(&environment(rank, count, port), Device::Cpu, PATIENCE, lost).expect("a world");
        let world = Arc::new(world);
        let value = work(&world);
        world.leave().expect("an end");
        value
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|rank| scope.spawn(move || one(rank))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

/// Numbers from -1 to 1 that look random. Tensors are not shared between threads: each makes its own.
fn waves(shape: &[i64], phase: f64) -> Tensor {
    let count: i64 = shape.iter().product();
    let steps = Tensor::arange(count, (Kind::Double, Device::Cpu));
    ((steps.square() * 0.37 + phase).sin())
        .to_kind(Kind::Float)
        .reshape(shape)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn sums_copies_and_bytes_arrive() {
    let got = ranks(3, |world| {
        let rank = world.rank() as f64;
        let mut numbers = [1.0, rank];
        world.sum(&mut numbers).expect("a sum");
        // More than one bucket, of two kinds, one of them with another layout.
        let large = Tensor::full([8 << 20], rank + 1.0, (Kind::Float, Device::Cpu));
        let turned = Tensor::from_slice(&[rank, 1.0, 2.0, 3.0]).reshape([2, 2]).tr();
        world
            .sum_tensors(&[large.shallow_clone(), turned.shallow_clone(), large.narrow(0, 5, 0)])
            .expect("sums");
        let copied = Tensor::from_slice(&[rank as i64 + 7]);
        world.broadcast(std::slice::from_ref(&copied)).expect("a copy");
        let all = world.gather(vec![world.rank() as u8; world.rank()]).expect("bytes");
        assert_eq!(all.is_some(), world.is_main());
        if let Some(all) = all {
            assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
        }
        let shared = world.share(vec![9; 3 * (1 - world.rank().min(1))]).expect("bytes");
        assert!(world.all(true).expect("yes") && !world.all(world.rank() != 2).expect("no"));
        assert!(world.decide(world.is_main()).expect("yes") && !world.decide(!world.is_main()).expect("no"));
        (
            numbers,
            large.double_value(&[0]) + large.double_value(&[(8 << 20) - 1]),
            Vec::<f64>::try_from(turned.reshape([-1])).expect("numbers"),
            copied.int64_value(&[0]),
            shared,
        )
    });
    for (numbers, large, turned, copied, shared) in got {
        assert_eq!(numbers, [3.0, 3.0]);
        assert_eq!(large, 12.0);
        assert_eq!(turned, [3.0, 6.0, 3.0, 9.0]);
        assert_eq!(copied, 7);
        assert_eq!(shared, [9, 9, 9]);
    }
}

#[test]
fn batch_norm_over_parts_is_batch_norm_over_the_whole() {
    let options = (Kind::Float, Device::Cpu);
    // Value, gradients of input, weight and bias, running statistics.
    let run = |x: &Tensor, gradient: &Tensor, norm: &dyn Fn(&Tensor, [&Tensor; 4]) -> Tensor| -> Vec<Tensor> {
        let own = |tensor: &Tensor| tensor.detach().copy().set_requires_grad(true);
        let (x, weight, bias) = (own(x), own(&(waves(&[8], 3.0) + 1.5)), own(&waves(&[8], 4.0)));
        let (mean, var) = (Tensor::zeros([8], options), Tensor::ones([8], options));
        let y = norm(&x, [&weight, &bias, &mean, &var]);
        (&y * gradient).sum(Kind::Float).backward();
        vec![y.detach(), x.grad(), weight.grad(), bias.grad(), mean, var]
    };
    let inputs = || (waves(&[6, 8, 5, 7], 1.0) * 3 + 2, waves(&[6, 8, 5, 7], 2.0));
    let (x, gradient) = inputs();
    let whole = run(&x, &gradient, &|x, [weight, bias, mean, var]| {
        x.batch_norm(Some(weight), Some(bias), Some(mean), Some(var), true, 0.03, 1e-3, false)
    });
    // The third rank has no images of its own: that of another must not count, nor get a gradient.
    let parts = ranks(3, |world| {
        let norm = world.sync_norm().expect("several ranks");
        let (start, length) = [(0, 2), (2, 4), (0, 1)][world.rank()];
        norm.count(world.rank() < 2);
        let (x, gradient) = inputs();
        let (x, gradient) = if world.rank() < 2 {
            (x.narrow(0, start, length), gradient.narrow(0, start, length))
        } else {
            (x.narrow(0, 0, 1), x.zeros_like().narrow(0, 0, 1))
        };
        let got = run(&x, &gradient, &|x, params| {
            norm.batch_norm(x, params, 0.03, 1e-3).expect("a norm")
        });
        world
            .sum_tensors(&[got[2].shallow_clone(), got[3].shallow_clone()])
            .expect("sums");
        got
    });
    assert_eq!(
        parts[2][1].abs().max().double_value(&[]),
        0.0,
        "an idle rank has no gradient"
    );
    for (index, name) in ["value", "input", "weight", "bias", "mean", "variance"]
        .iter()
        .enumerate()
    {
        let joint = if index < 2 {
            Tensor::cat(&[&parts[0][index], &parts[1][index]], 0)
        } else {
            parts[2][index].shallow_clone()
        };
        let scale = whole[index].abs().max().double_value(&[]).max(1.0);
        let wrong = difference(&joint, &whole[index]) / scale;
        assert!(wrong < 1e-5, "{name} differs by {wrong}");
    }
}

fn tiny(classes: i64) -> (Graph, Params) {
    let text = "extends: yolov5n\nscale: {depth: 0.33, width: 0.0625}\n";
    let located = yolo_core::config::Located::parse("tiny", text).expect("YAML");
    let located = yolo_core::model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
    let graph = yolo_core::model::build(&located, Some(classes)).expect("a graph");
    let params = yolo_core::testing::fill_params(&graph, 2.5);
    (graph, params)
}

#[test]
fn shares_of_the_loss_add_up_to_the_loss() {
    let (graph, _) = tiny(3);
    let head = graph.head.clone().expect("a head");
    for gamma in [0.0, 1.5] {
        let options = LossOptions {
            fl_gamma: gamma,
            cls_pw: 0.7,
            ..LossOptions::default()
        };
        let loss = Loss::new(&head, options.scaled(3, 3, 64));
        tch::manual_seed(1);
        let maps: Vec<Tensor> = [8, 4, 2]
            .iter()
            .map(|side| Tensor::randn([4, 24, *side, *side], (Kind::Float, Device::Cpu)).set_requires_grad(true))
            .collect();
        let targets = [
            [0.0, 1.0, 0.5, 0.5, 0.3, 0.4],
            [0.0, 2.0, 0.2, 0.7, 0.1, 0.1],
            [3.0, 0.0, 0.6, 0.4, 0.5, 0.2],
        ];
        let whole = loss.compute(&maps, &targets).expect("a loss");
        whole.total.backward();
        let gradients: Vec<Tensor> = maps.iter().map(|map| map.grad().copy()).collect();
        maps.iter().for_each(|map| map.shallow_clone().zero_grad());

        // One image, then three; the first has two labels, the second and third none.
        let parts = [(0i64, 1i64), (1, 3)].map(|(start, length)| {
            let maps: Vec<Tensor> = maps.iter().map(|map| map.narrow(0, start, length)).collect();
            let own = targets
                .iter()
                .filter(|t| (start..start + length).contains(&(t[0] as i64)));
            let own: Vec<[f32; 6]> = own
                .map(|t| [t[0] - start as f32, t[1], t[2], t[3], t[4], t[5]])
                .collect();
            let assigned = loss.assign(&maps, &own).expect("targets");
            (Counts::of(&maps, &assigned), assigned, maps)
        });
        let counts = Counts {
            images: parts[0].0.images + parts[1].0.images,
            positives: (0..3)
                .map(|level| parts[0].0.positives[level] + parts[1].0.positives[level])
                .collect(),
        };
        let mut total = 0.0;
        for (_, assigned, maps) in &parts {
            let part = loss.compute_part(maps, assigned, &counts).expect("a share");
            part.total.backward();
            total += part.total.double_value(&[]);
        }
        let wanted = whole.total.double_value(&[]);
        assert!((total - wanted).abs() < 1e-4 * wanted.abs(), "{total} {wanted}");
        for (map, wanted) in maps.iter().zip(&gradients) {
            let scale = wanted.abs().max().double_value(&[]);
            assert!(difference(&map.grad(), wanted) < 1e-5 * scale.max(1e-3));
        }
    }
}

#[test]
fn ranks_measure_what_one_process_measures() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = synth::Settings {
        images: 40,
        size: 64,
        ..synth::Settings::default()
    };
    let made = synth::write(folder.path(), &settings, &|_| {}).expect("a data set");
    let data = Dataset::open(&made.yaml).expect("readable");
    let samples = data.samples(Split::Train, Policy::Strict).expect("good").items;
    let loader = Loader::new(
        samples,
        LoaderOptions {
            workers: 1,
            ..LoaderOptions::val(64, 5)
        },
    )
    .expect("a loader");
    assert_eq!(loader.batches() % 2, 0, "with three ranks one measures less");
    let (graph, params) = tiny(data.names.len() as i64);
    let nms = NmsOptions::validation();
    let loss = Loss::new(graph.head.as_ref().expect("a head"), LossOptions::default());
    let measured = |world: &World| {
        let (graph, params) = tiny(data.names.len() as i64);
        let detector = val::Detector::new(&graph, &params).expect("a detector");
        let seen = Seen::default();
        let report = val::measure_shared(&detector, &loader, &nms, Some(&loss), world, &seen).expect("a report");
        (report, seen.0.get())
    };
    let detector = val::Detector::new(&graph, &params).expect("a detector");
    let total = loader.batches();
    let batches = &mut loader.epoch(0);
    let one = val::measure(&detector, batches, total, &nms, Some(&loss), &mut |_| Ok(()), &());
    let one = one.expect("a report");
    let mut several = ranks(3, measured);
    assert_eq!(
        several.iter().map(|(_, seen)| seen).sum::<usize>(),
        total,
        "each batch once"
    );
    let joint = several.remove(0).0.expect("rank 0 has the report");
    assert!(several.iter().all(|(report, _)| report.is_none()));
    assert_eq!(joint.metrics, one.metrics);
    assert_eq!(joint.confusion, one.confusion);
    assert_eq!(joint.loss, one.loss);
    assert!(one.metrics.images == loader.images() && one.loss.is_some_and(|loss| loss[1] > 0.0));
}

#[test]
fn a_network_uses_the_norm_that_it_is_given() {
    let (graph, params) = tiny(3);
    let images = waves(&[4, 3, 64, 64], 1.0);
    let whole = Program::new(&graph, &params.deep_clone()).expect("a program");
    let whole = whole.run(&images, Mode::Train).expect("maps");
    let parts = ranks(2, |world| {
        let (graph, params) = tiny(3);
        let program = Program::new(&graph, &params).expect("a program");
        let program = program.with_norm(Box::new(world.sync_norm().expect("several ranks")));
        let own = waves(&[4, 3, 64, 64], 1.0).narrow(0, 2 * world.rank() as i64, 2);
        program.run(&own, Mode::Train).expect("maps")
    });
    for (level, wanted) in whole.iter().enumerate() {
        let joint = Tensor::cat(&[&parts[0][level], &parts[1][level]], 0);
        let scale = wanted.abs().max().double_value(&[]);
        assert!(difference(&joint, wanted) < 1e-4 * scale, "level {level}");
    }
}

/// Sizes of 20 batches; of one image, a second rank gets nothing.
const BATCHES: [i64; 5] = [4, 3, 4, 2, 1];

/// Losses of 20 steps in f64, where rounding does not part the curves of an untrained network, and the weights at the end. Two
/// batches make an update.
fn curve(world: &Arc<World>, sync_bn: bool) -> (Vec<f64>, Tensor) {
    let (graph, params) = tiny(3);
    let double = |(key, tensor): (&str, &Tensor)| {
        let tensor = if tensor.is_floating_point() {
            tensor.to_kind(Kind::Double)
        } else {
            tensor.copy()
        };
        (key.to_owned(), tensor)
    };
    let params: Params = params.iter().map(double).collect();
    let options = StepOptions::of(&TrainOptions::new(1, 4, 64, Hyp::default()), 5e-4);
    let stepper = Stepper::new(&graph, &params, &options).expect("a stepper");
    let mut stepper = stepper.within(world.clone(), sync_bn);
    let mut losses = Vec::new();
    for step in 0..20usize {
        let images = waves(&[4, 3, 64, 64], step as f64).to_kind(Kind::Double).abs();
        let whole = BATCHES[step % BATCHES.len()];
        let targets = (0..whole).flat_map(|image| {
            let at = 0.2 + 0.6 * ((step as f32 + image as f32 * 0.37) % 1.0);
            // The last image of a batch has no object.
            (0..(3 * i64::from(image + 1 < whole || whole == 1)))
                .map(move |class| (image, [class as f32, at, 1.0 - at, 0.3, 0.2]))
        });
        let mut own = world.shard().of(whole as usize);
        stepper.count(!own.is_empty());
        if own.is_empty() {
            own = 0..1;
        }
        let images = images.narrow(0, own.start as i64, own.len() as i64);
        let targets: Vec<[f32; 6]> = targets
            .filter(|(image, _)| own.contains(&(*image as usize)))
            .map(|(image, [c, x, y, w, h])| [(image as usize - own.start) as f32, c, x, y, w, h])
            .collect();
        let parts = stepper.accumulate(&images, &targets, &mut []).expect("a step");
        losses.push(parts.to_kind(Kind::Double).sum(Kind::Double).double_value(&[]));
        if step % 2 == 1 {
            let (rate, at) = (
                StepRates {
                    lr: 0.002,
                    bias_lr: 0.002,
                    momentum: 0.9,
                    accumulate: 2,
                },
                HookStep {
                    step: step / 2,
                    total: 10,
                    per_epoch: 10,
                },
            );
            stepper.update(&rate, at, &mut []).expect("an update");
        }
    }
    let all: Vec<Tensor> = stepper
        .params
        .iter()
        .map(|(_, tensor)| tensor.detach().to_kind(Kind::Double).reshape([-1]))
        .collect();
    (losses, Tensor::cat(&all, 0))
}

#[test]
fn ranks_learn_what_one_process_learns() {
    let (one, weights) = curve(&Arc::default(), false);
    for count in [2, 3] {
        for (losses, own) in ranks_shared(count, |world| curve(world, true)) {
            for (step, (a, b)) in one.iter().zip(&losses).enumerate() {
                // An untrained network multiplies what rounding differs by at each update.
                let share = if step < 4 { 1e-10 } else { 1e-4 };
                assert!((a - b).abs() <= share * a, "{count} ranks, step {step}: {a} and {b}");
            }
            assert!(difference(&weights, &own) < 1e-4, "{}", difference(&weights, &own));
        }
    }
    let start: Vec<Tensor> = tiny(3)
        .1
        .iter()
        .map(|(_, tensor)| tensor.to_kind(Kind::Double).reshape([-1]))
        .collect();
    let moved = difference(&weights, &Tensor::cat(&start, 0));
    assert!(moved > 1e-2, "nothing was learned: {moved}");
    // Without the norm of all it is another curve.
    let (losses, _) = ranks_shared(2, |world| curve(world, false)).remove(0);
    assert!(one.iter().zip(&losses).any(|(a, b)| (a - b).abs() > 1e-4 * a));
}

fn refused(environment: &Environment, patience: u64) -> String {
    let lost = Box::new(|reason: &str| panic!("{reason}"));
    let joined = World::join(environment, Device::Cpu, Duration::from_secs(patience), lost);
    joined.expect_err("nobody to meet").to_string()
}

#[test]
fn who_does_not_come_is_named() {
    let port = free_port();
    let start = Instant::now();
    let said = refused(&environment(0, 3, port), 1);
    assert!(
        said.contains("rank 1, 2 of 3 did not come") && said.contains(&format!("127.0.0.1:{port}")),
        "{said}"
    );
    let said = refused(&environment(1, 2, free_port()), 1);
    assert!(
        said.contains("nobody answers at 127.0.0.1:") && said.contains("MASTER_ADDR"),
        "{said}"
    );
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let said = refused(&environment(0, 2, port), 1);
    assert!(
        said.contains("the port is taken") && said.contains(&port.to_string()),
        "{said}"
    );
}

#[test]
fn a_rank_that_fails_tells_the_others() {
    let port = free_port();
    let start = Instant::now();
    let one = |rank: usize| {
        let lost = Box::new(|_: &str| {});
        let world = World::join(&environment(rank, 2, port), Device::Cpu, PATIENCE, lost).expect("a world");
        if rank == 1 {
            world.fail("the disk is full");
            return String::new();
        }
        world.barrier().expect_err("nobody answers").to_string()
    };
    let said = std::thread::scope(|scope| {
        let other = scope.spawn(|| one(1));
        let said = one(0);
        other.join().expect("no panic");
        said
    });
    assert!(said.contains("rank 1") && said.contains("the disk is full"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Adapters and losses after three updates in which only a teacher teaches. Batches of several sizes are split among the ranks.
fn taught(world: &Arc<World>, distil: &Distillation) -> (Vec<f64>, Tensor) {
    let (graph, params) = tiny(3);
    let hyp = Hyp {
        box_gain: 0.0,
        obj: 0.0,
        cls: 0.0,
        ..Hyp::default()
    };
    let mut options = TrainOptions::new(1, 4, 64, hyp);
    options.freeze_norm = true;
    let stepper = Stepper::new(&graph, &params, &StepOptions::of(&options, 5e-4)).expect("a stepper");
    let mut stepper = stepper
        .within(world.clone(), false)
        .taught_by(Some(distil), 7)
        .expect("a teacher");
    let mut losses = Vec::new();
    for (step, whole) in [4usize, 1, 3].into_iter().enumerate() {
        let images = waves(&[whole as i64, 3, 64, 64], step as f64)
            .abs()
            .to_kind(Kind::Float);
        let mut own = world.shard().of(whole);
        stepper.count(!own.is_empty());
        if own.is_empty() {
            own = 0..1;
        }
        let images = images.narrow(0, own.start as i64, own.len() as i64);
        let _ = stepper.accumulate(&images, &[], &mut []).expect("a step");
        let parts = stepper.distilled().expect("losses");
        losses.push(parts.sum(Kind::Double).double_value(&[]));
        let rate = StepRates {
            lr: 0.01,
            bias_lr: 0.01,
            momentum: 0.9,
            accumulate: 1,
        };
        let at = HookStep {
            step,
            total: 3,
            per_epoch: 3,
        };
        stepper.update(&rate, at, &mut []).expect("an update");
    }
    let state = stepper.state();
    let all: Vec<Tensor> = state
        .iter()
        .map(|(key, tensor)| (key.as_str(), tensor))
        .filter(|(key, _)| key.starts_with("distil.") && !key.ends_with(".first"))
        .chain(stepper.params.iter())
        .map(|(_, tensor)| tensor.detach().to_kind(Kind::Double).reshape([-1]))
        .collect();
    (losses, Tensor::cat(&all, 0))
}

#[test]
fn ranks_are_taught_what_one_process_is_taught() {
    let text = "extends: yolov5n\nscale: {depth: 0.33, width: 0.125}\n";
    let located = yolo_core::config::Located::parse("teacher", text).expect("YAML");
    let located = yolo_core::model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
    let graph = yolo_core::model::build(&located, Some(3)).expect("a graph");
    let params = yolo_core::testing::fill_params(&graph, 2.5);
    let teacher = yolo_engine::Checkpoint::new(graph, params, yolo_engine::checkpoint::Meta::default());
    for name in ["cwd", "logits"] {
        let config = serde_json::json!({"type": name});
        let distiller = yolo_core::config::Located::from_value(name, config)
            .read()
            .expect("a distiller");
        let distil = Distillation::new(distiller, &teacher).expect("a teacher");
        let (one, weights) = taught(&Arc::default(), &distil);
        assert!(one.iter().all(|loss| *loss > 0.0));
        for count in [2, 3] {
            for (losses, own) in ranks_shared(count, |world| taught(world, &distil)) {
                for (a, b) in one.iter().zip(&losses) {
                    assert!(
                        // The losses are 1e-5, made of numbers of single precision about 1; a wrong share is off by halves and thirds.
                        (a - b).abs() < 1e-3 * a,
                        "{name}, {count} ranks: {one:?} and {losses:?}"
                    );
                }
                assert!(
                    difference(&weights, &own) < 1e-4,
                    "{name}: {}",
                    difference(&weights, &own)
                );
            }
        }
    }
}
