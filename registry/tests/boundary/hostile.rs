//! What misbehaves on the far side is one clear error here.

use std::ffi::c_void;

use serde_json::json;
use yolo_abi::{YoloPluginV1, YoloStr, YoloText, status};
use yolo_core::prune::GroupTensors;
use yolo_core::quant::Calibration;
use yolo_core::{Backbone, GraphBuilder, Node, Op, Params, PruneMetric, Quantizer, Scale, testing};
use yolo_registry::{Code, PluginError, dynamic};

use crate::{TABLE, far, near};

fn group() -> GroupTensors {
    GroupTensors {
        name: "model.3".into(),
        index: (0, 1),
        channels: 6,
        weights: vec![testing::input(1, 1, 6, 9).reshape([6, 9])],
        ..GroupTensors::default()
    }
}

#[test]
fn metrics_that_go_wrong_say_how() {
    for (wrong, words) in [
        (
            "panic",
            "`peak` panicked: score on purpose (registry/tests/boundary/plugins.rs:",
        ),
        ("payload", "`peak` panicked: a panic without words"),
        ("nan", "`peak` gave NaN for channel 2 of `model.3`"),
        ("short", "`peak` gave 5 scores for the 6 channels of `model.3`"),
        ("long", "`peak` gave more than 6 scores for the 6 channels of `model.3`"),
        ("torch", "libtorch reported an error inside of `peak`: "),
        ("error", "`peak` gave up: no peak [31m today"),
    ] {
        let metric: Box<dyn PruneMetric> = far("peak", json!({"wrong": wrong})).expect("a metric");
        let error = metric.score(&group()).expect_err(wrong).to_string();
        assert!(error.starts_with(words), "{wrong}: {error}");
        assert!(error.contains("yolo explain yolo::plugin::"), "{error}");
    }
    let error = far::<Box<dyn PruneMetric>>("peak", json!({"wrong": "needs"})).expect_err("a panic");
    assert!(error.contains("`peak` panicked: needs on purpose"), "{error}");
    // And it works on.
    let metric: Box<dyn PruneMetric> = far("peak", json!({})).expect("a metric");
    assert_eq!(metric.score(&group()).expect("scores").len(), 6);
}

#[test]
fn options_are_refused_in_words_that_point_at_them() {
    let error = far::<Box<dyn PruneMetric>>("peak", json!({"pwer": 1.0})).expect_err("no such option");
    assert!(error.starts_with("unknown field `pwer`, expected"), "{error}");
    let text = "metric:\n  type: '@dynamic'\n  plugin: <boundary>\n  name: peak\n  options: {pwer: 2}\n";
    let config = yolo_core::config::Located::parse("prune.yaml", text).expect("YAML");
    let error = config
        .read_at::<Box<dyn PruneMetric>>("metric")
        .expect_err("no such option")
        .to_string();
    assert!(
        error.contains("there is no option `pwer`") && error.contains("did you mean `power`"),
        "{error}"
    );
    let error = far::<Box<dyn Backbone>>("steps", json!({"channels": "many"})).expect_err("no number");
    assert!(error.contains("expected i64"), "{error}");
    let backbone: Box<dyn Backbone> = far("steps", json!({"channels": 4})).expect("a backbone");
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let error = backbone
        .build(&mut g, image, Scale::default())
        .expect_err("too few")
        .to_string();
    assert_eq!(error, "`steps` can't be built: `channels` must be at least 8");
    let error = far::<Box<dyn Backbone>>("peak", json!({})).expect_err("another kind");
    assert!(
        error.contains("has no backbone `peak`") && error.contains("metric peak"),
        "{error}"
    );
    let config = json!({"type": "@dynamic", "plugin": "nowhere", "name": "x"});
    let error = serde_json::from_value::<Box<dyn Backbone>>(config)
        .expect_err("no such package")
        .to_string();
    assert!(
        error.contains("there is no plugin `nowhere` in the search path") && error.contains("--plugin"),
        "{error}"
    );
}

