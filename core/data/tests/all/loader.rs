//! Batches: the same for a seed whatever the number of workers, every image once in validation, errors instead of hanging.

use yolo_data::{Batch, Dataset, Hyp, Loader, LoaderOptions, Policy, Sample, Shard, Split, synth};

use crate::folder;

fn samples(folder: &std::path::Path, images: usize) -> Vec<Sample> {
    let settings = synth::Settings {
        images,
        size: 64,
        ..synth::Settings::default()
    };
    let made = synth::write(folder, &settings, &|_| {}).expect("a data set");
    let data = Dataset::open(&made.yaml).expect("readable");
    data.samples(Split::Train, Policy::Strict).expect("good").items
}

fn epoch(samples: &[Sample], options: &LoaderOptions, number: usize) -> Vec<Batch> {
    let loader = Loader::new(samples.to_vec(), options.clone()).expect("a loader");
    loader.epoch(number).collect::<yolo_data::Result<_>>().expect("batches")
}

#[test]
fn batches_depend_on_seed_and_epoch_only() {
    let dir = folder();
    let samples = samples(dir.path(), 20);
    let hyp = Hyp {
        mixup: 0.5,
        degrees: 5.0,
        copy_paste: 0.5,
        ..Hyp::default()
    };
    let with = |workers: usize, seed: u64, cache_bytes: usize| LoaderOptions {
        workers,
        cache_bytes,
        ..LoaderOptions::train(64, 4, hyp.clone(), seed)
    };
    let first = epoch(&samples, &with(1, 7, 1 << 30), 2);
    assert_eq!(first.iter().map(Batch::len).collect::<Vec<_>>(), [4, 4, 4, 2]);
    assert!(
        first == epoch(&samples, &with(3, 7, 0), 2),
        "workers and caches change nothing"
    );
    assert!(first != epoch(&samples, &with(1, 7, 1 << 30), 3), "epochs differ");
    assert!(first != epoch(&samples, &with(1, 8, 1 << 30), 2), "seeds differ");
    let mut order: Vec<usize> = first
        .iter()
        .flat_map(|batch| batch.images.iter().map(|origin| origin.index))
        .collect();
    order.sort_unstable();
    assert_eq!(order, (0..14).collect::<Vec<_>>(), "every image once");
    for batch in &first {
        assert_eq!(batch.pixels.len(), batch.len() * 3 * 64 * 64);
        for [image, class, cx, cy, w, h] in &batch.targets {
            assert!((*image as usize) < batch.len() && *class < 4.0);
            assert!(
                cx - w / 2.0 >= -1e-5 && cx + w / 2.0 <= 1.00001 && cy - h / 2.0 >= -1e-5 && cy + h / 2.0 <= 1.00001
            );
        }
    }
}

#[test]
fn validation_shows_every_image_once_with_its_own_boxes() {
    let dir = folder();
    let mut samples = samples(dir.path(), 20);
    // One flat image among the squares.
    let flat = dir.path().join("images/train/flat.png");
    crate::picture(5, 128, 64).save(&flat).expect("a picture");
    samples.push(Sample {
        image: flat,
        label: "none".into(),
        boxes: vec![[1.0, 0.5, 0.5, 0.25, 0.5]],
        size: [128, 64],
    });
    let batches = epoch(
        &samples,
        &LoaderOptions {
            workers: 2,
            ..LoaderOptions::val(128, 4)
        },
        0,
    );
    let mut seen = vec![0; samples.len()];
    for batch in &batches {
        for (slot, origin) in batch.images.iter().enumerate() {
            seen[origin.index] += 1;
            let own: Vec<_> = batch
                .targets
                .iter()
                .filter(|target| target[0] as usize == slot)
                .collect();
            assert_eq!(own.len(), samples[origin.index].boxes.len());
            // Back through the fit, a box is where the file has it.
            let [h, w] = batch.size.map(|side| side as f64);
            let [oh, ow] = origin.original.map(|side| side as f64);
            for (target, label) in own.iter().zip(&samples[origin.index].boxes) {
                let x = (f64::from(target[2]) * w - origin.fit.pad[0]) / origin.fit.ratio[0] / ow;
                let y = (f64::from(target[3]) * h - origin.fit.pad[1]) / origin.fit.ratio[1] / oh;
                assert!(
                    (x - f64::from(label[1])).abs() < 2e-3 && (y - f64::from(label[2])).abs() < 2e-3,
                    "{target:?} {label:?}"
                );
            }
        }
    }
    assert!(seen.iter().all(|count| *count == 1), "{seen:?}");
    // Half a stride of border, as in the reference: squares of 128 become 160, the flat one stays flat in a batch of its own kind.
    assert!(
        batches
            .iter()
            .all(|batch| batch.size[0] % 32 == 0 && batch.size[1] % 32 == 0)
    );
    assert!(batches.iter().any(|batch| batch.size == [160, 160]));
}

