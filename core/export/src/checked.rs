//! Files that are known to compute what their network computes: a file is made in memory, run, compared, and only then written.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use yolo_core::{Graph, Mode, Params, Program, testing};

use crate::onnx::{self, Difference, Nms, Outputs, Profile};
use crate::{Error, Result, file, ncnn, ort};

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
    /// Form of the quantizers in QDQ files.
    pub profile: Profile,
    /// Suppression inside the file (ONNX only).
    pub nms: Option<Nms>,
    /// Names of the classes, for the metadata.
    pub names: Vec<String>,
    /// Whether to run the file before it is written.
    pub check: bool,
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
            names: Vec::new(),
            check: true,
            threads: 0,
        }
    }
}

/// Files that were written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The files; the first is the one to name.
    pub files: Vec<PathBuf>,
    /// Their bytes together.
    pub size_bytes: u64,
    /// How far the file is from the network, where both were run.
    pub difference: Option<Difference>,
    /// What ran the file.
    pub engine: &'static str,
    /// Why it was not compared.
    pub unchecked: Option<String>,
}

/// The most that a float file may differ. A raw value moves a score by at most a quarter of its own change.
const FLOAT: Difference = Difference {
    boxes: 0.05,
    scores: 1e-3,
    raw: 4e-3,
};