#[test]
fn a_question_that_fails_fails_the_calibration() {
    let quantizer: Box<dyn Quantizer> = far("ranges", json!({})).expect("a quantizer");
    let node = Node {
        name: "boom".into(),
        op: Op::conv(3, 4, 1, 1, 0, 1, true),
        inputs: Vec::new(),
    };
    let error = quantizer.quantizes(&node).expect_err("a panic").to_string();
    assert!(error.contains("quantizes on purpose"), "{error}");
    // Nothing is left behind: the next node has an answer of its own.
    let quiet = Node {
        name: "quiet".into(),
        ..node
    };
    assert!(quantizer.quantizes(&quiet).expect("an answer"));
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let boom = g.add("boom", quiet.op, &[image.value]).expect("a convolution");
    let graph = g.finish(vec![boom], None).expect("a graph");
    let params = Params::init(&graph, 1);
    let mut calibration = Calibration::new(&*quantizer, &graph, &params).expect("a calibration");
    calibration.see(&testing::input(1, 3, 8, 8)).expect("a forward");
    let error = calibration.finish().expect_err("a panic").to_string();
    assert!(error.contains("quantizes on purpose"), "{error}");
}

#[test]
fn a_placement_on_ops_that_do_not_exist_is_refused_at_the_door() {
    for (op, hint) in [
        ("conv2dd", "did you mean `conv2d`"),
        ("maxpool2", "`max-pool`"),
        ("zzz", "there are input, conv2d"),
    ] {
        let error = far::<Box<dyn Quantizer>>("ranges", json!({"on": op})).expect_err("no such op");
        assert!(error.contains(op) && error.contains(hint), "{error}");
        let error = near::<Box<dyn Quantizer>>("ranges", json!({"on": op}))
            .backend()
            .check()
            .expect_err("no such op")
            .to_string();
        assert!(error.contains(op) && error.contains(hint), "{error}");
    }
    let error = far::<Box<dyn Quantizer>>("ranges", json!({"bits": 17})).expect_err("too many");
    assert!(error.contains("17 bits"), "{error}");
}

fn table() -> YoloPluginV1 {
    // SAFETY: the table is plain data.
    unsafe { std::ptr::read(&raw const TABLE) }
}

fn adopted(name: &str, table: YoloPluginV1) -> PluginError {
    dynamic::adopt(name, Box::leak(Box::new(table))).expect_err(name)
}

