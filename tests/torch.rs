//! `yolo torch` and the choice of PyTorch, on folders that only look like one and with compilers that only act like one. A build for a
//! real PyTorch is `cargo xtask bench torch`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Said, command, files};

/// `yolo` with a home of its own and nothing else in its environment that speaks of PyTorch.
fn yolo(home: &Path) -> Command {
    let mut command = command(home);
    command.env("HOME", home);
    for name in [
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "YOLO_TORCH",
        "LIBTORCH",
        "VIRTUAL_ENV",
        "CXX",
        "CUDA_HOME",
        "CUDA_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

fn said(command: &mut Command) -> Said {
    Said::from(command.output().expect("the binary starts"))
}

/// A folder that looks like the PyTorch of a virtual environment: the environment, the folder.
fn made_up(home: &Path, version: &str) -> (PathBuf, PathBuf) {
    let venv = home.join("venv");
    let torch = venv.join("lib/python3.12/site-packages/torch");
    for header in [
        "ATen/ATen.h",
        "c10/core/Device.h",
        "torch/csrc/api/include/torch/torch.h",
    ] {
        let path = torch.join("include").join(header);
        fs::create_dir_all(path.parent().expect("as the test made it")).expect("as the test made it");
        fs::write(path, "").expect("as the test made it");
    }
    fs::create_dir_all(torch.join("lib")).expect("as the test made it");
    fs::write(torch.join("lib/libtorch_cpu.so"), "").expect("as the test made it");
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([62, 0]);
    elf.extend(b"_ZNSt7__cxx1112basic_string");
    fs::write(torch.join("lib/libc10.so"), elf).expect("as the test made it");
    fs::write(
        torch.join("version.py"),
        format!("__version__ = '{version}'\ncuda = None\n"),
    )
    .expect("as the test made it");
    (venv, torch.canonicalize().expect("as the test made it"))
}

/// A program that is called as a C++ compiler; `$out` and `$source` are set in its script.
fn compiler(home: &Path, script: &str) -> PathBuf {
    let path = home.join("compiler");
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo made up 1.0; exit 0; fi\n\
         while [ $# -gt 0 ]; do case \"$1\" in -o) out=$2; shift;; *.cpp) source=$1;; esac; shift; done\n{script}\n"
    );
    fs::write(&path, text).expect("as the test made it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("as the test made it");
    path
}

#[test]
fn what_is_found_is_listed_with_the_reason_why_it_is_not_used() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, torch) = made_up(home.path(), "2.4.1+cu121");
    let json = said(
        yolo(home.path())
            .args(["torch", "list", "--json"])
            .env("VIRTUAL_ENV", &venv),
    )
    .ok()
    .json();
    let rows = json["torch"].as_array().expect("as the test made it");
    let own = rows
        .iter()
        .find(|row| row["source"] == "built with")
        .expect("as the test made it");
    assert_eq!((&own["usable"], &own["active"]), (&true.into(), &true.into()), "{own}");
    assert!(
        own["reason"].is_null()
            && own["version"]
                .as_str()
                .expect("as the test made it")
                .starts_with("2.13"),
        "{own}"
    );
    let other = rows
        .iter()
        .find(|row| row["path"] == torch.to_str().expect("as the test made it"))
        .expect("as the test made it");
    assert_eq!(
        (&other["usable"], &other["active"]),
        (&false.into(), &false.into()),
        "{other}"
    );
    assert!(
        other["reason"]
            .as_str()
            .expect("as the test made it")
            .contains("2.4.1+cu121 is too old, 2.11 is needed"),
        "{other}"
    );
    let text = said(yolo(home.path()).args(["torch", "list"]).env("VIRTUAL_ENV", &venv))
        .ok()
        .out;
    assert!(text.contains("* 2.13") && text.contains("not usable: "), "{text}");
}

#[test]
fn a_pytorch_that_can_not_be_used_is_one_clear_error() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, torch) = made_up(home.path(), "2.10.0");
    let place = torch.to_str().expect("as the test made it");
    said(yolo(home.path()).args(["torch", "use"]).arg(&venv))
        .fails(2, &[place, "2.10.0 is too old", "help: install a PyTorch from 2.11"]);
    said(yolo(home.path()).args(["torch", "use", "nowhere"]))
        .fails(2, &["nowhere: there is no such folder", "yolo torch list"]);
    let doctor = || {
        let mut doctor = yolo(home.path());
        doctor.arg("doctor").env("YOLO_TORCH", &venv);
        doctor
    };
    said(&mut doctor()).fails(1, &["error: libtorch: YOLO_TORCH: ", "2.10.0 is too old", "help: "]);
    // Commands without tensors don't ask.
    said(yolo(home.path()).arg("list-plugins").env("YOLO_TORCH", &venv)).ok();
    fs::write(torch.join("version.py"), "__version__ = '2.12.0'\n").expect("as the test made it");
    fs::remove_dir_all(torch.join("include/ATen")).expect("as the test made it");
    said(&mut doctor()).fails(1, &["2.12.0 has no C++ headers (include/ATen/ATen.h is missing)"]);
    assert_eq!(
        files(home.path()).iter().filter(|file| file.starts_with(".c")).count(),
        0,
        "nothing is written"
    );
}

