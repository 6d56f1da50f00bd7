//! WASM metrics from several languages, used by `yolo prune`; the documentation's examples.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

use crate::support::{Said, command, files, random_weights, root, small_data, yolo};

/// A compiler that may be here or not.
struct Compiler {
    language: &'static str,
    /// Program and arguments; `IN` and `OUT` are files.
    line: Vec<String>,
}

/// The words of a shell's line; single quotes keep one together.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().expect("never empty").push(letter),
        }
    }
    words
}

/// Whether a command runs and succeeds.
fn works(line: &str) -> bool {
    let words = words(line);
    let output = Command::new(&words[0]).args(&words[1..]).output();
    output.is_ok_and(|output| output.status.success())
}

/// The compilers that are here; a line on stderr for each that is not.
fn compilers() -> Vec<Compiler> {
    let flags = "-O3 -nostdlib -fno-builtin -Wl,--no-entry -o OUT IN";
    let rust_target = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"])
        .output();
    let rust_target =
        rust_target.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir());
    let wasm_ld = ["wasm-ld", "wasm-ld-14", "wasm-ld-15", "wasm-ld-16", "wasm-ld-19"]
        .iter()
        .any(|ld| works(&format!("{ld} --version")));
    let candidates = [
        (
            "c",
            works("clang --version") && wasm_ld,
            format!("clang --target=wasm32 {flags}"),
        ),
        (
            "c",
            works("zig version"),
            format!("zig cc -target wasm32-freestanding {flags}"),
        ),
        (
            "c",
            works("python3 -m ziglang version"),
            format!("python3 -m ziglang cc -target wasm32-freestanding {flags}"),
        ),
        (
            "ts",
            works("asc --version"),
            "asc IN -O3 --runtime stub --use abort= -o OUT".to_owned(),
        ),
        (
            "rs",
            rust_target,
            "rustc --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=3 -C panic=abort -o OUT IN"
                .to_owned(),
        ),
    ];
    let mut here = Vec::new();
    for (language, available, line) in candidates {
        if available {
            here.push(Compiler {
                language,
                line: words(&line),
            });
        } else {
            let compiler = line.split(" IN").next().unwrap_or(&line);
            crate::support::skip::skipped(
                "compilers for WebAssembly",
                format!("no `{compiler}` for .{language} guests"),
            );
        }
    }
    here
}

