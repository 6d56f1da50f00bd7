//! Files for deployment: each is made, held against its network, and written when all of them agree.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yolo_core::Op;
use yolo_engine::Checkpoint;
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::onnx::{self, Nms, NmsKind, Outputs, Profile};

use crate::error::{Error, Result, unknown};
use crate::quantize::profile_of;
use crate::{Session, limits, open};

/// Settings of an export: flags of `yolo export` and keys of a recipe's `export` stage.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExportSettings {
    /// `onnx`, `onnx-qdq` (integers), `ncnn` or `ncnn-int8`; several are fine. Integers need a model from `yolo quantize`
    #[arg(long = "format", visible_alias = "include", default_value = "onnx", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "crate::lists::one_or_many")]
    pub formats: Vec<String>,
    /// Side of the image, or height and width (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"], num_args = 1..=2, value_names = ["SIDE", "WIDTH"], action = clap::ArgAction::Set)]
    #[serde(deserialize_with = "crate::lists::one_or_many")]
    pub img: Vec<usize>,
    /// Images per run
    #[arg(long, visible_alias = "batch", default_value_t = 1)]
    pub batch_size: i64,
    /// Leave the number of images open
    #[arg(long, num_args = 0, default_missing_value = "true", conflicts_with = "batch_size")]
    pub dynamic: Option<bool>,
    /// Raw maps of the head instead of boxes (ONNX; ncnn files always give them)
    #[arg(long, conflicts_with = "nms")]
    pub raw: bool,
    /// Weights as 16-bit floats (ncnn)
    #[arg(long)]
    pub half: bool,
    /// What `onnx-qdq` is tuned for: `ort` (onnxruntime), `openvino` or `tensorrt` (default: that of the model's backend)
    #[arg(long, value_enum)]
    pub profile: Option<ProfileName>,
    /// Put non-maximum suppression into the ONNX file: `standard` (onnxruntime, OpenVINO) or `tensorrt` (EfficientNMS)
    #[arg(long, num_args = 0..=1, default_missing_value = "standard", value_name = "KIND", value_enum)]
    pub nms: Option<NmsName>,
    /// Boxes of all classes compete in that suppression
    #[arg(long, requires = "nms")]
    pub agnostic_nms: bool,
    /// Most boxes of that suppression, per image (`tensorrt`) or per class of an image (`standard`)
    #[arg(long, requires = "nms", default_value_t = 100)]
    pub max_det: u32,
    /// Version of ONNX's operators (default: the lowest that has all that the network needs)
    #[arg(long)]
    pub opset: Option<i64>,
    /// Least confidence of that suppression
    #[arg(long, default_value_t = 0.25, requires = "nms")]
    pub conf_thres: f32,
    /// IoU of that suppression
    #[arg(long, default_value_t = 0.45, requires = "nms")]
    pub iou_thres: f32,
    /// Write without running the file
    #[arg(long)]
    pub no_check: bool,
    /// Write files that don't compute what the network computes, too, each with a report beside it
    #[arg(long, conflicts_with = "no_check")]
    pub force: bool,
}

/// The form of quantizers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// Quantizers behind ops too, as onnxruntime fuses them.
    #[value(alias = "onnxruntime")]
    #[serde(alias = "onnxruntime")]
    Ort,
    /// Quantizers before ops only, unsigned activations.
    #[value(name = "openvino")]
    #[serde(rename = "openvino")]
    OpenVino,
    /// Quantizers before ops only.
    #[value(name = "tensorrt")]
    #[serde(rename = "tensorrt")]
    TensorRt,
    /// Integer operators (QLinearConv, ...) in the place of quantizers, as TVM imports them.
    #[value(name = "qlinear")]
    #[serde(rename = "qlinear")]
    QLinear,
}

/// The op that suppresses boxes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NmsName {
    /// ONNX's `NonMaxSuppression`.
    Standard,
    /// TensorRT's `EfficientNMS_TRT`.
    #[value(name = "tensorrt")]
    #[serde(rename = "tensorrt")]
    TensorRt,
}

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            formats: vec!["onnx".into()],
            img: Vec::new(),
            batch_size: 1,
            dynamic: None,
            raw: false,
            half: false,
            profile: None,
            nms: None,
            agnostic_nms: false,
            max_det: 100,
            opset: None,
            conf_thres: 0.25,
            iou_thres: 0.45,
            no_check: false,
            force: false,
        }
    }
}

