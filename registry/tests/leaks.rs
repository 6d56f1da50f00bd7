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

/// Bytes per call that may stay. A page is the least that an instance could leave behind: four times as much.
const LIMIT: f64 = 1024.0;

/// What four times as many calls leave behind beyond `calls`, per call: what is set up once is in both lengths and cancels. A leak
/// is in every round, what an allocator moves around is not: the first round without a leak ends the measurement.
fn slope(calls: usize, run: &mut dyn FnMut(usize)) -> f64 {
    let mut grown = |calls: usize| {
        let before = resident();
        run(calls);
        resident() as f64 - before as f64
    };
    let rounds = (0..5).map(|_| {
        let short = grown(calls);
        (grown(4 * calls) - short) / (3 * calls) as f64
    });
    rounds
        .scan(f64::INFINITY, |least, slope| {
            let go_on = *least >= LIMIT;
            *least = slope;
            go_on.then_some(slope)
        })
        .last()
        .expect("a round")
}

/// Thousands of calls, good and trapping, in a row: the process does not grow with their number.
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
    let mut run = |times: usize| {
        for _ in 0..times {
            assert_eq!(good.score(&group).expect("scores"), [9.0; 8]);
            assert!(traps.score(&group).is_err());
        }
    };
    run(500);
    let stays = slope(1000, &mut run);
    let mut planted = |times: usize| (0..times).for_each(|_| std::mem::forget(std::hint::black_box(vec![1u8; 4096])));
    let leak = slope(1000, &mut planted);
    eprintln!("{stays} bytes per good and trapping call stay; {leak} of a page that is never freed");
    assert!(
        leak > 3.0 * LIMIT,
        "a page that is never freed is not seen: {leak} bytes per call"
    );
    assert!(stays < LIMIT, "{stays} bytes per good and trapping call stay");
}
