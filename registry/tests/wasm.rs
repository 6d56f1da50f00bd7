//! WASM metrics: what they compute, and that nothing they do harms the process.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::Tensor;
use yolo_core::config::Located;
use yolo_core::model::Resolver;
use yolo_core::model::names::{self, Found, NameError};
use yolo_core::prune::{GroupTensors, checked_score};
use yolo_core::{PruneMetric, testing};
use yolo_registry::wasm::{self, section};
use yolo_registry::{Code, Fitness, Index, Level, PluginError, SearchPath, metric};

fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name)
}

fn options(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

/// A layer of random weights `[channels, elements]`, in as many parts as given.
fn layer(channels: i64, parts: &[i64]) -> GroupTensors {
    let next = std::cell::Cell::new(0u32);
    let random = |shape: &[i64]| {
        let stream = testing::Stream::new(&format!("tensor {}", next.replace(next.get() + 1)));
        let values: Vec<f32> = (0..shape.iter().product::<i64>())
            .map(|i| stream.signed(i as u32) as f32)
            .collect();
        Tensor::from_slice(&values).reshape(shape)
    };
    GroupTensors {
        name: "model.1.conv".into(),
        index: (1, 7),
        channels: channels as usize,
        weights: parts.iter().map(|elements| random(&[channels, *elements])).collect(),
        gammas: parts.iter().map(|_| random(&[channels])).collect(),
        betas: parts.iter().map(|_| random(&[channels])).collect(),
        ..GroupTensors::default()
    }
}

/// A module that is well behaved but for one thing: `body` of `yolo_score`, `alloc`, and anything extra.
struct Hostile {
    needs: &'static str,
    abi: &'static str,
    alloc: &'static str,
    score: &'static str,
    extra: &'static str,
    section: Vec<u8>,
}

impl Default for Hostile {
    fn default() -> Self {
        Self {
            needs: "i32.const 1",
            abi: "i32.const 0x10000",
            // 1 MiB of memory, handed out from address 1024 on.
            alloc: "global.get $top global.get $top local.get 0 i32.add i32.const 15 i32.add i32.const -16 i32.and global.set $top",
            score: "i32.const 0",
            extra: "(memory (export \"memory\") 16)",
            section: br#"{"kind": "metric", "name": "hostile"}"#.to_vec(),
        }
    }
}

impl Hostile {
    fn bytes(&self) -> Vec<u8> {
        let text = format!(
            "(module {} (global $top (mut i32) (i32.const 1024))
               (func (export \"yolo_metric_abi\") (result i32) {})
               (func (export \"yolo_needs\") (result i32) {})
               (func (export \"yolo_alloc\") (param i32 i32) (result i32) {})
               (func $inner (param i32 i32) (result i32) {})
               (func (export \"yolo_score\") (param i32 i32) (result i32) local.get 0 local.get 1 call $inner))",
            self.extra, self.abi, self.needs, self.alloc, self.score
        );
        let module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        section::replace(&module, wasm::SECTION, &self.section).expect("a module")
    }

    fn file(&self, folder: &Path) -> PathBuf {
        write(folder, "hostile.wasm", &self.bytes())
    }

    /// What using it says: loading, or scoring a small layer.
    fn fate(&self) -> PluginError {
        let folder = tempfile::tempdir().expect("a folder");
        fate(&self.file(folder.path()))
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("writable");
    path
}

fn fate(file: &Path) -> PluginError {
    let made = metric(
        &Index::linked(),
        &file.display().to_string(),
        options(json!({"seconds": 1.0})),
    );
    match made {
        Err(error) => error,
        Ok(metric) => ours(metric.score(&layer(8, &[9])).expect_err("hostile")),
    }
}

fn ours(error: yolo_core::Error) -> PluginError {
    match error {
        yolo_core::Error::Coded(error) => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn a_metric_by_hand_equals_the_native_one() {
    let metric = metric(&Index::linked(), &guest("l1.wat").display().to_string(), Map::new()).expect("a metric");
    for (channels, parts) in [(1, vec![1]), (64, vec![27]), (33, vec![72, 5]), (512, vec![512 * 9])] {
        let group = layer(channels, &parts);
        let scores = checked_score("l1-wat", metric.as_ref(), &group).expect("scores");
        let sums = group
            .weights
            .iter()
            .map(|w| w.abs().sum_dim_intlist(1, false, tch::Kind::Double));
        let wanted = Vec::<f64>::try_from(sums.fold(
            Tensor::zeros([channels], (tch::Kind::Double, tch::Device::Cpu)),
            |a, b| a + b,
        ))
        .expect("numbers");
        for (channel, (score, wanted)) in scores.iter().zip(&wanted).enumerate() {
            let error = (f64::from(*score) - wanted).abs() / wanted.max(1.0);
            assert!(error < 1e-5, "channel {channel} of {channels}: {score} for {wanted}");
        }
    }
}

#[test]
fn options_cross_in_the_order_of_the_schema() {
    let path = guest("options.wat").display().to_string();
    let make = |given: Value| metric(&Index::linked(), &path, options(given));
    let group = layer(5, &[3, 4]);
    let gamma = Vec::<f32>::try_from(&group.gammas[1]).expect("numbers");
    let check = |given: Value, f: &dyn Fn(f32) -> f32| {
        let scores = make(given).expect("a metric").score(&group).expect("scores");
        assert_eq!(scores, gamma.iter().map(|g| f(*g)).collect::<Vec<_>>());
    };
    check(json!({}), &|g| 2.0 * g.abs());
    check(json!({"scale": 3, "shift": -4}), &|g| 3.0 * g.abs() - 4.0);
    check(json!({"flip": true, "seconds": 3.5, "fuel_per_weight": 1000}), &|g| {
        -2.0 * g.abs()
    });
    let error = |given: Value| make(given).expect_err("wrong options");
    let wrong = error(json!({"sclae": 1}));
    assert_eq!(wrong.code, Code::UnknownOption, "{wrong}");
    assert!(wrong.to_string().contains("did you mean `scale`?"), "{wrong}");
    for given in [
        json!({"scale": "big"}),
        json!({"shift": 0.5}),
        json!({"flip": 1}),
        json!({"seconds": 0}),
        json!({"fuel_per_weight": -1}),
    ] {
        let wrong = error(given);
        assert_eq!(wrong.code, Code::BadValue, "{wrong}");
    }
}

#[test]
fn a_metric_is_written_as_data_and_read_again() {
    let path = guest("options.wat").display().to_string();
    let boxed = metric(&Index::linked(), &path, options(json!({"scale": 5}))).expect("a metric");
    let data = serde_json::to_value(&boxed).expect("data");
    assert_eq!(
        (&data["type"], &data["options"]),
        (&json!("@wasm"), &json!({"scale": 5}))
    );
    let again: Box<dyn PruneMetric> = serde_json::from_value(data).expect("the same metric");
    let group = layer(5, &[3, 4]);
    assert_eq!(
        boxed.score(&group).expect("scores"),
        again.score(&group).expect("scores")
    );
}

#[test]
fn the_same_scores_come_from_any_number_of_threads() {
    let metric = metric(&Index::linked(), &guest("l1.wat").display().to_string(), Map::new()).expect("a metric");
    let alone = metric.score(&layer(64, &[64 * 9])).expect("scores");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..10)
                        .map(|_| metric.score(&layer(64, &[64 * 9])).expect("scores"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for thread in threads {
            for scores in thread.join().expect("no panic") {
                assert_eq!(scores, alone);
            }
        }
    });
}

#[test]
fn instances_remember_nothing_from_layer_to_layer() {
    let counts = Hostile {
        extra: "(memory (export \"memory\") 16) (global $calls (mut i32) (i32.const 0))",
        score: "global.get $calls i32.const 1 i32.add global.set $calls
                local.get 1 global.get $calls f32.convert_i32_s f32.store i32.const 0",
        ..Hostile::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let metric = metric(
        &Index::linked(),
        &counts.file(folder.path()).display().to_string(),
        Map::new(),
    )
    .expect("a metric");
    for _ in 0..3 {
        assert_eq!(metric.score(&layer(1, &[9])).expect("scores"), [1.0]);
    }
}

#[test]
fn hostile_modules_are_stopped_with_one_error_each() {
    let plain = Hostile::default;
    let cases = [
        (
            Code::WasmOutOfFuel,
            Hostile {
                score: "(loop $l br $l) i32.const 0",
                ..plain()
            },
            "used its whole budget",
        ),
        (
            Code::WasmOutOfFuel,
            Hostile {
                alloc: "(loop $l br $l) i32.const 0",
                ..plain()
            },
            "used its whole budget",
        ),
        (
            Code::WasmOutOfFuel,
            Hostile {
                abi: "(loop $l br $l) i32.const 0",
                ..plain()
            },
            "while it was loaded",
        ),
        (
            Code::WasmTrap,
            Hostile {
                score: "unreachable",
                ..plain()
            },
            "`unreachable` instruction executed",
        ),
        (
            Code::WasmTrap,
            Hostile {
                score: "i32.const -4 i32.load",
                ..plain()
            },
            "out of bounds memory access",
        ),
        (
            Code::WasmTrap,
            Hostile {
                score: "i32.const 1 i32.const 0 i32.div_s",
                ..plain()
            },
            "integer divide by zero",
        ),
        (
            Code::WasmTrap,
            Hostile {
                score: "local.get 0 local.get 1 call $inner",
                ..plain()
            },
            "call stack exhausted",
        ),
        (
            Code::WasmOutOfMemory,
            Hostile {
                score: "i32.const 60000 memory.grow drop i32.const 0",
                ..plain()
            },
            "it may have 16.0 MiB",
        ),
        (
            Code::WasmOutOfMemory,
            Hostile {
                score: "(loop $l i32.const 1 memory.grow drop br $l) i32.const 0",
                ..plain()
            },
            "it may have",
        ),
        (
            Code::WasmOutOfMemory,
            Hostile {
                extra: "(memory (export \"memory\") 60000)",
                ..plain()
            },
            "while it was loaded",
        ),
        (
            Code::WasmAlloc,
            Hostile {
                alloc: "i32.const 0",
                ..plain()
            },
            "the module has no memory left",
        ),
        (
            Code::WasmAlloc,
            Hostile {
                alloc: "i32.const 1025",
                ..plain()
            },
            "not aligned to 16 bytes",
        ),
        (
            Code::WasmAlloc,
            Hostile {
                alloc: "i32.const 0x7ffffff0",
                ..plain()
            },
            "the memory ends at 1048576",
        ),
        (
            Code::WasmAlloc,
            Hostile {
                alloc: "i32.const -16",
                ..plain()
            },
            "returned 4294967280",
        ),
        (
            Code::WasmFailed,
            Hostile {
                score: "i32.const 3",
                ..plain()
            },
            "returned error 3 on layer 2 of 7 (`model.1.conv`",
        ),
        (Code::WasmBadResult, plain(), "gave NaN for channel 0 of layer 2 of 7"),
        (
            Code::WasmBadResult,
            Hostile {
                score: "local.get 1 f32.const inf f32.store i32.const 0",
                ..plain()
            },
            "gave inf for channel 0",
        ),
        // One score too few: the last one was never written.
        (
            Code::WasmBadResult,
            Hostile {
                score: "local.get 1 i32.const 0 i32.const 28 memory.fill i32.const 0",
                ..plain()
            },
            "gave NaN for channel 7",
        ),
        (
            Code::WasmNeeds,
            Hostile {
                needs: "i32.const 8",
                ..plain()
            },
            "asks for activations",
        ),
        (
            Code::WasmNeeds,
            Hostile {
                needs: "i32.const 256",
                ..plain()
            },
            "asks for unknown inputs",
        ),
        (
            Code::WasmNeeds,
            Hostile {
                needs: "i32.const 0",
                ..plain()
            },
            "asks for neither",
        ),
        (
            Code::WasmAbi,
            Hostile {
                abi: "i32.const 0x20000",
                ..plain()
            },
            "speaks metric ABI 2.0, this yolo speaks 1.0",
        ),
        (
            Code::WasmAbi,
            Hostile {
                abi: "i32.const 0x10001",
                ..plain()
            },
            "speaks metric ABI 1.1",
        ),
        (
            Code::WasmImports,
            Hostile {
                extra: "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32))) (memory (export \"memory\") 16)",
                ..plain()
            },
            "imports `wasi_snapshot_preview1.fd_write`",
        ),
        (
            Code::WasmImports,
            Hostile {
                extra: "(import \"env\" \"memory\" (memory 1)) (export \"memory\" (memory 0))",
                ..plain()
            },
            "imports `env.memory`",
        ),
        (
            Code::WasmExports,
            Hostile {
                extra: "(memory 16)",
                ..plain()
            },
            "does not export `memory`",
        ),
        (
            Code::WasmExports,
            Hostile {
                extra: "(memory 16) (global (export \"memory\") i32 (i32.const 0))",
                ..plain()
            },
            "not as a plain 32-bit memory",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section: b"{\"kind\": \"metric\", \"name\": \"\xff\"}".to_vec(),
                ..plain()
            },
            "it is not UTF-8 text (at byte 28)",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section: b"{\"kind\": \"metric\"".to_vec(),
                ..plain()
            },
            "can't be read",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section: br#"{"kind": "metric", "name": "../x"}"#.to_vec(),
                ..plain()
            },
            "is no name",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section: br#"{"kind": "metric", "nmae": "x"}"#.to_vec(),
                ..plain()
            },
            "unknown field `nmae`",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section: br#"{"kind": "pruner", "name": "x"}"#.to_vec(),
                ..plain()
            },
            "can't be a pruner, only a metric",
        ),
        (
            Code::WasmMetadata,
            Hostile {
                section:
                    br#"{"kind": "metric", "name": "x", "schema": {"properties": {"seconds": {"type": "number"}}}}"#
                        .to_vec(),
                ..plain()
            },
            "is taken by yolo",
        ),
        (
            Code::WasmOutOfFuel,
            Hostile {
                extra: "(memory (export \"memory\") 16) (start $s) (func $s (loop $l br $l))",
                ..plain()
            },
            "while it was loaded",
        ),
        (
            Code::WasmTrap,
            Hostile {
                extra: "(memory (export \"memory\") 16) (start $s) (func $s unreachable)",
                ..plain()
            },
            "while it was loaded",
        ),
        (
            Code::WasmTrap,
            Hostile {
                extra: "(memory (export \"memory\") 16) (table 9000000 funcref)",
                ..plain()
            },
            "stopped while it was loaded",
        ),
        (
            Code::WasmBadModule,
            Hostile {
                extra: "(memory (export \"memory\") i64 1)",
                ..plain()
            },
            "is no WebAssembly module",
        ),
        (
            Code::WasmBadModule,
            Hostile {
                extra: "(memory (export \"memory\") 16) (memory 1)",
                ..plain()
            },
            "is no WebAssembly module",
        ),
        (
            Code::WasmBadModule,
            Hostile {
                extra: "(memory (export \"memory\") 1 4 shared)",
                ..plain()
            },
            "is no WebAssembly module",
        ),
    ];
    for (code, module, words) in cases {
        let error = module.fate();
        assert_eq!(error.code, code, "{error}");
        assert!(error.to_string().contains(words), "`{words}` is not in: {error}");
        assert_eq!(
            error
                .to_string()
                .lines()
                .filter(|line| line.starts_with("  more: "))
                .count(),
            1
        );
    }
}

/// The functions on the way to a trap are named.
#[test]
fn a_trap_says_where() {
    let error = Hostile {
        score: "unreachable",
        ..Hostile::default()
    }
    .fate();
    assert!(error.to_string().contains("inner <- "), "{error}");
}

#[test]
fn time_runs_out_even_where_fuel_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Hostile {
        score: "(loop $l br $l) i32.const 0",
        ..Hostile::default()
    }
    .file(folder.path());
    let given = json!({"seconds": 0.2, "fuel_per_weight": 1_000_000_000_000_u64});
    let metric = metric(&Index::linked(), &file.display().to_string(), options(given)).expect("a metric");
    let start = std::time::Instant::now();
    let error = ours(metric.score(&layer(8, &[9])).expect_err("loops for ever"));
    assert_eq!(error.code, Code::WasmOutOfTime, "{error}");
    assert!(start.elapsed().as_secs_f64() < 5.0, "{:?}", start.elapsed());
}

#[test]
fn files_that_are_no_modules_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = Hostile::default().bytes();
    let check = |name: &str, bytes: &[u8], code: Code| {
        let error = fate(&write(folder.path(), name, bytes));
        assert_eq!(error.code, code, "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    };
    check("empty.wasm", b"", Code::WasmBadModule);
    check("text.wasm", b"(module)", Code::WasmBadModule);
    check("half.wasm", &good[..good.len() / 2], Code::WasmBadModule);
    check("component.wasm", b"\0asm\x0d\0\x01\0", Code::WasmBadModule);
    check("broken.wat", b"(module (func", Code::WasmBadModule);
    check("binary.wat", b"\xff\xfe", Code::WasmBadModule);
    check("bare.wasm", b"\0asm\x01\0\0\0", Code::WasmMetadata);
    let described = section::replace(b"\0asm\x01\0\0\0", wasm::SECTION, br#"{"kind": "metric", "name": "x"}"#);
    check("nothing.wasm", &described.expect("a module"), Code::WasmExports);
    // Sparse, so that it takes no room; 100 MiB all the same.
    let big = folder.path().join("big.wasm");
    let file = std::fs::File::create(&big).expect("writable");
    file.set_len(100 << 20).expect("sparse files");
    let error = fate(&big);
    assert_eq!(error.code, Code::WasmTooLarge, "{error}");
    assert!(
        error.to_string().contains("has 100.0 MiB; a metric may have 16 MiB"),
        "{error}"
    );
    let error = fate(&folder.path().join("absent.wasm"));
    assert_eq!(error.code, Code::NotFound, "{error}");
}

/// NaN has one form, so metrics that look at its bits see the same on every machine.
#[test]
fn arithmetic_is_the_same_everywhere() {
    let bits = Hostile {
        score: "local.get 1 f32.const nan:0x200001 f32.const 1 f32.add i32.reinterpret_f32 i32.const 0x7fc00000 i32.eq f32.convert_i32_s f32.store i32.const 0",
        ..Hostile::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let metric = metric(
        &Index::linked(),
        &bits.file(folder.path()).display().to_string(),
        Map::new(),
    )
    .expect("a metric");
    assert_eq!(metric.score(&layer(1, &[9])).expect("scores"), [1.0]);
}

/// A metric's file is looked for beside the configuration that names it.
#[test]
fn modules_stand_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(guest("options.wat"), folder.path().join("mine.wat")).expect("a copy");
    let file = folder.path().join("recipe.yaml").display().to_string();
    let read = |text: &str| {
        let mut config = Located::parse(&file, text).expect("YAML");
        names::resolve(&mut config, "pruner", yolo_core::Kind::Pruner, &NoPruners).map(|()| config.value)
    };
    let value = read("pruner:\n  type: any\n  metric: {type: mine.wat, scale: 3}\n").expect("found");
    let metric = &value["pruner"]["metric"];
    assert_eq!(
        (&metric["type"], &metric["name"]),
        (&json!("@wasm"), &json!("scaled-gamma"))
    );
    assert_eq!(metric["options"], json!({"scale": 3}));
    serde_json::from_value::<Box<dyn PruneMetric>>(metric.clone()).expect("a metric");
    // The name alone will do.
    let value = read("pruner:\n  type: any\n  metric: mine.wat\n").expect("found");
    assert_eq!(value["pruner"]["metric"]["type"], "@wasm");
    let error = read("pruner:\n  type: any\n  metric: yours.wat\n").expect_err("absent");
    assert_eq!(ours(error).code, Code::NotFound);
}

/// Finds metrics as an index does, and takes any name for a pruner.
struct NoPruners;

impl Resolver for NoPruners {
    fn lookup(&self, kind: yolo_core::Kind, name: &str, file: &str) -> Result<Found, NameError> {
        match kind {
            yolo_core::Kind::Pruner => Ok(Found::Linked("any")),
            _ => Index::linked().lookup(kind, name, file),
        }
    }
}

/// A folder whose name no configuration can hold: its modules are listed, and using one says why that can't be.
#[test]
fn a_path_that_is_no_text_is_listed_and_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    std::fs::create_dir(&odd).expect("a folder");
    write(&odd, "m.wasm", &Hostile::default().bytes());
    let index = Index::scan(SearchPath {
        levels: vec![Level {
            name: "test".into(),
            paths: vec![odd],
            explicit: true,
        }],
    });
    let entry = index.find(yolo_core::Kind::Metric, "hostile").expect("listed");
    assert_eq!(entry.fitness, Fitness::Unverified);
    let error = metric(&index, "hostile", Map::new()).expect_err("no name for it");
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert!(error.message.contains("not UTF-8"), "{error}");
}

/// A module without a description of its own is what the manifest beside it says, however it is named.
#[test]
fn a_module_named_by_its_path_may_have_a_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = wat::parse_str("(module)").expect("text form");
    let file = write(folder.path(), "m.wasm", &bytes);
    let find = || Index::linked().find_any(&file.display().to_string());
    assert_eq!(find().expect_err("no description").code, Code::WasmMetadata);
    let manifest = "manifest = 1\nname = \"pack\"\nversion = \"3.1\"\nlicense = \"MIT\"\n[library]\nwasm = \"m.wasm\"\n\
                    [[provides]]\nkind = \"metric\"\nname = \"mine\"\n";
    write(folder.path(), "yolo-plugin.toml", manifest.as_bytes());
    let entry = find().expect("described by its manifest");
    assert_eq!(
        (entry.name.as_str(), entry.version.as_str(), entry.package.as_str()),
        ("mine", "3.1", "pack")
    );
    assert_eq!(
        (entry.fitness.clone(), entry.handle()),
        (Fitness::Unverified, file.display().to_string())
    );
    assert_eq!(
        entry.describe().expect_err("it exports nothing").code,
        Code::WasmExports
    );
}
