//! `yolo list-plugins`, `inspect`, `explain`: what is found, what is wrong with it, and that nothing is loaded for it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;
use yolo_registry::{Code, Fitness, Index, Level, SearchPath};

use crate::support::{command, root, yolo};

/// A folder with a manifest, and with a file for its library.
fn package(folder: &Path, name: &str, manifest: &str, library: Option<(&str, &[u8])>) {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("yolo-plugin.toml"), manifest).expect("a file");
    if let Some((file, bytes)) = library {
        std::fs::write(folder.join(file), bytes).expect("a file");
    }
}

fn manifest(package: &str, kind: &str, name: &str, library: &str) -> String {
    format!(
        "manifest = 1\nname = \"{package}\"\nversion = \"0.3.1\"\nlicense = \"MIT\"\nauthors = [\"A. Researcher\"]\n\
         description = \"A package for tests\"\n\n[library]\n{library}\n\n[[provides]]\nkind = \"{kind}\"\nname = \"{name}\"\n\
         summary = \"Something new\"\npaper = \"https://arxiv.org/abs/1811.00250\"\nyear = 2019\n"
    )
}

fn guest(name: &str) -> Vec<u8> {
    let text = std::fs::read(root().join("registry/tests/guests").join(name)).expect("a guest");
    wat::parse_bytes(&text).expect("text form").into_owned()
}

/// The rows of `list-plugins --json` with this name.
fn rows<'a>(listing: &'a Value, name: &str) -> Vec<&'a Value> {
    listing["plugins"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["name"] == name)
        .collect()
}

#[test]
fn builtins_are_listed_with_what_tools_rely_on() {
    let dir = tempdir().expect("a folder");
    let listing = yolo(dir.path(), &["list-plugins", "--json"]).ok().json();
    assert_eq!(listing["schema"], 1);
    let plugins = listing["plugins"].as_array().expect("a list");
    assert_eq!(plugins.len(), yolo_core::PluginInfo::linked().len());
    for row in plugins {
        for key in ["kind", "name", "version", "source", "status", "summary"] {
            assert!(row[key].is_string(), "{key} of {row}");
        }
        assert_eq!((&row["source"], &row["status"]), (&"builtin".into(), &"ok".into()));
        assert!(row["path"].is_null() && row["error"].is_null());
    }
    for (kind, names) in [
        (
            "backbone",
            "csp-darknet ghostnet shufflenet-v2 mobilenet-v3-small efficientnet-lite0 pp-lcnet",
        ),
        ("neck-block", "c3 c3tr c3str cbam spp sppf bifpn"),
        ("pruner", "eagleeye slimming oneshot gradual admm netadapt"),
        (
            "metric",
            "l1 l2 fpgm geometric-median bn-gamma taylor hessian lamp activation random",
        ),
        (
            "quantizer",
            "onnxruntime tensorrt nnie snpe ppl-w8a16 academic vitis openvino onnx-qnn ppl-cuda tengine-u8 qdq stpu",
        ),
        ("distiller", "logits cwd pkd crosskd"),
    ] {
        let of_kind = yolo(dir.path(), &["list-plugins", "--json", "--kind", kind])
            .ok()
            .json();
        for name in names.split(' ') {
            let found = rows(&of_kind, name);
            assert_eq!(found.len(), 1, "{kind} {name}");
            assert_eq!(found[0]["kind"], kind);
        }
    }
    let nets = yolo(dir.path(), &["list-plugins", "--json", "*net*", "--exclude", "ghost*"])
        .ok()
        .json();
    assert_eq!(
        (
            rows(&nets, "csp-darknet").len(),
            rows(&nets, "ghostnet").len(),
            rows(&nets, "c3").len()
        ),
        (1, 0, 0)
    );
    yolo(dir.path(), &["list-plugins", "--kind", "backbon"])
        .fails(2, &["there is no kind `backbon`", "did you mean `backbone`"]);
    let text = yolo(dir.path(), &["list-plugins"]).ok().out;
    assert!(
        text.contains("BACKBONES") && text.contains("GhostNet (CVPR 2020)"),
        "{text}"
    );
    assert!(
        text.contains("7 backbones, 8 neck blocks, 6 pruners, 10 prune metrics, 13 quantizers, 4 distillers"),
        "{text}"
    );
}

