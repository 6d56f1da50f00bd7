//! Latency in engines of their own processes: what the engine itself needed, without what it took to hand over the tensors.

use std::path::Path;
use std::time::{Duration, Instant};

use yolo_core::testing;
use yolo_engine::Checkpoint;
use yolo_export::bench::{Latency, Plan};
use yolo_export::checked::{self, Format, Request};
use yolo_export::deployed::Deployed;
use yolo_export::onnx::{self, Profile};

use super::{Engine, Setup, Timing, file_size, gflops};
use crate::error::{Error, Result};
use crate::{Session, open};

/// A port to an engine, with its name here.
type Port = (Engine, &'static dyn yolo_export::engine::Engine);

/// Times a file for an engine, or a checkpoint through a file that is gone afterwards.
pub(super) fn measure(session: Session<'_>, weights: &Path, (engine, port): Port, setup: Setup) -> Result<Timing> {
    let Setup {
        threads, batch, plan, ..
    } = setup;
    let timing = |latency: Latency, precision, sides: [i64; 2], size_bytes, gflops| Timing {
        weights: weights.to_owned(),
        engine: engine.name(),
        precision,
        threads,
        img: sides[0].max(sides[1]),
        sides,
        ms_median: latency.ms_median,
        ms_p95: latency.ms_p95,
        fps: latency.fps,
        size_bytes,
        gflops,
    };
    if yolo_export::engine::of_file(weights).is_some() {
        let mut file = Deployed::open(weights, port, threads)?;
        let open = setup.side.unwrap_or(640) as i64;
        let sides = file.image().unwrap_or([open; 2]);
        let batch = images_of_run(weights, file.batch(), batch)?;
        let latency = time(&mut file, [batch as i64, 3, sides[0], sides[1]], plan)?;
        return Ok(timing(latency, "as written", sides, file_size(weights)?, None));
    }
    let model = open::checkpoint(session, weights)?;
    let img = open::image_size(session, setup.side, &model)? as i64;
    let request = request(&model, engine, img, batch)?;
    let precision = if onnx::is_quantized(&model.graph) {
        "int8"
    } else {
        "f32"
    };
    let name = if engine == Engine::Ncnn {
        "model.param"
    } else {
        "model.onnx"
    };
    let prepared = checked::prepare(&model.graph, &model.params, &request, Path::new(name))?;
    let size_bytes = prepared.written().size_bytes;
    let (mut file, _folder) = prepared.open(port, threads)?;
    let latency = time(&mut file, [batch as i64, model.graph.input_channels(), img, img], plan)?;
    let gflops = batch as f64 * gflops(&model, img)?;
    Ok(timing(latency, precision, [img; 2], size_bytes, Some(gflops)))
}

/// Images of a run: those of the file, where it is written for a number of them.
fn images_of_run(weights: &Path, own: Option<usize>, asked: usize) -> Result<usize> {
    match own {
        Some(own) if asked > 1 && own != asked => Err(Error::Usage(format!(
            "{}: it is written for batches of {own}; leave --batch-size out",
            weights.display()
        ))),
        own => Ok(own.unwrap_or(asked)),
    }
}

/// As [`measure`], the latency alone.
pub(super) fn measured(session: Session<'_>, weights: &Path, port: Port, setup: Setup) -> Result<Latency> {
    let row = measure(session, weights, port, setup)?;
    Ok(Latency {
        ms_median: row.ms_median,
        ms_p95: row.ms_p95,
        fps: row.fps,
        runs: setup.plan.min_runs,
    })
}

/// The file that an engine gets of a checkpoint.
fn request(model: &Checkpoint, engine: Engine, img: i64, batch: usize) -> Result<Request> {
    let quantized = onnx::is_quantized(&model.graph);
    let format = match (engine, quantized) {
        (Engine::Ncnn, _) if batch > 1 => {
            return Err(Error::Usage("--batch-size: ncnn runs one image at a time".into()));
        }
        (Engine::Ncnn, _) => Format::Ncnn,
        (_, true) => Format::OnnxQdq,
        (_, false) => Format::Onnx,
    };
    Ok(Request {
        batch: Some(batch as i64),
        profile: Profile::OpenVino,
        check: false,
        names: model.meta.names.clone(),
        ..Request::new(format, [img; 2])
    })
}

/// Times one call after another, as the engine's own clock has it.
fn time(file: &mut Deployed, shape: [i64; 4], plan: Plan) -> Result<Latency> {
    let [batch, channels, height, width] = shape;
    let image = testing::input(batch, channels, height, width);
    for _ in 0..plan.warm_up {
        drop(file.predict(&image)?);
    }
    let (start, mut times) = (Instant::now(), Vec::with_capacity(plan.max_runs));
    while times.len() < plan.max_runs && (times.len() < plan.min_runs || start.elapsed() < plan.budget) {
        drop(file.predict(&image)?);
        times.push(Duration::from_secs_f64(file.milliseconds() / 1e3));
    }
    Latency::of(times, batch).ok_or_else(|| Error::Failed("bench: no run was timed".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_fixed_batch_runs_so_many_images() {
        let path = Path::new("b3.onnx");
        let of = |own, asked| images_of_run(path, own, asked);
        assert_eq!(of(Some(3), 1).ok(), Some(3));
        assert_eq!(of(Some(3), 3).ok(), Some(3));
        assert_eq!(of(None, 4).ok(), Some(4));
        let error = of(Some(3), 2).expect_err("another number").to_string();
        assert!(error.contains("b3.onnx") && error.contains("batches of 3"), "{error}");
    }

    #[test]
    fn the_size_of_a_file_in_two_parts_is_that_of_both() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("a.param", 7), ("a.bin", 100), ("b.onnx", 30), ("b.bin", 5)] {
            std::fs::write(folder.path().join(name), vec![0; bytes]).expect("a file");
        }
        let size = |name: &str| file_size(&folder.path().join(name));
        assert_eq!([size("a.param").ok(), size("b.onnx").ok()], [Some(107), Some(30)]);
        std::fs::write(folder.path().join("c.xml"), "x").expect("a file");
        let error = size("c.xml").expect_err("its weights are not there").to_string();
        assert!(error.contains("c.bin"), "{error}");
    }
}
