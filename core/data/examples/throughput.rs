//! How fast images become batches on one thread: `cargo run -p yolo-data --example throughput -- DATA.yaml [SIZE]`.

use std::path::Path;
use std::time::Instant;

use yolo_data::letterbox::{Letterbox, letterbox};
use yolo_data::{Dataset, Hyp, Image, Loader, LoaderOptions, Policy, Result, Split};

/// Runs `work` over the items and prints the time of one.
fn measure<T>(name: &str, items: &[T], mut work: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for item in items {
        work(item)?;
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / items.len() as f64;
    println!("{name:<44} {each:8.2} ms/image  {:8.0} images/s", 1e3 / each);
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(data) = arguments.next() else {
        println!("usage: throughput DATA.yaml [SIZE]");
        return Ok(());
    };
    let size: usize = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(640);
    let mut samples = Dataset::open(Path::new(&data))?
        .samples(Split::Train, Policy::Skip)?
        .items;
    samples.truncate(64);
    println!("{} images, size {size}, one thread", samples.len());

    measure("decode", &samples, |sample| Image::open(&sample.image).map(drop))?;
    measure("size and damage of a file", &samples, |sample| {
        Image::look(&sample.image).map(drop)
    })?;
    let images: Vec<Image> = samples
        .iter()
        .map(|sample| Image::open(&sample.image))
        .collect::<Result<_>>()?;
    let options = Letterbox::square(size, false, 32);
    measure("letterbox", &images, |image| {
        letterbox(image, &options);
        Ok(())
    })?;
    for (name, hyp) in [
        ("train batch, cached: mosaic, scale, hsv, flip", Hyp::default()),
        (
            "same with rotation and shear",
            Hyp {
                degrees: 10.0,
                shear: 2.0,
                ..Hyp::default()
            },
        ),
        (
            "same with mixup",
            Hyp {
                mixup: 1.0,
                ..Hyp::default()
            },
        ),
        (
            "letterbox only, cached",
            Hyp {
                mosaic: 0.0,
                hsv_h: 0.0,
                hsv_s: 0.0,
                hsv_v: 0.0,
                ..Hyp::default()
            },
        ),
    ] {
        let mut options = LoaderOptions::train(size, 16, hyp, 1);
        options.workers = 1;
        let loader = Loader::new(samples.clone(), options)?;
        loader.epoch(0).try_for_each(|batch| batch.map(drop))?;
        let start = Instant::now();
        let count = loader.epoch(1).try_fold(0, |n, batch| batch.map(|b| n + b.len()))?;
        let each = start.elapsed().as_secs_f64() * 1e3 / count as f64;
        println!("{name:<44} {each:8.2} ms/image  {:8.0} images/s", 1e3 / each);
    }
    let mut options = LoaderOptions::val(size, 16);
    options.workers = 1;
    let loader = Loader::new(samples.clone(), options)?;
    let start = Instant::now();
    let count = loader.epoch(0).try_fold(0, |n, batch| batch.map(|b| n + b.len()))?;
    let each = start.elapsed().as_secs_f64() * 1e3 / count as f64;
    println!(
        "{:<44} {each:8.2} ms/image  {:8.0} images/s",
        "validation batch from files",
        1e3 / each
    );
    Ok(())
}
