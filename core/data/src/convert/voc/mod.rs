//! Pascal VOC (Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010): one XML file per image, in `Annotations`
//! beside `JPEGImages`, splits in `ImageSets/Main`. Corners are taken as they are (no shift by one pixel); objects marked
//! `difficult` are left out, as in VOC's own evaluation, unless they are asked for.

mod xml;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use self::xml::{Annotation, Corners, Object};
use super::found::{Boxes, Found, Place};
use super::view::View;
use super::{Settings, first_folder, images_by_stem, name_of, stem_of};
use crate::{Error, Result, endings, files, text};

pub(super) fn read(settings: &Settings) -> Result<Found> {
    let root = &settings.source;
    let folders = ["Annotations", "annotations", "."].map(|name| root.join(name));
    let is_xml = |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("xml"));
    let mut xml = Vec::new();
    for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
        xml = files::listing(&folder)?.into_iter().filter(is_xml).collect();
        if !xml.is_empty() {
            break;
        }
    }
    if xml.is_empty() {
        return Err(Error::dataset(root, "there are no XML files here or in `Annotations`"));
    }
    let images = match &settings.images {
        Some(folder) => folder.clone(),
        None => first_folder(["JPEGImages", "images", "Images", "."].map(|name| root.join(name)))
            .ok_or_else(|| Error::dataset(root, "there is no folder with images"))?,
    };
    let mut found = Found::default();
    let mut by_stem = images_by_stem(&images, &mut found)?;
    let mut splits = image_sets(root, &mut found)?;
    let mut read = Vec::new();
    let mut broken = BTreeSet::new();
    for file in xml {
        let bytes = std::fs::read(&file).map_err(Error::io(&file, "read the annotations"))?;
        match xml::parse(&bytes) {
            Ok(annotation) => read.push((file, annotation)),
            Err((line, message)) => {
                found.problem(&file, line, "annotation-broken", message);
                broken.insert(stem_of(&file));
            }
        }
    }
    found.names = match &settings.names {
        Some(names) => names.clone(),
        None => {
            let objects = read.iter().flat_map(|(_, annotation)| &annotation.objects);
            let names: BTreeSet<&String> = objects.flat_map(|object| &object.name).collect();
            names.into_iter().cloned().collect()
        }
    };
    let reader = Reader {
        settings,
        folder: images,
        classes: found.names.iter().cloned().zip(0..).collect(),
    };
    let mut claimed: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut without_split: Vec<PathBuf> = Vec::new();
    let listed = !splits.is_empty();
    if !listed && let Some(list) = list_of_a_class(root)? {
        let message = "lists of single classes are not read, and there is no train.txt, val.txt, test.txt or trainval.txt beside them: which \
                       image is for what is drawn";
        found.note(&list, 0, "image-without-split", message);
    }
    for (file, annotation) in read {
        let own = stem_of(&file);
        let split = splits.remove(&own).map(|(split, _)| split);
        let Some(image) = reader.image_of(&mut found, &by_stem, &file, &annotation) else {
            continue;
        };
        if let Some(other) = claimed.insert(image.clone(), file.clone()) {
            let message = format!(
                "{} is annotated in {} too; only that file counts",
                image.display(),
                other.display()
            );
            found.problem(&file, 0, "name-clash", message);
            claimed.insert(image, other);
            continue;
        }
        if listed && split.is_none() {
            without_split.push(file);
            continue;
        }
        reader.take(&mut found, &file, annotation, split, image);
    }
    if let Some(first) = without_split.first() {
        let count = without_split.len();
        let message = format!(
            "{count} images with annotations are in no list of ImageSets/Main and are left out, this is the first"
        );
        found.note(first, 0, "image-without-split", message);
    }
    for (name, (split, line)) in splits.into_iter().filter(|(name, _)| !broken.contains(name)) {
        let list = list_of(root, split);
        found.problem(
            &list,
            line,
            "annotation-missing",
            format!("`{name}` has no file of annotations"),
        );
    }
    by_stem.retain(|stem, _| !broken.contains(stem));
    for image in by_stem
        .into_values()
        .flatten()
        .filter(|image| !claimed.contains_key(image))
    {
        let message = "there are no annotations for this image; it is left out";
        found.note(&image, 0, "annotation-missing", message);
    }
    Ok(found)
}

fn list_of(root: &Path, split: &str) -> PathBuf {
    root.join("ImageSets/Main").join(format!("{split}.txt"))
}

