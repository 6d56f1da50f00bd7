//! What an image file says about itself without being decoded: its upright size, and whether it is complete. Reads the structure
//! of JPEG (markers) and PNG (chunks with their checksums); other formats only by their header.

use image::{ImageDecoder, ImageReader};

/// Sides above this are refused before anything is allocated.
pub const MAX_SIDE: usize = 1 << 15;

/// More bytes than this are refused before anything is allocated.
pub const MAX_BYTES: usize = 1 << 30;

/// What the head of an image file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Width and height as the pixels are stored.
    pub stored: [usize; 2],
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
}

impl Head {
    /// Width and height of the upright image.
    pub fn upright(&self) -> [usize; 2] {
        let [w, h] = self.stored;
        if self.orientation >= 5 { [h, w] } else { [w, h] }
    }
}

/// Width and height of the upright image.
///
/// # Errors
/// Those of [`head`].
pub fn probe(bytes: &[u8]) -> Result<[usize; 2], String> {
    head(bytes).map(|head| head.upright())
}

/// The head of an image file.
///
/// # Errors
/// A sentence: the bytes are empty, no picture (with what they look like), cut off, damaged where the structure shows it, of a kind that
/// can't be read, or of a size that no image may have.
pub fn head(bytes: &[u8]) -> Result<Head, String> {
    match bytes {
        [] => Err("the file is empty".into()),
        [0xff, 0xd8, ..] => jpeg(bytes).map(|jpeg| Head {
            stored: jpeg.size,
            orientation: jpeg.orientation,
        }),
        _ => {
            if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
                png_is_complete(bytes)?;
            }
            let (_, mut decoder) = open(bytes)?;
            let (w, h) = decoder.dimensions();
            let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
            Ok(Head {
                stored: [w as usize, h as usize],
                orientation,
            })
        }
    }
}

/// Whether [`probe`] sees all that can be wrong with the file, short of damage inside of its pixels.
pub(crate) fn tells_all(bytes: &[u8]) -> bool {
    let png = || bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.get(24..26).is_some_and(|b| b[0] <= 8 && b[1] < 4);
    bytes.starts_with(&[0xff, 0xd8]) || is_webp(bytes) || png()
}

fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

/// What to know of a file with several pictures.
pub(crate) fn more_pictures(bytes: &[u8]) -> Option<String> {
    let animated = || Some("the picture is animated; its first frame is used".to_owned());
    if bytes.starts_with(b"GIF8") {
        use image::AnimationDecoder as _;
        let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(bytes)).ok()?;
        return if decoder.into_frames().take(2).count() > 1 {
            animated()
        } else {
            None
        };
    }
    // The flag of the extended header; the chunk that a PNG has before its pixels.
    let webp =
        is_webp(bytes) && bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0);
    let png = bytes.starts_with(b"\x89PNG") && bytes.windows(4).take(4096).any(|name| name == b"acTL");
    if webp || png {
        return animated();
    }
    let pages = tiff_has_second_page(bytes).unwrap_or(false);
    pages.then(|| "the TIFF has several pages; the first is used".to_owned())
}

/// Whether the first directory of a TIFF leads to another one.
fn tiff_has_second_page(bytes: &[u8]) -> Option<bool> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return Some(false),
    };
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + length)?;
        let join = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        Some(if little {
            bytes.iter().rev().fold(0, join)
        } else {
            bytes.iter().fold(0, join)
        })
    };
    let start = number(4, 4)?;
    let entries = number(start, 2)?;
    Some(number(start + 2 + entries * 12, 4)? != 0)
}