/// A format by the name that people give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The format.
    pub format: Format,
    /// Whether it holds integers, so that a quantized model is needed.
    pub integers: bool,
}

impl Target {
    /// Names of all of them.
    pub const NAMES: [&str; 4] = ["onnx", "onnx-qdq", "ncnn", "ncnn-int8"];

    /// The format of a name.
    pub fn parse(name: &str) -> Option<Self> {
        let (format, integers) = match name.to_ascii_lowercase().as_str() {
            "onnx" => (Format::Onnx, false),
            "onnx-qdq" => (Format::OnnxQdq, true),
            "ncnn" => (Format::Ncnn, false),
            "ncnn-int8" => (Format::Ncnn, true),
            _ => return None,
        };
        Some(Self { format, integers })
    }

    /// As [`Target::parse`]; what other programs write is told from a typing error.
    ///
    /// # Errors
    /// Says what there is instead.
    pub fn named(name: &str) -> Result<Self> {
        if let Some(target) = Self::parse(name) {
            return Ok(target);
        }
        let instead = match name.to_ascii_lowercase().as_str() {
            "openvino" => "OpenVINO reads the ONNX file as it is: use --format onnx",
            "engine" | "tensorrt" | "trt" => {
                "an engine belongs to one graphics card: use --format onnx, and there `trtexec --onnx=FILE.onnx --saveEngine=FILE.engine`"
            }
            "torchscript" | "coreml" | "saved_model" | "pb" | "tflite" | "edgetpu" | "tfjs" | "paddle" => {
                "use --format onnx, and a converter that reads ONNX (onnx2tf, coremltools, x2paddle)"
            }
            _ => return Err(unknown("format", name, &Self::NAMES)),
        };
        Err(Error::Usage(format!(
            "--format {name}: this format is not written\n  help: {instead}"
        )))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match (self.format, self.integers) {
            (Format::Onnx, _) => "onnx",
            (Format::OnnxQdq, _) => "onnx-qdq",
            (Format::Ncnn, false) => "ncnn",
            (Format::Ncnn, true) => "ncnn-int8",
        }
    }

    /// What follows the name of a model in the name of its file.
    fn ending(self) -> &'static str {
        match (self.format, self.integers) {
            (Format::Onnx, _) => ".onnx",
            (Format::OnnxQdq, _) => "-qdq.onnx",
            (Format::Ncnn, false) => ".param",
            (Format::Ncnn, true) => "-int8.param",
        }
    }

    /// Whether a model has what it needs.
    ///
    /// # Errors
    /// A float model where integers are asked for.
    pub(crate) fn fits(self, session: Session<'_>, weights: &Path, quantized: bool) -> Result {
        let weights = weights.display();
        if self.integers && !quantized {
            let (with, instead) = match self.format {
                Format::Ncnn => ("ncnn-int8", "ncnn"),
                _ => ("onnx-qdq", "onnx"),
            };
            return Err(Error::Usage(format!(
                "{weights} is a float model; `{with}` holds integers\n  help: run `yolo quantize --weights {weights} --data DATA.yaml \
                 --backend tensorrt --out DIR` first, and export the checkpoint that it writes; or use --format {instead}"
            )));
        }
        if self.format == Format::Onnx && quantized {
            session.say(format!(
                "{weights} is quantized; `onnx` is its float form, `onnx-qdq` keeps the integers"
            ));
        }
        Ok(())
    }
}

