//! Who competes with whom for the channels that stay: scopes, normalisers and fixed shares of `oneshot` and `slimming`, and EagleEye's ways
//! to find strategies.

use serde_json::{Value, json};
use yolo_core::prune::{Budget, PrunePlan, Pruner, Round};

use crate::golden_prune::Host;

/// A host that keeps any width.
fn host() -> Host {
    let mut host = Host::new("yolov5n", &[]);
    (host.rounding.multiple, host.rounding.round) = (1, Round::Nearest);
    host
}

fn plan(host: &mut Host, config: &Value) -> Result<PrunePlan, String> {
    let pruner: Box<dyn Pruner> = serde_json::from_value(config.clone()).map_err(|error| error.to_string())?;
    pruner.plan(host).map_err(|error| error.to_string())
}

/// Channels before and after, of the groups that a condition holds for.
fn count(host: &Host, plan: &PrunePlan, which: impl Fn(&str) -> bool) -> (usize, usize) {
    let own = host.groups.groups.iter().filter(|group| which(&group.name));
    own.fold((0, 0), |(before, after), group| {
        (before + group.len(), after + plan.kept(group))
    })
}

#[test]
fn scopes_say_who_competes() {
    let mut host = host();
    let all = |_: &str| true;
    let early = |name: &str| {
        ["model.0.", "model.1.", "model.2."]
            .iter()
            .any(|layer| name.starts_with(layer))
    };
    let shares = |host: &Host, plan: &PrunePlan| -> Vec<f64> {
        let each = host.groups.groups.iter();
        each.map(|group| plan.kept(group) as f64 / group.len() as f64).collect()
    };
    for pruner in ["oneshot", "slimming"] {
        let of = |more: Value| {
            let mut config = json!({"type": pruner, "ratio": 0.5});
            config
                .as_object_mut()
                .expect("a map")
                .extend(more.as_object().cloned().expect("a map"));
            config
        };
        let local = plan(&mut host, &of(json!({"scope": "local"}))).expect("a plan");
        assert!(shares(&host, &local).iter().all(|share| *share == 0.5), "{pruner}");
        let global = plan(&mut host, &of(json!({"scope": "global"}))).expect("a plan");
        let (before, after) = count(&host, &global, all);
        assert_eq!(after, before - before / 2, "{pruner}");
        assert!(
            shares(&host, &global).iter().any(|share| (*share - 0.5).abs() > 0.1),
            "{pruner}"
        );
        let some = of(json!({"scope": {"patterns": ["model.{0,1,2}"]}}));
        let some = plan(&mut host, &some).expect("a plan");
        let (before, after) = count(&host, &some, early);
        assert_eq!(after, before - before / 2, "{pruner}");
        for (group, share) in host.groups.groups.iter().zip(shares(&host, &some)) {
            assert!(
                early(&group.name) || share == 0.5,
                "{pruner}: {} keeps {share}",
                group.name
            );
        }
        let own = shares(&host, &some)
            .into_iter()
            .zip(&host.groups.groups)
            .filter(|(_, group)| early(&group.name));
        assert!(own.into_iter().any(|(share, _)| share != 0.5), "{pruner}: they compete");
        // Fixed shares, whatever the others lose.
        let fixed = plan(
            &mut host,
            &of(json!({"scope": "global", "ratios": {"model.9": 0.25, "model.0": 0.0}})),
        )
        .expect("a plan");
        let (before, after) = count(&host, &fixed, |name| name.starts_with("model.9."));
        assert_eq!(after * 4, before * 3, "{pruner}");
        assert!(!fixed.keep.contains_key("model.0.conv"), "{pruner}");
        let rest = count(&host, &fixed, |name| {
            !name.starts_with("model.9.") && !name.starts_with("model.0.")
        });
        assert_eq!(rest.1, rest.0 - rest.0 / 2, "{pruner}");
        for (wrong, words) in [
            (
                json!({"scope": {"patterns": ["model.77"]}}),
                "`model.77` names no group",
            ),
            (json!({"ratios": {"model.77": 0.5}}), "`model.77` names no group"),
            (json!({"ratios": {"model.0": 1.0}}), "below 1"),
            (json!({"ratio": 1.0}), "between 0 and 1"),
            (json!({"ratio": 0.0}), "between 0 and 1"),
            (json!({"normalise": "median"}), "median"),
        ] {
            let error = plan(&mut host, &of(wrong)).expect_err(words);
            assert!(error.contains(words), "{pruner}: {error}");
        }
    }
}

