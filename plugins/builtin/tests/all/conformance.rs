//! What every linked plugin must keep, so that a new crate is tested by existing.

use std::collections::HashMap;

use serde_json::{Value, json};
use yolo_core::config::Located;
use yolo_core::graph::CustomOp;
use yolo_core::plugin::BlockRequest;
use yolo_core::{
    Backbone, Distiller, GraphBuilder, Kind, Mode, NeckBlock, Params, PluginInfo, Program, PruneMetric, Pruner,
    Quantizer, Scale, testing,
};

/// The example, read by the trait of its kind and written again.
fn round_trip(kind: Kind, path: &Located) -> Result<Value, String> {
    fn again<T: serde::de::DeserializeOwned + serde::Serialize>(config: &Located) -> Result<Value, String> {
        let component: T = config.read().map_err(|error| error.to_string())?;
        serde_json::to_value(&component).map_err(|error| error.to_string())
    }
    match kind {
        Kind::Backbone => again::<Box<dyn Backbone>>(path),
        Kind::NeckBlock => again::<Box<dyn NeckBlock>>(path),
        Kind::Pruner => again::<Box<dyn Pruner>>(path),
        Kind::Metric => again::<Box<dyn PruneMetric>>(path),
        Kind::Quantizer => again::<Box<dyn Quantizer>>(path),
        Kind::Distiller => again::<Box<dyn Distiller>>(path),
        Kind::Op => again::<Box<dyn CustomOp>>(path),
    }
}

#[test]
fn they_describe_themselves() {
    let mut names: HashMap<(Kind, String), &str> = HashMap::new();
    for info in PluginInfo::linked() {
        let name = info.name;
        assert!(
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "`{name}` is not kebab-case"
        );
        assert!(
            info.summary.len() > 15 && !info.summary.ends_with('.'),
            "{name}: summary `{}`",
            info.summary
        );
        assert!(
            !info.license.is_empty() && !info.version.is_empty(),
            "{name}: licence and version"
        );
        if let Some(paper) = info.paper {
            assert!(paper.url.starts_with("https://"), "{name}: {}", paper.url);
            assert!((1980..2100).contains(&paper.year), "{name}: {}", paper.year);
        }
        for own in std::iter::once(&info.name).chain(info.aliases) {
            let normal = yolo_core::suggest::normalise(own);
            if let Some(other) = names.insert((info.kind, normal), name) {
                panic!("`{own}` stands for `{name}` and `{other}`");
            }
        }
    }
}

#[test]
fn their_examples_are_read_and_written_again() {
    for info in PluginInfo::linked() {
        let example = (info.example)();
        assert_eq!(
            example["type"], info.name,
            "the example of `{}` names another type",
            info.name
        );
        let config = Located::from_value(info.name, example.clone());
        let once = round_trip(info.kind, &config).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        let config = Located::from_value(info.name, once.clone());
        let twice = round_trip(info.kind, &config).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        assert_eq!(once, twice, "{}", info.name);
        for (key, value) in example.as_object().expect("an object") {
            assert_eq!(&once[key], value, "{}: the example's `{key}` is lost", info.name);
        }
    }
}

#[test]
fn their_options_are_documented_and_misspelt_ones_refused() {
    for info in PluginInfo::linked() {
        let schema = (info.schema)();
        let options = schema["properties"].as_object().cloned().unwrap_or_default();
        for (option, description) in &options {
            let text = description.get("description").or_else(|| description.get("$ref"));
            assert!(text.is_some(), "{}: `{option}` has no description", info.name);
        }
        let Some(option) = options.keys().find(|option| option.len() > 3) else {
            continue;
        };
        let typo = format!("{option}x");
        let text = format!("type: {}\n{typo}: 1\n", info.name);
        let config = Located::parse("plugin.yaml", &text).expect("YAML");
        let error = round_trip(info.kind, &config).expect_err(&typo);
        assert!(
            error.contains(&typo) && error.contains(option.as_str()),
            "{}: {error}",
            info.name
        );
        assert!(error.starts_with("plugin.yaml:2:1:"), "{}: {error}", info.name);
    }
}

#[test]
fn backbones_return_what_they_declare() {
    for info in PluginInfo::linked() {
        if info.kind != Kind::Backbone {
            continue;
        }
        let config = Located::from_value(info.name, (info.example)());
        let backbone: Box<dyn Backbone> = config.read().expect("the example");
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let scale = Scale {
            depth: 0.33,
            width: 0.25,
        };
        let maps = backbone.build(&mut g, image, scale).expect("a backbone");
        maps.check(info.name).expect("strides that double");
        assert_eq!(
            maps.0.last().expect("maps").stride,
            32,
            "{}: the last stride",
            info.name
        );
        assert!(
            maps.at_stride(4).is_some(),
            "{}: a P2 head needs a map of stride 4",
            info.name
        );
        let outputs = maps.0.iter().map(|feat| feat.value).collect();
        let graph = g.finish(outputs, None).expect("a graph");
        for (h, w) in [(64, 96), (160, 128)] {
            let shapes = graph.shapes([1, 3, h, w]).expect("shapes");
            for feat in &maps.0 {
                let shape = &shapes[feat.value.index()];
                assert_eq!(
                    shape,
                    &[1, feat.channels, h / feat.stride, w / feat.stride],
                    "{} at {h} x {w}",
                    info.name
                );
            }
        }
    }
}

