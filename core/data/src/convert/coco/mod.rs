//! COCO (Lin et al., Microsoft COCO: Common Objects in Context, arXiv 1405.0312): JSON files with `images`, `annotations`
//! (`bbox` is left, top, width, height in pixels) and `categories`. Classes are the categories in the order of their ids, without
//! gaps. Crowds and objects that say `ignore` are left out, unless they are asked for.

mod claims;
mod corners;
mod places;
mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::claims::Claims;
use self::corners::{Kind, corners};
use self::places::{image_folders, look_for};
use self::records::{Annotation, File, Key, Picture, Record, flag, key, number, shown};
use super::found::{Boxes, Found, Place};
use super::view::View;
use super::{Settings, name_of, split_of, stem_of};
use crate::{Error, Result, endings, files, text};

/// A file with its categories.
struct Parsed {
    path: PathBuf,
    content: File,
    categories: Vec<(Key, String)>,
}

pub(super) fn read(settings: &Settings) -> Result<Found> {
    let mut found = Found::default();
    let mut parsed = Vec::new();
    let paths = json_files(&settings.source)?;
    for path in &paths {
        match parse(path, &mut found) {
            Ok(file) => parsed.push(file),
            Err(error) if paths.len() == 1 => return Err(error),
            Err(Error::Label { line, reason, .. } | Error::Dataset { line, reason, .. }) => {
                found.problem(path, line, "annotation-broken", reason);
            }
            Err(error) => found.problem(path, 0, "annotation-broken", error.to_string()),
        }
    }
    found.names = match &settings.names {
        Some(names) => names.clone(),
        None => class_names(&parsed),
    };
    let mut claims = Claims::default();
    if found.names.is_empty() && !parsed.is_empty() {
        let reason = "there are no categories in it";
        return Err(Error::dataset(&settings.source, reason));
    }
    for file in parsed {
        let index: HashMap<&String, usize> = found.names.iter().zip(0..).collect();
        let classes: HashMap<Key, Option<usize>> = file
            .categories
            .iter()
            .map(|(id, name)| (id.clone(), index.get(name).copied()))
            .collect();
        let names: HashMap<Key, String> = file.categories.into_iter().collect();
        let reader = Reader {
            settings,
            path: &file.path,
            classes,
            names,
        };
        reader.read(&mut found, file.content, &mut claims)?;
    }
    unlisted(&mut found)?;
    Ok(found)
}

/// Pictures beside those that the files list.
fn unlisted(found: &mut Found) -> Result<()> {
    let folders: BTreeSet<PathBuf> = found
        .listed
        .iter()
        .filter_map(|image| image.parent())
        .map(Path::to_owned)
        .collect();
    for folder in folders {
        let beside: Vec<PathBuf> = files::pictures(&folder, false)?
            .images
            .into_iter()
            .filter(|image| !found.listed.contains(&claims::identity(image)))
            .collect();
        if let Some(first) = beside.first() {
            let message = format!(
                "{} images are in no file of annotations and are left out, this is the first",
                beside.len()
            );
            found.note(first, 0, "annotation-missing", message);
        }
    }
    Ok(())
}