/// Scores that differ by layer more than by channel empty whole layers unless they are normalised; LAMP never does.
#[test]
fn normalisers_decide_a_global_ranking() {
    let mut host = host();
    let least = |host: &mut Host, normalise: &str, metric: &str| -> f64 {
        let config =
            json!({"type": "oneshot", "metric": metric, "ratio": 0.5, "scope": "global", "normalise": normalise});
        let made = plan(host, &config).expect("a plan");
        let each = host
            .groups
            .groups
            .iter()
            .map(|group| made.kept(group) as f64 / group.len() as f64);
        each.fold(1.0, f64::min)
    };
    let (raw, mean) = (least(&mut host, "none", "l1"), least(&mut host, "mean", "l1"));
    assert!(raw < 0.1 && mean > raw, "{raw} {mean}");
    for normaliser in ["sum", "max", "min-max", "standardise", "lamp"] {
        let share = least(&mut host, normaliser, "l1");
        assert!(share > 0.0 && share < 0.5, "{normaliser}: {share}");
    }
    assert_eq!(least(&mut host, "lamp", "l2"), least(&mut host, "lamp", "l2"));
    assert!(least(&mut host, "none", "lamp") > 0.0);
}

/// Where worth hangs on few groups, children of the best are worth more than random strategies; all of them are in the window.
#[test]
fn evolution_finds_what_chance_does_not() {
    let worth: fn(&[usize]) -> f64 =
        |widths| (widths[1] + widths[3] + widths[5]) as f64 / 1000.0 - widths[7] as f64 / 1000.0;
    let mut best = Vec::new();
    for sampler in ["random", "evolution"] {
        let mut late = 0.0;
        for params in [None, Some(0.6)] {
            let mut host = host();
            host.worth = Some(worth);
            host.budget = Budget {
                flops: params.is_none().then_some(0.6),
                params,
                latency: None,
            };
            let config = json!({"type": "eagleeye", "candidates": 60, "sampler": sampler});
            let made = plan(&mut host, &config).expect("a plan");
            assert_eq!(host.asked.len(), 60);
            let widths = host.cost.widths(&made, &host.groups);
            let largest = host.asked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(worth(&widths), largest, "the best one is taken");
            let full = host.cost.full();
            let share = match params {
                None => host.cost.macs(&widths) as f64 / host.cost.macs(full) as f64,
                Some(_) => host.cost.params(&widths) as f64 / host.cost.params(full) as f64,
            };
            assert!((0.58..=0.6).contains(&share), "{sampler}: {share}");
            late += host.asked[30..].iter().sum::<f64>() / 30.0;
        }
        best.push(late);
    }
    assert!(best[1] > best[0], "{best:?}");
    let mut host = host();
    host.worth = Some(worth);
    host.budget.flops = Some(0.6);
    for (wrong, words) in [
        (json!({"min_keep": 1.5}), "min_keep"),
        (json!({"sampler": "evolution", "parents": 0}), "parents"),
        (json!({"min_keep": 1.0, "tries": 2, "window": 0.0}), "found no strategy"),
    ] {
        let mut config = json!({"type": "eagleeye", "candidates": 2});
        config
            .as_object_mut()
            .expect("a map")
            .extend(wrong.as_object().cloned().expect("a map"));
        let error = plan(&mut host, &config).expect_err(words);
        assert!(error.contains(words), "{error}");
    }
}
