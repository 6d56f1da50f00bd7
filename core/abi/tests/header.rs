//! The C header and the Rust types are the same: a C program is compiled that asserts every size and offset that Rust sees.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

use yolo_abi::*;

/// `#[repr(C)]` structs with their fields, as C assertions.
macro_rules! layouts {
    ($out:ident; $($type:ident { $($field:ident $(as $c:ident)?),* $(,)? })+) => {$(
        let _ = writeln!($out, "SAME(sizeof({}), {});", stringify!($type), size_of::<$type>());
        $(
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($field);
            $(name = stringify!($c);)?
            let offset = offset_of!($type, $field);
            let _ = writeln!($out, "SAME(offsetof({}, {name}), {offset});", stringify!($type));
        )*
    )+};
}

#[allow(clippy::too_many_lines)] // a list of fields
fn assertions() -> String {
    let mut c = String::new();
    layouts! { c;
        YoloStr { ptr, len }
        YoloText { cx, write }
        YoloFloats { cx, put }
        YoloTensorInfo { data, dtype, device, rank, contiguous, sizes, strides }
        YoloHost {
            struct_size, abi_major, abi_minor, yolo, libtorch, log, tensor_info, tensor_f32, tensor_new, tensor_grad, tensor_free,
        }
        YoloNamedTensor { key, tensor }
        YoloBackboneVt { struct_size, _reserved as reserved, build }
        YoloNeckBlockVt { struct_size, _reserved as reserved, describe, build }
        YoloOpVt { struct_size, _reserved as reserved, describe, shape, lower, forward }
        YoloGroup {
            struct_size, _reserved as reserved, name, index, count, channels, weights, weight_count, weight_grads,
            weight_grad_count, gammas, gamma_count, betas, beta_count, gamma_grads, gamma_grad_count,
            weight_squares, weight_square_count, gamma_squares, gamma_square_count, activations, activation_count,
        }
        YoloMetricVt { struct_size, _reserved as reserved, needs, score }
        YoloTrainState {
            struct_size, _reserved as reserved, step, total, per_epoch, generation, tensors, tensor_count, cx, groups,
        }
        YoloRegulariserVt { struct_size, _reserved as reserved, before_step, after_step, destroy }
        YoloEvaluation { map50, map }
        YoloPruneHost {
            struct_size, _reserved as reserved, cx, describe, cost, scores, tensor, evaluate, train, progress,
        }
        YoloPrunerVt { struct_size, _reserved as reserved, plan, regulariser, regulariser_vt }
        YoloQuantizerVt { struct_size, _reserved as reserved, describe, quantizes, artifacts }
        YoloDistilBatch {
            struct_size, _reserved as reserved, layouts, levels, student_raw, student_neck, teacher_raw, teacher_neck, head_weights,
            head_biases, adapters, adapter_count,
        }
        YoloDistillerVt { struct_size, _reserved as reserved, describe, adapters, loss }
        YoloPluginV1 {
            magic, abi_major, abi_minor, struct_size, _reserved as reserved, libtorch, sdk, target, describe, create, destroy,
            vtable,
        }
    }
    for (name, value) in [
        ("YOLO_MAGIC", i64::from(MAGIC)),
        ("YOLO_ABI_MAJOR", i64::from(ABI_MAJOR)),
        ("YOLO_ABI_MINOR", i64::from(ABI_MINOR)),
        ("YOLO_MAX_RANK", MAX_RANK as i64),
        ("YOLO_OK", i64::from(status::OK)),
        ("YOLO_OPTIONS", i64::from(status::OPTIONS)),
        ("YOLO_TORCH", i64::from(status::TORCH)),
        ("YOLO_PANIC", i64::from(status::PANIC)),
        ("YOLO_CANCELLED", i64::from(status::CANCELLED)),
        ("YOLO_UNSUPPORTED", i64::from(status::UNSUPPORTED)),
        ("YOLO_FAILED", i64::from(status::FAILED)),
        ("YOLO_HOST", i64::from(status::HOST)),
        ("YOLO_IMPOSSIBLE", i64::from(status::IMPOSSIBLE)),
        ("YOLO_NEEDS_WEIGHT", i64::from(needs::WEIGHT)),
        ("YOLO_NEEDS_BN", i64::from(needs::BN)),
        ("YOLO_NEEDS_GRAD", i64::from(needs::GRAD)),
        ("YOLO_NEEDS_GRAD_SQUARE", i64::from(needs::GRAD_SQUARE)),
        ("YOLO_NEEDS_ACTIVATION", i64::from(needs::ACTIVATION)),
    ] {
        let _ = writeln!(c, "SAME({name}, {value});");
    }
    c
}

/// Compiles `source` with the header in reach; the compiler's complaints, if any.
fn compile(name: &str, source: &str) -> Result<(), String> {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("abi-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("check.c");
    std::fs::write(&file, source).expect("a file");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
        .arg(&file)
        .output()
        .expect("a C compiler, as for torch-sys");
    let _ = std::fs::remove_dir_all(folder);
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

const HEAD: &str = "#include \"yolo_plugin.h\"\n#define SAME(c, rust) _Static_assert((c) == (rust), #c)\n";

#[test]
fn the_header_lays_its_structs_out_as_rust_does() {
    let checks = assertions();
    assert!(checks.lines().count() > 100, "fields are compared");
    if let Err(complaints) = compile("same", &format!("{HEAD}{checks}")) {
        panic!("{complaints}");
    }
}

/// The comparison can fail: another offset is refused.
#[test]
fn another_layout_is_noticed() {
    let complaints = compile("other", &format!("{HEAD}SAME(offsetof(YoloPluginV1, create), 8);")).expect_err("a lie");
    assert!(complaints.contains("offsetof(YoloPluginV1, create)"), "{complaints}");
}

/// Every struct of the crate is in the comparison.
#[test]
fn no_struct_is_left_out() {
    let checks = assertions();
    for text in [
        include_str!("../src/lib.rs"),
        include_str!("../src/host.rs"),
        include_str!("../src/kinds.rs"),
    ] {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(name) = line
                .strip_prefix("pub struct ")
                .and_then(|rest| rest.split_whitespace().next())
            else {
                continue;
            };
            assert!(checks.contains(&format!("sizeof({name})")), "{name} is not compared");
            for field in lines.by_ref().take_while(|line| *line != "}") {
                let Some(field) = field
                    .trim()
                    .strip_prefix("pub ")
                    .and_then(|rest| rest.split(':').next())
                else {
                    continue;
                };
                let field = if field == "_reserved" { "reserved" } else { field };
                assert!(
                    checks.contains(&format!("offsetof({name}, {field})")),
                    "{name}.{field} is not compared"
                );
            }
        }
    }
}
