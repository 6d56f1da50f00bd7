//! Endings of files: which are pictures that can be read, and what the others are that users take for pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Endings of the files that count as images.
pub const IMAGE_EXTENSIONS: [&str; 17] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "mpo", "png", "bmp", "dib", "webp", "tif", "tiff", "gif", "ppm", "pgm", "pbm",
    "pnm",
];

/// What files are whose endings users take for pictures, but which can't be read, and the way out.
const OTHERS: [(&str, &[&str]); 8] = [
    (
        "AVIF pictures can't be read; convert them to JPEG or PNG",
        &["avif", "avifs"],
    ),
    (
        "HEIC pictures can't be read; convert them to JPEG or PNG",
        &["heic", "heif", "hif", "heics"],
    ),
    (
        "JPEG 2000 pictures can't be read; convert them to JPEG or PNG",
        &["jp2", "j2k", "jpf", "jpx", "j2c", "jpm"],
    ),
    (
        "JPEG XL and XR pictures can't be read; convert them to JPEG or PNG",
        &["jxl", "jxr", "wdp"],
    ),
    (
        "raw files of cameras can't be read; export them as JPEG or TIFF",
        &[
            "dng", "cr2", "cr3", "crw", "nef", "arw", "orf", "rw2", "raf", "pef", "srw",
        ],
    ),
    (
        "files of these kinds can't be read; convert them to JPEG or PNG",
        &[
            "pfm", "exr", "hdr", "tga", "ico", "svg", "psd", "pcx", "xcf", "eps", "qoi", "dds", "dcm", "pam",
        ],
    ),
    (
        "videos can't be read; take pictures out of them first (`ffmpeg -i FILE frames/%06d.png`)",
        &[
            "mp4", "avi", "mov", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "flv", "ts", "m2ts", "mts", "3gp", "asf",
            "ogv",
        ],
    ),
    (
        "streams can't be read; record them and take pictures out of the recording",
        &["streams", "m3u8"],
    ),
];

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Whether a path looks like an image.
pub fn is_image(path: &Path) -> bool {
    ending(path).is_some_and(|e| IMAGE_EXTENSIONS.contains(&e.as_str()))
}

/// Why a file with this ending, which a user may take for a picture, is not read; `None` for images and for all else.
pub fn why_not(path: &Path) -> Option<&'static str> {
    let ending = ending(path)?;
    OTHERS
        .iter()
        .find(|(_, endings)| endings.contains(&ending.as_str()))
        .map(|(reason, _)| *reason)
}

/// Pictures and videos that can't be read, in one sentence with their number and the reasons; `None` where there are none.
pub fn left_out(files: &[PathBuf]) -> Option<String> {
    let mut kinds: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for file in files {
        if let (Some(reason), Some(ending)) = (why_not(file), ending(file)) {
            *kinds.entry(reason).or_default().entry(ending).or_default() += 1;
        }
    }
    let count: usize = kinds.values().flat_map(BTreeMap::values).sum();
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(reason, endings)| {
            let endings: Vec<String> = endings.iter().map(|(ending, n)| format!("{n} .{ending}")).collect();
            format!("{} ({reason})", endings.join(", "))
        })
        .collect();
    let files = if count == 1 {
        "1 file is"
    } else {
        &format!("{count} files are")
    };
    (count > 0).then(|| format!("{files} left out: {}", kinds.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_is_read_or_said_to_be_something_else() {
        for name in ["a.JPG", "a.mpo", "a.jpe", "b.x.Tiff", "a.gif", "a.ppm"] {
            assert!(
                is_image(Path::new(name)) && why_not(Path::new(name)).is_none(),
                "{name}"
            );
        }
        for name in ["a.avif", "a.HEIC", "a.jp2", "a.dng", "a.mp4", "a.svg"] {
            let path = Path::new(name);
            assert!(
                !is_image(path) && why_not(path).is_some_and(|why| why.contains("can't be read")),
                "{name}"
            );
        }
        for name in ["a.txt", "a", "a.yaml", ".jpg"] {
            assert!(
                !is_image(Path::new(name)) && why_not(Path::new(name)).is_none(),
                "{name}"
            );
        }
        let all: Vec<&str> = OTHERS.iter().flat_map(|(_, endings)| *endings).copied().collect();
        assert!(IMAGE_EXTENSIONS.iter().all(|known| !all.contains(known)));
    }

    #[test]
    fn what_is_left_out_is_counted_in_one_sentence() {
        let files = ["a.heic", "b.mp4", "c.heif", "d.txt"].map(PathBuf::from);
        let text = left_out(&files).expect("some are");
        assert!(
            text.starts_with("3 files are left out: 1 .heic, 1 .heif (HEIC"),
            "{text}"
        );
        assert!(text.contains("1 .mp4 (videos"), "{text}");
        assert_eq!(left_out(&files[3..]), None);
    }
}