#[test]
fn without_a_compiler_it_says_which_are_looked_for() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, _) = made_up(home.path(), "2.11.0");
    let mut none = yolo(home.path());
    none.args(["torch", "use"]).arg(&venv).env("PATH", home.path());
    said(&mut none).fails(
        1,
        &["there is no C++ compiler (c++, g++ or clang++)", "apt install g++"],
    );
    let mut wrong = yolo(home.path());
    wrong
        .args(["torch", "use"])
        .arg(&venv)
        .env("CXX", "no-such-compiler -x");
    said(&mut wrong).fails(1, &["CXX is `no-such-compiler -x`", "help: correct CXX"]);
}

#[test]
fn errors_of_the_compiler_are_shown_and_kept() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, _) = made_up(home.path(), "2.11.0");
    let compiler = compiler(
        home.path(),
        "echo \"$source:3:1: error: the made up reason\" >&2; exit 1",
    );
    let mut take = yolo(home.path());
    take.args(["torch", "use"]).arg(&venv).env("CXX", compiler);
    said(&mut take).fails(
        1,
        &[
            "PyTorch 2.11.0: the C++ sources don't compile (made up 1.0)",
            "error: the made up reason",
            ".log",
        ],
    );
    let cache = files(&home.path().join(".cache/yolo/torch"));
    let ends: Vec<&str> = cache
        .iter()
        .filter_map(|file| file.rsplit_once('.'))
        .map(|(_, end)| end)
        .collect();
    assert_eq!(ends, ["lock", "log"], "nothing half-built is left: {cache:?}");
    assert!(!home.path().join(".config/yolo/torch.json").exists());
}

/// The compiler complains of two functions of the generated file; all that it makes are empty files, which no program can load.
#[test]
fn functions_that_do_not_compile_are_left_out_and_what_does_not_run_is_not_chosen() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, torch) = made_up(home.path(), "2.11.0");
    let script = "for name in atg_abs atg_zeros_like_out; do\n  line=$(grep -n \"^void $name(\" \"$source\" | cut -d: -f1)\n  \
                  if [ -n \"$line\" ]; then echo \"$source:$((line + 2)):5: error: no member\" >&2; failed=1; fi\ndone\n\
                  if [ -n \"$failed\" ]; then exit 1; fi\n: > \"$out\"";
    let compiler = compiler(home.path(), script);
    let mut take = yolo(home.path());
    take.args(["torch", "use"]).arg(&venv).env("CXX", &compiler);
    let text = said(&mut take).fails(
        1,
        &[
            "what was built for it doesn't run",
            "can't be loaded",
            "without 2 functions",
        ],
    );
    assert!(
        text.err.contains(torch.to_str().expect("as the test made it")),
        "{}",
        text.err
    );
    assert!(
        !home.path().join(".config/yolo/torch.json").exists(),
        "what doesn't run is not remembered"
    );
    let cache = home.path().join(".cache/yolo/torch");
    let about = files(&cache)
        .into_iter()
        .find(|file| file.ends_with("build.json"))
        .expect("as the test made it");
    let about = crate::support::read_json(&cache.join(about));
    assert_eq!(about["omitted"], serde_json::json!(["atg_abs", "atg_zeros_like_out"]));
    assert_eq!(about["version"], "2.11.0");
    // It is there now: the second time nothing is compiled.
    fs::remove_file(&compiler).expect("as the test made it");
    let again = said(yolo(home.path()).args(["torch", "use"]).arg(&venv)).fails(1, &["can't be loaded"]);
    assert!(!again.err.contains("building"), "{}", again.err);
}