#[test]
fn whatever_is_wrong_is_a_row_with_its_reason() {
    let dir = tempdir().expect("a folder");
    let lab = dir.path().join("lab");
    let so = |name: &str| format!("lib{name}.so");
    // No ELF file at all: had it been loaded for the listing, it would be `broken`.
    let fake = b"not a library".as_slice();
    package(
        &lab,
        "good",
        &manifest("good", "pruner", "fine", "dynamic = \"good\""),
        Some((&so("good"), fake)),
    );
    package(
        &lab,
        "typo",
        &manifest("typo", "pruner", "typo", "dinamic = \"typo\""),
        Some((&so("typo"), fake)),
    );
    package(
        &lab,
        "absent",
        &manifest("absent", "pruner", "absent", "dynamic = \"absent\""),
        None,
    );
    let newer = "dynamic = \"newer\"\nabi = \"9.0\"";
    package(
        &lab,
        "newer",
        &manifest("newer", "pruner", "newer", newer),
        Some((&so("newer"), fake)),
    );
    let older = "dynamic = \"older\"\nlibtorch = \"1.13\"";
    package(
        &lab,
        "older",
        &manifest("older", "quantizer", "older", older),
        Some((&so("older"), fake)),
    );
    package(
        &lab,
        "twin1",
        &manifest("twin-a", "metric", "twin", "dynamic = \"twin\""),
        Some((&so("twin"), fake)),
    );
    package(
        &lab,
        "twin2",
        &manifest("twin-b", "metric", "twin", "dynamic = \"twin\""),
        Some((&so("twin"), fake)),
    );
    package(
        &lab,
        "clash",
        &manifest(
            "clash",
            "backbone",
            "GhostNet".to_lowercase().as_str(),
            "dynamic = \"clash\"",
        ),
        Some((&so("clash"), fake)),
    );
    package(
        &lab,
        "module",
        &manifest("module", "metric", "by-manifest", "wasm = \"m.wasm\""),
        Some(("m.wasm", &guest("l1.wat"))),
    );
    std::fs::write(lab.join("bare.wasm"), guest("l1.wat")).expect("a file");
    std::fs::write(lab.join("empty.wasm"), b"\0asm\x01\0\0\0").expect("a file");
    std::fs::write(lab.join("text.wasm"), b"hello").expect("a file");
    std::fs::write(lab.join("stray.so"), fake).expect("a file");
    std::fs::write(lab.join("notes.txt"), b"nothing to see").expect("a file");

    let arguments = ["list-plugins", "--json", "--plugin", "lab"];
    let listing = yolo(dir.path(), &arguments).ok().json();
    let expect = |name: &str, status: &str, code: Option<&str>, words: &[&str]| {
        let found = rows(&listing, name);
        let own: Vec<_> = found.into_iter().filter(|row| row["source"] != "builtin").collect();
        assert!(!own.is_empty(), "{name} is not listed");
        for row in own {
            assert_eq!(row["status"], status, "{row}");
            assert_eq!(row["error"]["code"].as_str(), code, "{row}");
            for word in words {
                assert!(row.to_string().contains(word), "`{word}` is not in {row}");
            }
        }
    };
    expect(
        "fine",
        "unverified",
        None,
        &["libgood.so", "A. Researcher", "Something new", "1811.00250"],
    );
    expect(
        "typo",
        "broken",
        Some("yolo::plugin::bad_manifest"),
        &["there is no key `dinamic`", "did you mean `dynamic`", ":9:1:"],
    );
    expect(
        "absent",
        "broken",
        Some("yolo::plugin::not_found"),
        &["yolo plugin build", "libabsent.so"],
    );
    expect(
        "newer",
        "incompatible",
        Some("yolo::plugin::abi_mismatch"),
        &["was built for plugin ABI 9.0"],
    );
    expect(
        "older",
        "incompatible",
        Some("yolo::plugin::libtorch_mismatch"),
        &["built against libtorch 1.13"],
    );
    expect(
        "twin",
        "broken",
        Some("yolo::plugin::duplicate_name"),
        &["twin1", "twin2", "two prune metrics are called `twin`"],
    );
    expect(
        "ghostnet",
        "broken",
        Some("yolo::plugin::duplicate_name"),
        &["yolo-plugin-ghostnet", "libclash.so", "can't be replaced"],
    );
    expect("by-manifest", "unverified", None, &["m.wasm"]);
    expect("l1-wat", "unverified", None, &["bare.wasm"]);
    expect(
        "empty.wasm",
        "broken",
        Some("yolo::wasm::bad_metadata"),
        &["has no section"],
    );
    expect(
        "text.wasm",
        "broken",
        Some("yolo::wasm::bad_module"),
        &["is no WebAssembly module"],
    );
    expect(
        "stray.so",
        "broken",
        Some("yolo::plugin::bad_manifest"),
        &["no manifest beside it"],
    );
    assert!(rows(&listing, "notes.txt").is_empty());

    let text = yolo(dir.path(), &["list-plugins", "--plugin", "lab"]).ok().out;
    for words in [
        "✗ two prune metrics are called `twin`",
        "UNREADABLE",
        "prune metrics (2 unusable)",
        "lab/bare.wasm",
    ] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
    // Looking closer finds what a manifest can't say.
    let verified = yolo(dir.path(), &["list-plugins", "--json", "--plugin", "lab", "--verify"]);
    assert_eq!(verified.code, 1, "{}", verified.err);
    let listing = verified.json();
    assert_eq!(rows(&listing, "fine")[0]["error"]["code"], "yolo::plugin::not_a_plugin");
    assert_eq!(rows(&listing, "l1-wat")[0]["status"], "ok");

    // Using one says what is wrong with it, and only with it.
    let inspect = |name: &str| yolo(dir.path(), &["inspect", name, "--plugin", "lab"]);
    inspect("newer").fails(1, &["ABI 9.0", "more: yolo explain yolo::plugin::abi_mismatch"]);
    inspect("twin").fails(1, &["two prune metrics are called `twin`", "twin1", "twin2"]);
    inspect("ghostnet").fails(1, &["two backbones are called `ghostnet`"]);
    inspect("metric/l1-wat").ok();
    package(
        &lab,
        "other",
        &manifest("other", "metric", "cbam", "dynamic = \"other\""),
        Some((&so("other"), fake)),
    );
    inspect("cbam").fails(2, &["`cbam` stands for several plugins: neck-block/cbam, metric/cbam"]);
    inspect("neck-block/cbam").ok();
    std::fs::create_dir(dir.path().join("bare")).expect("a folder");
    let bare = yolo(dir.path(), &["list-plugins", "--plugin", "bare"]).ok().out;
    assert!(bare.contains("✗ there is no plugin in `bare`"), "{bare}");
    inspect("l1-wta").fails(2, &["there is no plugin `l1-wta`", "did you mean `l1-wat`"]);
}