impl ExportSettings {
    /// The formats, each once.
    ///
    /// # Errors
    /// A name that is none, and options that a format doesn't have.
    pub fn targets(&self) -> Result<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        for name in self.formats.iter().flat_map(|names| names.split_whitespace()) {
            let target = Target::named(name)?;
            if !targets.contains(&target) {
                self.check(target.format)?;
                targets.push(target);
            }
        }
        Ok(targets)
    }

    /// Says which option changes nothing.
    ///
    /// # Errors
    /// Those of [`ExportSettings::targets`].
    pub(crate) fn say_unused(&self, session: Session<'_>) -> Result {
        if self.profile.is_some() && !self.targets()?.iter().any(|target| target.format == Format::OnnxQdq) {
            session.say("note: --profile changes nothing: no file has the quantizers of `onnx-qdq`");
        }
        Ok(())
    }

    /// What clap tells of flags, for recipes.
    fn check_suppression(&self) -> Result {
        let usual = Self::default();
        let of_suppression = [
            ("--conf-thres", self.conf_thres != usual.conf_thres),
            ("--iou-thres", self.iou_thres != usual.iou_thres),
            ("--max-det", self.max_det != usual.max_det),
            ("--agnostic-nms", self.agnostic_nms),
        ];
        match of_suppression.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.nms.is_none() => Err(Error::Usage(format!(
                "{flag} is that of the suppression in the file, and there is none without --nms"
            ))),
            _ if self.raw && self.nms.is_some() => Err(Error::Usage(
                "--raw gives raw maps, --nms boxes: the file has one of them".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check(&self, format: Format) -> Result {
        self.check_suppression()?;
        limits::shares(&[("--conf-thres", self.conf_thres), ("--iou-thres", self.iou_thres)])?;
        if self.batch_size < 1 {
            return Err(Error::Usage(format!(
                "--batch-size {}: 1 or more is needed",
                self.batch_size
            )));
        }
        let open = self.dynamic == Some(true) || self.batch_size != 1;
        if format == Format::Ncnn && (open || self.nms.is_some() || self.opset.is_some()) {
            return Err(Error::Usage(
                "ncnn runs one image at a time and has no opsets: --dynamic, --batch-size, --nms and --opset are for ONNX"
                    .into(),
            ));
        }
        if format != Format::Ncnn && self.half {
            let help = "engines that read ONNX choose half precision themselves; with --half export to ncnn alone";
            return Err(Error::Usage(format!(
                "--half is for ncnn, not for {}\n  help: {help}",
                format.name()
            )));
        }
        Ok(())
    }

    /// What the exporter is asked for, for a model and images of this height and width.
    ///
    /// # Errors
    /// A backend of the model that is not there.
    pub fn request(
        &self,
        session: Session<'_>,
        model: &Checkpoint,
        target: Target,
        image: [i64; 2],
    ) -> Result<Request> {
        let nms = self.nms.map(|kind| Nms {
            kind: match kind {
                NmsName::Standard => NmsKind::Standard,
                NmsName::TensorRt => NmsKind::TensorRt,
            },
            iou: self.iou_thres.into(),
            score: self.conf_thres.into(),
            max_boxes: self.max_det.into(),
            agnostic: self.agnostic_nms,
        });
        Ok(Request {
            batch: (self.dynamic != Some(true)).then_some(self.batch_size),
            half: self.half,
            outputs: if self.raw { Outputs::Raw } else { Outputs::Decoded },
            profile: self.profile(session, model)?,
            nms,
            opset: self.opset,
            check: !self.no_check,
            force: self.force,
            names: model.meta.names.clone(),
            ..Request::new(target.format, image)
        })
    }

    /// The form of the quantizers: as asked for, else as the backend of the model likes it.
    fn profile(&self, session: Session<'_>, model: &Checkpoint) -> Result<Profile> {
        Ok(match (self.profile, &model.meta.quantizer) {
            (Some(ProfileName::Ort), _) | (None, None) => Profile::Ort,
            (Some(ProfileName::OpenVino), _) => Profile::OpenVino,
            (Some(ProfileName::TensorRt), _) => {
                takes_tensorrt(model)?;
                Profile::TensorRt
            }
            (Some(ProfileName::QLinear), _) => Profile::QLinear,
            (None, Some(backend)) => profile_of(open::quantizer(session, "the model's backend", backend)?.as_ref()),
        })
    }
}

/// Refuses a model whose activations TensorRT has no integers for.
fn takes_tensorrt(model: &Checkpoint) -> Result<()> {
    let other = model.graph.nodes.iter().find(|node| match &node.op {
        Op::FakeQuant { quant } => !quant.symmetric || quant.qmin < -128 || quant.qmax > 127,
        _ => false,
    });
    match other {
        None => Ok(()),
        Some(node) => Err(Error::Usage(format!(
            "--profile tensorrt: TensorRT has 8-bit integers around zero only, and `{}` of this model is on another grid\n  help: quantize the \
             float model with `--backend tensorrt`, or leave out --profile",
            node.name
        ))),
    }
}

/// One export of a checkpoint.
#[derive(Debug)]
pub struct Export<'a> {
    /// The checkpoint.
    pub weights: &'a Path,
    /// File to write (ncnn: FILE.param, with FILE.bin beside it), or a folder; beside the weights where it is left open.
    pub out: Option<&'a Path>,
    /// Settings.
    pub settings: &'a ExportSettings,
}

/// A file that was written.
#[derive(Debug)]
pub struct Exported {
    /// What was asked for.
    pub request: Request,
    /// What is there.
    pub written: Written,
}

impl Export<'_> {
    /// Makes all files, holds each against its network, and writes them if all agree.
    ///
    /// # Errors
    /// Options that don't fit the format or the model, an op that a format can't express, a file that computes something else.
    pub fn run(&self, session: Session<'_>) -> Result<Vec<Exported>> {
        let targets = self.settings.targets()?;
        let places = targets
            .iter()
            .map(|target| self.place(*target, targets.len()))
            .collect::<Result<Vec<_>>>()?;
        let model = open::checkpoint(session, self.weights)?;
        let image = open::image_sides(session, &self.settings.img, &model)?.map(|side| side as i64);
        let quantized = onnx::is_quantized(&model.graph);
        for target in &targets {
            target.fits(session, self.weights, quantized)?;
        }
        self.settings.say_unused(session)?;
        let mut prepared: Vec<(Request, Prepared)> = Vec::new();
        for (target, path) in targets.iter().zip(&places) {
            let request = self.settings.request(session, &model, *target, image)?;
            session.say(format!(
                "exporting at {} x {}{}",
                image[0],
                image[1],
                if request.check {
                    ", running the file against the network"
                } else {
                    ""
                }
            ));
            let file = checked::prepare(&model.graph, &model.params, &request, path)?;
            if let Some(reason) = file.written().unchecked.as_ref().filter(|_| request.check) {
                session.say(format!("not checked: {reason}"));
            }
            prepared.push((request, file));
        }
        let write = |(request, file): (Request, Prepared)| {
            let written = file.commit()?;
            Ok(Exported { request, written })
        };
        prepared.into_iter().map(write).collect()
    }

    /// The file of a format, of so many: that of `out`, a file in that folder, or one beside the weights.
    fn place(&self, target: Target, formats: usize) -> Result<PathBuf> {
        let file = |folder: &Path| {
            let stem = self.weights.file_stem().unwrap_or_default().to_string_lossy();
            folder.join(format!("{stem}{}", target.ending()))
        };
        match self.out {
            None => Ok(file(self.weights.parent().unwrap_or(Path::new("")))),
            Some(out) if out.is_dir() || out.to_string_lossy().ends_with('/') => Ok(file(out)),
            Some(out) if formats > 1 => Err(Error::Usage(format!(
                "--out {}: several formats go into a folder: make it, or end it with /",
                out.display()
            ))),
            Some(out) => {
                check_out(out, target.format)?;
                Ok(out.to_owned())
            }
        }
    }
}

/// The ending says what the file is; nobody wants a checkpoint overwritten by an ONNX file.
fn check_out(out: &Path, format: Format) -> Result {
    let ending = out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let (fits, wanted) = match format {
        Format::Onnx | Format::OnnxQdq => (ending == "onnx", ".onnx"),
        Format::Ncnn => (matches!(ending, "param" | "bin" | ""), ".param"),
    };
    if !fits {
        return Err(Error::Usage(format!(
            "--out {}: the file must end with {wanted}",
            out.display()
        )));
    }
    Ok(())
}