/// A decoder of whatever format the content is, with its name.
pub(crate) fn open(bytes: &[u8]) -> Result<(String, impl ImageDecoder + '_), String> {
    let reader = ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else {
        let kind = foreign(bytes).map_or(String::new(), |kind| format!("; it looks like {kind}"));
        return Err(format!(
            "this is not an image that can be read (JPEG, PNG, BMP, WebP, TIFF, GIF, PNM){kind}"
        ));
    };
    let name = format!("{format:?}").to_uppercase();
    let decoder = match reader.into_decoder() {
        Ok(decoder) => decoder,
        Err(image::ImageError::Unsupported(error)) => {
            return Err(format!(
                "this kind of {name} can't be read ({error}); save it with 8 bits and RGB, or convert it to PNG"
            ));
        }
        Err(error) => {
            // The check of the chunks names the place.
            let png = if name == "PNG" { png_is_complete(bytes) } else { Ok(()) };
            return Err(png
                .err()
                .unwrap_or_else(|| format!("the {name} can't be read: {error}")));
        }
    };
    let (w, h) = decoder.dimensions();
    check_size(w as usize, h as usize)?;
    if decoder.total_bytes() > MAX_BYTES as u64 {
        return Err(format!(
            "the header claims {w} x {h} pixels, more than an image may have"
        ));
    }
    Ok((name, decoder))
}

fn check_size(w: usize, h: usize) -> Result<(), String> {
    if w == 0 || h == 0 {
        return Err(format!("the header claims {w} x {h} pixels"));
    }
    if w > MAX_SIDE || h > MAX_SIDE || w * h * 3 > MAX_BYTES {
        return Err(format!(
            "the header claims {w} x {h} pixels, more than an image may have ({MAX_SIDE} a side)"
        ));
    }
    Ok(())
}

/// Well-known things that are often misnamed as images.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let brand = bytes
        .get(4..12)
        .and_then(|b| b.strip_prefix(b"ftyp"))
        .unwrap_or_default();
    let heif = [&b"heic"[..], b"mif1", b"heix", b"heim", b"hevc", b"msf1"].contains(&brand);
    let text = || std::str::from_utf8(&bytes[..bytes.len().min(512)]).is_ok();
    let starts = |head: &[u8]| bytes.trim_ascii_start().to_ascii_lowercase().starts_with(head);
    match () {
        () if heif => Some("HEIC (convert it to JPEG)"),
        () if brand.starts_with(b"avi") => Some("AVIF (convert it to JPEG or PNG)"),
        () if !brand.is_empty() => Some("a video"),
        () if bytes.starts_with(b"\0\0\0\x0cjP  ") || bytes.starts_with(b"\xff\x4f\xff\x51") => {
            Some("JPEG 2000 (convert it to JPEG or PNG)")
        }
        () if bytes.starts_with(b"\0\0\0\x0cJXL ") || bytes.starts_with(b"\xff\x0a") => {
            Some("JPEG XL (convert it to JPEG or PNG)")
        }
        () if bytes.starts_with(b"8BPS") => Some("a Photoshop file (export it as JPEG or PNG)"),
        () if bytes.starts_with(b"\x00\x05\x16\x07") => Some("data of macOS beside a file (remove it)"),
        () if starts(b"<svg") || starts(b"<?xml") => Some("XML or SVG (draw it as PNG)"),
        () if bytes.starts_with(b"%PDF") => Some("a PDF"),
        () if bytes.starts_with(b"PK") => Some("a zip archive"),
        () if bytes.starts_with(b"version https://git-lfs") => Some("a Git LFS pointer (run `git lfs pull`)"),
        () if starts(b"<!doctype html") || starts(b"<html") => Some("a web page (the download failed?)"),
        () if text() => Some("text"),
        () => None,
    }
}

/// What the markers of a JPEG say.
pub(crate) struct Jpeg {
    /// Width and height as stored.
    pub size: [usize; 2],
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
}

