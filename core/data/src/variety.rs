//! Whether a set of images can say anything: one image, one picture under several names, or pictures of one colour give numbers as any
//! other set does, and none of them means something.

use std::path::Path;

use crate::Image;

/// What is wrong with these images as a whole, as the end of a sentence (`there is only one image`); `None` for a set of pictures. Decodes
/// no more than it takes to see two that differ: two images of a usual set.
pub fn lack<P: AsRef<Path>>(images: impl ExactSizeIterator<Item = P>) -> Option<String> {
    let count = images.len();
    let mut first: Option<Image> = None;
    let (mut alike, mut flat) = (true, true);
    for path in images {
        // What can't be read is said where images are read.
        let Ok(image) = Image::open(path.as_ref()) else {
            continue;
        };
        flat &= of_one_colour(&image);
        match &first {
            Some(first) => alike &= *first == image,
            None => first = Some(image),
        }
        if !flat && !alike {
            return None;
        }
    }
    let first = first?;
    let colour = match first.data.first_chunk::<3>() {
        Some([0, 0, 0]) => "black".to_owned(),
        Some([r, g, b]) => format!("of one colour ({r} {g} {b})"),
        None => return None,
    };
    match (count, flat, alike) {
        (1, true, _) => Some(format!("there is only one image, and it is {colour}")),
        (1, false, _) => Some("there is only one image".to_owned()),
        (_, true, true) => Some(format!("all {count} images are {colour}")),
        (_, true, false) => Some(format!(
            "each of the {count} images is of one colour, without a picture"
        )),
        (_, false, true) => Some(format!("all {count} images are the same picture")),
        (_, false, false) => None,
    }
}

fn of_one_colour(image: &Image) -> bool {
    let first = image.data.first_chunk::<3>();
    image
        .data
        .chunks_exact(3)
        .all(|pixel| Some(pixel) == first.map(<[u8; 3]>::as_slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_say_nothing_are_named_and_pictures_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |name: &str, image: &Image| {
            let path = dir.path().join(name);
            image.save(&path).expect("written");
            path
        };
        let mut stripes = Image::filled(32, 16, [10, 20, 30]);
        stripes.data[..48].fill(200);
        let mut others = stripes.clone();
        others.data[400..600].fill(90);
        let (black, gray) = (Image::filled(32, 16, [0; 3]), Image::filled(32, 16, [114; 3]));
        let stored: Vec<_> = [
            ("s", &stripes),
            ("t", &stripes),
            ("o", &others),
            ("b", &black),
            ("c", &black),
            ("g", &gray),
        ]
        .into_iter()
        .map(|(name, image)| (name, put(&format!("{name}.png"), image)))
        .collect();
        let said = |names: &str| {
            let of = |name: char| {
                stored
                    .iter()
                    .find(|(other, _)| other.starts_with(name))
                    .expect("a picture")
                    .1
                    .clone()
            };
            lack(names.chars().map(of).collect::<Vec<_>>().into_iter())
        };
        for (names, words) in [
            ("s", Some("there is only one image")),
            ("b", Some("there is only one image, and it is black")),
            ("bc", Some("all 2 images are black")),
            ("gg", Some("all 2 images are of one colour (114 114 114)")),
            ("bg", Some("each of the 2 images is of one colour, without a picture")),
            ("stst", Some("all 4 images are the same picture")),
            ("so", None),
            ("sso", None),
            ("sb", None),
            ("bbs", None),
            ("", None),
        ] {
            assert_eq!(said(names).as_deref(), words, "{names}");
        }
    }
}