/// A list of one class, `ImageSets/Main/cat_train.txt`.
fn list_of_a_class(root: &Path) -> Result<Option<PathBuf>> {
    let folder = root.join("ImageSets/Main");
    if !folder.is_dir() {
        return Ok(None);
    }
    let of_class = |file: &PathBuf| {
        let name = name_of(file);
        ["_train.txt", "_val.txt", "_test.txt", "_trainval.txt"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    Ok(files::listing(&folder)?.into_iter().find(of_class))
}

/// Split and line by image name, from `ImageSets/Main/{train,val,test}.txt`. A name in two lists is of the first one. What `trainval.txt`
/// has beyond them is for training, or for validation where there is a list for training alone.
fn image_sets(root: &Path, found: &mut Found) -> Result<BTreeMap<String, (&'static str, usize)>> {
    let mut splits: BTreeMap<String, (&'static str, usize)> = BTreeMap::new();
    let there = |split: &str| list_of(root, split).is_file();
    let rest = if there("train") && !there("val") {
        "val"
    } else {
        "train"
    };
    for (name, split) in [("train", "train"), ("val", "val"), ("test", "test"), ("trainval", rest)] {
        let list = list_of(root, name);
        if !list.is_file() {
            continue;
        }
        let both = name == "trainval";
        if both {
            // It is for both, so that both must come out.
            found.splits.extend(["train", "val"]);
        }
        let text = text::read(&list, "read the list of images")?;
        for (index, row) in text.lines().enumerate() {
            // Lists of a class have -1, 0 or 1 behind the name.
            let Some(name) = row.split_whitespace().next() else {
                continue;
            };
            let as_file = Path::new(name);
            let name = if endings::is_image(as_file) {
                stem_of(as_file)
            } else {
                name.to_owned()
            };
            let line = index + 1;
            found.splits.insert(split);
            match splits.get(&name) {
                Some(_) if both => {}
                Some((other, at)) if *other != split => {
                    let message = format!("`{name}` is in {other}.txt, too (line {at}), and counts there");
                    found.problem(&list, line, "name-clash", message);
                }
                Some(_) => {}
                None => drop(splits.insert(name, (split, line))),
            }
        }
    }
    Ok(splits)
}

struct Reader<'a> {
    settings: &'a Settings,
    folder: PathBuf,
    classes: HashMap<String, usize>,
}

impl Reader<'_> {
    /// The image of an XML file. Its own name counts first: tools rename images and leave `filename` as it was.
    fn image_of(
        &self,
        found: &mut Found,
        by_stem: &BTreeMap<String, Vec<PathBuf>>,
        file: &Path,
        annotation: &Annotation,
    ) -> Option<PathBuf> {
        let own = stem_of(file);
        // Paths of other machines: the last part counts.
        let named = annotation.file_name.as_deref().map(|name| name.replace('\\', "/"));
        let named = named.as_deref().map(Path::new);
        let several = by_stem.get(&own).or_else(|| by_stem.get(&stem_of(named?)));
        match several.map(Vec::as_slice) {
            Some([image]) => {
                let stem = named.map(stem_of).filter(|stem| *stem != own);
                if let Some(other) = stem.filter(|stem| by_stem.contains_key(stem) && by_stem.contains_key(&own)) {
                    let message = format!(
                        "its <filename> is that of another image that is there, `{other}`; it is taken for {}, whose name it has",
                        name_of(image)
                    );
                    found.note(file, 0, "name-clash", message);
                }
                Some(image.clone())
            }
            Some(several) => {
                let exact = several
                    .iter()
                    .find(|image| named.is_some_and(|named| named.file_name() == image.file_name()));
                if exact.is_none() {
                    let names: Vec<String> = several.iter().map(|image| name_of(image)).collect();
                    let message = format!("it may be about {}: its <filename> is neither's", names.join(" or "));
                    found.problem(file, 0, "name-clash", message);
                }
                exact.cloned()
            }
            None => {
                let message = format!("there is no image `{own}` in {}", self.folder.display());
                found.problem(file, 0, "image-missing", message);
                None
            }
        }
    }

    fn take(
        &self,
        found: &mut Found,
        file: &Path,
        annotation: Annotation,
        split: Option<&'static str>,
        image: PathBuf,
    ) {
        let place = Place {
            file,
            line: 0,
            record: "",
        };
        if annotation.deleted > 0 {
            let message = format!("{} objects that are marked as deleted are left out", annotation.deleted);
            found.note(file, 0, "object-deleted", message);
        }
        let declared = match annotation.size {
            Ok(size) => size,
            Err(message) => {
                found.note(
                    file,
                    0,
                    "size-mismatch",
                    format!("{message}; the size of the image is taken"),
                );
                None
            }
        };
        let Some(view) = found.view(self.settings, place, &image, declared) else {
            return;
        };
        let mut boxes = Boxes::default();
        for object in annotation.objects {
            self.push(found, &mut boxes, file, object, &view);
        }
        found.take(self.settings, file, split, image, boxes);
    }

    fn push(&self, found: &mut Found, boxes: &mut Boxes, file: &Path, object: Object, view: &View) {
        let Object {
            line,
            name,
            difficult,
            corners,
        } = object;
        let place = Place { file, line, record: "" };
        let (name, difficult, Corners { bounds, around }) = match (name, difficult, corners) {
            (Ok(name), Ok(difficult), Ok(corners)) => (name, difficult, corners),
            // Left out on purpose, whatever else is wrong with it.
            (_, Ok(true), _) if !self.settings.keep.difficult => return found.leave_out(boxes, "difficult"),
            (Err(message), ..) | (_, Err(message), _) | (.., Err(message)) => {
                return found.unreadable(boxes, place, "annotation-broken", &message);
            }
        };
        if difficult && !self.settings.keep.difficult {
            return found.leave_out(boxes, "difficult");
        }
        let Some(class) = self.classes.get(&name) else {
            return found.not_asked_for(&name);
        };
        if let Some(shape) = around {
            let message = format!("the object has a {shape}; the box around it is used");
            found.note(file, line, "annotation-polygon", message);
        }
        found.push_box(boxes, place, *class, bounds, view);
    }
}
