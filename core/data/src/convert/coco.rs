//! COCO (Lin et al., Microsoft COCO: Common Objects in Context, arXiv 1405.0312): JSON files with `images`, `annotations`
//! (`bbox` is left, top, width, height in pixels) and `categories`. Classes are the categories in the order of their ids, without
//! gaps. Crowds are left out.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Item, Settings, Source, split_by_share, split_of};
use crate::labels::Label;
use crate::{Error, Result, files};

#[derive(Deserialize)]
struct File {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Picture {
    id: u64,
    file_name: String,
    #[serde(default)]
    width: f64,
    #[serde(default)]
    height: f64,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: Vec<f64>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

pub(super) fn read(settings: &Settings) -> Result<Source> {
    let mut source = Source::default();
    let mut parsed = Vec::new();
    for file in json_files(&settings.source)? {
        let text = std::fs::read(&file).map_err(Error::io(&file, "read the annotations"))?;
        let content: File = serde_json::from_slice(&text)
            .map_err(|error| Error::label(&file, error.line(), format!("no COCO annotations: {error}")))?;
        parsed.push((file, content));
    }
    let categories: BTreeMap<u64, &String> = parsed
        .iter()
        .flat_map(|(_, file)| &file.categories)
        .map(|category| (category.id, &category.name))
        .collect();
    source.names = match &settings.names {
        Some(names) => names.clone(),
        None => categories.values().map(|name| (*name).clone()).collect(),
    };
    let by_name: HashMap<&String, usize> = source.names.iter().zip(0..).collect();
    let classes: HashMap<u64, usize> = categories
        .iter()
        .filter_map(|(id, name)| Some((*id, *by_name.get(name)?)))
        .collect();
    for (file, content) in &parsed {
        read_file(&mut source, settings, file, content, &classes)?;
    }
    Ok(source)
}

/// The file itself, or those of a folder or its `annotations` that hold boxes (COCO has captions and key points there, too).
fn json_files(place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let is_json = |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    for folder in [place.join("annotations"), place.to_owned()]
        .into_iter()
        .filter(|folder| folder.is_dir())
    {
        let all: Vec<PathBuf> = files::listing(&folder)?.into_iter().filter(is_json).collect();
        let named =
            |file: &PathBuf, word: &str| file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(word));
        let mut found: Vec<PathBuf> = all.iter().filter(|file| named(file, "instances")).cloned().collect();
        if found.is_empty() {
            found = all;
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::dataset(
        place,
        "there are no JSON files here or in `annotations`",
    ))
}

fn read_file(
    source: &mut Source,
    settings: &Settings,
    file: &Path,
    content: &File,
    classes: &HashMap<u64, usize>,
) -> Result<()> {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let folders = image_folders(settings, file, &stem);
    let split = split_of(&stem);
    let mut boxes: HashMap<u64, Vec<&Annotation>> = HashMap::new();
    for annotation in &content.annotations {
        boxes.entry(annotation.image_id).or_default().push(annotation);
    }
    for picture in &content.images {
        let own = boxes.remove(&picture.id).unwrap_or_default();
        let found = folders
            .iter()
            .map(|folder| folder.join(&picture.file_name))
            .find(|path| path.is_file());
        let Some(image) = found else {
            let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let message = format!("the image {} is not in {}", picture.file_name, places.join(", "));
            source.problem(file, 0, "image-missing", message);
            continue;
        };
        let Some(real) = source.size(&image) else { continue };
        let declared = [picture.width, picture.height];
        let size = if declared.iter().all(|side| *side > 0.0) {
            declared
        } else {
            real
        };
        if size != real {
            let ([w, h], [rw, rh], name) = (size, real, &picture.file_name);
            let message = format!(
                "{name} should have {w} x {h} pixels, it has {rw} x {rh}; boxes are taken relative to the former"
            );
            source.problem(file, 0, "size-mismatch", message);
            if let Some(last) = source.problems.last_mut() {
                last.fatal = false;
            }
        }
        let labels = labels(source, file, &own, classes, size);
        let split = split.unwrap_or_else(|| split_by_share(&picture.file_name, settings.val_share));
        source.items.push(Item { split, image, labels });
    }
    if let Some(id) = boxes.keys().min() {
        let message = format!(
            "annotations speak of {} images that are not listed, the first has id {id}",
            boxes.len()
        );
        source.problem(file, 0, "annotation-broken", message);
    }
    Ok(())
}

/// Where the images of `instances_NAME.json` may be.
fn image_folders(settings: &Settings, file: &Path, stem: &str) -> Vec<PathBuf> {
    if let Some(images) = &settings.images {
        return vec![images.clone()];
    }
    let name = stem.strip_prefix("instances_").unwrap_or(stem);
    let beside = file.parent().unwrap_or(Path::new("")).to_owned();
    let above = beside.join("..");
    [
        above.join(name),
        above.join("images").join(name),
        above.join("images"),
        beside.join(name),
        beside.join("images"),
        beside,
    ]
    .into_iter()
    .filter(|folder| folder.is_dir())
    .collect()
}

fn labels(
    source: &mut Source,
    file: &Path,
    annotations: &[&Annotation],
    classes: &HashMap<u64, usize>,
    size: [f64; 2],
) -> Vec<Label> {
    let mut labels = Vec::new();
    for annotation in annotations {
        let Annotation {
            id,
            category_id,
            bbox,
            iscrowd,
            ..
        } = annotation;
        if *iscrowd != 0 {
            source.drop("crowd");
            continue;
        }
        let Some(class) = classes.get(category_id) else {
            let message = format!("annotation {id}: category {category_id} is none of the classes");
            source.problem(file, 0, "label-class", message);
            continue;
        };
        match bbox[..] {
            [x, y, w, h] if bbox.iter().all(|v| v.is_finite()) => {
                source.push_box(&mut labels, *class, [x, y, x + w, y + h], size);
            }
            _ => source.problem(
                file,
                0,
                "annotation-broken",
                format!("annotation {id}: `bbox` is not four numbers"),
            ),
        }
    }
    labels
}
