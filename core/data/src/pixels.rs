//! Image files to 8-bit RGB pixels. Whatever the file holds (gray, 16 bit, palette, alpha, CMYK, rotated by EXIF), the result is
//! upright RGB; what can't be decoded to the end is an error that says why.

use std::path::Path;

use image::{DynamicImage, ImageDecoder as _};

use crate::probe::{self, MAX_SIDE};
use crate::{Error, Result, files};

/// 8-bit RGB, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, R, G, B.
    pub data: Vec<u8>,
}

/// Endings of the files that count as images.
pub const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jfif", "png", "bmp", "webp", "tif", "tiff"];

/// Whether a path looks like an image.
pub fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| IMAGE_EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

impl Image {
    /// One colour.
    pub fn filled(width: usize, height: usize, rgb: [u8; 3]) -> Self {
        Self {
            width,
            height,
            data: rgb.repeat(width * height),
        }
    }

    /// Makes it gray of this size, keeping its memory.
    pub fn reset(&mut self, width: usize, height: usize, gray: u8) {
        (self.width, self.height) = (width, height);
        self.data.clear();
        self.data.resize(width * height * 3, gray);
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read it"))?;
        Self::decode(&bytes).map_err(|reason| Error::image(path, reason))
    }

    /// Decodes the bytes of a file; the error says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [] => Err("the file is empty".into()),
            [0xff, 0xd8, ..] => decode_jpeg(bytes),
            _ => decode_other(bytes),
        }
    }

    /// Width and height of the upright image, without decoding it; the file is read, and refused if it is incomplete.
    pub fn size_of(path: &Path) -> Result<(usize, usize)> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read it"))?;
        let [w, h] = probe::probe(&bytes).map_err(|reason| Error::image(path, reason))?;
        Ok((w, h))
    }

    /// Writes a JPEG (`.jpg`, `.jpeg`, quality 95) or, for any other ending, a PNG; whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let jpeg = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| e.to_ascii_lowercase().starts_with("jp"));
        let bytes = if jpeg { self.to_jpeg(95) } else { self.to_png() };
        files::write(path, &bytes.map_err(|reason| Error::image(path, reason))?)
    }

    /// The bytes of a JPEG file.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.encode(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality))?;
        Ok(bytes)
    }

    /// The bytes of a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.encode(image::codecs::png::PngEncoder::new(&mut bytes))?;
        Ok(bytes)
    }

    fn encode(&self, encoder: impl image::ImageEncoder) -> Result<(), String> {
        let (w, h) = (self.width as u32, self.height as u32);
        encoder
            .write_image(&self.data, w, h, image::ExtendedColorType::Rgb8)
            .map_err(|error| format!("the image can't be encoded: {error}"))
    }

    fn turned(self, orientation: u8) -> Self {
        let Self {
            width: w, height: h, ..
        } = self;
        let (nw, nh) = if orientation >= 5 { (h, w) } else { (w, h) };
        // Source pixel of each upright pixel, by the EXIF table.
        let source = |x: usize, y: usize| match orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            8 => (w - 1 - y, x),
            _ => (x, y),
        };
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let mut data = Vec::with_capacity(self.data.len());
        for y in 0..nh {
            for x in 0..nw {
                let (sx, sy) = source(x, y);
                let at = (sy * w + sx) * 3;
                data.extend_from_slice(&self.data[at..at + 3]);
            }
        }
        Self {
            width: nw,
            height: nh,
            data,
        }
    }
}

fn decode_jpeg(bytes: &[u8]) -> Result<Image, String> {
    use zune_core::bytestream::ZCursor;
    use zune_core::colorspace::ColorSpace;
    use zune_core::options::DecoderOptions;

    let header = probe::jpeg(bytes)?;
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .set_strict_mode(false);
    let [width, height] = header.size;
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    match decoder.decode() {
        Ok(data) if data.len() == width * height * 3 => Ok(Image { width, height, data }.turned(header.orientation)),
        // Rare kinds (arithmetic coding, odd colour spaces) may still be known to the other decoder.
        Ok(_) => decode_other(bytes),
        Err(error) => decode_other(bytes).map_err(|_| format!("the JPEG is damaged: {error:?}")),
    }
}

fn decode_other(bytes: &[u8]) -> Result<Image, String> {
    let (name, mut decoder) = probe::open(bytes)?;
    let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
    let image = DynamicImage::from_decoder(decoder).map_err(|error| match probe::png_is_complete(bytes) {
        // The probe knows the place.
        Err(reason) if name == "PNG" => reason,
        _ => format!("the {name} is damaged or cut off ({error}); copy or download the file again"),
    })?;
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Ok(Image {
        width,
        height,
        data: rgb.into_raw(),
    }
    .turned(orientation))
}
