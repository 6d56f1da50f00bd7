//! Times the parts of a training step and of an inference:
//! `OMP_NUM_THREADS=1 cargo run --release -p yolo-engine --example step -- [MODEL] [SIZE] [BATCH] [STEPS]`.
//! Where the system tells it, the time is that of the processor in the main thread, so that other work on the machine matters
//! less: with one thread of libtorch that is all there is.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use yolo_builtin as _;
use yolo_core::exec::channels_last;
use yolo_core::{Graph, Params};
use yolo_data::Hyp;
use yolo_engine::eval::{Nms, NmsOptions};
use yolo_engine::train::{OptimizerKind, Precision, StepOptions, Stepper};
use yolo_engine::val::Detector;

type Anything<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn graph(name: &str) -> Anything<Graph> {
    let (name, text) = yolo_core::model::find(name).ok_or("no such model")?;
    let config = yolo_core::config::Located::parse(&format!("{name}.yaml"), text)?;
    let config = yolo_core::model::resolve_extends(config, &mut |_| Ok(None))?;
    Ok(yolo_core::model::build(&config, Some(3))?)
}

/// Time spent so far.
fn now(start: Instant) -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = spent.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Sums of the time of each part, by name.
#[derive(Default)]
struct Clock {
    parts: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let clock = Instant::now();
        let start = now(clock);
        let result = work();
        let spent = now(clock).saturating_sub(start);
        match self.parts.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum += spent,
            None => self.parts.push((name, spent)),
        }
        result
    }

    fn print(&self, title: &str, rounds: usize) {
        let total: Duration = self.parts.iter().map(|(_, sum)| *sum).sum();
        println!("{title}: {:.1} ms", total.as_secs_f64() * 1e3 / rounds as f64);
        for (name, sum) in &self.parts {
            println!("  {name:>10} {:8.2} ms", sum.as_secs_f64() * 1e3 / rounds as f64);
        }
    }
}

fn main() -> Anything {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| arguments.get(index).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (size, batch, steps) = (number(1, 320) as i64, number(2, 16) as i64, number(3, 5));
    let graph = graph(arguments.first().map_or("yolov5n", String::as_str))?;
    let images = channels_last(&Tensor::rand([batch, 3, size, size], (Kind::Float, Device::Cpu)));
    let targets: Vec<[f32; 6]> = (0..batch * 12)
        .map(|i| {
            [
                (i / 12) as f32,
                (i % 3) as f32,
                0.1 + (i % 9) as f32 * 0.09,
                0.1 + (i % 7) as f32 * 0.11,
                0.1,
                0.12,
            ]
        })
        .collect();
    train(&graph, &images, &targets, steps)?;
    infer(&graph, &images, steps)
}

fn train(graph: &Graph, images: &Tensor, targets: &[[f32; 6]], steps: usize) -> Anything {
    let options = StepOptions {
        hyp: Hyp::default(),
        size: images.size()[2] as usize,
        optimizer: OptimizerKind::Sgd,
        decay: 5e-4,
        precision: Precision::Off,
        freeze: Vec::new(),
        freeze_norm: false,
        fuse: true,
        record: false,
    };
    let mut stepper = Stepper::new(graph, &Params::init(graph, 0), &options)?;
    let mut ema = stepper.ema();
    let mut clock = Clock::default();
    for step in 0..=steps {
        if step == 1 {
            clock = Clock::default(); // the first step warms up
        }
        let maps = clock.time("forward", || stepper.maps(images))?;
        let value = clock.time("loss", || stepper.loss().compute(&maps, targets))?;
        clock.time("backward", || value.total.f_backward())?;
        clock.time("clip", || stepper.optimizer.clip_gradients(10.0))?;
        clock.time("optimizer", || stepper.optimizer.step(None))?;
        clock.time("zero", || stepper.optimizer.zero_grad())?;
        clock.time("average", || ema.update())?;
    }
    clock.print("training step", steps);
    Ok(())
}

fn infer(graph: &Graph, images: &Tensor, steps: usize) -> Anything {
    let detector = Detector::new(graph, &Params::init(graph, 0))?;
    let mut clock = Clock::default();
    let mut found = Vec::new();
    for step in 0..=steps {
        if step == 1 {
            clock = Clock::default();
        }
        let maps = clock.time("network", || detector.maps(images))?;
        let boxes = clock.time("decode", || detector.decode(&maps))?;
        let columns = detector.classes() + 5;
        let mut rows = vec![0f32; boxes.numel()];
        clock.time("nms", || {
            boxes.copy_data(&mut rows, boxes.numel());
            for image in rows.chunks_exact(rows.len() / images.size()[0] as usize) {
                found.clear();
                Nms::default().run(image, columns, &[], &NmsOptions::validation(), &mut found);
            }
        });
    }
    clock.print("inference of a batch", steps);
    Ok(())
}
