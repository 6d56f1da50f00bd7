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
        ("cut.gif", b"GIF89a\x01\0\x01\0\0\0\0".to_vec(), "GIF"),
        ("photo.heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0".to_vec(), "HEIC"),
        ("a.avif.jpg", b"\0\0\0\x18ftypavif\0\0\0\0".to_vec(), "AVIF"),
        ("a.jp2.jpg", b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "JPEG 2000"),
        ("clip.jpg", b"\0\0\0\x18ftypisom\0\0\0\0".to_vec(), "video"),
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

/// An image of another pixel format as a file of a format.
fn file_of(image: impl Into<image::DynamicImage>, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("a file");
    bytes.into_inner()
}

#[test]
fn every_kind_of_pixel_gives_its_colours() {
    use image::ImageFormat::{Bmp, Gif, Png, Pnm, Tiff, WebP};
    use image::{GrayAlphaImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, Rgba, RgbaImage};
    let value = |x: u32, y: u32| (x * 5 + y * 3) as u8;
    let gray = GrayImage::from_fn(40, 30, |x, y| Luma([value(x, y)]));
    let gray16 = ImageBuffer::<Luma<u16>, Vec<u16>>::from_fn(40, 30, |x, y| Luma([u16::from(value(x, y)) * 257]));
    let rgb16 = ImageBuffer::<Rgb<u16>, Vec<u16>>::from_fn(40, 30, |x, y| Rgb([u16::from(value(x, y)) * 257; 3]));
    let rgba = RgbaImage::from_fn(40, 30, |x, y| {
        Rgba([value(x, y), value(x, y), value(x, y), (x * 6) as u8])
    });
    let gray_alpha = GrayAlphaImage::from_fn(40, 30, |x, y| LumaA([value(x, y), 9]));
    let wanted: Vec<u8> = gray.pixels().flat_map(|pixel| [pixel.0[0]; 3]).collect();
    let binary = |head: &str| [head.as_bytes(), gray.as_raw()].concat();
    for (name, bytes) in [
        ("gray.png", file_of(gray.clone(), Png)),
        ("gray.bmp", file_of(gray.clone(), Bmp)),
        ("gray.tif", file_of(gray.clone(), Tiff)),
        ("gray.webp", file_of(gray.clone(), WebP)),
        ("gray.pgm", file_of(gray.clone(), Pnm)),
        ("own.pgm", binary("P5\n# by hand\n40 30\n255\n")),
        (
            "gray.gif",
            file_of(image::DynamicImage::from(gray.clone()).into_rgba8(), Gif),
        ),
        ("gray16.png", file_of(gray16.clone(), Png)),
        ("gray16.tiff", file_of(gray16, Tiff)),
        ("rgb16.png", file_of(rgb16.clone(), Png)),
        ("rgb16.tiff", file_of(rgb16, Tiff)),
        ("rgba.png", file_of(rgba.clone(), Png)),
        ("rgba.tif", file_of(rgba, Tiff)),
        ("alpha.png", file_of(gray_alpha, Png)),
    ] {
        let dir = folder();
        let path = put(dir.path(), name, bytes);
        let image = Image::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((image.width, image.height), (40, 30), "{name}");
        assert_eq!(Image::size_of(&path).expect(name), (40, 30), "{name}");
        // A GIF's colours are chosen from 256.
        let most = image.data.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(
            most.is_some_and(|most| most <= if name.ends_with("gif") { 16 } else { 0 }),
            "{name}: {most:?}"
        );
    }
}