impl Compiler {
    fn run(&self, source: &Path, out: &Path) {
        let fill = |word: &String| match word.as_str() {
            "IN" => source.display().to_string(),
            "OUT" => out.display().to_string(),
            other => other.to_owned(),
        };
        let output = Command::new(&self.line[0])
            .args(self.line[1..].iter().map(fill))
            .output()
            .expect("it was there");
        assert!(
            output.status.success(),
            "{:?}: {}",
            self.line,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn guests() -> PathBuf {
    root().join("registry/tests/guests")
}

/// A little network with random weights and a data set, to be pruned.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempdir().expect("a folder");
        small_data(dir.path(), 10, 64);
        let model = dir.path().join("model.yaml");
        std::fs::write(&model, "extends: yolov5n\n").expect("a file");
        random_weights(&model, dir.path(), 4);
        Self { dir }
    }

    fn prune(&self, metric: &str, more: &[&str]) -> Said {
        let mut command = command(self.dir.path());
        command
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            // Small tensors: threads that wait for each other cost more than they bring.
            .env("OMP_NUM_THREADS", "1")
            .args(["prune", "--pruner", "oneshot", "--flops", "0.6", "--metric", metric]);
        command.args([
            "--weights",
            "random.safetensors",
            "--data",
            "data/data.yaml",
            "--img",
            "64",
            "--noval",
            "--calib-batches",
            "1",
        ]);
        command.args(["--out", "pruned.safetensors", "--json"]).args(more);
        Said::from(command.output().expect("the binary starts"))
    }

    fn plan(&self, metric: &str) -> Value {
        self.prune(metric, &[]).ok().json()["plan"].take()
    }
}

/// The same metric in every language that is here, and as it was compiled before, gives the same plan.
#[test]
fn a_model_is_pruned_by_metrics_from_every_language() {
    let bench = Bench::new();
    let folder = bench.dir.path();
    let wanted = bench.plan(&guests().join("l1.wat").display().to_string());
    assert!(
        wanted["keep"].as_object().is_some_and(|keep| !keep.is_empty()),
        "{wanted}"
    );
    let mut modules: Vec<PathBuf> = vec![guests().join("built/l1-c.wasm"), guests().join("built/l1-as.wasm")];
    for (at, compiler) in compilers().iter().enumerate() {
        let out = folder.join(format!("l1-{at}.wasm"));
        compiler.run(&guests().join(format!("l1.{}", compiler.language)), &out);
        if compiler.language == "ts" {
            let about = guests().join("l1.json");
            yolo(
                folder,
                &[
                    "plugin",
                    "describe",
                    &out.display().to_string(),
                    &about.display().to_string(),
                ],
            )
            .ok();
        }
        modules.push(out);
    }
    for module in modules {
        let module = module.display().to_string();
        assert_eq!(bench.plan(&module), wanted, "{module}");
        let tested = yolo(folder, &["plugin", "test", &module, "--json"]).ok().json();
        assert_eq!(tested["ok"], true, "{tested}");
    }
    // By name, with the folder on the search path; and the compiled form has been kept.
    let by_name = bench
        .prune("l1-c", &["--plugin", &guests().join("built").display().to_string()])
        .ok();
    assert_eq!(by_name.json()["plan"], wanted);
    assert!(files(&folder.join("cache/yolo/wasm")).len() >= 3);
}

#[test]
fn a_metric_that_fails_leaves_no_file_behind() {
    let bench = Bench::new();
    let folder = bench.dir.path();
    let text = std::fs::read_to_string(guests().join("l1.wat")).expect("a guest");
    let spoilt = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from));
        std::fs::write(folder.join(name), text.replace(from, to)).expect("a file");
        name.to_owned()
    };
    let end = "    (local.get $sum))";
    let cases = [
        (
            spoilt("nan.wat", end, "    f32.const nan)"),
            "yolo::wasm::bad_result",
            "gave NaN for channel 0 of layer",
        ),
        (
            spoilt("trap.wat", end, "    unreachable)"),
            "yolo::wasm::trap",
            "trapped on layer",
        ),
        (
            spoilt("loop.wat", end, "    (loop $l br $l) f32.const 0)"),
            "yolo::wasm::out_of_fuel",
            "used its whole budget",
        ),
        (
            spoilt("import.wat", "(module", "(module (import \"env\" \"f\" (func))"),
            "yolo::wasm::imports",
            "imports `env.f`",
        ),
        (
            spoilt("text.wat", "(module", "(modul"),
            "yolo::wasm::bad_module",
            "the text can't be read",
        ),
    ];
    for (file, code, words) in &cases {
        bench
            .prune(file, &[])
            .fails(1, &[words, &format!("more: yolo explain {code}")]);
        assert!(!folder.join("pruned.safetensors").exists(), "{file}");
    }
    bench
        .prune("absent.wasm", &[])
        .fails(2, &["absent.wasm", "yolo::plugin::not_found"]);
    bench
        .prune("l1x", &[])
        .fails(2, &["there is no prune metric `l1x`", "did you mean `l1`"]);
    bench
        .prune("ghostnet", &[])
        .fails(2, &["there is no prune metric `ghostnet`", "`ghostnet` is a backbone"]);
    let wat = guests().join("l1.wat").display().to_string();
    bench
        .prune(&format!("{{type: {wat}, powr: 2}}"), &[])
        .fails(2, &["there is no option `powr`", "fuel_per_weight, seconds"]);
    bench
        .prune(&format!("{{type: {wat}, seconds: soon}}"), &[])
        .fails(2, &["`seconds` must be a number above 0", "yolo::config::bad_value"]);
}

