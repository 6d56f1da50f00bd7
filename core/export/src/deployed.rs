//! A file that is open in the engine it is for, and finds boxes: what its outputs mean is known from [`crate::package`], or from their
//! sizes. Measured and used with the code that measures and uses networks.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use yolo_core::graph::DetectHead;

use crate::engine::{Array, Engine, Network, Port};
use crate::package::{self, Output, Package, Thresholds};
use crate::{Error, Result};

/// What boxes `[N, M, 5 + classes]` of images of this side are where all of them show that they are no centres and sizes in pixels.
fn misread(boxes: &Tensor, side: i64) -> Result<Option<String>> {
    let largest = boxes.f_narrow(2, 0, 4)?.f_max()?.f_double_value(&[])?;
    if side >= LEAST_SIDE && largest > 0.0 && largest <= 2.0 {
        return Ok(Some(format!(
            "boxes up to {largest:.3}: shares of the image, as other exporters write them, and pixels belong here"
        )));
    }
    let below = boxes.f_narrow(2, 2, 2)?.f_lt(-0.01)?.f_any_dim(2, false)?;
    let share = below.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?.f_double_value(&[])?;
    if share > 0.01 {
        return Ok(Some(format!(
            "boxes of which {:.0} % have a width or height below 0: raw outputs that are not decoded, as YOLOX exports them by default",
            100.0 * share
        )));
    }
    let farthest = boxes.f_narrow(2, 0, 2)?.f_max()?.f_double_value(&[])?;
    if boxes.size()[1] >= MANY && side >= LEAST_SIDE && farthest < side as f64 / 4.0 {
        return Ok(Some(format!(
            "{} boxes whose centres all lie in the first {farthest:.1} of {side} pixels: raw outputs that are not decoded, as YOLOX exports \
             them by default",
            boxes.size()[1]
        )));
    }
    let ordered = |low: i64, high: i64| -> Result<bool> {
        let above = boxes
            .f_select(2, high)?
            .f_greater_equal_tensor(&boxes.f_select(2, low)?)?;
        Ok(above.f_all()?.f_int64_value(&[])? != 0)
    };
    // A box near the right or lower edge is smaller than its distance from the other one; corners are never out of order.
    let corners = boxes.size()[1] >= MANY && ordered(0, 2)? && ordered(1, 3)?;
    Ok(corners.then(|| {
        "boxes whose third and fourth numbers are never below the first two: corners (x1 y1 x2 y2), and centre and size belong here"
            .to_owned()
    }))
}

/// Boxes of so few pixels are no sign of shares in images from this side on.
const LEAST_SIDE: i64 = 32;

/// Of so many boxes, some lie near the right and the lower edge.
const MANY: i64 = 200;

/// How far above 1 rounding to integers or to 16 bits takes a probability.
const SCORE_ROUNDING: f64 = 0.02;

/// Where boxes are in the outputs.
#[derive(Debug, Clone, PartialEq)]
enum Decoding {
    /// This output has them.
    Boxes(String),
    /// Raw outputs of ONNX files, `[N, anchors, h, w, values]`.
    RawOnnx(DetectHead, Vec<String>),
    /// Raw outputs of ncnn files, `[anchors, h * w, values]`.
    RawNcnn(DetectHead, Vec<String>),
}

/// An opened file.
pub struct Deployed {
    network: Box<dyn Network>,
    engine: &'static dyn Engine,
    path: PathBuf,
    input: String,
    /// Images at once; `None`: any number.
    batch: Option<usize>,
    image: Option<[i64; 2]>,
    stride: i64,
    decoding: Decoding,
    classes: usize,
    names: Vec<String>,
    milliseconds: f64,
    note: Option<String>,
    thresholds: Option<Thresholds>,
}

