//! Letterbox and its inverse against figures of OpenCV.

use serde::Deserialize;
use yolo_core::testing::Stream;
use yolo_data::Image;
use yolo_data::letterbox::{Letterbox, letterbox, scale_boxes};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
    scale_boxes: Vec<Scaled>,
}

#[derive(Deserialize)]
struct Case {
    image: String,
    size: [usize; 2],
    auto: bool,
    stretch: bool,
    scale_up: bool,
    stride: usize,
    out: [usize; 2],
    ratio: [f64; 2],
    pad: [f64; 2],
    sum: u64,
    crc32: u32,
    values: [u8; 12],
}

#[derive(Deserialize)]
struct Scaled {
    from: [usize; 2],
    to: [usize; 2],
    r#in: Vec<[f32; 4]>,
    out: Vec<[f32; 4]>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/letterbox.json")).expect("the fixture is valid")
}

/// `synth:smooth:HxW` or `synth:noise:HxW`, with the channels in the order of OpenCV.
fn synthetic(name: &str) -> Option<Image> {
    let (kind, size) = name.strip_prefix("synth:")?.split_once(':')?;
    let (height, width) = size.split_once('x')?;
    let (height, width): (usize, usize) = (height.parse().ok()?, width.parse().ok()?);
    let noise = Stream::new("letterbox.noise");
    let data = (0..height * width * 3)
        .map(|i| {
            let (y, x, c) = (i / 3 / width, i / 3 % width, i % 3);
            if kind == "smooth" {
                ((3 * y + 5 * x + 50 * c) % 256) as u8
            } else {
                (noise.bits(i as u32) & 255) as u8
            }
        })
        .collect();
    Some(Image { width, height, data })
}

fn options(case: &Case) -> Letterbox {
    Letterbox {
        size: case.size,
        auto: case.auto,
        stretch: case.stretch,
        scale_up: case.scale_up,
        stride: case.stride,
    }
}

/// JSON may cost the last digit.
fn close(a: [f64; 2], b: [f64; 2]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
}

#[test]
fn synthetic_images_equal_opencv_bit_for_bit() {
    let mut seen = 0;
    for case in fixture().cases {
        let Some(source) = synthetic(&case.image) else { continue };
        let (image, fit) = letterbox(&source, &options(&case));
        let label = format!(
            "{} into {:?} (auto {}, stretch {})",
            case.image, case.size, case.auto, case.stretch
        );
        assert_eq!([image.height, image.width], case.out, "{label}");
        assert!(close(fit.ratio, case.ratio) && fit.pad == case.pad, "{label}: {fit:?}");
        let n = image.data.len();
        let values: Vec<u8> = (0..12).map(|j| image.data[j * n / 12 + n / 12 / 2]).collect();
        assert_eq!(values, case.values, "{label}");
        assert_eq!(
            image.data.iter().map(|v| u64::from(*v)).sum::<u64>(),
            case.sum,
            "{label}"
        );
        assert_eq!(crc32fast::hash(&image.data), case.crc32, "{label}");
        seen += 1;
    }
    assert!(seen >= 40, "{seen} synthetic cases");
}

#[test]
fn photographs_are_close_to_opencv() {
    let Some(folder) = crate::shared("data/images") else {
        return;
    };
    for case in fixture().cases {
        if case.image.starts_with("synth:") {
            continue;
        }
        let source = Image::open(&folder.join(&case.image)).expect("a good JPEG");
        let (mut image, fit) = letterbox(&source, &options(&case));
        assert_eq!(
            ([image.height, image.width], fit.pad),
            (case.out, case.pad),
            "{}",
            case.image
        );
        assert!(close(fit.ratio, case.ratio), "{}: {fit:?}", case.image);
        image.data.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
        let sum: u64 = image.data.iter().map(|v| u64::from(*v)).sum();
        // Decoders differ by up to 4 levels; on average by far less than one.
        let mean = (sum as f64 - case.sum as f64).abs() / image.data.len() as f64;
        assert!(mean < 0.2, "{}: mean differs by {mean}", case.image);
        let n = image.data.len();
        for (j, value) in case.values.iter().enumerate() {
            let own = image.data[j * n / 12 + n / 12 / 2];
            assert!(
                own.abs_diff(*value) <= 6,
                "{} sample {j}: {own} against {value}",
                case.image
            );
        }
    }
}

#[test]
fn boxes_go_back_as_in_the_reference() {
    for case in fixture().scale_boxes {
        let mut boxes = case.r#in.clone();
        scale_boxes(&mut boxes, case.from, case.to, None);
        for (own, expected) in boxes.iter().flatten().zip(case.out.iter().flatten()) {
            // The reference computes in f32: coordinates below 2048 are good to 1e-4.
            assert!((own - expected).abs() < 2e-4, "{own} against {expected}");
        }
    }
}

#[test]
fn extreme_shapes_keep_a_pixel() {
    let line = Image::filled(2000, 1, [9, 9, 9]);
    let (image, _) = letterbox(&line, &Letterbox::square(320, false, 32));
    assert_eq!((image.width, image.height), (320, 320));
    assert!(image.data.contains(&9));
}