/// Writes a network. A file that does not compute what the network computes is an error, and is not written.
pub fn write(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Written> {
    if let Some(n) = request.batch.filter(|n| *n < 1) {
        return Err(Error::Unsupported(format!("a batch of {n} images makes no sense")));
    }
    match request.format {
        Format::Onnx | Format::OnnxQdq => write_onnx(graph, params, request, path),
        Format::Ncnn => write_ncnn(graph, params, request, path),
    }
}

fn write_onnx(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Written> {
    if request.half {
        let reason = "half weights are for ncnn; engines that read ONNX convert it themselves (trtexec --fp16)";
        return Err(Error::Unsupported(reason.into()));
    }
    let quantized = onnx::is_quantized(graph);
    let qdq = request.format == Format::OnnxQdq;
    if qdq && !quantized {
        let reason = "it is a float network; `onnx-qdq` holds integers: run `yolo quantize` on it first";
        return Err(Error::Unsupported(reason.into()));
    }
    let profile = if qdq { request.profile } else { Profile::Strip };
    let options = onnx::Options {
        image: request.image,
        batch: request.batch,
        outputs: request.outputs,
        profile,
        names: request.names.clone(),
        nms: request.nms.clone(),
    };
    let bytes = onnx::export(graph, params, &options)?.model.to_bytes()?;
    let mut written = Written {
        files: vec![path.to_owned()],
        size_bytes: bytes.len() as u64,
        difference: None,
        engine: "onnxruntime",
        unchecked: None,
    };
    if !request.check {
        written.unchecked = Some("nobody asked for it".into());
    } else if let Err(reason) = ort::available() {
        written.unchecked = Some(reason.to_string());
    } else {
        let network = if qdq {
            (graph.clone(), params.shallow_clone())
        } else {
            onnx::strip(graph, params)?
        };
        // Suppressed boxes can't be compared one by one: what goes into the suppression is.
        let plain = onnx::Options { nms: None, ..options };
        let bytes = if request.nms.is_some() {
            onnx::export(graph, params, &plain)?.model.to_bytes()?
        } else {
            bytes.clone()
        };
        let mut session = match qdq {
            // As it stands in the file: fusing integers changes roundings.
            true => ort::Session::unoptimized(&bytes, request.threads)?,
            false => ort::Session::from_bytes(&bytes, request.threads)?,
        };
        // More than one image where the number is open, so that this is seen to work.
        let images = testing::input(
            request.batch.unwrap_or(2),
            graph.input_channels(),
            request.image[0],
            request.image[1],
        );
        let difference = onnx::check(&mut session, &network.0, &network.1, &images)?;
        let limit = if qdq {
            quantized_limit(graph, params, &images)?
        } else {
            float_limit(difference, &network.0, &network.1, &images)?
        };
        agree(path, difference, limit)?;
        written.difference = Some(difference);
    }
    file::write_atomic(path, &bytes)?;
    Ok(written)
}

fn write_ncnn(graph: &Graph, params: &Params, request: &Request, path: &Path) -> Result<Written> {
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
    let net = ncnn::export(
        graph,
        params,
        &ncnn::Options {
            image: request.image,
            precision,
        },
    )?;
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
    let mut written = Written {
        size_bytes: (text.len() + bytes.len()) as u64,
        files: vec![param.clone(), bin.clone()],
        difference: None,
        engine: "the layers of ncnn on libtorch",
        unchecked: (!request.check).then(|| "nobody asked for it".to_owned()),
    };
    if request.check {
        let images = testing::input(1, graph.input_channels(), request.image[0], request.image[1]);
        // What was written, not what was meant.
        let read = ncnn::model::Net::parse(&text, &bytes)?;
        // Half weights are compared with the network that has them.
        let rounded = if request.half {
            halved(graph, params)?
        } else {
            (graph.clone(), params.shallow_clone())
        };
        let difference = ncnn::check(&read, &rounded.0, &rounded.1, &images)?;
        let limit = if quantized {
            quantized_limit(graph, params, &images)?
        } else {
            float_limit(difference, &rounded.0, &rounded.1, &images)?
        };
        agree(path, difference, limit)?;
        written.difference = Some(difference);
    }
    file::write_atomic(&bin, &bytes)?;
    file::write_atomic(&param, text.as_bytes())?;
    Ok(written)
}

/// The folded network with the weights that a half file has.
fn halved(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let (graph, mut params) = onnx::prepare(graph, params)?;
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

/// A value on a rounding edge may fall to the other side; such a step spreads, and from there on every rounding falls otherwise. So
/// file and simulation are two roundings of one float network, each as far from it as quantization puts them: they are apart by
/// no more than twice that.
fn quantized_limit(graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    let (plain, plain_params) = onnx::strip(graph, params)?;
    let (float, simulated) = (run(&plain, &plain_params, images)?, run(graph, params, images)?);
    between(graph, &float, &simulated, 2.0)
}

/// Deep networks and large boxes may make more of the rounding of single precision than [`FLOAT`]: where that is exceeded, ten times
/// what the network itself loses against double precision is allowed.
fn float_limit(found: Difference, graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    if within(found, FLOAT) {
        return Ok(FLOAT);
    }
    let exact = run(
        graph,
        &params.to(tch::Device::Cpu, Kind::Double),
        &images.f_to_kind(Kind::Double)?,
    )?;
    let exact = exact
        .iter()
        .map(|map| Ok(map.f_to_kind(Kind::Float)?))
        .collect::<Result<Vec<_>>>()?;
    between(graph, &exact, &run(graph, params, images)?, 10.0)
}

fn run(graph: &Graph, params: &Params, images: &Tensor) -> Result<Vec<Tensor>> {
    Ok(tch::no_grad(|| Program::new(graph, params)?.run(images, Mode::Eval))?)
}

/// `factor` times the difference of two results of a network, and at least [`FLOAT`].
fn between(graph: &Graph, a: &[Tensor], b: &[Tensor], factor: f64) -> Result<Difference> {
    let mut limit = FLOAT;
    for (a, b) in a.iter().zip(b) {
        limit.raw = limit.raw.max(factor * onnx::max_abs_diff(a, b)?);
    }
    if let Some(head) = &graph.head {
        let noise = onnx::difference(&head.decode(a)?, &head.decode(b)?)?;
        limit.boxes = limit.boxes.max(factor * noise.boxes);
        limit.scores = limit.scores.max(factor * noise.scores);
    }
    Ok(limit)
}

/// NaN is within nothing.
fn within(found: Difference, limit: Difference) -> bool {
    found.boxes <= limit.boxes && found.scores <= limit.scores && found.raw <= limit.raw
}

fn agree(path: &Path, found: Difference, limit: Difference) -> Result<()> {
    if within(found, limit) {
        return Ok(());
    }
    Err(Error::Format {
        path: path.to_owned(),
        reason: format!(
            "the file would not compute what the network computes: boxes differ by up to {:.3} px, scores by {:.5}, raw values by \
             {:.5} (at most {:.3}, {:.5} and {:.5} are allowed); nothing was written",
            found.boxes, found.scores, found.raw, limit.boxes, limit.scores, limit.raw
        ),
    })
}