#[test]
fn what_would_be_black_or_flat_is_refused_with_the_reason() {
    use image::ImageFormat::{Png, Tiff};
    use image::{ImageBuffer, Luma, Rgb, Rgb32FImage, Rgba, RgbaImage};
    // A camera of 12 bits, a microscope of 10 bits, a scientific picture, a drawing that is all transparency.
    let twelve = ImageBuffer::<Luma<u16>, Vec<u16>>::from_fn(40, 30, |x, y| Luma([(x * 100 + y) as u16]));
    let ten = ImageBuffer::<Rgb<u16>, Vec<u16>>::from_fn(40, 30, |x, y| Rgb([(x * 20 + y) as u16; 3]));
    let float = Rgb32FImage::from_fn(40, 30, |x, y| Rgb([x as f32 * 6.0, y as f32, 0.0]));
    let clear = RgbaImage::from_fn(40, 30, |x, _| Rgba([0, 0, 0, (x * 6) as u8]));
    for (name, bytes, words) in [
        (
            "twelve.png",
            file_of(twelve.clone(), Png),
            "brightest value is 3929 of 65535",
        ),
        ("twelve.tif", file_of(twelve, Tiff), "nearly black"),
        ("ten.tif", file_of(ten, Tiff), "stretch its values"),
        ("float.tif", file_of(float, Tiff), "floating-point"),
        ("clear.png", file_of(clear.clone(), Png), "transparency"),
        ("clear.tif", file_of(clear, Tiff), "transparency"),
    ] {
        let dir = folder();
        let path = put(dir.path(), name, bytes);
        let error = Image::open(&path).map(drop).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
        // Before a training starts.
        assert_eq!(Image::size_of(&path).map(drop).expect_err(name).to_string(), error);
    }
    // What is black is black.
    let black = ImageBuffer::<Luma<u16>, Vec<u16>>::new(40, 30);
    assert!(Image::decode(&file_of(black, Png)).is_ok_and(|image| image.data.iter().all(|v| *v == 0)));
    let unit = Rgb32FImage::from_fn(40, 30, |x, _| Rgb([x as f32 / 39.0; 3]));
    assert!(Image::decode(&file_of(unit, Tiff)).is_ok_and(|image| image.data[39 * 3] == 255 && image.data[0] == 0));
}

#[test]
fn files_that_end_too_early_are_refused_before_work_starts() {
    use image::ImageFormat::{Bmp, Gif, Pnm, Tiff, WebP};
    let picture = yolo_data::synth::picture(64, 3, 0).0;
    let rgb = image::RgbImage::from_raw(64, 64, picture.data).expect("a picture");
    for format in [Bmp, Gif, Pnm, Tiff, WebP] {
        let bytes = file_of(image::DynamicImage::from(rgb.clone()).into_rgba8(), format);
        let dir = folder();
        for keep in [bytes.len() / 3, bytes.len() * 9 / 10] {
            let path = put(dir.path(), "cut.bin", &bytes[..keep]);
            assert!(Image::open(&path).is_err(), "{format:?} {keep} of {}", bytes.len());
            if format != WebP {
                assert!(Image::size_of(&path).is_err(), "{format:?} {keep} of {}", bytes.len());
            }
        }
    }
}

/// JPEGs of every kind, and the checksum of the pixels that Pillow 13 (libjpeg-turbo 3.2) reads from them.
const JPEGS: [(&str, &[u8], u32); 8] = [
    ("420", include_bytes!("../fixtures/jpeg/420.jpg"), 0x29742208),
    ("422", include_bytes!("../fixtures/jpeg/422.jpg"), 0x8bf531bb),
    ("444", include_bytes!("../fixtures/jpeg/444.jpg"), 0x2aa4e312),
    (
        "progressive",
        include_bytes!("../fixtures/jpeg/progressive.jpg"),
        0x29742208,
    ),
    ("restart", include_bytes!("../fixtures/jpeg/restart.jpg"), 0x29742208),
    ("gray", include_bytes!("../fixtures/jpeg/gray.jpg"), 0x0bbeb5bf),
    ("rgb", include_bytes!("../fixtures/jpeg/rgb.jpg"), 0x5ae4b38d),
    ("cmyk", include_bytes!("../fixtures/jpeg/cmyk.jpg"), 0x5ae4b38d),
];

