//! Image files to 8-bit RGB pixels. Whatever the file holds (gray, 16 bit, palette, alpha, CMYK, rotated by EXIF), the result is
//! upright RGB; what can't be decoded to the end, and what would come out black or flat although the file holds a picture, is an error
//! that says why. JPEGs are decoded by libjpeg-turbo's arithmetic, so their pixels are those of OpenCV and Pillow.

use std::path::Path;

use image::{DynamicImage, ImageDecoder as _};

use crate::{Error, Result, entropy, files, probe};

pub use crate::endings::{IMAGE_EXTENSIONS, is_image};

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
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be read; [`Error::Image`] with the reason of [`Image::decode`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = files::bytes(path).map_err(Error::io(path, "read it"))?;
        Self::decode(&bytes).map_err(|reason| Error::image(path, reason))
    }

    /// As [`Image::open`], with the remark of [`Image::decode_with_remark`].
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open_with_remark(path: &Path) -> Result<(Self, Option<String>)> {
        let bytes = files::bytes(path).map_err(Error::io(path, "read it"))?;
        Self::decode_with_remark(&bytes).map_err(|reason| Error::image(path, reason))
    }

    /// Decodes the bytes of a file.
    ///
    /// # Errors
    /// A sentence: the bytes are empty, no picture (with what they look like), cut off, damaged, of a kind that can't be read or too large,
    /// or the picture would come out black or flat.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [] => Err("the file is empty".into()),
            [0xff, 0xd8, ..] => Ok(decode_jpeg(bytes)?.0),
            _ => decode_other(bytes),
        }
    }

    /// As [`Image::decode`], with what a user should know of the file: that it is damaged, or holds more pictures than the first.
    ///
    /// # Errors
    /// Those of [`Image::decode`].
    pub fn decode_with_remark(bytes: &[u8]) -> Result<(Self, Option<String>), String> {
        if !bytes.starts_with(&[0xff, 0xd8]) {
            return Ok((Self::decode(bytes)?, probe::more_pictures(bytes)));
        }
        let (image, remark) = decode_jpeg(bytes)?;
        Ok((image, remark.or_else(|| damage(bytes))))
    }

    /// Width and height of the upright image; the file is read, and refused if it is incomplete. Whole JPEGs, WebP and PNG of
    /// 8 bits tell without being decoded; what others would become is known only afterwards.
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be read; [`Error::Image`] says why it is no picture that can be used.
    pub fn size_of(path: &Path) -> Result<(usize, usize)> {
        Self::look(path).map(|(size, _)| size)
    }

    /// As [`Image::size_of`], with the remark of [`Image::decode_with_remark`].
    ///
    /// # Errors
    /// Those of [`Image::size_of`].
    pub fn look(path: &Path) -> Result<((usize, usize), Option<String>)> {
        let bytes = files::bytes(path).map_err(Error::io(path, "read it"))?;
        let refused = |reason| Error::image(path, reason);
        let [w, h] = probe::probe(&bytes).map_err(refused)?;
        // Whether a damaged file gives a picture at all is known only afterwards.
        if probe::tells_all(&bytes) && damage(&bytes).is_none() {
            return Ok(((w, h), probe::more_pictures(&bytes)));
        }
        let (image, remark) = Self::decode_with_remark(&bytes).map_err(refused)?;
        Ok(((image.width, image.height), remark))
    }

    /// Writes a JPEG (`.jpg`, `.jpeg`, quality 95) or, for any other ending, a PNG; whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be written; [`Error::Image`] with the reason of [`Image::to_jpeg`] or [`Image::to_png`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let jpeg = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| e.to_ascii_lowercase().starts_with("jp"));
        let bytes = if jpeg { self.to_jpeg(95) } else { self.to_png() };
        files::write(path, &bytes.map_err(|reason| Error::image(path, reason))?)
    }

    /// The bytes of a JPEG file.
    ///
    /// # Errors
    /// A sentence where a side is 0 or above 65535 pixels.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.encode(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality))?;
        Ok(bytes)
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// A sentence where a side is 0.
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

    pub(crate) fn turned(self, orientation: u8) -> Self {
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

fn decode_jpeg(bytes: &[u8]) -> Result<(Image, Option<String>), String> {
    let header = probe::jpeg(bytes)?;
    let [width, height] = header.size;
    match libjpeg_turbo_rs::decompress_to(bytes, libjpeg_turbo_rs::PixelFormat::Rgb) {
        Ok(image) if [image.width, image.height] == header.size && image.data.len() == width * height * 3 => {
            let (data, remark) = (image.data, image.warnings.first().map(|warning| damaged(&warning)));
            Ok((Image { width, height, data }.turned(header.orientation), remark))
        }
        // Damage that libjpeg warns of and goes on.
        other => {
            let why = other
                .err()
                .map_or_else(|| "its size is contradictory".to_owned(), |error| error.to_string());
            let image =
                decode_other(bytes).map_err(|_| format!("the JPEG is damaged ({why}); copy or download it again"))?;
            Ok((image, Some(damaged(&why))))
        }
    }
}

/// What is said of a JPEG whose pixels aren't all there.
fn damage(bytes: &[u8]) -> Option<String> {
    let jpeg = bytes.starts_with(&[0xff, 0xd8]);
    jpeg.then(|| entropy::fault(bytes)).flatten().map(|why| damaged(&why))
}

fn damaged(why: &dyn std::fmt::Display) -> String {
    format!("the JPEG is damaged ({why}), parts of the picture may be gray or shifted; copy or download it again")
}

fn decode_other(bytes: &[u8]) -> Result<Image, String> {
    let (name, mut decoder) = probe::open(bytes)?;
    let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
    let image = DynamicImage::from_decoder(decoder).map_err(|error| match probe::png_is_complete(bytes) {
        // The probe knows the place.
        Err(reason) if name == "PNG" => reason,
        _ => format!("the {name} is damaged or cut off ({error}); copy or download the file again"),
    })?;
    survives(&image)?;
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Ok(Image {
        width,
        height,
        data: rgb.into_raw(),
    }
    .turned(orientation))
}

/// Values of 16 bits up to this one are black or nearly so in 8 bits.
const DARK: u16 = (32 << 8) - 1;

/// Refuses pictures of which nothing would be seen in 8-bit RGB.
fn survives(image: &DynamicImage) -> Result<(), String> {
    let alpha = image.color().has_alpha();
    if let DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) = image {
        let values = image.to_rgb32f().into_raw();
        return match values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            Some(value) => Err(format!(
                "the pixels are floating-point numbers beyond 0 to 1 (one is {value}), so what is black and white can't be told; \
                 save the picture with 8 bits"
            )),
            None => Ok(()),
        };
    }
    if image.color().bytes_per_pixel() / image.color().channel_count() == 2 {
        let most = image.to_rgb16().into_raw().into_iter().max().unwrap_or(0);
        if (1..=DARK).contains(&most) {
            return Err(format!(
                "the picture has 16 bits, but its brightest value is {most} of 65535 (data of fewer bits?), so it would be nearly \
                 black; stretch its values and save it with 8 bits"
            ));
        }
    }
    if alpha {
        let flat = |channels: std::ops::Range<usize>| {
            let pixels = image.to_rgba8();
            let first = pixels.pixels().next().map(|pixel| pixel.0);
            pixels
                .pixels()
                .all(|pixel| first.is_some_and(|first| first[channels.clone()] == pixel.0[channels.clone()]))
        };
        if flat(0..3) && !flat(3..4) {
            return Err(
                "all of the picture is in its transparency, its colours are one; save it without transparency".into(),
            );
        }
    }
    Ok(())
}