/// The blocks of a page of documentation: language and text.
pub(super) fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```").filter(|language| !language.is_empty()) else {
            continue;
        };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((language.to_owned(), text.join("\n") + "\n"));
    }
    found
}

/// Every example of docs/plugins/wasm.md, as a reader would try it.
#[test]
fn the_documentation_works() {
    let bench = Bench::new();
    let folder = bench.dir.path();
    let page = std::fs::read_to_string(root().join("docs/plugins/wasm.md")).expect("the page");
    let blocks = blocks(&page);
    let block = |language: &str| {
        let mut own = blocks.iter().filter(|(own, _)| own == language);
        &own.next().unwrap_or_else(|| panic!("no {language} block")).1
    };
    std::fs::write(folder.join("metric.wat"), block("wat")).expect("a file");
    std::fs::write(folder.join("metric.c"), block("c")).expect("a file");
    std::fs::write(folder.join("metric.ts"), block("ts")).expect("a file");
    std::fs::write(folder.join("about.json"), block("json")).expect("a file");
    yolo(folder, &["plugin", "check", "metric.wat"]).ok();
    yolo(folder, &["plugin", "test", "metric.wat"]).ok();
    let compilers = compilers();
    let shell: Vec<&str> = blocks
        .iter()
        .filter(|(language, _)| language == "sh")
        .flat_map(|(_, text)| text.lines())
        .collect();
    // The compilers' lines are the ones that this test runs.
    for line in shell.iter().filter(|line| !line.starts_with("yolo")) {
        let known = [
            "clang --target=wasm32 ",
            "zig cc -target wasm32-freestanding ",
            "asc metric.ts ",
        ];
        assert!(known.iter().any(|start| line.starts_with(start)), "{line}");
        let Some(compiler) = compilers.iter().find(|compiler| line.starts_with(&compiler.line[0])) else {
            continue;
        };
        let words = words(line);
        let output = Command::new(&compiler.line[0])
            .args(&words[1..])
            .current_dir(folder)
            .output()
            .expect("it was there");
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // Where only another way to the compiler is here, it builds the same file.
    let out = folder.join("power-l1.wasm");
    if let Some(compiler) = compilers
        .iter()
        .find(|compiler| compiler.language == "c")
        .filter(|_| !out.is_file())
    {
        compiler.run(&folder.join("metric.c"), &out);
    }
    if !out.is_file() {
        std::fs::copy(guests().join("built/power-l1.wasm"), &out).expect("the example, compiled before");
    }
    std::fs::copy(folder.join("random.safetensors"), folder.join("best.safetensors")).expect("weights");
    std::fs::copy(folder.join("data/data.yaml"), folder.join("data.yaml")).expect("data");
    for line in shell.iter().filter(|line| line.starts_with("yolo")) {
        if line.contains("describe") && !folder.join("l1-as.wasm").is_file() {
            continue;
        }
        // `{type: power-l1, power: 2}` is one word.
        let mut words: Vec<String> = Vec::new();
        for (at, part) in line.split('\'').enumerate() {
            if at % 2 == 1 {
                words.push(part.to_owned())
            } else {
                words.extend(part.split_whitespace().map(str::to_owned))
            }
        }
        if words[1] == "prune" {
            words.extend(["--img", "64", "--noval", "--calib-batches", "1"].map(str::to_owned));
            // The data set stands one folder further down.
            let data = words.iter().position(|word| word == "data.yaml").expect("the data");
            words[data] = "data/data.yaml".into();
        }
        yolo(folder, &words[1..]).ok();
    }
    assert!(folder.join("pruned.safetensors").is_file());
    let inspected = yolo(folder, &["inspect", "power-l1.wasm", "--json"]).ok().json();
    assert_eq!(
        (&inspected["options"][0]["name"], &inspected["options"][0]["default"]),
        (&"power".into(), &1.into())
    );
}

/// A stage is done again when the module that it names has other content.
#[test]
fn recipes_see_that_a_module_has_changed() {
    let folder = tempdir().expect("a folder");
    let data = small_data(folder.path(), 10, 64);
    let weights = random_weights(&crate::support::tiny_model(folder.path()), folder.path(), 4);
    let text = std::fs::read_to_string(guests().join("l1.wat")).expect("a guest");
    let module = folder.path().join("m.wat");
    std::fs::write(&module, &text).expect("a file");
    let recipe = format!(
        "name: c\ndata: {}\nweights: {}\nimg: 64\nbatch-size: 4\nworkers: 1\nout: out\nstages:\n  - prune: {{pruner: {{type: oneshot}}, metric: \
         m.wat, flops: 0.8, multiple: 1, calib-batches: 1}}\n",
        data.display(),
        weights.display()
    );
    std::fs::write(folder.path().join("r.yaml"), recipe).expect("a file");
    let said = || yolo(folder.path(), &["compress", "r.yaml"]).ok().err;
    assert!(!said().contains("done before"));
    assert!(said().contains("done before"));
    std::fs::write(&module, format!(";; another\n{text}")).expect("a file");
    assert!(!said().contains("done before"));
    assert!(said().contains("done before"));
}
