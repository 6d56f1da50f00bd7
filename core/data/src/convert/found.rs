//! What readers of annotations collect: images with boxes, and what could not be used.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::view::View;
use super::{Settings, draw, name_of};
use crate::classes;
use crate::labels::{Label, Problem};

/// Images from this side on are not so small that a box of one pixel means something.
const LEAST_SIDE: f64 = 16.0;

/// What a reader found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub names: Vec<String>,
    pub items: Vec<Item>,
    pub dropped: BTreeMap<&'static str, usize>,
    pub problems: Vec<Problem>,
    /// Splits that the source speaks of.
    pub splits: BTreeSet<&'static str>,
    /// Classes of objects that were not asked for, and how many objects they have.
    others: BTreeMap<String, usize>,
    /// Images that the source lists, whatever becomes of them.
    pub listed: HashSet<PathBuf>,
    /// Whether the source leaves the split of an image open.
    open: bool,
    /// Images of which only objects were there that are left out on purpose, by reason: how many, and the first.
    bare: BTreeMap<&'static str, (usize, String)>,
    /// Boxes of which a good part lies outside of their image, by file: how many, the line of the first and what it is.
    cut: BTreeMap<PathBuf, (usize, usize, String)>,
}

/// One image of the source.
#[derive(Debug)]
pub(super) struct Item {
    pub split: &'static str,
    /// Whether the split was drawn.
    pub drawn: bool,
    pub image: PathBuf,
    pub labels: Vec<Label>,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub file: &'a Path,
    /// Line, from 1; 0 where it says nothing.
    pub line: usize,
    /// What the record is called (`annotation 4`), may be empty.
    pub record: &'a str,
}

impl Place<'_> {
    fn says(&self, message: &str) -> String {
        match self.record {
            "" => message.to_owned(),
            record => format!("{record}: {message}"),
        }
    }
}

/// The boxes of one image.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    labels: Vec<Label>,
    /// An object could not be read.
    incomplete: bool,
    /// Why an object was left out on purpose.
    left_out: Option<&'static str>,
    /// An object has no area or lies outside of the image.
    lost: bool,
}

/// Names that differ in capitals or blanks alone.
fn alike(names: &[String]) -> Vec<(String, String)> {
    let plain = |name: &String| name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(other) = names[..index].iter().find(|other| plain(other) == plain(name)) {
            found.push((other.clone(), name.clone()));
        }
    }
    found
}