/// The names of all files' categories, in the order of their ids: a name is one class, whatever its ids are.
fn class_names(parsed: &[Parsed]) -> Vec<String> {
    let mut by_id: BTreeMap<&Key, Vec<&String>> = BTreeMap::new();
    for (id, name) in parsed.iter().flat_map(|file| &file.categories) {
        by_id.entry(id).or_default().push(name);
    }
    let mut names: Vec<String> = Vec::new();
    for name in by_id.into_values().flatten() {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The file itself, or those of a folder, its `annotations`, or the folders in it (`train/_annotations.coco.json`). COCO has captions
/// and key points there, too.
fn json_files(place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let in_folder = |folder: &Path| -> Result<Vec<PathBuf>> {
        let is_json =
            |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) && file.is_file();
        let all: Vec<PathBuf> = files::listing(folder)?.into_iter().filter(is_json).collect();
        let instances: Vec<PathBuf> = all
            .iter()
            .filter(|file| name_of(file).starts_with("instances"))
            .cloned()
            .collect();
        Ok(if instances.is_empty() { all } else { instances })
    };
    for folder in [place.join("annotations"), place.to_owned()] {
        if folder.is_dir() {
            let files = in_folder(&folder)?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
    }
    let mut below = Vec::new();
    for folder in files::listing(place)?.into_iter().filter(|path| path.is_dir()) {
        below.extend(in_folder(&folder)?);
    }
    if below.is_empty() {
        let reason = "there are no JSON files here, in `annotations` or one level below";
        return Err(Error::dataset(place, reason));
    }
    Ok(below)
}

/// Reads a file; categories that clash are its error, since no annotation could be trusted.
fn parse(path: &Path, found: &mut Found) -> Result<Parsed> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read the annotations"))?;
    let content = text::decode(&bytes).map_err(|error| Error::label(path, error.line, error.message))?;
    if content.trim_start().starts_with('[') {
        let reason = "no COCO annotations: it is a list, as of what a detector found (`--save-json`); annotations are an object with `images`, \
                      `annotations` and `categories`";
        return Err(Error::label(path, 1, reason.to_owned()));
    }
    let mut content: File = serde_json::from_str(&records::quote_odd_numbers(&content))
        .map_err(|error| Error::label(path, error.line(), format!("no COCO annotations: {error}")))?;
    drop(bytes);
    for (key, missing) in [
        ("images", content.images.is_none()),
        ("annotations", content.annotations.is_none()),
        ("categories", content.categories.is_none()),
    ] {
        if missing {
            let hint = match key {
                "annotations" => " (a list of images for a test? there is nothing to convert in it)",
                _ => "",
            };
            return Err(Error::dataset(
                path,
                format!("no COCO annotations: it has no `{key}`{hint}"),
            ));
        }
    }
    let mut categories: Vec<(Key, String)> = Vec::new();
    for (index, record) in content.categories.take().unwrap_or_default().into_iter().enumerate() {
        let number = index + 1;
        let Record::Read(category) = record else {
            found.problem(
                path,
                0,
                "annotation-broken",
                format!("category number {number} is no record"),
            );
            continue;
        };
        let name = match category.name {
            Value::String(name) if !name.trim().is_empty() => name,
            // As it is written: 7 is the name "7".
            Value::Number(name) => name.to_string(),
            other => {
                let message = format!("category number {number}: `name` is {}", shown(&other));
                found.problem(path, 0, "annotation-broken", message);
                continue;
            }
        };
        let Some(id) = key(&category.id) else {
            let message = format!("category `{name}`: `id` is {}", shown(&category.id));
            found.problem(path, 0, "annotation-broken", message);
            continue;
        };
        for (other, taken) in &categories {
            let (same_id, same_name) = (*other == id, *taken == name);
            if same_id && !same_name {
                let reason =
                    format!("two categories have the id {id}: `{taken}` and `{name}`; give one of them another");
                return Err(Error::dataset(path, reason));
            }
            if same_name && !same_id {
                let reason =
                    format!("two categories are called `{name}`, with the ids {other} and {id}; rename one of them");
                return Err(Error::dataset(path, reason));
            }
        }
        if !categories.iter().any(|(other, _)| *other == id) {
            categories.push((id, name));
        }
    }
    Ok(Parsed {
        path: path.to_owned(),
        content,
        categories,
    })
}

/// An image of a file, found on the disk.
struct Located {
    id: Key,
    name: String,
    image: PathBuf,
    declared: Option<[f64; 2]>,
}

struct Reader<'a> {
    settings: &'a Settings,
    path: &'a Path,
    /// Class of each category; none where it was not asked for.
    classes: HashMap<Key, Option<usize>>,
    names: HashMap<Key, String>,
}

