//! VisDrone-DET (Zhu et al., Detection and Tracking Meet Drones Challenge, arXiv 2001.06303): `annotations/NAME.txt` beside
//! `images/NAME.jpg`. Rows are `left, top, width, height, score, category, truncation, occlusion`; a score of 0 and the categories
//! 0 (ignored regions) and 11 (others) are not evaluated and are left out, so the classes are categories 1 to 10. If they are kept, they
//! are classes of their own behind these.

use std::path::{Path, PathBuf};

use super::found::{Boxes, Found, Place};
use super::view::View;
use super::{Settings, first_folder, images_by_stem, name_of, split_of, stem_of};
use crate::{Error, Result, files, text};

const NAMES: [&str; 10] = [
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
];

/// Classes of the categories 0 and 11, if they are kept.
const IGNORED: [&str; 2] = ["ignored-region", "others"];

pub(super) fn read(settings: &Settings) -> Result<Found> {
    if settings.names.is_some() {
        return Err(Error::Settings(
            "the classes of VisDrone are fixed; leave the names out".into(),
        ));
    }
    let more = if settings.keep.ignored { &IGNORED[..] } else { &[] };
    let mut found = Found::default();
    found.names = NAMES.iter().chain(more).map(|name| (*name).to_owned()).collect();
    for (folder, split) in parts(&settings.source)? {
        let images = match &settings.images {
            Some(images) => images.clone(),
            None => folder.join("images"),
        };
        found.splits.extend(split);
        read_part(settings, &mut found, &folder.join("annotations"), &images, split)?;
    }
    Ok(found)
}

/// The folder itself, or the folders in it, that hold annotations, with the split that the name tells. One folder whose name tells none
/// holds images of all splits.
fn parts(root: &Path) -> Result<Vec<(PathBuf, Option<&'static str>)>> {
    if root.join("annotations").is_dir() {
        return Ok(vec![(root.to_owned(), split_of(&name_of(root)))]);
    }
    let mut parts = Vec::new();
    for folder in files::listing(root)?
        .into_iter()
        .filter(|folder| folder.join("annotations").is_dir())
    {
        let Some(split) = split_of(&name_of(&folder)) else {
            let reason = "which split is this? Its name should hold `train`, `val` or `test`";
            return Err(Error::dataset(&folder, reason));
        };
        parts.push((folder, Some(split)));
    }
    if parts.is_empty() {
        return Err(Error::dataset(
            root,
            "there is no folder `annotations` here or one level below",
        ));
    }
    Ok(parts)
}

fn read_part(
    settings: &Settings,
    found: &mut Found,
    annotations: &Path,
    images: &Path,
    split: Option<&'static str>,
) -> Result<()> {
    let Some(images) = first_folder([images.to_owned()]) else {
        return Err(Error::dataset(images, "the folder of the images does not exist"));
    };
    let mut by_stem = images_by_stem(&images, found)?;
    let is_text = |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    for file in files::listing(annotations)?.into_iter().filter(is_text) {
        let stem = stem_of(&file);
        let image = match by_stem.remove(&stem).as_deref() {
            Some([image]) => image.clone(),
            Some(several) => {
                let names: Vec<String> = several.iter().map(|image| name_of(image)).collect();
                let message = format!(
                    "the images {} have this name, and one file of annotations",
                    names.join(" and ")
                );
                found.problem(&file, 0, "name-clash", message);
                continue;
            }
            None => {
                let message = format!("there is no image `{stem}` in {}", images.display());
                found.problem(&file, 0, "image-missing", message);
                continue;
            }
        };
        let place = Place {
            file: &file,
            line: 0,
            record: "",
        };
        let Some(view) = found.view(settings, place, &image, None) else {
            continue;
        };
        let bytes = crate::files::bytes(&file).map_err(Error::io(&file, "read the annotations"))?;
        let boxes = match text::decode(&bytes) {
            Ok(text) => read_rows(settings, found, &file, &text, &view),
            Err(error) => {
                let (line, mut boxes) = (error.line, Boxes::default());
                found.unreadable(&mut boxes, Place { line, ..place }, "label-encoding", &error.message);
                boxes
            }
        };
        found.take(settings, &file, split, image, boxes);
    }
    for image in by_stem.into_values().flatten() {
        found.problem(
            &image,
            0,
            "annotation-missing",
            "there are no annotations for this image; it is left out",
        );
    }
    Ok(())
}

fn read_rows(settings: &Settings, found: &mut Found, file: &Path, text: &str, view: &View) -> Boxes {
    let mut boxes = Boxes::default();
    for (index, row) in text.lines().enumerate() {
        let row = row.trim();
        if row.is_empty() {
            continue;
        }
        let place = Place {
            file,
            line: index + 1,
            record: "",
        };
        let (corners, score, category) = match fields(row) {
            Ok(fields) => fields,
            Err(message) => {
                found.unreadable(&mut boxes, place, "annotation-broken", &message);
                continue;
            }
        };
        let ignored = matches!(category, 0 | 11) || (score == 0 && (1..=10).contains(&category));
        let class = match category {
            _ if ignored && !settings.keep.ignored => {
                found.leave_out(&mut boxes, "ignored");
                continue;
            }
            0 => NAMES.len(),
            1..=11 => category as usize - if category == 11 { 0 } else { 1 },
            _ => {
                let message = format!("category {category}; VisDrone has 0 to 11");
                found.unreadable(&mut boxes, place, "label-class", &message);
                continue;
            }
        };
        found.push_box(&mut boxes, place, class, corners, view);
    }
    boxes
}

/// Corners, score and category of a row.
fn fields(row: &str) -> Result<([f64; 4], i64, i64), String> {
    let wanted = "`left,top,width,height,score,category,truncation,occlusion`";
    // A comma may stand at the end.
    let fields: Vec<&str> = row.strip_suffix(',').unwrap_or(row).split(',').map(str::trim).collect();
    if !(6..=8).contains(&fields.len()) {
        let hint = if fields.len() >= 9 {
            " (rows of videos have two more in front)"
        } else {
            ""
        };
        return Err(format!(
            "`{row}` has {} fields, not those of {wanted}{hint}",
            fields.len()
        ));
    }
    let number = |text: &str| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("`{text}` in `{row}` is no number of a row {wanted}"))
    };
    let whole = |text: &str| {
        let number = number(text)?;
        if number.fract() == 0.0 && number.abs() < 1e6 {
            Ok(number as i64)
        } else {
            Err(format!(
                "`{text}` in `{row}` is no whole number, as score and category are"
            ))
        }
    };
    let [x, y, w, h] = [
        number(fields[0])?,
        number(fields[1])?,
        number(fields[2])?,
        number(fields[3])?,
    ];
    if w < 0.0 || h < 0.0 {
        return Err(format!("`{row}` has a negative width or height"));
    }
    Ok(([x, y, x + w, y + h], whole(fields[4])?, whole(fields[5])?))
}
