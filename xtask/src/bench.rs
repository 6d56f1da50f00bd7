//! Slow measurements, thin drivers over the release binary. Nothing here is a test.

use std::process::Command;

use crate::{Outcome, cargo, fail, root, run, setup};

const USAGE: &str = "\
cargo xtask bench NAME

  bccd [--data YAML] [--weights PT]   the BCCD recipe, whose table is in the README
  compress [--data YAML] [--weights PT] [--cfg MODEL] [--epochs N] [--tune N] [--pruners A,B] [--flops 0.6,0.5] [--distiller A,none]
           [--img N] [--nominal-batch N] [--seeds N] [--teacher MODEL[,WEIGHTS] --students A,B] [--teacher-epochs N] [--jobs N]
           [--device D] [--amp off]
                                      pruned models and students against models of as many epochs, val and test, with intervals
  seeds [--data YAML] [--weights PT]  yolov5n on BCCD for 15 epochs with three seeds: docs/benchmarks.md
  torch --torch PATH                  builds for an installed PyTorch, trains and validates on it
  light [--data YAML] [--epochs N] [--batch N]
                                      every light backbone from scratch at equal epochs (docs/backbones.md)
  load [--data YAML] [--weights PT] [--epochs N]
                                      an epoch alone and beside one busy process
  quant [--set NAME=YAML,WEIGHTS]... [--sizes 320,640] [--backends A,B] [--python PYTHON]
                                      what calibration loses per backend and option, with --python beside other tools' files
  engines [--models A,B] [--engines ort,openvino,ncnn,torch] [--img N] [--threads N] [--runs N]
                                      milliseconds of each model whole, pruned and on integers in each engine
  kill [--times N] [--seed N]         a training killed at N random moments ends in the bits of one that was not
  reference --repo CHECKOUT [--repo2 CHECKOUT] [--python PYTHON] [--only PART,PART] [--before PROGRAM] [--json] [...]
                                      ours and the Python YOLOv5 side by side on this machine: docs/benchmarks.md";

/// Runs a benchmark by name.
pub fn bench(arguments: &[String]) -> Outcome {
    let rest = arguments.get(1..).unwrap_or_default();
    if let Some(name) = arguments.first() {
        known(name, rest)?;
    }
    match arguments.first().map(String::as_str) {
        Some("bccd") => bccd(rest),
        Some("compress") => compress(rest),
        Some("seeds") => seeds(rest),
        Some("light") => light(rest),
        Some("torch") => installed(rest),
        Some("load") => load(rest),
        Some("quant") => quant(rest),
        Some("engines") => engines(rest),
        Some("kill") => kill(rest),
        Some("reference") => reference(rest),
        _ => fail(USAGE),
    }
}

/// Refuses flags that the usage of benchmark `name` doesn't name: these runs are long, and a misspelt option would be found at the end.
fn known(name: &str, arguments: &[String]) -> Outcome {
    let start = format!("  {name} ");
    let mut lines = USAGE.lines().skip_while(|line| !line.starts_with(&start));
    let own = lines
        .next()
        .into_iter()
        .chain(lines.take_while(|line| line.starts_with("    ")));
    let mut flags: Vec<&str> = own
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    if name == "reference" {
        flags.extend(REFERENCE_OPTIONS);
    }
    let strange = arguments
        .iter()
        .find(|word| word.starts_with('-') && !flags.contains(&word.as_str()));
    match strange {
        None => Ok(()),
        Some(flag) if flag == "--help" || flag == "-h" => fail(USAGE),
        Some(flag) => fail(format!("bench {name} has no {flag}; it has {}", flags.join(", "))),
    }
}

/// The value after `--name`.
pub fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// Builds the release binary and returns a command that runs it; that of the variable `YOLO_BINARY` instead, where there is one.
pub fn yolo() -> Outcome<impl Fn() -> Command> {
    let given = std::env::var_os("YOLO_BINARY").map(std::path::PathBuf::from);
    if given.is_none() {
        setup::setup()?;
        run(cargo().args(["build", "--release"]))?;
    }
    let binary = given.unwrap_or_else(|| root().join("target/release/yolo"));
    Ok(move || {
        let mut yolo = Command::new(&binary);
        yolo.current_dir(root());
        yolo
    })
}

