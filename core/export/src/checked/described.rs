//! The descriptions that stand beside the files.

use yolo_core::Graph;

use super::Request;
use crate::Result;
use crate::ncnn::model::Net;
use crate::onnx::proto::ModelProto;
use crate::onnx::{self, Outputs};
use crate::package::{Output, Package, Thresholds, sum_of};

/// The description of an ONNX file.
pub(super) fn described_onnx(model: &ModelProto, graph: &Graph, request: &Request, bytes: &[u8]) -> Result<Vec<u8>> {
    let ports = model.graph.as_ref();
    let outputs: Vec<String> =
        ports.map_or_else(Vec::new, |graph| graph.output.iter().map(|o| o.name.clone()).collect());
    let input = ports
        .and_then(|graph| graph.input.first())
        .map_or("", |input| input.name.as_str());
    let output = match &graph.head {
        None => Output::Maps { names: outputs },
        Some(_) if request.nms.is_some() => Output::Suppressed { names: outputs },
        Some(head) if request.outputs == Outputs::Raw => Output::Raw {
            names: outputs,
            axes: axes(&["image", "anchor", "row", "column", "value"]),
            anchors: head.anchors.clone(),
            strides: head.strides.clone(),
        },
        Some(_) => Output::Boxes {
            name: onnx::OUTPUT.to_owned(),
        },
    };
    describe(input, output, (graph, request), &[bytes])
}

fn axes(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn describe(input: &str, output: Output, (graph, request): (&Graph, &Request), file: &[&[u8]]) -> Result<Vec<u8>> {
    let [height, width] = request.image.map(Some);
    let shape = [request.batch, Some(graph.input_channels()), height, width];
    // A host draws numbers where nobody gave names.
    let count = graph.head.as_ref().map_or(0, |head| head.classes);
    let names: Vec<String> = if request.names.len() as i64 == count {
        request.names.clone()
    } else {
        (0..count).map(|class| class.to_string()).collect()
    };
    let mut package = Package::new(input, shape, output, &names);
    // What the file has decided is no choice of a host.
    if let Some(nms) = &request.nms {
        // Shares come from numbers of single precision; 0.1 is to be read as 0.1.
        let share = |share: f64| (share * 1e6).round() / 1e6;
        package.thresholds = Thresholds {
            score: share(nms.score),
            iou: share(nms.iou),
            boxes: u32::try_from(nms.max_boxes).unwrap_or(u32::MAX),
            agnostic: nms.agnostic,
        };
    }
    package.file = Some(sum_of(file));
    Ok(package.to_json()?.into_bytes())
}

/// The description of ncnn files.
pub(super) fn described_ncnn(net: &Net, graph: &Graph, request: &Request, files: &[&[u8]]) -> Result<Vec<u8>> {
    let names = (0..graph.outputs.len()).map(|level| format!("out{level}")).collect();
    let output = match &graph.head {
        None => Output::Maps { names },
        Some(head) => Output::Raw {
            names,
            axes: axes(&["anchor", "cell", "value"]),
            anchors: head.anchors.clone(),
            strides: head.strides.clone(),
        },
    };
    let input = net.layers.first().and_then(|layer| layer.outputs.first());
    describe(input.map_or("", String::as_str), output, (graph, request), files)
}
