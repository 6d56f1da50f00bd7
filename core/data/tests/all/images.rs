//! Image files, whole and broken, made on the spot.

use yolo_data::Image;

use crate::{folder, picture, put};

fn jpeg() -> Vec<u8> {
    picture(1, 64, 48).to_jpeg(90).expect("a JPEG")
}

/// A JPEG whose EXIF block says how the camera was held.
fn turned(orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let jpeg = jpeg();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend(((exif.len() + 2) as u16).to_be_bytes());
    bytes.extend(&exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn every_orientation_comes_out_upright() {
    let dir = folder();
    let upright = Image::decode(&jpeg()).expect("a picture");
    let pixel = |image: &Image, x: usize, y: usize| image.data[(y * image.width + x) * 3..][..3].to_vec();
    for orientation in 1..=8u8 {
        let path = put(dir.path(), &format!("{orientation}.jpg"), turned(orientation));
        let image = Image::open(&path).expect("a picture");
        let swapped = orientation >= 5;
        assert_eq!(
            (image.width, image.height),
            if swapped { (48, 64) } else { (64, 48) },
            "{orientation}"
        );
        assert_eq!(
            Image::size_of(&path).expect("a size"),
            (image.width, image.height),
            "{orientation}"
        );
        // Where the upper left corner of the stored picture goes, by the EXIF standard.
        let (right, bottom) = (image.width - 1, image.height - 1);
        let (x, y) = match orientation {
            1 | 5 => (0, 0),
            2 | 6 => (right, 0),
            3 | 7 => (right, bottom),
            _ => (0, bottom),
        };
        assert_eq!(pixel(&image, x, y), pixel(&upright, 0, 0), "{orientation}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let dir = folder();
    let image = picture(3, 33, 17);
    let png = dir.path().join("a.png");
    image.save(&png).expect("a file");
    assert_eq!(Image::open(&png).expect("a picture"), image);
    let smooth = yolo_data::synth::picture(96, 0, 0).0;
    let jpg = dir.path().join("a.JPG");
    smooth.save(&jpg).expect("a file");
    let back = Image::open(&jpg).expect("a picture");
    let mean = |a: &Image, b: &Image| {
        let sum: u64 = a.data.iter().zip(&b.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / a.data.len() as f64
    };
    assert!(
        mean(&smooth, &back) < 3.0,
        "quality 95 keeps the picture: {}",
        mean(&smooth, &back)
    );
}

#[test]
fn broken_files_are_errors_with_the_reason_from_both_readers() {
    let dir = folder();
    let png = picture(2, 64, 48).to_png().expect("a PNG");
    let jpeg = jpeg();
    let cut = |bytes: &[u8], share: usize| bytes[..bytes.len() * share / 10].to_vec();
    let mut bad_sum = png.clone();
    bad_sum[60] ^= 0x55;
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0x0f, 0xff, 0xff, 0, 0x0f, 0xff, 0xff]);
    let mut garbage = jpeg.clone();
    garbage.truncate(20);
    garbage.extend([0u8; 64]);
    for (name, bytes, reason) in [
        ("half.jpg", cut(&jpeg, 5), "cut off"),
        ("nearly.jpg", jpeg[..jpeg.len() - 2].to_vec(), "cut off"),
        ("header.jpg", garbage, "damaged"),
        ("half.png", cut(&png, 5), "cut off"),
        ("sum.png", bad_sum, "checksum"),
        ("huge.png", huge, "1048575 x 1048575"),
        ("empty.jpg", Vec::new(), "empty"),
        ("text.jpg", b"this is text".to_vec(), "looks like text"),
        ("page.jpg", b"<!DOCTYPE html><html>".to_vec(), "web page"),
        (
            "pointer.png",
            b"version https://git-lfs.github.com/spec/v1".to_vec(),
            "git lfs pull",
        ),
        (
            "animation.gif.jpg",
            b"GIF89a\x01\0\x01\0\0\0\0".to_vec(),
            "convert it to JPEG or PNG",
        ),
        ("noise.jpg", vec![0xa7; 100], "not an image"),
    ] {
        let path = put(dir.path(), name, bytes);
        for error in [
            Image::open(&path).map(drop).expect_err(name),
            Image::size_of(&path).map(drop).expect_err(name),
        ] {
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(reason), "{name}: {text}");
            assert!(!text.contains('\n'), "{name}: {text}");
        }
    }
    let text = Image::open(&dir.path().join("none.jpg"))
        .expect_err("there is no file")
        .to_string();
    assert!(text.contains("none.jpg") && text.contains("can't read it"), "{text}");
}

/// No byte that is lost or changed may end the program.
#[test]
fn no_damage_panics() {
    for bytes in [jpeg(), picture(2, 64, 48).to_png().expect("a PNG")] {
        for at in 0..bytes.len().min(400) {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _ = Image::decode(&changed);
            let _ = yolo_data::probe::probe(&changed);
        }
        for length in 0..bytes.len() {
            assert!(
                yolo_data::probe::probe(&bytes[..length]).is_err(),
                "{length} of {} bytes",
                bytes.len()
            );
        }
    }
}