/// Walks over the markers. A file without its end marker is refused: a download that broke off must not train as half an image of
/// gray.
pub(crate) fn jpeg(bytes: &[u8]) -> Result<Jpeg, String> {
    const CUT: &str = "the JPEG is cut off (its end is missing); copy or download the file again";
    let (mut at, mut size, mut orientation) = (2, None, 1);
    loop {
        // Fill bytes may stand before a marker.
        while bytes.get(at) == Some(&0xff) && bytes.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let (Some(0xff), Some(marker)) = (bytes.get(at), bytes.get(at + 1)) else {
            return Err(if at + 1 >= bytes.len() {
                CUT.into()
            } else {
                "the JPEG is damaged (a marker is missing)".to_owned()
            });
        };
        if matches!(marker, 0xd0..=0xd8 | 0x01) {
            at += 2;
            continue;
        }
        if *marker == 0xd9 {
            return Err("the JPEG holds no picture".into());
        }
        let length = bytes
            .get(at + 2..at + 4)
            .map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
            .ok_or(CUT)?;
        let body = bytes.get(at + 4..at + 2 + length.max(2)).ok_or(CUT)?;
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let [bits, h1, h0, w1, w0, ..] = body else {
                    return Err("the JPEG is damaged (short header)".into());
                };
                let join = |high: u8, low: u8| usize::from(high) << 8 | usize::from(low);
                let (w, h) = (join(*w1, *w0), join(*h1, *h0));
                check_size(w, h)?;
                if *bits != 8 {
                    return Err(format!("the JPEG has samples of {bits} bits; save it with 8 bits"));
                }
                size = Some([w, h]);
            }
            0xe1 if body.starts_with(b"Exif\0\0") => orientation = exif_orientation(body),
            0xda => break,
            _ => {}
        }
        at += 2 + length.max(2);
    }
    let size = size.ok_or("the JPEG is damaged (no size before its pixels)")?;
    // In the coded pixels 0xff is always followed by 0 or a restart marker, so the first end marker is the end.
    if memchr::memmem::find(&bytes[at..], &[0xff, 0xd9]).is_none() {
        return Err(CUT.into());
    }
    Ok(Jpeg { size, orientation })
}

/// Every chunk whole and with the right checksum, up to the end chunk.
pub(crate) fn png_is_complete(bytes: &[u8]) -> Result<(), String> {
    let mut at = 8;
    let cut = || "the PNG is cut off (its end is missing); copy or download the file again".to_owned();
    // The size comes first: an absurd one is the better complaint.
    if let Some(head) = bytes.get(16..24) {
        let number = |b: &[u8]| b.iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        check_size(number(&head[..4]), number(&head[4..]))?;
    }
    loop {
        let head = bytes.get(at..at + 8).ok_or_else(cut)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let name = &head[4..8];
        let body = bytes.get(at + 4..at + 8 + length).ok_or_else(cut)?;
        let sum = bytes.get(at + 8 + length..at + 12 + length).ok_or_else(cut)?;
        if crc32fast::hash(body).to_be_bytes() != sum {
            let name = String::from_utf8_lossy(name);
            return Err(format!(
                "the PNG is damaged (checksum of its {name} part); copy or download the file again"
            ));
        }
        if name == b"IEND" {
            return Ok(());
        }
        at += 12 + length;
    }
}

/// Tag 0x0112 of the first directory of an EXIF block; 1 (upright) where there is none.
pub(crate) fn exif_orientation(exif: &[u8]) -> u8 {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = tiff.starts_with(b"II");
    let u16_at = |at: usize| -> Option<u16> {
        let pair: [u8; 2] = tiff.get(at..at + 2)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(pair)
        } else {
            u16::from_be_bytes(pair)
        })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let four: [u8; 4] = tiff.get(at..at + 4)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(four)
        } else {
            u32::from_be_bytes(four)
        })
    };
    let find = || -> Option<u8> {
        let start = u32_at(4)? as usize;
        let entries = usize::from(u16_at(start)?);
        (0..entries)
            .map(|entry| start + 2 + entry * 12)
            .find(|at| u16_at(*at) == Some(0x0112))
            .and_then(|at| u16_at(at + 8))
            .and_then(|value| u8::try_from(value).ok())
    };
    find().filter(|o| (1..=8).contains(o)).unwrap_or(1)
}
