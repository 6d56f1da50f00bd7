//! The writer: links or copies of the images, label files, and last the YAML file.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{Converted, Found, Item, name_of, stem_of};
use crate::labels::to_text;
use crate::{Result, files};

/// Where an image goes.
struct Place<'a> {
    item: &'a Item,
    image: PathBuf,
    label: PathBuf,
}

pub(super) fn write(
    mut read: Found,
    out: &Path,
    copy: bool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Converted> {
    let items = std::mem::take(&mut read.items);
    let mut places = Vec::with_capacity(items.len());
    let mut taken = HashSet::new();
    let mut renamed: Vec<(&Path, String)> = Vec::new();
    for item in &items {
        let own = name_of(&item.image);
        let name = free_name(&item.image, item.split, &mut taken);
        if name != own {
            renamed.push((&item.image, name.clone()));
        }
        places.push(Place {
            item,
            image: out.join("images").join(item.split).join(&name),
            label: out.join("labels").join(item.split).join(&name).with_extension("txt"),
        });
    }
    if let Some((first, name)) = renamed.first() {
        let count = renamed.len();
        let message =
            format!("{count} images have the name of another one and get one with their folder, the first `{name}`");
        read.note(first, 0, "name-changed", message);
    }
    let mut splits: BTreeMap<String, usize> = BTreeMap::new();
    for place in &places {
        *splits.entry(place.item.split.to_owned()).or_default() += 1;
    }
    for split in splits.keys() {
        files::create_folder(&out.join("images").join(split))?;
        files::create_folder(&out.join("labels").join(split))?;
    }
    let done = AtomicUsize::new(0);
    places.par_iter().try_for_each(|place| {
        let put = if copy { files::copy } else { files::link };
        put(&place.item.image, &place.image)?;
        files::write(&place.label, to_text(&place.item.labels).as_bytes())?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, places.len());
        Ok::<(), crate::Error>(())
    })?;
    let yaml = out.join("data.yaml");
    files::write(&yaml, yaml_text(&read.names, &splits)?.as_bytes())?;
    Ok(Converted {
        yaml,
        names: read.names,
        images: places.len(),
        boxes: places.iter().map(|place| place.item.labels.len()).sum(),
        splits,
        dropped: read.dropped,
        problems: read.problems,
    })
}

/// A name that no other image of the split has, not even with another ending (they would share their label file) or in other case
/// (some systems make no difference): its own, or with the names of its folders before it, or with a number behind it.
fn free_name(image: &Path, split: &str, taken: &mut HashSet<String>) -> String {
    let ending = image.extension().unwrap_or_default().to_string_lossy().into_owned();
    let mut stem = stem_of(image);
    let mut folders = image.parent();
    let mut number = 1;
    let own = stem.clone();
    while !taken.insert(format!("{split}/{}", stem.to_lowercase())) {
        match folders.map(name_of).filter(|name| !name.is_empty()) {
            Some(folder) => {
                stem = format!("{folder}_{stem}");
                folders = folders.and_then(Path::parent);
            }
            None => {
                number += 1;
                stem = format!("{own}-{number}");
            }
        }
    }
    format!("{stem}.{ending}")
}

fn yaml_text(names: &[String], splits: &BTreeMap<String, usize>) -> Result<String> {
    let mut text = String::from("path: .\n");
    for split in ["train", "val", "test"] {
        if splits.contains_key(split) {
            text.push_str(&format!("{split}: images/{split}\n"));
        }
    }
    text.push_str(&format!("nc: {}\nnames:\n", names.len()));
    for (class, name) in names.iter().enumerate() {
        // JSON's quotes are YAML's, too.
        let quoted = serde_json::Value::String(name.clone());
        text.push_str(&format!("  {class}: {quoted}\n"));
    }
    Ok(text)
}
