//! Pascal VOC (Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010): one XML file per image, in `Annotations`
//! beside `JPEGImages`, splits in `ImageSets/Main`. Corners are taken as they are (no shift by one pixel); objects marked
//! `difficult` are left out, as in VOC's own evaluation.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::{Item, Settings, Source, first_folder, images_by_stem, split_by_share};
use crate::{Error, Result, files};

/// What an XML file says.
struct Annotation {
    /// Name of the image file, if it is given.
    file_name: Option<String>,
    /// Width and height, if they are given.
    size: Option<[f64; 2]>,
    objects: Vec<Object>,
}

struct Object {
    line: usize,
    name: String,
    difficult: bool,
    /// Corners, or what is wrong with them.
    corners: Result<[f64; 4], String>,
}

pub(super) fn read(settings: &Settings) -> Result<Source> {
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
    let by_stem = images_by_stem(&images)?;
    let splits = image_sets(root)?;
    let mut source = Source::default();
    let mut read = Vec::new();
    for file in xml {
        let text = std::fs::read_to_string(&file).map_err(Error::io(&file, "read the annotations"))?;
        match parse(&text) {
            Ok(annotation) => read.push((file, annotation)),
            Err((line, message)) => source.problem(&file, line, "annotation-broken", message),
        }
    }
    source.names = match &settings.names {
        Some(names) => names.clone(),
        None => {
            let objects = read.iter().flat_map(|(_, annotation)| &annotation.objects);
            let names: std::collections::BTreeSet<&String> = objects.map(|object| &object.name).collect();
            names.into_iter().cloned().collect()
        }
    };
    let classes: HashMap<String, usize> = source.names.iter().cloned().zip(0..).collect();
    for (file, annotation) in read {
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let own = stem(&file).unwrap_or_default();
        // The XML's own name counts first: tools rename images and leave `filename` as it was.
        let named = annotation.file_name.as_deref().and_then(|name| stem(Path::new(name)));
        let Some(image) = by_stem.get(&own).or_else(|| by_stem.get(&named?)) else {
            let message = format!("there is no image `{own}` in {}", images.display());
            source.problem(&file, 0, "image-missing", message);
            continue;
        };
        let split = match splits.get(&own) {
            Some(split) => split,
            None if splits.is_empty() => split_by_share(&own, settings.val_share),
            None => continue,
        };
        let Some(size) = source.size(image) else { continue };
        let size = declared_size(&mut source, &file, annotation.size, size);
        let labels = boxes(&mut source, &file, annotation.objects, &classes, size);
        source.items.push(Item {
            split,
            image: image.clone(),
            labels,
        });
    }
    Ok(source)
}

/// Splits by image name, from `ImageSets/Main/{train,val,test}.txt`.
fn image_sets(root: &Path) -> Result<BTreeMap<String, &'static str>> {
    let mut splits = BTreeMap::new();
    for split in ["test", "val", "train"] {
        let list = root.join("ImageSets/Main").join(format!("{split}.txt"));
        if list.is_file() {
            let text = std::fs::read_to_string(&list).map_err(Error::io(&list, "read the list of images"))?;
            let names = text.lines().filter_map(|line| line.split_whitespace().next());
            splits.extend(names.map(|name| (name.to_owned(), split)));
        }
    }
    Ok(splits)
}

/// The size that the corners refer to: the one in the XML, if there is one.
fn declared_size(source: &mut Source, file: &Path, declared: Option<[f64; 2]>, real: [f64; 2]) -> [f64; 2] {
    let Some(declared) = declared.filter(|size| size.iter().all(|side| *side > 0.0)) else {
        return real;
    };
    if declared != real {
        let ([dw, dh], [w, h]) = (declared, real);
        let message =
            format!("it speaks of {dw} x {dh} pixels, the image has {w} x {h}; boxes are taken relative to the former");
        source.problem(file, 0, "size-mismatch", message);
        if let Some(last) = source.problems.last_mut() {
            last.fatal = false;
        }
    }
    declared
}

fn boxes(
    source: &mut Source,
    file: &Path,
    objects: Vec<Object>,
    classes: &HashMap<String, usize>,
    size: [f64; 2],
) -> Vec<crate::labels::Label> {
    let mut labels = Vec::new();
    for object in objects {
        let Object {
            line,
            name,
            difficult,
            corners,
        } = object;
        match (classes.get(&name), corners) {
            _ if difficult => source.drop("difficult"),
            (Some(class), Ok(corners)) => source.push_box(&mut labels, *class, corners, size),
            (None, _) => {
                source.problem(
                    file,
                    line,
                    "label-class",
                    format!("`{name}` is none of the classes that were asked for"),
                );
            }
            (_, Err(message)) => source.problem(file, line, "annotation-broken", message),
        }
    }
    labels
}

fn parse(text: &str) -> Result<Annotation, (usize, String)> {
    let document = Document::parse(text).map_err(|error| (error.pos().row as usize, error.to_string()))?;
    let root = document.root_element();
    if root.tag_name().name() != "annotation" {
        return Err((1, format!("the root is <{}>, not <annotation>", root.tag_name().name())));
    }
    let size = child(root, "size").and_then(|size| Some([number(size, "width").ok()?, number(size, "height").ok()?]));
    let objects = root.children().filter(|node| node.has_tag_name("object")).map(|node| {
        let line = document.text_pos_at(node.range().start).row as usize;
        Object {
            line,
            name: text_of(node, "name").unwrap_or_default().to_owned(),
            difficult: text_of(node, "difficult") == Some("1"),
            corners: corners(node),
        }
    });
    Ok(Annotation {
        file_name: text_of(root, "filename").map(str::to_owned),
        size,
        objects: objects.collect(),
    })
}

fn corners(object: Node<'_, '_>) -> Result<[f64; 4], String> {
    let bounds = child(object, "bndbox").ok_or("the object has no <bndbox>")?;
    let [x1, y1, x2, y2] = ["xmin", "ymin", "xmax", "ymax"].map(|key| number(bounds, key));
    Ok([x1?, y1?, x2?, y2?])
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|node| node.has_tag_name(name))
}

fn text_of<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

fn number(node: Node<'_, '_>, name: &str) -> Result<f64, String> {
    let text = text_of(node, name).ok_or_else(|| format!("there is no <{name}>"))?;
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("<{name}> holds `{text}`, which is no number")),
    }
}