impl Deployed {
    /// Opens a file. `threads` 0 leaves the number to the engine.
    ///
    /// # Errors
    /// Those of the engine, which may be missing; where nothing says what the outputs mean, or the file is not what is said about it.
    pub fn open(path: &Path, engine: &'static dyn Engine, threads: usize) -> Result<Self> {
        let known = package::known(path)?;
        let network = engine.open(path, threads)?;
        let wrong = |reason: String| Error::Format {
            path: path.to_owned(),
            reason,
        };
        let port = match network.inputs() {
            [port] => port.clone(),
            other => {
                return Err(wrong(format!(
                    "a detector has one input, this file has {}",
                    other.len()
                )));
            }
        };
        let shape = input_shape(&port, known.package.as_ref()).map_err(wrong)?;
        let (decoding, classes) = match &known.package {
            Some(package) => described(package, network.outputs()).map_err(wrong)?,
            None => guessed(network.outputs()).map_err(wrong)?,
        };
        let strides = match &decoding {
            Decoding::Boxes(_) => None,
            Decoding::RawOnnx(head, _) | Decoding::RawNcnn(head, _) => head.strides.iter().max().copied(),
        };
        let (mut names, mut note) = (known.classes, known.note);
        if names.is_empty() {
            let unnamed = "it names no classes, and nothing beside it does: they are called by their numbers";
            note = Some(note.map_or_else(|| unnamed.to_owned(), |note| format!("{note}; {unnamed}")));
            names = (0..classes).map(|class| class.to_string()).collect();
        } else if names.len() != classes {
            return Err(wrong(format!(
                "{} classes are named in it or beside it, its output has {classes}: they don't belong together",
                names.len()
            )));
        }
        let size = |axis: usize| shape[axis].filter(|size| *size > 0);
        Ok(Self {
            note,
            input: port.name,
            batch: size(0).and_then(|batch| usize::try_from(batch).ok()),
            image: size(2).zip(size(3)).map(<[i64; 2]>::from),
            stride: strides.or(known.stride).unwrap_or(32).max(1),
            network,
            engine,
            path: path.to_owned(),
            decoding,
            classes,
            names,
            milliseconds: 0.0,
            thresholds: known.package.map(|package| package.thresholds),
        })
    }

