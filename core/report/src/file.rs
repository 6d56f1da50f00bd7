//! Image and text files that appear whole or not at all.

use std::io::Write as _;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};

use crate::{Error, Result};

/// JPEG quality of pictures for people.
const QUALITY: u8 = 92;

/// The bytes of a JPEG file.
pub fn jpeg(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let (w, h) = side(pixels, width, height)?;
    let mut bytes = Vec::with_capacity(pixels.len() / 6);
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(pixels, w, h, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// The bytes of a PNG file.
pub fn png(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let (w, h) = side(pixels, width, height)?;
    let mut bytes = Vec::with_capacity(pixels.len() / 2);
    PngEncoder::new(&mut bytes).write_image(pixels, w, h, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

fn side(pixels: &[u8], width: usize, height: usize) -> Result<(u32, u32)> {
    let error = || Error::Size {
        bytes: pixels.len(),
        width,
        height,
    };
    let fits = width.checked_mul(height).and_then(|n| n.checked_mul(3)) == Some(pixels.len()) && !pixels.is_empty();
    if !fits {
        return Err(error());
    }
    Ok((
        u32::try_from(width).map_err(|_| error())?,
        u32::try_from(height).map_err(|_| error())?,
    ))
}

/// Writes a picture; the ending of `path` chooses JPEG or PNG. Makes the folder if it is absent.
pub fn save_picture(path: &Path, pixels: &[u8], width: usize, height: usize) -> Result<()> {
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let bytes = match ending.as_str() {
        "jpg" | "jpeg" => jpeg(pixels, width, height)?,
        "png" => png(pixels, width, height)?,
        _ => return Err(Error::Format(path.to_owned())),
    };
    save(path, &bytes)
}

/// Writes a text file (SVG, Markdown). Makes the folder if it is absent.
pub fn save_text(path: &Path, text: &str) -> Result<()> {
    save(path, text.as_bytes())
}

/// Writes beside `path`, then renames. Pictures can be made again, so the disk is not waited for.
fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let fail = Error::write(path);
    std::fs::create_dir_all(folder).map_err(&fail)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".report-");
    #[cfg(unix)]
    {
        // As readable as any new file; the umask is applied on top.
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(&fail)?;
    file.write_all(bytes).map_err(&fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripes(width: usize, height: usize) -> Vec<u8> {
        (0..width * height)
            .flat_map(|i| [(i % width) as u8 * 2, 90, 200])
            .collect()
    }

    #[test]
    fn files_hold_the_picture() {
        let dir = tempfile::tempdir().unwrap();
        let pixels = stripes(64, 32);
        for (name, tolerance) in [("a/x.png", 0), ("a/x.jpg", 12)] {
            let path = dir.path().join(name);
            save_picture(&path, &pixels, 64, 32).unwrap();
            let back = image::open(&path).unwrap().into_rgb8();
            assert_eq!(back.dimensions(), (64, 32));
            let worst = back.as_raw().iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).max();
            // JPEG at quality 92 halves the colour resolution of the smooth ramp; 12 levels is far below a visible error.
            assert!(worst.is_some_and(|w| w <= tolerance), "{name}: {worst:?}");
        }
        assert_eq!(
            std::fs::read_dir(dir.path().join("a")).unwrap().count(),
            2,
            "no temporary file stays"
        );
    }

    #[test]
    fn errors_name_the_file_or_the_size() {
        let dir = tempfile::tempdir().unwrap();
        let pixels = stripes(4, 4);
        let error = save_picture(&dir.path().join("x.tif"), &pixels, 4, 4)
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.tif") && error.contains(".png"), "{error}");
        let error = save_picture(&dir.path().join("x.png"), &pixels, 5, 4)
            .unwrap_err()
            .to_string();
        assert!(error.contains("5 x 4"), "{error}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = save_text(&dir.path().join("file/x.svg"), "").unwrap_err().to_string();
        assert!(error.contains("x.svg"), "{error}");
    }
}