#[test]
fn damaged_tables_are_refused() {
    let error = adopted("magic", YoloPluginV1 { magic: 1, ..table() });
    assert_eq!(error.code, Code::BadTable);
    for (major, minor) in [(2, 0), (0, 9), (1, yolo_abi::ABI_MINOR + 1)] {
        let error = adopted(
            "version",
            YoloPluginV1 {
                abi_major: major,
                abi_minor: minor,
                ..table()
            },
        );
        assert_eq!(error.code, Code::AbiMismatch);
        assert!(
            error.message.contains(&format!(
                "ABI {major}.{minor}, this yolo speaks {}",
                yolo_registry::abi_version()
            )),
            "{error}"
        );
    }
    let error = adopted(
        "size",
        YoloPluginV1 {
            struct_size: 40,
            ..table()
        },
    );
    assert_eq!(error.code, Code::BadTable);
    assert!(error.message.contains("40 bytes"), "{error}");
    for (field, broken) in [
        (
            "describe",
            YoloPluginV1 {
                describe: None,
                ..table()
            },
        ),
        (
            "create",
            YoloPluginV1 {
                create: None,
                ..table()
            },
        ),
        (
            "destroy",
            YoloPluginV1 {
                destroy: None,
                ..table()
            },
        ),
        (
            "vtable",
            YoloPluginV1 {
                vtable: None,
                ..table()
            },
        ),
    ] {
        let error = adopted(field, broken);
        assert_eq!(error.code, Code::BadTable);
        assert!(
            error.message.contains(&format!("lacks the function `{field}`")),
            "{error}"
        );
    }
    let error = adopted(
        "libtorch",
        YoloPluginV1 {
            libtorch: YoloStr::new("2.11.0"),
            ..table()
        },
    );
    assert_eq!(error.code, Code::LibtorchMismatch);
    assert!(
        error
            .message
            .contains("built against libtorch 2.11.0, yolo runs 2.13.0"),
        "{error}"
    );
    static NOT_TEXT: [u8; 3] = [b'2', 0xFF, 0xFE];
    let text = YoloStr {
        ptr: NOT_TEXT.as_ptr(),
        len: 3,
    };
    assert_eq!(
        adopted("utf8", YoloPluginV1 { sdk: text, ..table() }).code,
        Code::BadTable
    );
    let older_patch = YoloPluginV1 {
        libtorch: YoloStr::new("2.13.9"),
        ..table()
    };
    assert!(
        dynamic::adopt("patch", Box::leak(Box::new(older_patch))).is_ok(),
        "the patch does not matter"
    );
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    macro_rules! says {
        ($bytes:expr, $code:expr) => {{
            unsafe extern "C" fn describe(reply: YoloText, error: YoloText) -> i32 {
                let text: &[u8] = $bytes;
                let to = if $code == status::OK { reply } else { error };
                // SAFETY: the host waits for this call.
                unsafe {
                    (to.write)(
                        to.cx,
                        YoloStr {
                            ptr: text.as_ptr(),
                            len: text.len(),
                        },
                    )
                };
                $code
            }
            adopted(
                "describe",
                YoloPluginV1 {
                    describe: Some(describe),
                    ..table()
                },
            )
        }};
    }
    for (error, words) in [
        (says!(b"", status::OK), "EOF"),
        (says!(b"[]", status::OK), "no components"),
        (
            says!(b"[{\"kind\": \"toaster\", \"name\": \"x\"}]", status::OK),
            "toaster",
        ),
        (
            says!(b"[{\"kind\": \"metric\", \"name\": \"a b\"}]", status::OK),
            "no name",
        ),
        (
            says!(
                b"[{\"kind\":\"metric\",\"name\":\"a\"},{\"kind\":\"metric\",\"name\":\"a\"}]",
                status::OK
            ),
            "two components",
        ),
        (says!(b"[\"\xFF\"]", status::OK), "not UTF-8 (byte 2)"),
    ] {
        assert_eq!(error.code, Code::BadInfo, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!(says!(b"out of ideas", status::FAILED).code, Code::PluginFailed);
    assert_eq!(says!(b"out of ideas", status::PANIC).code, Code::Panicked);
    let error = says!(b"out of ideas", 1234);
    assert_eq!(error.code, Code::BadResult);
    assert!(error.message.contains("1234"), "{error}");
}

/// Answers of a backbone that no graph can be made of.
#[test]
fn graphs_that_make_no_sense_are_refused() {
    static REPLY: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
    unsafe extern "C" fn build(_: *mut c_void, _: YoloStr, reply: YoloText, _: YoloText) -> i32 {
        let text = REPLY.lock().expect("not poisoned").clone();
        // SAFETY: the host waits for this call.
        unsafe {
            (reply.write)(
                reply.cx,
                YoloStr {
                    ptr: text.as_ptr(),
                    len: text.len(),
                },
            )
        };
        status::OK
    }
    static VT: yolo_abi::YoloBackboneVt = yolo_abi::YoloBackboneVt {
        struct_size: 16,
        _reserved: 0,
        build: Some(build),
    };
    unsafe extern "C" fn vtable(kind: YoloStr) -> *const c_void {
        // SAFETY: the host lends the text; the other functions are those of the good table.
        unsafe {
            match kind.text() {
                Ok("backbone") => (&raw const VT).cast(),
                _ => table().vtable.map_or(std::ptr::null(), |vtable| vtable(kind)),
            }
        }
    }
    dynamic::adopt(
        "graphs",
        Box::leak(Box::new(YoloPluginV1 {
            vtable: Some(vtable),
            ..table()
        })),
    )
    .expect("a good table");
    let config = json!({"type": "@dynamic", "plugin": "<graphs>", "name": "steps"});
    let backbone: Box<dyn Backbone> = serde_json::from_value(config).expect("a backbone");
    let build = |reply: &[u8]| {
        *REPLY.lock().expect("not poisoned") = reply.to_vec();
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        backbone.build(&mut g, image, Scale::default())
    };
    let conv = |cout: i64, stride: i64, inputs: &str| {
        let op = serde_json::to_value(Op::conv(3, cout, 3, stride, 1, 1, true)).expect("JSON");
        format!(r#"{{"name": "c", "op": {op}, "inputs": {inputs}}}"#)
    };
    let piece = |nodes: &str, outputs: &str| format!(r#"{{"nodes": [{nodes}], "outputs": {outputs}}}"#);
    assert_eq!(
        build(piece(&conv(8, 2, "[0]"), "[1]").as_bytes())
            .expect("a good graph")
            .0[0]
            .stride,
        2
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (reply, words) in [
        (String::new(), "can't be read"),
        ("null".into(), "can't be read"),
        (deep, "recursion limit"),
        (piece("", "[]"), "no outputs"),
        (piece(&conv(8, 2, "[1]"), "[1]"), "a cycle?"),
        (piece(&conv(8, 2, "[4000000000]"), "[1]"), "does not exist"),
        (piece(&conv(8, 2, "[0]"), "[77]"), "output 77 does not exist"),
        (
            piece(&conv(i64::MAX, 2, "[0]"), "[1]"),
            "9223372036854775807 is not between",
        ),
        (piece(&conv(-8, 2, "[0]"), "[1]"), "is not between"),
        (
            piece(&conv(1 << 20, 2, "[0]").replace("[3,3]", "[1048576,1048576]"), "[1]"),
            "larger than any model's",
        ),
        (piece(&conv(8, 2, "[0]").replace("conv2d", "rm-rf"), "[1]"), "rm-rf"),
        (
            piece(
                r#"{"name": "x", "op": {"op": "custom", "custom": {"type": "no-such-op"}}, "inputs": [0]}"#,
                "[1]",
            ),
            "no-such-op",
        ),
        (
            piece(
                r#"{"name": "x", "op": {"op": "upsample", "scale": 1048576}, "inputs": [0]}"#,
                "[1]",
            ),
            "larger than any model's",
        ),
        (
            piece(
                r#"{"name": "x", "op": {"op": "pad", "top": 9223372036854775807, "bottom": 1, "left": 0, "right": 0}, "inputs": [0]}"#,
                "[1]",
            ),
            "padding",
        ),
        (
            piece(
                r#"{"name": "x", "op": {"op": "reshape", "dims": [{"fixed": 4}, "infer"]}, "inputs": [0]}"#,
                "[1]",
            ),
            "feature map",
        ),
        (
            piece(
                r#"{"name": "x", "op": {"op": "reduce", "kind": "mean", "dims": [99]}, "inputs": [0]}"#,
                "[1]",
            ),
            "axis 99",
        ),
    ] {
        let error = build(reply.as_bytes()).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("yolo::plugin::bad_graph"), "{error}");
    }
    let error = build(b"{\"nodes\": \"\xC3\x28\"}").expect_err("no text").to_string();
    assert!(error.contains("not UTF-8"), "{error}");

    // Damage at random: an error or a graph, never a panic.
    let whole = {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let steps: Box<dyn Backbone> = crate::near("steps", json!({"channels": 8}));
        let maps = steps
            .build(
                &mut g,
                image,
                Scale {
                    depth: 1.0,
                    width: 0.25,
                },
            )
            .expect("a graph");
        let outputs: Vec<_> = maps.0.iter().map(|feat| feat.value).collect();
        serde_json::to_string(&g.into_fragment(1, outputs)).expect("JSON")
    };
    assert!(build(whole.as_bytes()).is_ok());
    let mut random = 7u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let numbers = [
        "0",
        "-1",
        "1",
        "7",
        "65536",
        "1048576",
        "9223372036854775807",
        "-9223372036854775808",
        "1e300",
        "null",
        "[]",
        "{}",
    ];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..400 {
        let mut text = whole.clone();
        for _ in 0..=next(3) {
            let digits: Vec<usize> = text
                .char_indices()
                .filter(|(_, c)| c.is_ascii_digit())
                .map(|(at, _)| at)
                .collect();
            let at = digits[next(digits.len())];
            text.replace_range(at..=at, numbers[next(numbers.len())]);
        }
        match build(text.as_bytes()) {
            Ok(_) => good += 1,
            Err(error) => {
                assert!(!error.to_string().contains("panicked"), "{error}");
                bad += 1;
            }
        }
    }
    assert!(good > 0 && bad > 100, "{good} survive, {bad} are refused");
}
