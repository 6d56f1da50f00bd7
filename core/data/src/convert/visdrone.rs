//! VisDrone-DET (Zhu et al., Detection and Tracking Meet Drones Challenge, arXiv 2001.06303): `annotations/NAME.txt` beside
//! `images/NAME.jpg`. Rows are `left, top, width, height, score, category, truncation, occlusion`; a score of 0 and the categories
//! 0 (ignored regions) and 11 (others) are not evaluated and are left out, so the classes are categories 1 to 10.

use std::path::{Path, PathBuf};

use super::{Settings, Source, first_folder, images_by_stem, split_of};
use crate::labels::Label;
use crate::{Error, Result, files};

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

pub(super) fn read(settings: &Settings) -> Result<Source> {
    if settings.names.is_some() {
        return Err(Error::Settings(
            "the classes of VisDrone are fixed; leave the names out".into(),
        ));
    }
    let mut source = Source {
        names: NAMES.map(str::to_owned).to_vec(),
        ..Source::default()
    };
    for (folder, split) in parts(&settings.source)? {
        let images = match &settings.images {
            Some(images) => images.clone(),
            None => folder.join("images"),
        };
        read_part(&mut source, &folder.join("annotations"), &images, split)?;
    }
    Ok(source)
}

/// The folder itself, or the folders in it, that hold annotations.
fn parts(root: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let name = |folder: &Path| {
        folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    if root.join("annotations").is_dir() {
        return Ok(vec![(root.to_owned(), split_of(&name(root)).unwrap_or("train"))]);
    }
    let mut parts = Vec::new();
    for folder in files::listing(root)?
        .into_iter()
        .filter(|folder| folder.join("annotations").is_dir())
    {
        let Some(split) = split_of(&name(&folder)) else {
            let reason = "which split is this? Its name should hold `train`, `val` or `test`";
            return Err(Error::dataset(&folder, reason));
        };
        parts.push((folder, split));
    }
    if parts.is_empty() {
        return Err(Error::dataset(
            root,
            "there is no folder `annotations` here or one level below",
        ));
    }
    Ok(parts)
}

fn read_part(source: &mut Source, annotations: &Path, images: &Path, split: &'static str) -> Result<()> {
    let Some(images) = first_folder([images.to_owned()]) else {
        return Err(Error::dataset(images, "the folder of the images does not exist"));
    };
    let mut by_stem = images_by_stem(&images)?;
    for file in files::listing(annotations)?
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "txt"))
    {
        let stem = file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Some(image) = by_stem.remove(&stem) else {
            source.problem(
                &file,
                0,
                "image-missing",
                format!("there is no image `{stem}` in {}", images.display()),
            );
            continue;
        };
        let Some(size) = source.size(&image) else { continue };
        let text = std::fs::read(&file).map_err(Error::io(&file, "read the annotations"))?;
        let labels = read_rows(source, &file, &String::from_utf8_lossy(&text), size);
        source.items.push(super::Item { split, image, labels });
    }
    for image in by_stem.into_values() {
        source.problem(
            &image,
            0,
            "annotation-missing",
            "there are no annotations for this image; it is left out",
        );
    }
    Ok(())
}

fn read_rows(source: &mut Source, file: &Path, text: &str, size: [f64; 2]) -> Vec<Label> {
    let mut labels = Vec::new();
    for (index, row) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = index + 1;
        let row = row.trim();
        if row.is_empty() {
            continue;
        }
        let fields: Vec<Option<i64>> = row.split(',').take(6).map(|field| field.trim().parse().ok()).collect();
        let Some(&[x, y, w, h, score, category]) = fields.into_iter().collect::<Option<Vec<i64>>>().as_deref() else {
            let message = format!("`{row}` is no row of whole numbers `left,top,width,height,score,category,...`");
            source.problem(file, line, "annotation-broken", message);
            continue;
        };
        match category {
            0 | 11 => source.drop("ignored"),
            1..=10 if score == 0 => source.drop("ignored"),
            1..=10 => {
                let corners = [x, y, x + w, y + h].map(|v| v as f64);
                source.push_box(&mut labels, category as usize - 1, corners, size);
            }
            _ => {
                let message = format!("category {category}; VisDrone has 0 to 11");
                source.problem(file, line, "label-class", message);
            }
        }
    }
    labels
}