/// Blocks run on maps of any size, in training and in eval, and give gradients to everything that they train.
#[test]
fn neck_blocks_run_and_learn() {
    for info in PluginInfo::linked() {
        if info.kind != Kind::NeckBlock {
            continue;
        }
        let config = Located::from_value(info.name, (info.example)());
        let block: Box<dyn NeckBlock> = config.read().expect("the example");
        let mut g = GraphBuilder::new(64);
        let image = g.image();
        let request = BlockRequest {
            channels: 64,
            repeats: 2,
            shortcut: true,
        };
        let inputs = vec![image; block.arity().min];
        let out = g
            .layer(block.layer_name(), &inputs, |g| block.build(g, &inputs, request))
            .unwrap_or_else(|error| panic!("{}: {error}", info.name));
        assert_eq!(out.stride, 1, "{} changes the size of the map", info.name);
        let graph = g.finish(vec![out.value], None).expect("a graph");
        let params = Params::init(&graph, 1);
        let trained: Vec<_> = graph.param_specs().into_iter().filter(|s| s.role.trainable()).collect();
        for spec in &trained {
            let _ = params.get(&spec.key).expect("initialised").set_requires_grad(true);
        }
        let program = Program::new(&graph, &params).expect("tensors fit");
        for (h, w) in [(5, 9), (16, 8), (8, 11)] {
            let x = testing::input(2, 64, h, w);
            for mode in [Mode::Eval, Mode::Train] {
                let y = &program.run(&x, mode).expect("a forward")[0];
                assert_eq!(y.size()[2..], [h, w], "{}", info.name);
                assert_eq!(y.isfinite().all().int64_value(&[]), 1, "{}", info.name);
                if mode == Mode::Train {
                    y.square().mean(tch::Kind::Float).backward();
                }
            }
        }
        for spec in &trained {
            let grad = params.get(&spec.key).expect("initialised").grad();
            let finite = grad.defined() && grad.isfinite().all().int64_value(&[]) == 1;
            assert!(finite, "{}: gradient of `{}`", info.name, spec.key);
        }
    }
}

/// An unknown name, a name of another kind, a misspelt option: each with its place and a way on.
#[test]
fn mistakes_in_model_files_are_explained() {
    let build = |text: &str| {
        let config = Located::parse("net.yaml", text).expect("YAML");
        yolo_core::model::build(&config, None).expect_err(text).to_string()
    };
    let file = |backbone: &str, neck: &str| {
        format!(
            "backbone: {backbone}\nneck:\n  type: pan\n  levels: [{{channels: 64}}, {{channels: 128}}]\n  {neck}\nhead: {{type: detect}}\n"
        )
    };
    let error = build(&file("{type: ghotsnet}", "block: c3"));
    assert!(
        error.starts_with("net.yaml:1:18: there is no backbone `ghotsnet`"),
        "{error}"
    );
    assert!(error.contains("did you mean `ghostnet`"), "{error}");
    let error = build(&file("{type: cbam}", "block: c3"));
    assert!(error.contains("`cbam` is a neck block"), "{error}");
    let error = build(&file("{type: ghostnet, varaint: paper}", "block: c3"));
    assert!(
        error.starts_with("net.yaml:1:") && error.contains("did you mean `variant`"),
        "{error}"
    );
    let error = build(&file("{type: ghostnet}", "block: {type: c3ttr}"));
    assert!(
        error.starts_with("net.yaml:5:17: there is no neck block `c3ttr`"),
        "{error}"
    );
    let error = build(&file("{type: ghostnet}", "block: c3ttr"));
    assert!(
        error.starts_with("net.yaml:5:") && error.contains("`c3ttr`") && error.contains("did you mean `c3tr`"),
        "{error}"
    );
    let error = build(&file("{type: ghostnet}", "block: {type: c3tr, headz: 3}"));
    assert!(
        error.starts_with("net.yaml:5:") && error.contains("did you mean `heads`"),
        "{error}"
    );
    let error = build(&file("{type: ghostnet}", "block: {type: c3tr, heads: 5}"));
    assert!(
        error.contains("32 inner channels can't be divided among 5 heads"),
        "{error}"
    );
    let error = build(&file("{type: ghostnet}", "blok: c3"));
    assert!(
        error.starts_with("net.yaml:5:3:") && error.contains("did you mean `block`"),
        "{error}"
    );
    let error = build(&file("{type: shufflenet-v2}", "block: c3\n  extra_levels: 0").replace(
        "[{channels: 64}",
        "[{channels: 8}, {channels: 8}, {channels: 8}, {channels: 8}, {channels: 64}",
    ));
    assert!(error.contains("6 levels, but the backbone returns 4 maps"), "{error}");
    let error = build("extends: yolov5q\n");
    assert!(error.contains("there is no model file `yolov5q`"), "{error}");
    let error = build("extends: yolov5n\nneck: {type: cbam}\n");
    assert!(
        error.contains("there is no neck `cbam`") && error.contains("neck block"),
        "{error}"
    );
    let error = build("extends: yolov5n\nhead: {anchors: [[1, 2], [3, 4]]}\n");
    assert!(
        error.contains("anchors for 2 levels, but the neck returns 3"),
        "{error}"
    );
    // Aliases and other spellings are understood.
    let config = Located::from_value(
        "net",
        json!({"extends": "YOLOv5_n", "backbone": {"type": "MobileNet_V3"}}),
    );
    yolo_core::model::build(&config, Some(2)).expect("an alias");
}