fn installed(arguments: &[String]) -> Outcome {
    let Some(torch) = option(arguments, "--torch") else {
        return fail(
            "bench torch needs --torch PATH (a folder of PyTorch, a virtual environment or a python executable)",
        );
    };
    let torch = std::path::absolute(torch).map_err(|e| format!("{torch}: {e}"))?;
    let yolo = yolo()?;
    crate::installed::installed(&yolo, &torch.to_string_lossy())
}

fn bccd(arguments: &[String]) -> Outcome {
    let yolo = yolo()?;
    let mut command = yolo();
    command.args(["compress", "configs/recipes/bccd.yaml", "--resume"]);
    for (flag, key) in [("--data", "data"), ("--weights", "weights")] {
        if let Some(value) = option(arguments, flag) {
            command.args(["--set", &format!("{key}={value}")]);
        }
    }
    run(&mut command)
}

fn compress(arguments: &[String]) -> Outcome {
    if option(arguments, "--students").is_some() != option(arguments, "--teacher").is_some() {
        return fail("bench compress: --teacher and --students go together");
    }
    let yolo = yolo()?;
    let value = |name: &str, usual: &str| option(arguments, name).unwrap_or(usual).to_owned();
    let list = |name: &str, usual: &str| -> Vec<String> {
        let words = value(name, usual);
        words
            .split(',')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let number = |name: &str, usual: u32| match option(arguments, name) {
        None => Ok(usual),
        Some(text) => text.parse().map_err(|_| format!("{name} {text} is no number")),
    };
    let device = ["--device", "--amp"]
        .into_iter()
        .filter_map(|name| Some([name.to_owned(), option(arguments, name)?.to_owned()]))
        .flatten()
        .collect();
    crate::compress::compress(
        &yolo,
        &crate::compress::Protocol {
            data: value("--data", "../shared/data/bccd/bccd.yaml"),
            weights: value("--weights", "../shared/data/weights/yolov5n.pt"),
            cfg: value("--cfg", "yolov5n"),
            epochs: [number("--epochs", 78)?, number("--tune", 60)?],
            img: value("--img", "320"),
            nominal: value("--nominal-batch", "16"),
            pruners: list("--pruners", "slimming,eagleeye,oneshot"),
            flops: list("--flops", "0.6,0.5,0.27,0.15"),
            distillers: list("--distiller", "logits"),
            teacher: option(arguments, "--teacher").map(str::to_owned),
            teacher_epochs: number("--teacher-epochs", 300)?,
            students: list("--students", ""),
            seeds: number("--seeds", 3)?,
            jobs: usize::try_from(number("--jobs", 1)?).unwrap_or(1),
            device,
        },
    )
}

fn seeds(arguments: &[String]) -> Outcome {
    let yolo = yolo()?;
    crate::seeds::seeds(
        &yolo,
        option(arguments, "--data").unwrap_or("../shared/data/bccd/bccd.yaml"),
        option(arguments, "--weights").unwrap_or("../shared/data/weights/yolov5n.pt"),
    )
}

fn light(arguments: &[String]) -> Outcome {
    let yolo = yolo()?;
    let value = |name: &str, usual: &'static str| option(arguments, name).map_or(usual.to_owned(), str::to_owned);
    let (epochs, batch) = (value("--epochs", "10"), value("--batch", "4"));
    crate::light::light(
        &yolo,
        &value("--data", "../shared/data/bccd/bccd.yaml"),
        &epochs,
        &batch,
    )
}

fn load(arguments: &[String]) -> Outcome {
    let yolo = yolo()?;
    crate::load::load(
        &yolo,
        option(arguments, "--data").unwrap_or("../shared/data/bccd/bccd.yaml"),
        option(arguments, "--weights").unwrap_or("../shared/data/weights/yolov5n.pt"),
        option(arguments, "--epochs").unwrap_or("4"),
    )
}

fn quant(arguments: &[String]) -> Outcome {
    let mut sets = Vec::new();
    for (at, _) in arguments
        .iter()
        .enumerate()
        .filter(|(_, argument)| *argument == "--set")
    {
        let value = arguments.get(at + 1).map_or("", String::as_str);
        let parts = value
            .split_once('=')
            .and_then(|(name, rest)| Some((name, rest.split_once(',')?)));
        let Some((name, (data, weights))) = parts else {
            return fail(format!("--set {value}: NAME=YAML,WEIGHTS is needed"));
        };
        sets.push([name, data, weights]);
    }
    if sets.is_empty() {
        sets.push([
            "coco128",
            "../shared/data/coco128/coco128.yaml",
            "../shared/data/weights/yolov5n.pt",
        ]);
    }
    let protocol = crate::quant::Protocol {
        sets,
        sizes: option(arguments, "--sizes").unwrap_or("320").split(',').collect(),
        backends: option(arguments, "--backends")
            .unwrap_or("onnxruntime,openvino,tensorrt")
            .split(',')
            .collect(),
        python: option(arguments, "--python"),
    };
    crate::quant::is_there(&protocol)?;
    crate::quant::quant(&yolo()?, &protocol)
}

fn engines(arguments: &[String]) -> Outcome {
    let list = |name: &str, usual: &'static str| option(arguments, name).unwrap_or(usual).split(',').collect();
    let value = |name: &str, usual: &'static str| option(arguments, name).unwrap_or(usual);
    let protocol = crate::fps::Protocol {
        models: list("--models", crate::fps::MODELS),
        engines: list("--engines", "torch,ort,openvino,ncnn"),
        img: value("--img", "640"),
        threads: value("--threads", "2"),
        runs: value("--runs", "20"),
    };
    crate::fps::engines(&yolo()?, &protocol)
}

/// The test, with more kills and another seed each time.
fn kill(arguments: &[String]) -> Outcome {
    setup::setup()?;
    let times = option(arguments, "--times").unwrap_or("20");
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    run(cargo()
        .args(["test", "--test", "all", "kill::", "--", "--nocapture"])
        .env("YOLO_KILLS", times)
        .env(
            "YOLO_SEED",
            option(arguments, "--seed").map_or(seed.to_string(), str::to_owned),
        ))
}

/// The options of compare.py, besides `--repo`, `--yolo` and `--json`.
const REFERENCE_OPTIONS: [&str; 10] = [
    "--repo2",
    "--before",
    "--data",
    "--weights",
    "--image",
    "--runs",
    "--train-runs",
    "--epochs",
    "--threads",
    "--only",
];

fn reference(arguments: &[String]) -> Outcome {
    let Some(repo) = option(arguments, "--repo") else {
        return fail("bench reference needs --repo PATH_TO_ULTRALYTICS_CHECKOUT (see docs/benchmarks.md)");
    };
    let yolo = yolo()?;
    let binary = yolo().get_program().to_owned();
    let mut python = Command::new(option(arguments, "--python").unwrap_or("python3"));
    python
        .current_dir(root())
        .args(["xtask/reference/compare.py", "--repo", repo])
        .arg("--yolo")
        .arg(binary);
    for flag in REFERENCE_OPTIONS {
        if let Some(value) = option(arguments, flag) {
            python.args([flag, value]);
        }
    }
    if arguments.iter().any(|argument| argument == "--json") {
        python.arg("--json");
    }
    run(&mut python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flags_start_nothing() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for good in [
            "compress --seeds 1 --jobs 2 --amp off",
            "reference --repo x --before y --json",
            "kill --times 3",
        ] {
            let words = words(good);
            assert_eq!(known(&words[0], &words[1..]), Ok(()), "{good}");
        }
        assert_eq!(known("compress", &words("--help")), Err(USAGE.to_owned()));
        let said = known("compress", &words("--sedes 1")).unwrap_err();
        assert!(said.contains("no --sedes") && said.contains("--seeds"), "{said}");
        assert!(known("kill", &words("--jobs 1")).is_err());
    }
}
