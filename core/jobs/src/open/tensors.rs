//! The tensors of a weights file, before they are in a model, and what they say against the model that was named for them.

use std::path::{Path, PathBuf};

use yolo_core::graph::DetectHead;
use yolo_core::{Graph, Params};
use yolo_engine::checkpoint::{self, Meta};
use yolo_engine::pt;

use super::differences;
use super::model::{FOLDED, and_more};
use crate::Session;
use crate::error::{Error, Result};

/// The tensors of a weights file of any kind, and what it says about the network that they are of.
pub(super) struct Tensors {
    pub(super) path: PathBuf,
    pub(super) tensors: Vec<(String, tch::Tensor)>,
    pub(super) names: Vec<String>,
    graph: Option<Graph>,
    /// Why there is no graph, where there are modules.
    unknown: Option<String>,
}

impl Tensors {
    pub(super) fn read(session: Session<'_>, path: &Path) -> Result<Self> {
        super::model::is_file(path)?;
        if pt::is_checkpoint(path) {
            let source = pt::read(path)?;
            let tensors = source
                .state
                .iter()
                .map(|(key, raw)| Ok((key.clone(), raw.to_tensor()?)));
            let tensors = tensors.collect::<Result<_, yolo_engine::Error>>()?;
            for note in source.notes.iter().filter(|_| source.tree.is_none()) {
                session.say(format!("{}: {note}", path.display()));
            }
            // Its tensors fit the model that was named, or don't, whatever its own modules compute.
            let (graph, unknown) = match source.graph(path) {
                Ok(graph) => (graph.map(|(graph, _)| graph), None),
                Err(error) => (None, Some(error.to_string())),
            };
            return Ok(Self {
                path: path.to_owned(),
                tensors,
                graph,
                unknown,
                names: source.names,
            });
        }
        let file = checkpoint::read_tensors(path)?;
        let graph = file
            .metadata
            .get("graph")
            .and_then(|text| serde_json::from_str(text).ok());
        let names = match file.metadata.get("meta") {
            Some(text) => serde_json::from_str::<Meta>(text).map(|meta| meta.names).ok(),
            None => file
                .metadata
                .get("names")
                .and_then(|text| serde_json::from_str(text).ok()),
        };
        let keys = checkpoint::plain_keys(file.tensors.keys().map(String::as_str));
        Ok(Self {
            path: path.to_owned(),
            tensors: keys.into_iter().zip(file.tensors.into_values()).collect(),
            names: names.unwrap_or_default(),
            graph,
            unknown: None,
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(key, _)| key.as_str())
    }

    /// How many classes the head has whose tensors these are.
    pub(super) fn classes(&self, graph: &Graph) -> Option<i64> {
        let head = graph.head.as_ref()?;
        let bias = format!("{}.m.0.bias", head.prefix);
        let (_, bias) = self.tensors.iter().find(|(key, _)| *key == bias)?;
        let (outputs, anchors) = (bias.size1().ok()?, head.anchors_per_level());
        (outputs % anchors == 0 && outputs / anchors > 5).then(|| outputs / anchors - 5)
    }

    /// Says where the network of these tensors computes something else than the one that was named.
    pub(super) fn compare(&self, session: Session<'_>, cfg: &str, graph: &Graph) {
        if let Some(reason) = &self.unknown {
            session.say(format!(
                "only tensors are taken, the network is that of `{cfg}`: {reason}"
            ));
        }
        if let Some(d) = self.graph.as_ref().and_then(|own| differences::between(own, graph)) {
            session.say(format!(
                "{}: these are weights of another network than `{cfg}`: `{}` is {} there and {} in `{cfg}`{}",
                self.path.display(),
                d.node,
                d.left,
                d.right,
                and_more(d.count)
            ));
        }
    }

    /// Copies what fits.
    pub(super) fn copy_into(&self, params: &Params) -> Result<checkpoint::TransferReport> {
        let tensors = || self.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor));
        checkpoint::refuse_integers(&self.path, params, tensors())?;
        Ok(checkpoint::transfer(params, tensors(), &|_| false)?)
    }

    /// The anchors that these weights were trained with, where they are others than those of `head`.
    fn other_anchors(&self, head: &DetectHead) -> Result<Option<Vec<Vec<[f64; 2]>>>> {
        let key = head.anchors_key();
        let Some((_, tensor)) = self.tensors.iter().find(|(name, _)| *name == key) else {
            return Ok(None);
        };
        checkpoint::other_anchors(head, tensor)
            .map_err(|reason| Error::Failed(format!("{}: tensor `{key}` {reason}", self.path.display())))
    }

    /// Boxes are decoded with the anchors that the weights were trained with: gives those to the graph.
    pub(super) fn anchors_into(&self, session: Session<'_>, cfg: &str, graph: &mut Graph) -> Result {
        let Some(head) = &mut graph.head else { return Ok(()) };
        if let Some(anchors) = self.other_anchors(head)? {
            session.say(format!(
                "{}: its anchors (`{}`) are others than those of `{cfg}`: they are taken over with the weights",
                self.path.display(),
                head.anchors_key()
            ));
            head.anchors = anchors;
            head.unfitted = false;
        }
        Ok(())
    }

    /// Says where a training has other anchors than the weights that it starts from.
    pub(super) fn compare_anchors(&self, session: Session<'_>, cfg: &str, graph: &Graph) {
        // Weights with another number of anchors are said to be of another network.
        if let Some(head) = &graph.head
            && let Ok(Some(_)) = self.other_anchors(head)
        {
            session.say(format!(
                "{}: its anchors are others than those of `{cfg}`: the training has those of `{cfg}`",
                self.path.display()
            ));
        }
    }

    /// Refuses tensors of a quantized network: in the network of a configuration its weights would run without their roundings.
    ///
    /// # Errors
    /// [`Error::Usage`] names the first tensor of a quantizer.
    pub(super) fn refuse_quantized(&self) -> Result<()> {
        let of_quantizer = |key: &&str| key.ends_with("_quant.scale");
        match self.keys().find(of_quantizer) {
            None => Ok(()),
            Some(key) => Err(Error::Usage(format!(
                "{}: it is a quantized network (`{key}`), which a configuration does not describe\n  help: leave out --cfg, the file holds \
                 its own graph; to train a float network start from the file that was quantized",
                self.path.display()
            ))),
        }
    }

    /// As [`Tensors::copy_into`], for a training that starts from them.
    pub(super) fn start_from(&self, model: &str, params: &Params, partial: bool) -> Result<checkpoint::TransferReport> {
        self.refuse_quantized()?;
        if checkpoint::is_folded(params, self.keys()) {
            return Err(Error::Usage(format!("{}: {FOLDED}", self.path.display())));
        }
        let report = self.copy_into(params)?;
        if report.is_poor() && !partial {
            return Err(Error::Usage(format!(
                "{}: {}, less than half of `{model}`: training would start from noise\n  help: name the model of the weights with --cfg, \
                 leave out --weights, or say --partial-weights to start from what fits",
                self.path.display(),
                report.summary()
            )));
        }
        Ok(report)
    }
}