#[test]
fn earlier_folders_win_and_the_project_is_not_trusted() {
    let dir = tempdir().expect("a folder");
    let write = |folder: &str, version: &str| {
        let text = manifest("one", "metric", "one", "wasm = \"one.wasm\"").replace("0.3.1", version);
        package(&dir.path().join(folder), "one", &text, Some(("one.wasm", b"")));
    };
    write("first", "1.0.0");
    write("second", "2.0.0");
    write(".yolo/plugins", "3.0.0");
    write("home/yolo/plugins", "4.0.0");
    let list = |arguments: &[&str], path: &str| {
        let mut command = command(dir.path());
        command.args(["list-plugins", "--json"]).args(arguments);
        command
            .env("YOLO_PLUGIN_PATH", path)
            .env("XDG_DATA_HOME", dir.path().join("home"));
        let output = command.output().expect("the binary starts");
        let listing: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        rows(&listing, "one")
            .iter()
            .map(|row| {
                format!(
                    "{} {}",
                    row["version"].as_str().expect("text"),
                    row["status"].as_str().expect("text")
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[], ""), ["4.0.0 unverified"]);
    assert_eq!(list(&[], "second"), ["2.0.0 unverified", "4.0.0 shadowed"]);
    assert_eq!(
        list(&["--plugin", "first"], "second"),
        ["1.0.0 unverified", "2.0.0 shadowed", "4.0.0 shadowed"]
    );
    assert_eq!(
        list(&["--trust-project"], "second"),
        ["2.0.0 unverified", "3.0.0 shadowed", "4.0.0 shadowed"]
    );
    assert_eq!(
        list(&[], "first:second"),
        ["1.0.0 broken", "2.0.0 broken", "4.0.0 shadowed"]
    );
    // The same folder named twice is one folder.
    assert_eq!(
        list(&["--plugin", "first"], "first"),
        ["1.0.0 unverified", "4.0.0 shadowed"]
    );
    assert_eq!(
        list(&["--plugin", "first", "--plugin", "./first"], ""),
        ["1.0.0 unverified", "4.0.0 shadowed"]
    );
    yolo(dir.path(), &["list-plugins", "--plugin", "nowhere"]).fails(2, &["there is nothing at `nowhere`"]);
}

/// Manifests are small: a hundred of them take less than 50 ms more than none.
#[test]
fn a_hundred_manifests_are_read_in_no_time() {
    let dir = tempdir().expect("a folder");
    for i in 0..100 {
        let name = format!("metric-{i}");
        package(
            dir.path(),
            &name,
            &manifest(&name, "metric", &name, "dynamic = \"x\""),
            Some(("libx.so", b"")),
        );
    }
    let scan = |paths: Vec<std::path::PathBuf>| {
        let levels = vec![Level {
            name: "test".into(),
            paths,
            explicit: false,
        }];
        // The best of several: the machine may be busy with other tests.
        let timed = (0..7).map(|_| {
            let start = Instant::now();
            let index = Index::scan(SearchPath { levels: levels.clone() });
            (start.elapsed(), index)
        });
        timed.min_by_key(|(time, _)| *time).expect("several")
    };
    let (without, _) = scan(Vec::new());
    let (with, index) = scan(vec![dir.path().to_owned()]);
    let found = index
        .entries()
        .iter()
        .filter(|entry| entry.fitness == Fitness::Unverified)
        .count();
    assert_eq!(found, 100);
    eprintln!("100 manifests: {with:?}, none: {without:?}");
    assert!(
        with.saturating_sub(without) < Duration::from_millis(50),
        "{with:?} and {without:?}"
    );
}

#[test]
fn plugins_are_shown_with_options_shapes_and_cost() {
    let dir = tempdir().expect("a folder");
    let show = |name: &str| yolo(dir.path(), &["inspect", name, "--json"]).ok().json();
    let net = show("ghostnet");
    assert_eq!((&net["kind"], &net["name"]), (&"backbone".into(), &"ghostnet".into()));
    assert_eq!(net["paper"]["url"], "https://arxiv.org/abs/1911.11907");
    assert_eq!(net["example"]["type"], "ghostnet");
    let model = yolo(dir.path(), &["model", "yolov5l-ghostnet", "--json"]).ok().json();
    assert_eq!(net["outputs"]["params"], model["params"]);
    assert_eq!(net["outputs"]["gflops"], model["gflops"]);
    assert_eq!(net["outputs"]["maps"][2]["shape"], serde_json::json!([1, 40, 80, 80]));
    let block = show("neck-block/c3tr");
    assert_eq!(
        block["outputs"]["maps"][0]["shape"],
        serde_json::json!([1, 256, 80, 80])
    );
    let options: Vec<_> = block["options"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|o| o["name"].as_str().expect("text"))
        .collect();
    assert_eq!(options, ["heads", "dropout", "variant"]);
    assert_eq!(
        (&block["options"][0]["type"], &block["options"][0]["default"]),
        (&"integer".into(), &4.into())
    );
    assert_eq!(block["options"][2]["type"], "encoder | published");
    let pruner = yolo(dir.path(), &["inspect", "slimming"]).ok().out;
    assert!(
        pruner.contains("sparse_rate") && pruner.contains("default 0.001") && pruner.contains("1708.06519"),
        "{pruner}"
    );
    let schema = yolo(dir.path(), &["inspect", "tensorrt", "--schema"]).ok().json();
    assert!(schema["properties"]["observer"].is_object());
    yolo(dir.path(), &["inspect", "cbam", "--graph", "cbam.svg"]).ok();
    assert!(
        std::fs::read_to_string(dir.path().join("cbam.svg"))
            .expect("a file")
            .starts_with("<svg")
    );
    yolo(dir.path(), &["inspect", "ghotsnet"]).fails(2, &["there is no plugin `ghotsnet`", "did you mean `ghostnet`?"]);
    yolo(dir.path(), &["inspect", "pruner/ghostnet"])
        .fails(2, &["there is no pruner `ghostnet`", "`ghostnet` is a backbone"]);
}

/// Every code that stands in a source file has a page, which `yolo explain` prints.
#[test]
fn every_code_in_the_sources_is_explained() {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "md") {
                let text = std::fs::read_to_string(&path).expect("text");
                for area in ["plugin", "wasm", "config"] {
                    let start = format!("yolo::{area}::");
                    for (at, _) in text.match_indices(&start) {
                        let word = text[at + start.len()..]
                            .split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
                            .next();
                        found.push((
                            format!("{start}{}", word.unwrap_or_default()),
                            path.display().to_string(),
                        ));
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["core", "registry", "plugins", "docs"] {
        walk(&root().join(folder), &mut found);
    }
    assert!(
        found.len() > 2 * Code::ALL.len() / 3,
        "only {} codes were found",
        found.len()
    );
    for (code, file) in &found {
        let known = Code::parse(code).is_some()
            || ["yolo::plugin::", "yolo::wasm::", "yolo::config::"].contains(&code.as_str());
        assert!(
            known || code.ends_with("::trp"),
            "{file} names `{code}`, which has no page"
        );
    }
    let dir = tempdir().expect("a folder");
    let list = yolo(dir.path(), &["explain", "--json"]).ok().json();
    assert_eq!(list["codes"].as_array().map(Vec::len), Some(Code::ALL.len()));
    let page = yolo(dir.path(), &["explain", "wasm::out_of_fuel"]).ok().out;
    assert!(
        page.contains("# yolo::wasm::out_of_fuel") && page.contains("fuel_per_weight"),
        "{page}"
    );
    yolo(dir.path(), &["explain", "yolo::wasm::out_of_fule"]).fails(2, &["did you mean `yolo::wasm::out_of_fuel`"]);
}
