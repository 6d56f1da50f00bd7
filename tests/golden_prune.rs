//! What the published project prunes of its own two networks, channel by channel: the same comes out here once its choices are asked for,
//! which are to round widths up, and to leave alone what a residual sum ties and the second half of SPPF.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tch::Tensor;
use yolo_core::prune::{
    Budget, ChannelGroups, CostModel, Evaluation, GroupTensors, Limits, PruneHost, PruneMetric, PrunePlan, Pruner,
    Regulariser, Round, Rounding, Scores, checked_score,
};
use yolo_core::{Error, Params, Result, config::Located, model, testing};
use yolo_engine::checkpoint;

use crate::support::{small_data, yolo};

/// Groups that the published project does not prune.
const IGNORED: [&str; 3] = ["model.{2,4,6,8,13,17,20,23}.cv1", "model.*.m.*.cv2", "model.9.cv2"];
const CLASSES: i64 = 10;

/// One case: what is asked for, and what stays of each layer.
struct Case {
    model: String,
    method: String,
    share: String,
    layers: Vec<(String, usize, String)>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("fixtures/golden_prune.txt");
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["case", model, method, share] => cases.push(Case {
                model: (*model).into(),
                method: (*method).into(),
                share: (*share).into(),
                layers: Vec::new(),
            }),
            [name, kept, hash] => {
                let layers = &mut cases.last_mut().expect("a case comes first").layers;
                layers.push(((*name).into(), kept.parse().expect("a number"), (*hash).into()));
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(cases.len(), 10);
    cases
}

fn hash(channels: &[usize]) -> String {
    let text: Vec<String> = channels.iter().map(ToString::to_string).collect();
    let fnv = |h: u32, byte: u8| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("{:08x}", text.join(",").bytes().fold(0x811c_9dc5, fnv))
}

/// A host without images.
pub struct Host {
    params: Params,
    pub groups: ChannelGroups,
    pub cost: CostModel,
    pub rounding: Rounding,
    pub budget: Budget,
    /// What a plan is worth, by the widths that it leaves.
    pub worth: Option<fn(&[usize]) -> f64>,
    /// What was asked for.
    pub asked: Vec<f64>,
}

impl Host {
    pub fn new(name: &str, ignored: &[&str]) -> Self {
        let (graph, params) = network(name, CLASSES);
        let limits = Limits {
            exclude: ignored.iter().map(ToString::to_string).collect(),
            floors: Vec::new(),
        };
        let groups = ChannelGroups::of(&graph)
            .expect("groups")
            .within(&limits)
            .expect("their names");
        let cost = CostModel::of(&graph, &groups, 64).expect("a cost");
        Self {
            params,
            groups,
            cost,
            rounding: Rounding {
                max_ratio: 1.0,
                round: Round::Up,
                ..Rounding::default()
            },
            budget: Budget::default(),
            worth: None,
            asked: Vec::new(),
        }
    }
}

fn network(name: &str, classes: i64) -> (yolo_core::Graph, Params) {
    let (_, text) = model::find(name).expect("a published model");
    let config = Located::parse(name, text).expect("YAML");
    let config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    let graph = model::build(&config, Some(classes)).expect("a graph");
    let params = testing::fill_params(&graph, 3.0);
    (graph, params)
}

fn not_asked<T>() -> Result<T> {
    Err(Error::Impossible("nobody asks for this here".into()))
}

impl PruneHost for Host {
    fn groups(&self) -> &ChannelGroups {
        &self.groups
    }
    fn cost(&self) -> &CostModel {
        &self.cost
    }
    fn budget(&self) -> Budget {
        self.budget
    }
    fn rounding(&self) -> Rounding {
        self.rounding
    }
    fn seed(&self) -> u64 {
        0
    }
    fn scores(&mut self, metric: &dyn PruneMetric) -> Result<Scores> {
        let count = self.groups.groups.len();
        let each = self.groups.groups.iter().enumerate();
        each.map(|(at, group)| {
            let tensors = GroupTensors::collect(group, (at, count), &self.params, None, metric.needs())?;
            checked_score(metric.typetag_name(), metric, &tensors)
        })
        .collect()
    }
    fn tensor(&self, _: &str) -> Result<Tensor> {
        not_asked()
    }
    fn evaluate(&mut self, plan: &PrunePlan) -> Result<Evaluation> {
        let Some(worth) = self.worth else { return not_asked() };
        let map50 = worth(&self.cost.widths(plan, &self.groups));
        self.asked.push(map50);
        Ok(Evaluation { map50, map: map50 })
    }
    fn evaluate_tuned(&mut self, _: &PrunePlan, _: usize) -> Result<Evaluation> {
        not_asked()
    }
    fn train(&mut self, _: usize, _: &mut dyn Regulariser) -> Result<()> {
        not_asked()
    }
    fn progress(&mut self, _: usize, _: usize, _: &str) -> Result<()> {
        Ok(())
    }
}

/// The pruner of a case. Shares that differ from layer to layer are an option.
fn pruner(case: &Case) -> Value {
    if case.method == "slimming" {
        let ratio: f64 = case.share.parse().expect("a share");
        return json!({"type": "slimming", "ratio": ratio, "inclusive": true});
    }
    let kept = |at: usize| match case.share.as_str() {
        "varied" => [0.2, 0.35, 0.5, 0.65, 0.8, 0.95][at % 6],
        share => share.parse::<f64>().expect("a share"),
    };
    let ratios: BTreeMap<&str, f64> = case
        .layers
        .iter()
        .enumerate()
        .map(|(at, (name, ..))| (name.as_str(), 1.0 - kept(at)))
        .collect();
    json!({"type": "oneshot", "metric": "l1", "ratios": ratios})
}

/// Layers where a plan keeps others than the case.
fn differences(case: &Case, host: &Host, plan: &PrunePlan) -> String {
    let mut found = String::new();
    assert_eq!(
        case.layers.len(),
        host.groups.groups.len(),
        "{}: the same layers",
        case.model
    );
    for (layer, kept, expected) in &case.layers {
        let name = format!("{layer}.conv");
        let (_, group) = host.groups.get(&name).unwrap_or_else(|| panic!("a group {name}"));
        let all: Vec<usize> = (0..group.len()).collect();
        let keep = plan.keep.get(&name).unwrap_or(&all);
        if keep.len() != *kept || hash(keep) != *expected {
            let _ = write!(found, "{layer} keeps {} of {kept}; ", keep.len());
        }
    }
    found
}

fn plan(case: &Case, host: &mut Host) -> PrunePlan {
    let config = pruner(case);
    let pruner: Box<dyn Pruner> = serde_json::from_value(config).expect("a pruner");
    pruner.plan(host).expect("a plan")
}

#[test]
fn masks_are_those_of_the_published_project() {
    for case in cases() {
        let what = format!("{} {} {}", case.model, case.method, case.share);
        let mut host = Host::new(&case.model, &IGNORED);
        let made = plan(&case, &mut host);
        assert_eq!(differences(&case, &host, &made), "", "{what}");
        // One channel for another, and one width for another, are seen.
        let mut other = made.clone();
        let (name, keep) = other.keep.iter_mut().find(|(_, keep)| keep[0] > 0).expect("a cut");
        keep[0] -= 1;
        let layer = name.strip_suffix(".conv").expect("a name").to_owned();
        assert!(differences(&case, &host, &other).starts_with(&layer), "{what}");
        if case.share != "0.5" && case.share != "0.75" {
            // Shares that are multiples of 8 need no rounding.
            host.rounding.round = Round::Nearest;
            let made = plan(&case, &mut host);
            assert_ne!(differences(&case, &host, &made), "", "{what}: rounded to the nearest");
        }
    }
}

/// The same from the command line, plan and all.
#[test]
fn flags_ask_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names;
    // The number of classes is no matter: masks are of the layers before the head.
    let (graph, params) = network("yolov5n", classes.len() as i64);
    let meta = checkpoint::Meta {
        names: classes,
        image_size: 64,
        ..checkpoint::Meta::default()
    };
    checkpoint::save(
        &dir.path().join("n.safetensors"),
        &checkpoint::Checkpoint::new(graph, params, meta),
    )
    .expect("a file");
    let mut line = vec![
        "prune",
        "--weights",
        "n.safetensors",
        "--data",
        data.to_str().expect("text"),
        "--noval",
        "--json",
    ];
    line.extend(["--pruner", "slimming", "--set", "ratio=0.6", "--set", "inclusive=true"]);
    line.extend([
        "--round",
        "up",
        "--max-ratio",
        "1",
        "--calib-batches",
        "1",
        "--batch-size",
        "2",
        "--img",
        "64",
    ]);
    line.extend(IGNORED.iter().flat_map(|pattern| ["--exclude", pattern]));
    line.extend(["--out", "pruned.safetensors"]);
    let found = yolo(dir.path(), &line).ok().json();
    let made: PrunePlan = serde_json::from_value(found["plan"].clone()).expect("a plan");
    let case = cases()
        .into_iter()
        .find(|case| case.method == "slimming" && case.share == "0.6")
        .expect("the case");
    let host = Host::new(&case.model, &IGNORED);
    assert_eq!(differences(&case, &host, &made), "");
}