    /// What a person must be told of the file before it is used.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What detection with it uses where nobody says something else, if that is said beside it.
    pub fn thresholds(&self) -> Option<Thresholds> {
        self.thresholds
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &'static dyn Engine {
        self.engine
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Names of the classes; numbers where nobody said them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Height and width that it takes; `None` where any multiple of [`Deployed::stride`] is fine.
    pub fn image(&self) -> Option<[i64; 2]> {
        self.image
    }

    /// Sides of images are multiples of it, where they may vary.
    pub fn stride(&self) -> i64 {
        self.stride
    }

    /// Images at once; `None`: any number.
    pub fn batch(&self) -> Option<usize> {
        self.batch
    }

    /// Milliseconds that the engine needed for the last call of [`Deployed::predict`].
    pub fn milliseconds(&self) -> f64 {
        self.milliseconds
    }

    /// Boxes `[N, M, 5 + classes]` in pixels of the images `[N, 3, H, W]` (0..1), on the CPU, contiguous. As many runs as the file's
    /// number of images needs.
    ///
    /// # Errors
    /// Those of the engine; outputs that are not as described, or not finite.
    pub fn predict(&mut self, images: &Tensor) -> Result<Tensor> {
        let count = images.size().first().copied().unwrap_or_default();
        let step = self.batch.map_or(count, |batch| batch as i64).max(1);
        let mut parts = Vec::new();
        self.milliseconds = 0.0;
        for start in (0..count).step_by(step as usize) {
            let own = images.f_narrow(0, start, step.min(count - start))?;
            // The last ones of a fixed number are filled up.
            let missing = if self.batch.is_some() { step - own.size()[0] } else { 0 };
            let given = if missing > 0 {
                let mut shape = own.size();
                shape[0] = missing;
                Tensor::f_cat(
                    &[
                        own.shallow_clone(),
                        Tensor::f_zeros(&shape, (own.kind(), own.device()))?,
                    ],
                    0,
                )?
            } else {
                own.shallow_clone()
            };
            let boxes = self.once(&given)?;
            parts.push(boxes.f_narrow(0, 0, own.size()[0])?);
        }
        let boxes = Tensor::f_cat(&parts, 0)?.f_contiguous()?;
        if yolo_core::exec::all_finite(&boxes)? {
            Ok(boxes)
        } else {
            Err(self.wrong("it gives values that are not finite on this engine".to_owned()))
        }
    }

    fn once(&mut self, images: &Tensor) -> Result<Tensor> {
        let outputs = self.network.run(&[Array::of(&self.input, images)?])?;
        self.milliseconds += self.network.milliseconds();
        let find = |name: &String| {
            let found = outputs.iter().find(|output| output.name == *name);
            found.ok_or_else(|| self.wrong(format!("it gives no output `{name}`")))
        };
        let values = 5 + self.classes as i64;
        match &self.decoding {
            Decoding::Boxes(name) => {
                let output = find(name)?;
                match *output.shape.as_slice() {
                    [_, _, columns] if columns == values => {
                        let boxes = output.tensor()?;
                        if let Some(what) = misread(&boxes, images.size()[2].min(images.size()[3]))? {
                            return Err(self.wrong(format!("output `{name}` has {what}")));
                        }
                        let highest = boxes.f_narrow(2, 4, values - 4)?.f_max()?.f_double_value(&[])?;
                        if highest > 1.0 + SCORE_ROUNDING {
                            return Err(self.wrong(format!(
                                "output `{name}` has scores up to {highest:.3}, and 1 is the highest: it is no detector, or one whose scores \
                                 are not through a sigmoid"
                            )));
                        }
                        Ok(boxes)
                    }
                    _ => Err(self.wrong(format!(
                        "output `{name}` has the sizes {:?}; [images, boxes, {values}] is what it should have",
                        output.shape
                    ))),
                }
            }
            Decoding::RawOnnx(head, names) => {
                let level = |name: &String| {
                    let map = find(name)?.tensor()?;
                    let [n, a, h, w, v] = *map.size().as_slice() else {
                        return Err(self.wrong(format!("output `{name}` has the sizes {:?}, not five", map.size())));
                    };
                    Ok(map.f_permute([0, 1, 4, 2, 3])?.f_reshape([n, a * v, h, w])?)
                };
                self.decode(head, &names.iter().map(level).collect::<Result<Vec<_>>>()?)
            }
            Decoding::RawNcnn(head, names) => {
                let (_, _, height, width) = images.size4()?;
                let level = |(name, stride): (&String, &i64)| {
                    let map = find(name)?.tensor()?;
                    let (a, h, w) = (head.anchors_per_level(), height / stride, width / stride);
                    if map.numel() as i64 != a * h * w * values {
                        return Err(self.wrong(format!(
                            "output `{name}` has the sizes {:?}; [{a}, {h} * {w}, {values}] is what it should have",
                            map.size()
                        )));
                    }
                    let map = map.f_reshape([1, a, h * w, values])?.f_permute([0, 1, 3, 2])?;
                    Ok(map.f_reshape([1, a * values, h, w])?)
                };
                let levels = names.iter().zip(&head.strides).map(level);
                self.decode(head, &levels.collect::<Result<Vec<_>>>()?)
            }
        }
    }

    fn decode(&self, head: &DetectHead, maps: &[Tensor]) -> Result<Tensor> {
        if maps.len() != head.strides.len() || head.anchors.len() != maps.len() {
            return Err(self.wrong("its description has another number of levels than the file".to_owned()));
        }
        Ok(tch::no_grad(|| head.decode(maps))?)
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Format {
            path: self.path.clone(),
            reason,
        }
    }
}

/// The sizes of the input: the engine's, where it knows them, held against what is said about the file.
fn input_shape(port: &Port, package: Option<&Package>) -> Result<[Option<i64>; 4], String> {
    let said = package.map(|package| package.input.shape);
    if let Some(kind) = &port.kind {
        return Err(format!(
            "its input `{}` takes {kind} where f32 from 0 to 1 is given; export it with an input of f32 (YOLOv5: without --half)",
            port.name
        ));
    }
    if port.shape.is_empty() {
        return said.ok_or_else(|| {
            "nothing says what size of images it takes and what its outputs mean: `yolo export` writes that beside the file, as FILE.json"
                .to_owned()
        });
    }
    let own: [i64; 4] = port.shape.as_slice().try_into().map_err(|_| {
        format!(
            "its input `{}` has the sizes {:?}; [images, 3, height, width] is needed",
            port.name, port.shape
        )
    })?;
    if own[1] != 3 && own[3] == 3 {
        return Err(format!(
            "its input `{}` has its channels last, {:?}; export it with [images, 3, height, width]",
            port.name, port.shape
        ));
    }
    if !matches!(own[1], 3 | -1) {
        return Err(format!("its input has {} channels; a detector has 3", own[1]));
    }
    let own = own.map(|size| Some(size).filter(|size| *size > 0));
    if let Some(said) = said {
        let apart = said
            .iter()
            .zip(&own)
            .any(|(said, own)| matches!((said, own), (Some(a), Some(b)) if a != b));
        if apart {
            return Err(format!(
                "its input has the sizes {}, the description beside it says {}: they don't belong together",
                sizes(&own),
                sizes(&said)
            ));
        }
        return Ok([0, 1, 2, 3].map(|axis| own[axis].or(said[axis])));
    }
    Ok(own)
}

/// `1 x 3 x any x any`.
fn sizes(shape: &[Option<i64>]) -> String {
    let texts = shape
        .iter()
        .map(|size| size.map_or("any".to_owned(), |size| size.to_string()));
    texts.collect::<Vec<_>>().join(" x ")
}

/// What the description says.
fn described(package: &Package, outputs: &[Port]) -> Result<(Decoding, usize), String> {
    let there = |name: &String| outputs.iter().any(|port| port.name == *name);
    let missing =
        |name: &String| format!("the description beside it says that `{name}` is an output, which the file has not");
    match &package.output {
        Output::Boxes { name } => {
            let port = outputs
                .iter()
                .find(|port| port.name == *name)
                .ok_or_else(|| missing(name))?;
            let last = port.shape.last().copied().filter(|last| *last > 0);
            let classes = package.classes.len() as i64;
            match last {
                Some(last) if last != classes + 5 => Err(format!(
                    "the description beside it names {classes} classes, the file has {}: they don't belong together",
                    last - 5
                )),
                _ => Ok((Decoding::Boxes(name.clone()), package.classes.len())),
            }
        }
        Output::Raw { names, axes, .. } => {
            if let Some(name) = names.iter().find(|name| !there(name)) {
                return Err(missing(name));
            }
            let head = package.head().ok_or("its description has no head")?;
            let classes = package.classes.len();
            match axes.len() {
                5 => Ok((Decoding::RawOnnx(head, names.clone()), classes)),
                3 => Ok((Decoding::RawNcnn(head, names.clone()), classes)),
                _ => Err(format!("outputs of the axes {axes:?} are not known")),
            }
        }
        Output::Suppressed { .. } => Err(suppressed()),
        Output::Maps { .. } => Err("it is a network without a detection head".to_owned()),
    }
}

fn suppressed() -> String {
    "it suppresses boxes by itself; to measure and to detect, all boxes are needed: export it without --nms".to_owned()
}

/// What the sizes of the outputs tell: files of other programs, or without what was beside them.
fn guessed(outputs: &[Port]) -> Result<(Decoding, usize), String> {
    if outputs
        .iter()
        .any(|port| port.name == "detections" || port.name == "num_dets")
    {
        return Err(suppressed());
    }
    if let Some(map) = outputs.iter().find(|port| port.shape.len() == 4) {
        return Err(format!(
            "its output `{}` {:?} is a map beside the boxes, as segmentation has it: this program reads detectors",
            map.name, map.shape
        ));
    }
    // YOLOv5's export gives the boxes first; raw maps may come behind.
    let Some(port) = outputs.iter().find(|port| port.shape.len() == 3) else {
        let shapes: Vec<String> = outputs
            .iter()
            .map(|port| format!("`{}` {:?}", port.name, port.shape))
            .collect();
        return Err(format!(
            "none of its outputs ({}) is [images, boxes, 5 + classes], and no FILE.json beside it says what they mean",
            shapes.join(", ")
        ));
    };
    let (rows, columns) = (port.shape[1], port.shape[2]);
    if rows > 0 && columns > rows {
        return Err(format!(
            "its output `{}` is {:?}: [images, 4 + classes, boxes] as of YOLOv8, not [images, boxes, 5 + classes]",
            port.name, port.shape
        ));
    }
    match usize::try_from(columns - 5) {
        Ok(classes) if classes > 0 => Ok((Decoding::Boxes(port.name.clone()), classes)),
        _ => Err(format!(
            "its output `{}` is {:?}, not [images, boxes, 5 + classes]",
            port.name, port.shape
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, shape: &[i64]) -> Port {
        Port {
            name: name.into(),
            shape: shape.to_vec(),
            kind: None,
        }
    }

    #[test]
    fn files_of_others_are_known_by_their_sizes() {
        let boxes = guessed(&[port("output0", &[1, 25200, 85]), port("326", &[1, 3, 80, 80, 85])]).unwrap();
        assert_eq!(boxes, (Decoding::Boxes("output0".into()), 80));
        for (ports, text) in [
            (vec![port("output0", &[1, 84, 8400])], "YOLOv8"),
            (vec![port("detections", &[-1, 7])], "without --nms"),
            (vec![port("logits", &[1, 1000])], "none of its outputs"),
            (vec![port("x", &[1, 100, 5])], "5 + classes"),
            (
                vec![port("output0", &[1, 1575, 117]), port("output1", &[1, 32, 40, 40])],
                "segmentation",
            ),
        ] {
            let error = guessed(&ports).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_description_must_belong_to_its_file() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let output = Output::Boxes { name: "output".into() };
        let package = Package::new("images", [Some(1), Some(3), Some(64), Some(64)], output, &names);
        let input = |shape: &[i64]| input_shape(&port("images", shape), Some(&package));
        assert_eq!(input(&[-1, 3, 64, 64]).unwrap(), [Some(1), Some(3), Some(64), Some(64)]);
        assert_eq!(input(&[]).unwrap()[3], Some(64));
        assert!(input(&[1, 3, 64, 96]).unwrap_err().contains("1 x 3 x 64 x 96"));
        assert!(input(&[1, 4, 64, 64]).unwrap_err().contains("channels"));
        assert!(input(&[1, 64, 64, 3]).unwrap_err().contains("channels last"));
        let half = Port {
            kind: Some("f16".into()),
            ..port("images", &[1, 3, 64, 64])
        };
        let error = input_shape(&half, Some(&package)).unwrap_err();
        assert!(
            error.contains("`images` takes f16") && error.contains("--half"),
            "{error}"
        );
        assert!(input_shape(&port("in0", &[]), None).unwrap_err().contains("FILE.json"));
        assert!(described(&package, &[port("output", &[1, 252, 7])]).is_ok());
        assert!(
            described(&package, &[port("output", &[1, 252, 8])])
                .unwrap_err()
                .contains("3: they")
        );
        assert!(
            described(&package, &[port("other", &[1, 252, 7])])
                .unwrap_err()
                .contains("`output`")
        );
    }

    #[test]
    fn boxes_of_another_kind_are_known_by_all_of_them() {
        // Cells of 8 pixels over 160, each with a box of its size around its centre and a score.
        let mut rows: Vec<f32> = Vec::new();
        for cell in 0..400 {
            let (x, y) = ((cell % 20 * 8 + 4) as f32, (cell / 20 * 8 + 4) as f32);
            rows.extend([x, y, 12.0, 12.0, 0.5]);
        }
        let boxes = Tensor::from_slice(&rows).view([1, 400, 5]);
        assert_eq!(misread(&boxes, 160).unwrap(), None);
        let shares = misread(&(&boxes / 160.0), 160).unwrap().unwrap();
        assert!(shares.contains("shares of the image"), "{shares}");
        let (centres, sizes) = (boxes.narrow(2, 0, 2), boxes.narrow(2, 2, 2));
        let corners = Tensor::cat(
            &[&centres - &sizes / 2.0, &centres + &sizes / 2.0, boxes.narrow(2, 4, 1)],
            2,
        );
        assert!(misread(&corners, 160).unwrap().unwrap().contains("corners"));
        // Offsets in cells and logarithms of sizes, with and without such below 0.
        let raw = Tensor::cat(&[&centres / 40.0, &sizes / 10.0, boxes.narrow(2, 4, 1)], 2);
        assert!(misread(&raw, 160).unwrap().unwrap().contains("not decoded"));
        let raw = Tensor::cat(
            &[
                centres.shallow_clone(),
                &sizes - (&centres / 10.0),
                boxes.narrow(2, 4, 1),
            ],
            2,
        );
        assert!(misread(&raw, 160).unwrap().unwrap().contains("below 0"));
        // A handful of boxes shows nothing.
        assert_eq!(misread(&boxes.narrow(1, 0, 3), 160).unwrap(), None);
    }
}