#[test]
fn a_jpeg_has_the_pixels_that_libjpeg_turbo_gives() {
    for (name, bytes, pixels) in JPEGS {
        let (image, remark) = Image::decode_with_remark(bytes).expect(name);
        assert_eq!((image.width, image.height, remark), (59, 43, None), "{name}");
        assert_eq!(crc32fast::hash(&image.data), pixels, "{name}");
    }
}

#[test]
fn damage_inside_of_a_jpeg_is_read_as_others_do_and_said() {
    let whole = picture(1, 64, 48).to_jpeg(90).expect("a JPEG");
    let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).expect("a scan");
    let (mut said, mut silent) = (0, 0);
    let intact = Image::decode(&whole).expect("a picture");
    for at in (scan + 20..whole.len() - 2).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x7f;
        match Image::decode_with_remark(&bytes) {
            Ok((_, Some(remark))) => {
                assert!(remark.contains("damaged"), "{remark}");
                said += 1;
            }
            // A changed value of one pixel is no damage that shows.
            Ok((image, None)) => silent += usize::from(image != intact),
            Err(reason) => assert!(reason.contains("damaged") || reason.contains("cut off"), "{reason}"),
        }
    }
    assert!(said > 0, "{said} said, {silent} silent");
    assert_eq!(Image::decode_with_remark(&whole).expect("a picture").1, None);
}

/// A picture without its last part, although its end marker is there: decoders fill the rest with gray.
#[test]
fn a_jpeg_whose_data_ends_early_or_goes_on_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes, _) in JPEGS {
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).expect("a scan");
        let said = |what: &str, bytes: &[u8], reason: &str| {
            let path = put(dir.path(), "a.jpg", bytes);
            let looked = Image::look(&path).map_err(|error| error.to_string());
            match Image::decode_with_remark(bytes) {
                Ok((image, remark)) => {
                    assert!(
                        remark.as_ref().is_some_and(|text| text.contains(reason)),
                        "{name}, {what}: {remark:?}"
                    );
                    assert_eq!(looked, Ok(((image.width, image.height), remark)), "{name}, {what}");
                }
                Err(why) => {
                    assert!(why.contains("is damaged"), "{name}, {what}: {why}");
                    assert!(looked.is_err_and(|text| text.contains(&why)), "{name}, {what}");
                }
            }
        };
        for tenths in [2, 5, 9] {
            let mut keep = scan + 14 + (bytes.len() - scan - 14) * tenths / 10;
            // Neither a half of a marker nor of a stuffed byte.
            while bytes[keep - 1] == 0xff {
                keep -= 1;
            }
            said(
                &format!("{tenths} tenths"),
                &[&bytes[..keep], &[0xff, 0xd9]].concat(),
                "damaged (",
            );
        }
        let last = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
        let more = [&bytes[..bytes.len() - 2], &bytes[last + 14..]].concat();
        said("twice the data", &more, "are left over");
    }
}

#[test]
fn several_pictures_in_a_file_are_said() {
    use image::Frame;
    use image::codecs::gif::GifEncoder;
    let frame = |value: u8| {
        Frame::new(image::RgbaImage::from_pixel(
            20,
            20,
            image::Rgba([value, value, 9, 255]),
        ))
    };
    for (frames, animated) in [(1, false), (3, true)] {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for index in 0..frames {
            encoder.encode_frame(frame(40 + index * 60)).expect("a frame");
        }
        drop(encoder);
        let (image, remark) = Image::decode_with_remark(&bytes).expect("a picture");
        // What a scan sees without keeping the pixels.
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.gif");
        std::fs::write(&path, &bytes).expect("a file");
        assert_eq!(
            Image::look(&path).expect("a size"),
            ((20, 20), remark.clone()),
            "{frames}"
        );
        assert_eq!(
            remark.is_some_and(|remark| remark.contains("animated")),
            animated,
            "{frames}"
        );
        assert!(image.data[0].abs_diff(40) <= 8, "the first frame");
    }
}