#[test]
fn drawn_images_and_their_mosaics_are_those_with_a_weight() {
    let dir = folder();
    let mut samples = samples(dir.path(), 30);
    for (index, sample) in samples.iter_mut().enumerate() {
        sample.boxes = vec![[(index % 3) as f32, 0.5, 0.5, 0.5, 0.5]];
    }
    let options = LoaderOptions::train(64, 4, Hyp::default(), 7);
    let loader = Loader::new(samples.clone(), options).expect("a loader");
    let drawn = |number: usize, shard: Shard, maps: &[f64]| -> Vec<Batch> {
        let batches = loader.drawn(number, shard, maps);
        batches.collect::<yolo_data::Result<_>>().expect("batches")
    };
    // Nothing is left to learn of class 0 and 2.
    let all = drawn(1, Shard::default(), &[1.0, 0.0, 1.0]);
    assert_eq!(all.iter().map(Batch::len).sum::<usize>(), samples.len());
    assert!(
        all.iter()
            .flat_map(|batch| &batch.images)
            .all(|origin| origin.index % 3 == 1),
        "images are drawn by their weight"
    );
    let targets: Vec<f32> = all
        .iter()
        .flat_map(|batch| &batch.targets)
        .map(|target| target[1])
        .collect();
    assert!(
        targets.len() > samples.len() && targets.iter().all(|class| *class == 1.0),
        "mosaics are filled from the draw"
    );
    assert!(
        all == drawn(1, Shard::default(), &[1.0, 0.0, 1.0]),
        "the same draw again"
    );
    let order = |batches: &[Batch]| -> Vec<usize> {
        batches
            .iter()
            .flat_map(|batch| &batch.images)
            .map(|origin| origin.index)
            .collect()
    };
    assert_ne!(
        order(&all),
        order(&drawn(2, Shard::default(), &[1.0, 0.0, 1.0])),
        "epochs differ"
    );
    assert_ne!(
        order(&all),
        order(&drawn(1, Shard::default(), &[0.0])),
        "classes matter"
    );

    // Two processes make the same batches together.
    let parts = [0, 1].map(|rank| drawn(1, Shard { rank, ranks: 2 }, &[1.0, 0.0, 1.0]));
    for ((whole, a), b) in all.iter().zip(&parts[0]).zip(&parts[1]) {
        let b = if b.idle { &[][..] } else { &b.images[..] };
        assert_eq!(whole.images, [&a.images[..], b].concat());
    }
}

