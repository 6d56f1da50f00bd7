//! Batch norm with the activation after it: libtorch's operators on the CPU, the kernels of CUDA run on the processor and compiled.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tch::{Device, Kind, Tensor};
use yolo_torch::native::bn_act::{self, Act, BatchNorm};
use yolo_torch::native::step;

#[path = "../../../tests/skip.rs"]
mod skip;

const MOMENTUM: f64 = 0.03;
const EPS: f64 = 1e-3;

/// A layer and its input, `x` and the gradient of the result as `[N, C, H, W]` in f32.
struct Case {
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

impl Case {
    /// Channels of which some are far from zero, as sums of squares in f32 would not bear. The first row stands apart, so that it is
    /// no measure for the others. Values that bf16 and f16 hold exactly would not test rounding: they are rounded to `kind` first.
    fn new([n, c, h, w]: [i64; 4], kind: Kind) -> Self {
        let offset = Tensor::randn([1, c, 1, 1], CPU) * 20.0;
        let x = Tensor::randn([n, c, h, w], CPU) * 1.5 + offset;
        let _ = x.get(0).narrow(1, 0, 1).narrow(2, 0, 1).zero_();
        let rounded = |tensor: Tensor| tensor.to_kind(kind).to_kind(Kind::Float);
        Case {
            x: rounded(x),
            dy: rounded(Tensor::randn([n, c, h, w], CPU) + 0.25),
            weight: Tensor::rand([c], CPU) + 0.5,
            bias: Tensor::randn([c], CPU),
            running_mean: Tensor::randn([c], CPU),
            running_var: Tensor::rand([c], CPU) + 0.5,
        }
    }
}

/// y, gradients of x, weight, bias, running mean, running variance.
const NAMES: [&str; 6] = ["y", "dx", "dw", "db", "running mean", "running variance"];

type Outcome = [Tensor; 6];

fn run(case: &Case, map: Kind, stats: Kind, step: impl Fn(&Tensor, BatchNorm<'_>) -> Tensor) -> Outcome {
    let leaf = |tensor: &Tensor, kind| tensor.to_kind(kind).copy().detach().set_requires_grad(true);
    let x = leaf(&case.x, map);
    let (weight, bias) = (leaf(&case.weight, stats), leaf(&case.bias, stats));
    let (mean, var) = (
        case.running_mean.to_kind(stats).copy(),
        case.running_var.to_kind(stats).copy(),
    );
    let norm = BatchNorm {
        weight: &weight,
        bias: &bias,
        running_mean: &mean,
        running_var: &var,
        momentum: MOMENTUM,
        eps: EPS,
    };
    let y = step(&x, norm);
    (&y * case.dy.to_kind(y.kind())).sum(stats).backward();
    [y.detach(), x.grad(), weight.grad(), bias.grad(), mean, var]
}

fn libtorch(x: &Tensor, norm: BatchNorm<'_>, act: Act) -> Tensor {
    let (mean, var) = (Some(norm.running_mean), Some(norm.running_var));
    let z = x.batch_norm(
        Some(norm.weight),
        Some(norm.bias),
        mean,
        var,
        true,
        norm.momentum,
        norm.eps,
        false,
    );
    match act {
        Act::None => z,
        Act::Silu => z.silu(),
        Act::Relu => z.relu(),
        Act::Hardswish => z.hardswish(),
    }
}

fn reference(case: &Case, act: Act) -> Outcome {
    run(case, Kind::Double, Kind::Double, |x, norm| libtorch(x, norm, act))
}

/// The largest difference over the largest value.
fn error(got: &Tensor, wanted: &Tensor) -> f64 {
    let wanted = wanted.to_kind(Kind::Double);
    let worst = (got.to_kind(Kind::Double) - &wanted).abs().max() / wanted.abs().max().clamp_min(1e-3);
    worst.double_value(&[])
}

fn compare(what: &str, got: &Outcome, wanted: &Outcome, map: f64, sums: f64) {
    for (i, name) in NAMES.iter().enumerate() {
        let (error, limit) = (error(&got[i], &wanted[i]), if i < 2 { map } else { sums });
        assert!(error <= limit, "{what}: {name} differs by {error:e}, limit {limit:e}");
    }
}

#[test]
fn without_cuda_it_is_batch_norm_and_the_activation() {
    tch::manual_seed(1);
    for act in Act::ALL {
        let case = Case::new([3, 18, 5, 7], Kind::Float);
        let fused = |x: &Tensor, norm: BatchNorm<'_>| bn_act::train(x, norm, act).expect("as the test made it");
        let got = run(&case, Kind::Float, Kind::Float, fused);
        let wanted = run(&case, Kind::Float, Kind::Float, |x, norm| libtorch(x, norm, act));
        for (i, name) in NAMES.iter().enumerate() {
            assert!(got[i].equal(&wanted[i]), "{act:?}: {name}");
        }
        assert!(!got[4].equal(&case.running_mean), "the running mean stays as it was");
    }
}

#[test]
fn the_result_has_the_kind_of_the_map_in_mixed_precision_too() {
    tch::manual_seed(2);
    let case = Case::new([2, 16, 6, 6], Kind::BFloat16);
    let plain = run(&case, Kind::BFloat16, Kind::Float, |x, norm| {
        bn_act::train(x, norm, Act::Silu).expect("as the test made it")
    });
    let mixed = run(&case, Kind::BFloat16, Kind::Float, |x, norm| {
        step::autocast(Device::Cpu, Kind::BFloat16, || bn_act::train(x, norm, Act::Silu)).expect("as the test made it")
    });
    assert_eq!(
        (mixed[0].kind(), mixed[1].kind(), mixed[2].kind()),
        (Kind::BFloat16, Kind::BFloat16, Kind::Float)
    );
    for (i, name) in NAMES.iter().enumerate() {
        assert!(mixed[i].equal(&plain[i]), "{name} changes with autocast");
    }
    compare("bf16", &plain, &reference(&case, Act::Silu), 0.03, 0.03);
}

#[test]
fn what_can_not_be_computed_is_an_error() {
    let case = Case::new([2, 16, 3, 3], Kind::Float);
    let norm = BatchNorm {
        weight: &case.weight.narrow(0, 0, 8),
        bias: &case.bias,
        running_mean: &case.running_mean,
        running_var: &case.running_var,
        momentum: MOMENTUM,
        eps: EPS,
    };
    let error = bn_act::train(&case.x, norm, Act::Silu).unwrap_err().to_string();
    assert!(error.contains("weight"), "{error}");
}

#[test]
fn a_device_without_kernels_says_why() {
    let reason = bn_act::obstacle(Device::Cpu).expect("as the test made it");
    assert_eq!(reason.as_deref(), Some("the device is not a CUDA device"));
    assert!(
        bn_act::self_check(Device::Cpu)
            .iter()
            .all(|case| case.measured.is_err() && !case.passed())
    );
}

/// The kernels' text without the quotes that make it a string of C++.
fn kernels() -> String {
    let text = fs::read_to_string(native().join("bn_act.cu.inc")).expect("as the test made it");
    let (_, text) = text.split_once("R\"CUDA(").expect("as the test made it");
    text.rsplit_once(")CUDA\"").expect("as the test made it").0.to_owned()
}

fn native() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("native")
}

/// The program that runs the kernels on the processor, for one kind.
fn emulated(kernels: &Path, kind: Kind, act: Act, vec: i64) -> PathBuf {
    let number = [Kind::Float, Kind::Half, Kind::BFloat16]
        .iter()
        .position(|one| *one == kind)
        .expect("as the test made it");
    let program = kernels.with_file_name(format!("emulated_{number}_{}_{vec}", act.number()));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let done = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-w"])
        .arg(format!("-DKIND={number}"))
        .arg(format!("-DACT={}", act.number()))
        .arg(format!("-DVEC={vec}"))
        .arg(format!("-DKERNELS={:?}", kernels.display().to_string()))
        .arg("-I")
        .arg(native())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/bn_act_emulated.cpp"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    program
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn emulate(program: &Path, case: &Case, kind: Kind, processors: i64) -> Outcome {
    let [n, c, h, w] = case.x.size()[..] else {
        panic!("four sizes")
    };
    let rows = |map: &Tensor| map.permute([0, 2, 3, 1]).to_kind(kind);
    let mut input = [bytes(&rows(&case.x)), bytes(&rows(&case.dy))].concat();
    for stat in [&case.weight, &case.bias, &case.running_mean, &case.running_var] {
        input.extend(bytes(stat));
    }
    let mut child = Command::new(program)
        .args([n * h * w, c, processors].map(|number| number.to_string()))
        .args([MOMENTUM, EPS].map(|number| number.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("as the test made it");
    child
        .stdin
        .take()
        .expect("as the test made it")
        .write_all(&input)
        .expect("as the test made it");
    let done = child.wait_with_output().expect("as the test made it");
    assert!(done.status.success());
    let (mut left, map, vector) = (
        done.stdout.as_slice(),
        (n * c * h * w) as usize * kind.elt_size_in_bytes(),
        c as usize * 4,
    );
    let outcome = [map, map, vector, vector, vector, vector].map(|length| {
        let (one, rest) = left.split_at(length);
        left = rest;
        if length == map && one.as_ptr() < done.stdout[2 * map..].as_ptr() {
            Tensor::from_data_size(one, &[n, h, w, c], kind).permute([0, 3, 1, 2])
        } else {
            Tensor::from_data_size(one, &[c], Kind::Float)
        }
    });
    assert!(left.is_empty(), "more than was asked for");
    outcome
}

#[test]
fn the_kernels_run_on_the_processor_give_what_f64_gives() {
    tch::manual_seed(3);
    let folder = std::env::temp_dir().join(format!("yolo-bn-act-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("as the test made it");
    let text = folder.join("kernels.inc");
    fs::write(&text, kernels()).expect("as the test made it");
    // Rows that no plan divides, one row less or more than the threads take, few blocks and many.
    let vectors = [
        [1, 16, 1, 5],
        [3, 48, 13, 11],
        [2, 1280, 3, 5],
        [5, 264, 9, 7],
        [1, 16, 127, 129],
    ];
    let scalars = [[2, 3, 5, 7], [3, 18, 13, 11], [1, 255, 20, 17], [1, 1, 1, 3]];
    let kinds = [
        (Kind::BFloat16, Act::Silu, 8, 1.0 / 256.0),
        (Kind::BFloat16, Act::Silu, 1, 1.0 / 256.0),
        (Kind::Half, Act::Silu, 8, 1.0 / 1024.0),
        (Kind::Float, Act::Silu, 4, 1e-5),
        (Kind::Float, Act::None, 4, 1e-5),
        (Kind::Float, Act::Relu, 1, 1e-5),
        (Kind::Float, Act::Hardswish, 4, 1e-5),
    ];
    for (kind, act, vec, limit) in kinds {
        let program = emulated(&text, kind, act, vec);
        for shape in if vec == 1 {
            scalars.as_slice()
        } else {
            vectors.as_slice()
        } {
            for processors in [1, 37] {
                let case = Case::new(*shape, kind);
                let got = emulate(&program, &case, kind, processors);
                let what = format!("{kind:?} {act:?} by {vec}, {shape:?}, {processors} blocks");
                compare(&what, &got, &reference(&case, act), limit, 1e-4);
            }
        }
    }
    fs::remove_dir_all(&folder).expect("as the test made it");
}

#[test]
fn the_kernels_compile_for_every_card_without_spills() {
    for capability in [80, 86, 89, 90, 100] {
        match bn_act::compile(capability) {
            Ok(log) => {
                assert!(log.contains("bn_grad_input"), "{log}");
                let spills = log
                    .lines()
                    .filter(|line| line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes"));
                assert_eq!(spills.count(), 0, "{capability}: {log}");
            }
            Err(error) if error.to_string().contains("is not found") => {
                skip::skipped("NVRTC (a CUDA toolkit)", error);
                return;
            }
            Err(error) => panic!("{capability}: {error}"),
        }
    }
}
