//! Files that are known to compute what their network computes: a file is made in memory, run, compared, and only then written.

mod described;
mod ran;
mod written;

use std::path::Path;

use tch::{Kind, Tensor};
use yolo_core::{Graph, Params, passes, testing};

use prost::Message as _;

use crate::engine::{Engine, Ncnn, OnnxRuntime, OpenVino};
use crate::limits::{self, FLOAT, Rounding};
use crate::onnx::proto::ModelProto;
use crate::onnx::{self, Difference, Nms, Outputs, Profile};
use crate::{Error, Result, ncnn, ort, package};

pub use ran::Ran;
pub use written::{Prepared, Written};

use described::{described_ncnn, described_onnx};
use ran::run_in;

/// A deployment format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Float ONNX. Of a quantized network: without its quantizers, weights within their ranges.
    Onnx,
    /// ONNX with QuantizeLinear/DequantizeLinear pairs; needs a quantized network.
    OnnxQdq,
    /// ncnn's `.param` and `.bin`. Of a quantized network: int8 where ncnn can.
    Ncnn,
}

impl Format {
    /// Names of all formats.
    pub const NAMES: [&str; 3] = ["onnx", "onnx-qdq", "ncnn"];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::OnnxQdq => "onnx-qdq",
            Self::Ncnn => "ncnn",
        }
    }

    /// The format of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "onnx" => Some(Self::Onnx),
            "onnx-qdq" => Some(Self::OnnxQdq),
            "ncnn" => Some(Self::Ncnn),
            _ => None,
        }
    }
}

/// What to write.
#[derive(Debug, Clone)]
pub struct Request {
    /// Format.
    pub format: Format,
    /// Height and width of the image.
    pub image: [i64; 2],
    /// Images per run; `None` leaves it open (ONNX only).
    pub batch: Option<i64>,
    /// Weights as 16-bit floats (ncnn only).
    pub half: bool,
    /// What the file gives back (ONNX; ncnn files always give raw maps).
    pub outputs: Outputs,
    /// Form of the quantizers in QDQ files; what is for OpenVINO is run there, too.
    pub profile: Profile,
    /// Suppression inside the file (ONNX only).
    pub nms: Option<Nms>,
    /// Version of the operators (ONNX only); the lowest that has all of them if absent.
    pub opset: Option<i64>,
    /// Names of the classes, for the metadata.
    pub names: Vec<String>,
    /// Whether to run the file before it is written.
    pub check: bool,
    /// Write a file that does not compute what the network computes, too, with a report beside it.
    pub force: bool,
    /// Threads of the engine that checks.
    pub threads: usize,
}

impl Request {
    /// A format at an image size, checked, one image at a time.
    pub fn new(format: Format, image: [i64; 2]) -> Self {
        Self {
            format,
            image,
            batch: Some(1),
            half: false,
            outputs: Outputs::Decoded,
            profile: Profile::Ort,
            nms: None,
            opset: None,
            names: Vec::new(),
            check: true,
            force: false,
            threads: 0,
        }
    }
}