#[test]
fn rectangular_training_keeps_shapes_and_order() {
    let dir = folder();
    let mut samples = samples(dir.path(), 20);
    let squares = samples.len();
    for (index, (width, height)) in [(128, 64), (64, 128), (128, 64), (120, 60)].into_iter().enumerate() {
        let image = dir.path().join(format!("images/train/rect{index}.png"));
        crate::picture(5, width, height).save(&image).expect("a picture");
        samples.push(Sample {
            image,
            label: "none".into(),
            boxes: vec![[1.0, 0.5, 0.5, 0.5, 0.5]],
            size: [width, height],
        });
    }
    // Mosaics are asked for, and not made. Nothing moves but colours, so every box stays where the letterbox puts it.
    let hyp = Hyp {
        translate: 0.0,
        scale: 0.0,
        fliplr: 0.0,
        ..Hyp::default()
    };
    let options = LoaderOptions {
        rect: true,
        ..LoaderOptions::train(128, 3, hyp, 7)
    };
    let all = epoch(&samples, &options, 0);
    let order = |batches: &[Batch]| -> Vec<usize> {
        batches
            .iter()
            .flat_map(|batch| &batch.images)
            .map(|origin| origin.index)
            .collect()
    };
    // By height over width: the flat ones first, the squares as they come, the tall one last.
    let expected: Vec<usize> = [squares, squares + 2, squares + 3]
        .into_iter()
        .chain(0..squares)
        .chain([squares + 1])
        .collect();
    assert_eq!(order(&all), expected);
    assert_eq!(
        order(&epoch(&samples, &options, 1)),
        expected,
        "the same in every epoch"
    );
    assert!(all != epoch(&samples, &options, 1), "colours differ");
    let sizes: Vec<[usize; 2]> = all.iter().map(|batch| batch.size).collect();
    assert_eq!(sizes[0], [64, 128], "no higher than its images");
    assert!(sizes[1..].iter().all(|size| *size == [128, 128]), "{sizes:?}");
    let first = &all[0];
    assert_eq!(first.pixels.len(), 3 * 3 * 64 * 128);
    for target in &first.targets {
        assert!(
            target[2..].iter().zip([0.5; 4]).all(|(a, b)| (a - b).abs() < 0.01),
            "{target:?}"
        );
    }
    assert_eq!(first.targets.len(), 3);
    let boxes: usize = all.iter().map(|batch| batch.targets.len()).sum();
    assert!(
        boxes <= samples.iter().map(|sample| sample.boxes.len()).sum::<usize>(),
        "a mosaic would have more"
    );
}

#[test]
fn what_changes_under_the_loader_is_an_error_and_not_a_hang() {
    let dir = folder();
    let samples = samples(dir.path(), 12);
    let options = LoaderOptions {
        workers: 2,
        ..LoaderOptions::train(64, 2, Hyp::default(), 0)
    };
    let loader = Loader::new(samples.clone(), options.clone()).expect("a loader");
    std::fs::remove_file(&samples[3].image).expect("a file less");
    let error = loader
        .epoch(0)
        .find_map(Result::err)
        .expect("an image is gone")
        .to_string();
    assert!(error.contains(&samples[3].image.display().to_string()), "{error}");
    crate::picture(1, 30, 20).save(&samples[3].image).expect("a picture");
    let loader = Loader::new(samples, options.clone()).expect("a loader");
    let error = loader
        .epoch(0)
        .find_map(Result::err)
        .expect("an image has another size")
        .to_string();
    assert!(error.contains("changed since"), "{error}");
    for (options, words) in [
        (
            LoaderOptions {
                batch: 0,
                ..options.clone()
            },
            "batch size is 0",
        ),
        (
            LoaderOptions {
                size: 100,
                ..options.clone()
            },
            "use 128",
        ),
        (
            LoaderOptions {
                size: 0,
                ..options.clone()
            },
            "use 32",
        ),
    ] {
        let sample = loader.samples()[0].clone();
        let error = Loader::new(vec![sample], options)
            .map(drop)
            .expect_err(words)
            .to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(Loader::new(Vec::new(), options).is_err());
}

#[test]
fn dropping_an_epoch_in_the_middle_ends_its_threads() {
    let dir = folder();
    let samples = samples(dir.path(), 30);
    let loader = Loader::new(
        samples,
        LoaderOptions {
            workers: 4,
            ..LoaderOptions::train(64, 1, Hyp::default(), 0)
        },
    );
    let loader = loader.expect("a loader");
    for round in 0..5 {
        let mut batches = loader.epoch(round);
        assert_eq!(batches.size_hint().0, 21);
        assert!(batches.next().is_some_and(|batch| batch.is_ok()));
    }
    assert_eq!(loader.epoch(9).count(), 21);
}