#[test]
fn more_functions_than_a_few_are_an_error() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, _) = made_up(home.path(), "2.99.0");
    let script = "case \"$source\" in *generated*) grep -n '^void' \"$source\" | head -300 | while IFS=: read -r line rest; do\n  \
                  echo \"$source:$line:1: error: unknown\" >&2; done; exit 1;; esac\n: > \"$out\"";
    let compiler = compiler(home.path(), script);
    let mut take = yolo(home.path());
    take.args(["torch", "use"]).arg(&venv).env("CXX", &compiler);
    said(&mut take).fails(1, &["PyTorch 2.99.0: the C++ sources don't compile", "error: unknown"]);
}

#[test]
fn a_choice_that_has_vanished_is_an_error_with_the_way_out() {
    let home = tempfile::tempdir().expect("as the test made it");
    let (venv, torch) = made_up(home.path(), "2.11.0");
    let config = home.path().join(".config/yolo");
    fs::create_dir_all(&config).expect("as the test made it");
    let choice = serde_json::json!({"torch": torch, "version": "2.11.0", "sources": "0", "library": "/gone.so"});
    fs::write(config.join("torch.json"), choice.to_string()).expect("as the test made it");
    said(yolo(home.path()).arg("doctor")).fails(1, &["built by another version of yolo", "help: `yolo torch use "]);
    fs::remove_dir_all(&venv).expect("as the test made it");
    said(yolo(home.path()).arg("doctor")).fails(
        1,
        &[
            "the chosen PyTorch 2.11.0 in",
            "is gone",
            "`yolo torch use default` goes back",
        ],
    );
    said(yolo(home.path()).arg("list-plugins")).ok();
    // One command without it, then for good.
    let json = said(
        yolo(home.path())
            .args(["doctor", "--json"])
            .env("YOLO_TORCH", "default"),
    )
    .ok()
    .json();
    assert!(
        json["libtorch"]["chosen_by"]
            .as_str()
            .expect("as the test made it")
            .starts_with("default"),
        "{json}"
    );
    said(yolo(home.path()).args(["torch", "use", "default"])).ok();
    assert!(!config.join("torch.json").exists());
    let json = said(yolo(home.path()).args(["doctor", "--json"])).ok().json();
    let libtorch = &json["libtorch"];
    assert!(
        libtorch["version"]
            .as_str()
            .expect("as the test made it")
            .starts_with("2.13"),
        "{libtorch}"
    );
    for key in ["cuda", "nccl", "omitted", "path"] {
        assert!(libtorch.get(key).is_some(), "{key} is missing: {libtorch}");
    }
    assert_eq!(json["devices"]["list"][0]["device"], "cpu");
    assert!(
        !json["devices"]["list"][0]["name"]
            .as_str()
            .expect("as the test made it")
            .is_empty()
    );
}

#[test]
fn processes_that_start_together_build_once() {
    let calls = |processes: usize| {
        let home = tempfile::tempdir().expect("as the test made it");
        let (venv, _) = made_up(home.path(), "2.11.0");
        let compiler = compiler(home.path(), "echo call >> \"$HOME/calls\"; sleep 0.1; : > \"$out\"");
        let start = || {
            let mut take = yolo(home.path());
            take.args(["torch", "use"]).arg(&venv).env("CXX", &compiler);
            take.stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("as the test made it")
        };
        let children: Vec<Child> = (0..processes).map(|_| start()).collect();
        let built = children
            .into_iter()
            .map(|child| child.wait_with_output().expect("as the test made it"));
        let built = built
            .filter(|out| String::from_utf8_lossy(&out.stderr).contains("torch: built in"))
            .count();
        assert_eq!(built, 1);
        fs::read_to_string(home.path().join("calls"))
            .expect("as the test made it")
            .lines()
            .count()
    };
    let alone = calls(1);
    assert!(alone > 3, "{alone}");
    assert_eq!(calls(3), alone);
}