impl Reader<'_> {
    fn read(&self, found: &mut Found, content: File, claims: &mut Claims) -> Result<()> {
        let stem = stem_of(self.path);
        let parent = self.path.parent().map(name_of).unwrap_or_default().to_ascii_lowercase();
        let split = split_of(&stem).or(match parent.as_str() {
            "train" | "training" | "train2017" => Some("train"),
            "val" | "valid" | "validation" | "val2017" => Some("val"),
            "test" | "testing" | "test2017" => Some("test"),
            _ => None,
        });
        found.splits.extend(split);
        let mut annotations: HashMap<Key, Vec<(usize, Annotation)>> = HashMap::new();
        for (index, record) in content.annotations.unwrap_or_default().into_iter().enumerate() {
            let number = index + 1;
            let Record::Read(annotation) = record else {
                self.broken(found, format!("annotation number {number} is no record"));
                continue;
            };
            match key(&annotation.image_id) {
                Some(image) => annotations.entry(image).or_default().push((number, annotation)),
                None => {
                    let what = called(&annotation, number);
                    self.broken(found, format!("{what}: `image_id` is {}", shown(&annotation.image_id)));
                }
            }
        }
        if split.is_none() {
            self.unread_splits(found, content.images.as_deref().unwrap_or_default());
        }
        self.other_corners(found, annotations.values().flatten().map(|(_, annotation)| annotation));
        let (images, unusable) = self.images(found, content.images.unwrap_or_default(), &stem);
        claims.add(self.path, images.iter().map(|located| located.image.as_path()))?;
        for id in unusable {
            annotations.remove(&id);
        }
        for Located {
            id,
            name,
            image,
            declared,
        } in images
        {
            let own = annotations.remove(&id).unwrap_or_default();
            let record = format!("image {id}");
            let place = Place {
                file: self.path,
                line: 0,
                record: &record,
            };
            let Some(view) = found.view(self.settings, place, &image, declared) else {
                continue;
            };
            let boxes = self.boxes(found, &own, &name, &view);
            found.take(self.settings, self.path, split, image, boxes);
        }
        if let Some(id) = annotations.keys().min() {
            let message = format!(
                "annotations speak of {} images that are not listed, the first has id {id}",
                annotations.len()
            );
            self.broken(found, message);
        }
        Ok(())
    }

    fn broken(&self, found: &mut Found, message: String) {
        found.problem(self.path, 0, "annotation-broken", message);
    }

    /// The images that can be used, and the ids of the others.
    fn images(&self, found: &mut Found, records: Vec<Record<Picture>>, stem: &str) -> (Vec<Located>, Vec<Key>) {
        self.half_marked(found, &records);
        let folders = image_folders(self.settings, self.path, stem);
        let (mut images, mut unusable): (Vec<Located>, Vec<Key>) = (Vec::new(), Vec::new());
        for (index, record) in records.into_iter().enumerate() {
            let number_of = index + 1;
            let Record::Read(picture) = record else {
                self.broken(found, format!("image number {number_of} is no record"));
                continue;
            };
            let Some(id) = key(&picture.id) else {
                self.broken(
                    found,
                    format!("image number {number_of}: `id` is {}", shown(&picture.id)),
                );
                continue;
            };
            let Value::String(name) = picture.file_name else {
                self.broken(
                    found,
                    format!("image {id}: `file_name` is {}", shown(&picture.file_name)),
                );
                unusable.push(id);
                continue;
            };
            let Some(image) = look_for(&folders, &name) else {
                let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                let message = format!("the image {name} is not in {}", places.join(", "));
                found.problem(self.path, 0, "image-missing", message);
                unusable.push(id);
                continue;
            };
            found.listed.insert(claims::identity(&image));
            if !endings::is_image(&image) {
                let why = endings::why_not(&image)
                    .unwrap_or("its ending is none of a picture's, so the data set would not have it");
                found.problem(self.path, 0, "image-unreadable", format!("{name}: {why}"));
                unusable.push(id);
                continue;
            }
            let side = |value: &Value| number(value).filter(|side| *side > 0.0);
            let declared = match (&picture.width, &picture.height) {
                (w, h) if side(w).is_some() && side(h).is_some() => side(w).zip(side(h)).map(|(w, h)| [w, h]),
                (Value::Null, Value::Null) => None,
                (w, h) => {
                    if number(w).zip(number(h)).is_none() {
                        let message = format!(
                            "image {id}: `width` and `height` are {} and {}; the size of the file is taken",
                            shown(w),
                            shown(h)
                        );
                        found.note(self.path, 0, "size-mismatch", message);
                    }
                    None
                }
            };
            images.push(Located {
                id,
                name,
                image,
                declared,
            });
        }
        self.clashes(found, images, unusable)
    }

    /// Splits that images name are no part of the format.
    fn unread_splits(&self, found: &mut Found, records: &[Record<Picture>]) {
        let names = |record: &&Record<Picture>| matches!(record, Record::Read(picture) if !picture.split.is_null());
        let count = records.iter().filter(names).count();
        if count > 0 {
            let message = format!(
                "{count} images say what they are for (`split`), which is not COCO's and is not read: one file per split is (train.json, \
                 val.json); here it is drawn"
            );
            found.note(self.path, 0, "setting-unused", message);
        }
    }

    /// Whether `area` says of every box that its four numbers are corners.
    fn other_corners<'a>(&self, found: &mut Found, annotations: impl Iterator<Item = &'a Annotation>) {
        let (mut count, mut corners) = (0, 0);
        for annotation in annotations {
            let (Ok([x, y, w, h]), Some(area)) = (records::four(&annotation.bbox), number(&annotation.area)) else {
                continue;
            };
            let near = |value: f64| area > 0.0 && (value - area).abs() <= 0.01 * area;
            count += 1;
            corners += usize::from(w > x && h > y && near((w - x) * (h - y)) && !near(w * h));
        }
        if corners > 1 && corners == count {
            let message = format!(
                "`area` of all {count} boxes is what they have as x1 y1 x2 y2; they are read as left, top, width, height, as COCO has them"
            );
            found.note(self.path, 0, "size-mismatch", message);
        }
    }

    /// LVIS marks some objects of some classes only, and says so.
    fn half_marked(&self, found: &mut Found, records: &[Record<Picture>]) {
        let partly = |record: &&Record<Picture>| {
            let Record::Read(picture) = record else { return false };
            picture
                .not_exhaustive_category_ids
                .as_array()
                .is_some_and(|ids| !ids.is_empty())
        };
        let count = records.iter().filter(partly).count();
        if count > 0 {
            let message = format!(
                "{count} images say that not every object of some classes is marked (`not_exhaustive_category_ids`): the others are \
                 background here"
            );
            found.note(self.path, 0, "objects-unmarked", message);
        }
    }

    /// Two records of one id or of one file: neither can be trusted.
    fn clashes(&self, found: &mut Found, images: Vec<Located>, mut unusable: Vec<Key>) -> (Vec<Located>, Vec<Key>) {
        let mut by_id: HashMap<&Key, usize> = HashMap::new();
        let mut by_file: HashMap<&PathBuf, usize> = HashMap::new();
        let mut clashing = vec![false; images.len()];
        for (index, Located { id, name, image, .. }) in images.iter().enumerate() {
            if let Some(first) = by_id.insert(id, index) {
                let message = format!(
                    "two images have the id {id}: {} and {name}; both are left out",
                    images[first].name
                );
                found.problem(self.path, 0, "name-clash", message);
                (clashing[first], clashing[index]) = (true, true);
            }
            if let Some(first) = by_file.insert(image, index)
                && images[first].id != *id
            {
                let message = format!(
                    "two images are the file {}: those of id {} and {id}; both are left out",
                    image.display(),
                    images[first].id
                );
                found.problem(self.path, 0, "name-clash", message);
                (clashing[first], clashing[index]) = (true, true);
            }
        }
        let clashed = images.iter().zip(&clashing).filter(|(_, clash)| **clash);
        unusable.extend(clashed.map(|(image, _)| image.id.clone()));
        let mut keep = clashing.iter().map(|clash| !clash);
        let images = images.into_iter().filter(|_| keep.next().unwrap_or(true)).collect();
        (images, unusable)
    }

    fn boxes(&self, found: &mut Found, annotations: &[(usize, Annotation)], image: &str, view: &View) -> Boxes {
        let mut boxes = Boxes::default();
        for (number, annotation) in annotations {
            let record = format!("{} ({image})", called(annotation, *number));
            let place = Place {
                file: self.path,
                line: 0,
                record: &record,
            };
            let keep = self.settings.keep;
            let marks = [
                ("iscrowd", &annotation.iscrowd, keep.crowd, "crowd"),
                ("ignore", &annotation.ignore, keep.ignored, "ignored"),
            ];
            let unread = marks.iter().find(|(_, value, ..)| flag(value).is_none());
            if let Some((name, value, ..)) = unread {
                let message = format!("`{name}` is {}", shown(value));
                found.unreadable(&mut boxes, place, "annotation-broken", &message);
                continue;
            }
            let left_out = marks
                .iter()
                .find(|(_, value, keep, _)| !keep && flag(value) == Some(true));
            if let Some((.., reason)) = left_out {
                found.leave_out(&mut boxes, reason);
                continue;
            }
            let category = key(&annotation.category_id);
            let class = match category.as_ref().and_then(|id| self.classes.get(id)) {
                Some(Some(class)) => *class,
                Some(None) => {
                    let name = category.and_then(|id| self.names.get(&id)).map_or("", String::as_str);
                    found.not_asked_for(name);
                    continue;
                }
                None => {
                    let message = format!(
                        "`category_id` {} is none of the categories",
                        shown(&annotation.category_id)
                    );
                    found.unreadable(&mut boxes, place, "label-class", &message);
                    continue;
                }
            };
            match corners(annotation, self.settings.boxes) {
                Ok((corners, kind)) => {
                    let message = match kind {
                        Kind::Polygon if annotation.bbox.is_null() => {
                            Some("it has no `bbox`; the box around its polygons is used")
                        }
                        Kind::Turned => Some("its box is turned (`rotation`); the upright box around it is used"),
                        Kind::Polygon | Kind::Box => None,
                    };
                    if let Some(message) = message {
                        found.note(self.path, 0, "annotation-polygon", format!("{record}: {message}"));
                    }
                    found.push_box(&mut boxes, place, class, corners, view);
                }
                Err(message) => found.unreadable(&mut boxes, place, "annotation-broken", &message),
            }
        }
        boxes
    }
}

/// What an annotation is called.
fn called(annotation: &Annotation, number: usize) -> String {
    match key(&annotation.id) {
        Some(id) => format!("annotation {id}"),
        None => format!("annotation number {number}"),
    }
}