impl Found {
    fn drop(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// Something that can't be used.
    pub fn problem(&mut self, file: &Path, line: usize, kind: &'static str, message: impl Into<String>) {
        let (file, message) = (file.display().to_string(), message.into());
        self.problems.push(Problem {
            file,
            line,
            kind,
            message,
            fatal: true,
        });
    }

    /// Something to know.
    pub fn note(&mut self, file: &Path, line: usize, kind: &'static str, message: impl Into<String>) {
        let file = file.display().to_string();
        self.problems.push(Problem::note(file, line, kind, message.into()));
    }

    /// An object that can't be read: its image has not all of its boxes.
    pub fn unreadable(&mut self, boxes: &mut Boxes, place: Place<'_>, kind: &'static str, message: &str) {
        boxes.incomplete = true;
        self.problem(place.file, place.line, kind, place.says(message));
    }

    /// An object that is left out on purpose.
    pub fn leave_out(&mut self, boxes: &mut Boxes, reason: &'static str) {
        boxes.left_out = Some(reason);
        self.drop(reason);
    }

    /// An object of a class that was not asked for.
    pub fn not_asked_for(&mut self, class: &str) {
        *self.others.entry(class.to_owned()).or_default() += 1;
        self.drop("not in --names");
    }

    /// Adds a box given by its corners in the annotation's pixels: clipped to the image, turned as the image is, as shares of it. Left
    /// out if nothing remains, or if it stands there already.
    pub fn push_box(&mut self, boxes: &mut Boxes, place: Place<'_>, class: usize, corners: [f64; 4], view: &View) {
        let [x1, y1, x2, y2] = corners;
        if x2 < x1 || y2 < y1 {
            let message = format!("the box ends before it begins ({x1},{y1} to {x2},{y2})");
            return self.unreadable(boxes, place, "annotation-broken", &message);
        }
        let [w, h] = view.size;
        let first_pixel = x1 >= 0.0 && y1 >= 0.0 && x2 <= 1.0 && y2 <= 1.0 && w.max(h) >= LEAST_SIDE;
        if first_pixel && x2 > x1 && y2 > y1 {
            let message = format!(
                "the box {x1},{y1} to {x2},{y2} lies within the first pixel of an image of {w} x {h}: are these shares of the image? \
                 Pixels belong here: multiply them by its width and height"
            );
            return self.unreadable(boxes, place, "annotation-broken", &message);
        }
        let inside = [x1.clamp(0.0, w), y1.clamp(0.0, h), x2.clamp(0.0, w), y2.clamp(0.0, h)];
        let empty = x2 <= x1 || y2 <= y1;
        if empty || inside[2] <= inside[0] || inside[3] <= inside[1] {
            let (reason, what) = if empty {
                ("empty", "has no area".to_owned())
            } else {
                ("outside", format!("is outside of the image ({w} x {h})"))
            };
            let message = format!("the box {x1},{y1} to {x2},{y2} {what}; it is left out");
            self.note(place.file, place.line, "box-left-out", place.says(&message));
            boxes.lost = true;
            return self.drop(reason);
        }
        let beyond = |side: f64, low: f64, high: f64| (-low).max(high - side) > (side * 0.02).max(2.0);
        if beyond(w, x1, x2) || beyond(h, y1, y2) {
            let first = || {
                let message = format!("the box {x1},{y1} to {x2},{y2} of an image of {w} x {h}");
                (0, place.line, place.says(&message))
            };
            self.cut.entry(place.file.to_owned()).or_insert_with(first).0 += 1;
        }
        let shares = [inside[0] / w, inside[1] / h, inside[2] / w, inside[3] / h];
        let [x1, y1, x2, y2] = view.turned(shares);
        let [cx, cy, bw, bh] = [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1].map(|share| share as f32);
        let label = [class as f32, cx, cy, bw, bh];
        if boxes.labels.contains(&label) {
            return self.drop("duplicate");
        }
        boxes.labels.push(label);
    }

    /// Takes the image with its boxes, unless one of them could not be read.
    pub fn take(
        &mut self,
        settings: &Settings,
        file: &Path,
        split: Option<&'static str>,
        image: PathBuf,
        boxes: Boxes,
    ) {
        let Boxes {
            labels,
            incomplete,
            left_out,
            lost,
        } = boxes;
        if incomplete && !settings.keep.incomplete {
            let message = format!(
                "{} is left out, since not all of its objects can be read (--keep-incomplete keeps it)",
                name_of(&image)
            );
            return self.note(file, 0, "image-left-out", message);
        }
        if lost && labels.is_empty() && !settings.keep.incomplete {
            let message = format!(
                "{} is left out, since its objects have no area or lie outside of it (--keep-incomplete keeps it as background)",
                name_of(&image)
            );
            return self.note(file, 0, "image-left-out", message);
        }
        if let (true, Some(reason)) = (labels.is_empty(), left_out) {
            let first = || (0, name_of(&image));
            self.bare.entry(reason).or_insert_with(first).0 += 1;
        }
        let by_share = || {
            let name = name_of(&image);
            if draw(&name) < settings.val_share {
                "val"
            } else {
                "train"
            }
        };
        self.open |= split.is_none();
        self.items.push(Item {
            split: split.unwrap_or_else(by_share),
            drawn: split.is_none() && settings.val_share > 0.0,
            image,
            labels,
        });
    }

    /// What can be said only when all is read.
    pub fn finish(&mut self, settings: &Settings) {
        let source = &settings.source;
        self.spread();
        if !self.open && !self.items.is_empty() && settings.val_share != Settings::VAL_SHARE {
            let message = "the source says itself which split its images are of: --val-share changes nothing";
            self.note(source, 0, "setting-unused", message);
        }
        // A share for validation was wanted, so there must be one.
        if self.items.iter().any(|item| item.drawn) {
            self.splits.extend(["train", "val"]);
        }
        if settings.names.is_some() {
            self.asked_in_vain(source);
        }
        let of_split = |split: &str| {
            let items = self.items.iter().filter(|item| item.split == split);
            classes::counts(items.flat_map(|item| &item.labels), self.names.len())
        };
        if self.splits.contains("train") && self.splits.contains("val") {
            for message in classes::lopsided(&self.names, &of_split("train"), &of_split("val")) {
                self.note(source, 0, "class-one-split", message);
            }
        }
        if !self.others.is_empty() {
            let each: Vec<String> = (self.others.iter())
                .map(|(name, count)| format!("`{name}` ({count})"))
                .collect();
            let message = format!(
                "{} objects of classes that were not asked for are left out, their images stay: {}",
                self.others.values().sum::<usize>(),
                each.join(", ")
            );
            self.note(source, 0, "class-left-out", message);
        }
        for (name, other) in alike(&self.names) {
            let message = format!("`{name}` and `{other}` are two classes, and may be meant as one");
            self.note(source, 0, "names-alike", message);
        }
        for (reason, (count, first)) in std::mem::take(&mut self.bare) {
            // Whole words, so that a test finds them among the flags.
            let flag = match reason {
                "crowd" => "--keep-crowd",
                "difficult" => "--keep-difficult",
                _ => "--keep-ignored",
            };
            let message = format!(
                "{count} images have no object but such as are left out ({reason}) and become background, the first is {first}; {flag} keeps \
                 these objects"
            );
            self.note(source, 0, "only-left-out", message);
        }
        for (file, (count, line, first)) in std::mem::take(&mut self.cut) {
            let message = format!(
                "{count} boxes reach far out of their images and are cut, the first is {first}: are they x1 y1 x2 y2, or of another image \
                 size?"
            );
            self.note(&file, line, "box-cut", message);
        }
        let named: BTreeSet<&'static str> = self.items.iter().map(|item| item.split).collect();
        for split in self.splits.union(&named).copied().collect::<Vec<_>>() {
            let mut images = self.items.iter().filter(|item| item.split == split).peekable();
            let what = if images.peek().is_none() {
                "no image"
            } else if images.all(|item| item.labels.is_empty()) {
                "no box"
            } else {
                continue;
            };
            let message = format!("the split `{split}` ends up with {what}");
            self.problem(source, 0, "split-empty", message);
        }
    }

    /// Classes that were asked for and that no object has: misspelt, or of another part of the data.
    fn asked_in_vain(&mut self, source: &Path) {
        let labels = self.items.iter().flat_map(|item| &item.labels);
        let there: BTreeSet<usize> = labels.map(|label| label[0] as usize).collect();
        let missing: Vec<&String> = (self.names.iter().enumerate())
            .filter(|(class, _)| !there.contains(class))
            .map(|(_, name)| name)
            .collect();
        let said: Vec<String> = missing
            .into_iter()
            .map(|name| {
                let hint = yolo_core::suggest::did_you_mean(name, self.others.keys().map(String::as_str));
                let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
                format!("no object has the class `{name}`, which was asked for{hint}")
            })
            .collect();
        for message in said {
            self.note(source, 0, "class-empty", message);
        }
    }

    /// Of drawn splits none is empty, if there are two images.
    fn spread(&mut self) {
        let drawn: Vec<usize> = (0..self.items.len()).filter(|index| self.items[*index].drawn).collect();
        if drawn.len() < 2 || drawn.len() < self.items.len() {
            return;
        }
        for (split, from_above) in [("val", false), ("train", true)] {
            if drawn.iter().any(|index| self.items[*index].split == split) {
                continue;
            }
            let key = |index: &&usize| draw(&name_of(&self.items[**index].image));
            let compare = |a: &&usize, b: &&usize| key(a).total_cmp(&key(b));
            let nearest = if from_above {
                drawn.iter().max_by(compare)
            } else {
                drawn.iter().min_by(compare)
            };
            if let Some(index) = nearest.copied() {
                self.items[index].split = split;
            }
        }
    }
}
