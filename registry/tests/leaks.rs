//! What stays behind after many calls. A test of its own process, so that no other test's memory is counted.

use std::path::Path;

use serde_json::Map;
use tch::Tensor;
use yolo_core::prune::GroupTensors;
use yolo_registry::wasm::{self, section};
use yolo_registry::{Index, metric};

/// Bytes of memory that this process occupies.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    4096 * pages
}

/// Ten thousand calls, good and trapping, in a row: the process does not grow.
#[test]
fn calls_of_wasm_metrics_leave_nothing_behind() {
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/l1.wat");
    let text = std::fs::read_to_string(&good).expect("a guest");
    let traps = wat::parse_str(text.replace("(local.get $sum))", "unreachable)")).expect("text form");
    let traps = section::replace(&traps, wasm::SECTION, br#"{"kind": "metric", "name": "traps"}"#).expect("a module");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("traps.wasm");
    std::fs::write(&file, traps).expect("writable");
    let find = |path: &Path| metric(&Index::linked(), &path.display().to_string(), Map::new()).expect("a metric");
    let (good, traps) = (find(&good), find(&file));
    let group = GroupTensors {
        name: "model.1.conv".into(),
        index: (0, 1),
        channels: 8,
        weights: vec![Tensor::ones([8, 9], (tch::Kind::Float, tch::Device::Cpu))],
        ..GroupTensors::default()
    };
    let run = |times: usize| {
        for _ in 0..times {
            assert_eq!(good.score(&group).expect("scores"), [9.0; 8]);
            assert!(traps.score(&group).is_err());
        }
    };
    run(500);
    let before = resident();
    run(5000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "10,000 calls grew the process by {grown} bytes");
}