/// Writes a network. A file that does not compute what the network computes is an error, and is not written.
///
/// # Errors
/// Those of [`prepare`], and those of the file system.
pub fn write(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Written> {
    prepare(graph, params, request, path)?.commit()
}

/// Makes the files of a network and holds them against it.
///
/// # Errors
/// [`Error::Disagrees`] where a file does not compute what the network computes, unless it is wanted in any case; others where the format
/// can't hold it.
pub fn prepare(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Prepared> {
    if let Some(n) = request.batch.filter(|n| *n < 1) {
        return Err(Error::Unsupported(format!("a batch of {n} images makes no sense")));
    }
    match request.format {
        Format::Onnx | Format::OnnxQdq => prepare_onnx(graph, params, request, path),
        Format::Ncnn => prepare_ncnn(graph, params, request, path),
    }
}

fn prepare_onnx(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Prepared> {
    if request.half {
        let reason = "half weights are for ncnn; engines that read ONNX convert it themselves";
        return Err(Error::Unsupported(reason.into()));
    }
    let quantized = onnx::is_quantized(graph);
    let qdq = request.format == Format::OnnxQdq;
    if qdq && !quantized {
        let reason = "it is a float network; `onnx-qdq` holds integers: run `yolo quantize` on it first";
        return Err(Error::Unsupported(reason.into()));
    }
    let options = onnx::Options {
        image: request.image,
        batch: request.batch,
        outputs: request.outputs,
        profile: if qdq { request.profile } else { Profile::Strip },
        names: request.names.clone(),
        nms: request.nms.clone(),
        opset: request.opset,
    };
    let exported = onnx::export(graph, params, &options)?;
    let bytes = in_form(&exported, &options)?.to_bytes()?;
    let description = described_onnx(&exported.model, graph, request, &bytes)?;
    let files = vec![path.to_owned(), package::path_of(path)];
    let mut written = Written::new(files, bytes.len() + description.len(), "onnxruntime");
    let contents = vec![(path.to_owned(), bytes), (package::path_of(path), description)];
    // More than one image where the number is open, so that this is seen to work.
    let count = request.batch.unwrap_or(2);
    let images = testing::input(count, graph.input_channels(), request.image[0], request.image[1]);
    if request.profile == Profile::OpenVino && request.check && request.nms.is_none() {
        let (graph, params) = if qdq {
            (graph.clone(), params.shallow_clone())
        } else {
            onnx::strip(graph, params)?
        };
        let file = qdq.then_some(&exported);
        let ran = run_in(&OpenVino, &contents, file, (&graph, &params, &images), request.threads);
        written.ran = written.excuse(request, ran)?;
    }
    if !request.check {
        written.unchecked = Some("nobody asked for it".into());
    } else if let Err(reason) = ort::available() {
        written.unchecked = Some(reason.to_string());
    } else {
        // Suppressed boxes can't be compared one by one: what goes into the suppression is.
        let (exported, compared) = if request.nms.is_some() {
            let options = onnx::Options {
                nms: None,
                ..options.clone()
            };
            let plain = onnx::export(graph, params, &options)?;
            let bytes = in_form(&plain, &options)?.to_bytes()?;
            (plain, bytes)
        } else {
            (exported, contents[0].1.clone())
        };
        let of = (graph, params, &images);
        if qdq {
            check_integers(path, &mut written, request, (&exported, &compared), of)?;
        } else {
            check_float(path, &mut written, request, (&options, &compared), of)?;
        }
    }
    Ok(Prepared { written, contents })
}

/// The file in the form that its profile has.
///
/// # Errors
/// [`Error::Unsupported`] where integer operators are asked for and none can be made.
fn in_form(exported: &onnx::Exported, options: &onnx::Options) -> Result<ModelProto> {
    if options.profile != Profile::QLinear {
        return Ok(exported.model.clone());
    }
    match onnx::qlinear::operators(&exported.model)? {
        (_, 0) => Err(Error::Unsupported(
            "integer operators need quantizers before and behind an op, this network has none such; quantize it for them with `--backend \
             onnx-qnn`, or write pairs with another profile"
                .into(),
        )),
        (model, _) => Ok(model),
    }
}

/// Runs an integer file on onnxruntime: each quantizer alone, each op with the engine's own kernels, and the whole.
fn check_integers(
    path: &Path,
    written: &mut Written,
    request: &Request,
    (exported, bytes): (&onnx::Exported, &[u8]),
    (graph, params, images): Against<'_>,
) -> Result<()> {
    // What will be written, not what was meant; of integer operators, the pairs that they are made of.
    let operators = request.profile == Profile::QLinear;
    let file = if operators {
        exported.model.clone()
    } else {
        ModelProto::decode(bytes).map_err(|error| Error::Disagrees(error.to_string()))?
    };
    let steps = onnx::steps::check(&file, exported, images, request.threads);
    if let Some((steps, ends)) = written.excuse(request, steps)? {
        let limit = limits::last_limit(&exported.graph, &exported.params, images)?;
        written.excuse(request, limits::agree(path, ends, limit))?;
        written.steps = Some(steps);
        let fused = onnx::steps::run_fused(&file, exported, operators, images, (&OnnxRuntime, request.threads))?;
        // Of a file for another engine nothing follows from it.
        if operators || request.profile == Profile::Ort {
            written.excuse(request, ran::judge(path, OnnxRuntime.title(), &fused))?;
        }
        written.fused = Some(fused);
    }
    let mut session = ort::Session::from_bytes(bytes, request.threads)?;
    let found = onnx::check(&mut session, graph, params, images)?;
    written.grid_errors = Some(found.max_share(limits::noise(graph, params, images)?));
    written.difference = Some(found);
    Ok(())
}

/// Runs a float file on onnxruntime.
fn check_float(
    path: &Path,
    written: &mut Written,
    request: &Request,
    (options, bytes): (&onnx::Options, &[u8]),
    (graph, params, images): Against<'_>,
) -> Result<()> {
    let mut session = ort::Session::from_bytes(bytes, request.threads)?;
    let (graph, params) = onnx::strip(graph, params)?;
    if request.outputs == Outputs::Decoded && limits::saturated(&graph, &params, images)? {
        // Of scores that are all 0 or 1 nothing can be seen; of what they are made of, it can.
        let raw = onnx::Options {
            outputs: Outputs::Raw,
            nms: None,
            ..options.clone()
        };
        let file = onnx::export(&graph, &params, &raw)?.model.to_bytes()?;
        session = ort::Session::from_bytes(&file, request.threads)?;
    }
    let found = float_onnx(path, &mut session, (&graph, &params, images));
    if let Some((difference, unchecked)) = written.excuse(request, found)? {
        (written.difference, written.unchecked) = (difference, unchecked);
    }
    Ok(())
}

fn prepare_ncnn(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Prepared> {
    if request.batch != Some(1) || request.nms.is_some() {
        return Err(Error::Unsupported(
            "ncnn runs one image at a time, without suppression in the file".into(),
        ));
    }
    let quantized = onnx::is_quantized(graph);
    let precision = match (quantized, request.half) {
        (true, true) => {
            return Err(Error::Unsupported(
                "a quantized network has int8 weights, not half ones".into(),
            ));
        }
        (true, false) => ncnn::Precision::Int8,
        (false, true) => ncnn::Precision::F16,
        (false, false) => ncnn::Precision::F32,
    };
    let options = ncnn::Options {
        image: request.image,
        precision,
    };
    let net = ncnn::export(graph, params, &options)?;
    let on_integers =
        |layer: &ncnn::model::Layer| layer.weights.iter().any(|w| matches!(w, ncnn::model::Weight::Int8(_)));
    if quantized && !net.layers.iter().any(on_integers) {
        return Err(Error::Unsupported(
            "none of its quantizers is symmetric int8, the only kind that ncnn has: the file would be a float network. Quantize for it \
             with `--backend tensorrt`, or export the float model"
                .into(),
        ));
    }
    let (text, bytes) = (net.to_param(), net.to_bin());
    let (param, bin) = ncnn::paths(path);
    let description = described_ncnn(&net, graph, request, &[text.as_bytes(), &bytes])?;
    let files = vec![param.clone(), bin.clone(), package::path_of(&param)];
    let size = text.len() + bytes.len() + description.len();
    let mut written = Written::new(files, size, "the layers of ncnn on libtorch");
    let contents = vec![
        (param.clone(), text.clone().into_bytes()),
        (bin, bytes.clone()),
        (package::path_of(&param), description),
    ];
    if request.check {
        let images = testing::input(1, graph.input_channels(), request.image[0], request.image[1]);
        // What will be written, not what was meant.
        let read = ncnn::model::Net::parse(&text, &bytes)?;
        if quantized {
            let steps = ncnn::steps::check(&read, graph, params, &images);
            if let Some((steps, ends)) = written.excuse(request, steps)? {
                let limit = limits::last_limit(graph, params, &images)?;
                written.excuse(request, limits::agree(path, ends, limit))?;
                written.steps = Some(steps);
            }
            written.difference = Some(ncnn::check(&read, graph, params, &images)?);
            let ran = run_in(&Ncnn, &contents, None, (graph, params, &images), request.threads);
            written.ran = written.excuse(request, ran)?;
        } else {
            // Half weights are compared with the network that has them, and what they cost with the one that was meant.
            let whole = (graph, params);
            let (graph, params) = if request.half {
                written.excuse(request, fits_half(path, graph, params))?;
                halved(graph, params)?
            } else {
                (graph.clone(), params.shallow_clone())
            };
            let of = (&graph, &params, &images);
            if let Some(found) = written.excuse(request, float_ncnn(path, &read, of))? {
                (written.difference, written.unchecked) = found;
            }
            if written.unchecked.is_none() {
                let ran = run_in(&Ncnn, &contents, None, of, request.threads);
                written.ran = written.excuse(request, ran)?;
            }
            if request.half && written.unchecked.is_none() {
                written.difference = Some(ncnn::check(&read, whole.0, whole.1, &images)?);
                if let Some(ran) = &mut written.ran {
                    ran.rounded = true;
                }
            }
        }
    } else {
        written.unchecked = Some("nobody asked for it".to_owned());
    }
    Ok(Prepared { written, contents })
}

/// Share of a layer's weights, in the root of their squares, that 16 bits may take. The rounding of normal numbers takes 0.0003.
const HALF_LOSS: f64 = 0.01;

/// Refuses layers whose weights 16-bit floats can't hold: too large, or so small that they become 0 or lose their digits.
fn fits_half(path: &Path, graph: &Graph, params: &Params) -> Result<()> {
    let (graph, params) = passes::for_export(graph, params)?;
    let root = |x: &Tensor| -> Result<f64> { Ok(x.f_square()?.f_sum(Kind::Double)?.f_sqrt()?.f_double_value(&[])?) };
    for node in &graph.nodes {
        if !matches!(node.op, yolo_core::Op::Conv2d { .. } | yolo_core::Op::Linear { .. }) {
            continue;
        }
        let weight = params
            .require(&format!("{}.weight", node.name))?
            .detach()
            .f_to_kind(Kind::Double)?;
        let half = weight.f_to_kind(Kind::Half)?.f_to_kind(Kind::Double)?;
        let largest = weight.f_abs()?.f_max()?.f_double_value(&[])?;
        let lost = root(&half.f_sub(&weight)?)? / root(&weight)?.max(f64::MIN_POSITIVE);
        let why = if half.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            format!("has weights up to {largest:.3e}, and 16-bit floats end at 65504")
        } else if lost > HALF_LOSS {
            format!(
                "loses {:.1} % of its weights, of at most {largest:.1e}: 16-bit floats have all their digits from 6.1e-5 on",
                100.0 * lost
            )
        } else {
            continue;
        };
        return Err(Error::Disagrees(format!(
            "{}: with weights of 16 bits the file would not compute what the network computes: `{}` {why}; leave out --half",
            path.display(),
            node.name
        )));
    }
    Ok(())
}

/// The folded network with the weights that a half file has.
fn halved(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let (graph, mut params) = passes::for_export(graph, params)?;
    for node in &graph.nodes {
        if matches!(node.op, yolo_core::Op::Conv2d { .. } | yolo_core::Op::Linear { .. }) {
            let key = format!("{}.weight", node.name);
            let half = params
                .require(&key)?
                .detach()
                .f_to_kind(Kind::Half)?
                .f_to_kind(Kind::Float)?;
            params.insert(key, half);
        }
    }
    Ok((graph, params))
}

/// What a float file is held against: a network, its tensors and images.
pub type Against<'a> = (&'a Graph, &'a Params, &'a Tensor);

/// What was found of a float file, or why nothing can be: its values are too large for single precision.
pub type Found = (Option<Difference>, Option<String>);

/// Holds a float ONNX file, open in `session`, against its network; `path` is for messages.
///
/// # Errors
/// [`Error::Disagrees`] where it computes something else, by more than the network's own rounding explains.
pub fn float_onnx(path: &Path, session: &mut ort::Session, of: Against<'_>) -> Result<Found> {
    let (graph, params, images) = of;
    let found = onnx::check(session, graph, params, images)?;
    let mut beyond = |rounding: &Rounding| onnx::beyond(session, graph, rounding, images);
    float_agrees(path, found, of, &mut beyond)
}

/// The same for the files of ncnn.
///
/// # Errors
/// As of [`float_onnx`].
pub fn float_ncnn(path: &Path, net: &ncnn::model::Net, of: Against<'_>) -> Result<Found> {
    let (graph, params, images) = of;
    let found = ncnn::check(net, graph, params, images)?;
    let mut beyond = |rounding: &Rounding| ncnn::beyond(net, graph, rounding, images);
    float_agrees(path, found, of, &mut beyond)
}

fn float_agrees(
    path: &Path,
    found: Difference,
    (graph, params, images): Against<'_>,
    beyond: &mut dyn FnMut(&Rounding) -> Result<Difference>,
) -> Result<Found> {
    if limits::within(found, FLOAT) {
        return Ok((Some(found), None));
    }
    let rounding = Rounding::of(graph, params, images)?;
    if let Some(reason) = rounding.hides_all() {
        return Ok((None, Some(reason)));
    }
    let finite = rounding.slack.iter().all(|slack| slack.is_finite());
    if finite && limits::within(beyond(&rounding)?, FLOAT) {
        return Ok((Some(found), None));
    }
    Err(limits::disagrees(path, found, rounding.limit(graph)?))
}
