//! Mixed precision on the CPU: blocks with attention stay near f32, fake quantizers stay on their grid.

use serde_json::json;
use tch::{Device, Kind, Tensor};
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::quant::{Calibration, Quantizer};
use yolo_core::{Graph, Mode, Op, Params, Program, model, testing};
use yolo_data::Hyp;
use yolo_engine::train::{OptimizerKind, Precision, StepOptions, Stepper};

const SIZE: i64 = 64;
const TARGETS: [[f32; 6]; 3] = [
    [0.0, 1.0, 0.5, 0.5, 0.3, 0.4],
    [0.0, 2.0, 0.2, 0.7, 0.1, 0.1],
    [1.0, 0.0, 0.6, 0.4, 0.5, 0.2],
];

fn small(file: &str) -> Graph {
    let config = json!({"extends": file, "scale": {"depth": 0.33, "width": 0.125}});
    let located = model::resolve_extends(Located::from_value(file, config), &mut |_| Ok(None)).expect("its base");
    model::build(&located, Some(3)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn shifted_windows_in_half_precision_give_the_loss_of_f32() {
    let graph = small("yolov5x-swin");
    let params = Params::init(&graph, 0);
    let image = testing::input(2, 3, SIZE, SIZE);
    let losses = |precision: Precision| {
        let options = StepOptions {
            hyp: Hyp::default(),
            size: SIZE as usize,
            optimizer: OptimizerKind::Sgd,
            decay: 5e-4,
            precision,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: true,
            record: true,
        };
        let mut stepper = Stepper::new(&graph, &params, &options).expect("a stepper");
        let kind = stepper.maps(&image).expect("maps")[0].kind();
        assert_eq!(kind, precision.half().unwrap_or(Kind::Float), "{precision:?}");
        let parts = stepper.accumulate(&image, &TARGETS, &mut []).expect("a loss");
        for param in stepper.optimizer.params() {
            let grad = param.grad();
            assert_eq!(grad.kind(), Kind::Float, "{precision:?}");
            assert!(
                grad.isfinite().all().int64_value(&[]) == 1,
                "{precision:?}: a gradient is not finite"
            );
        }
        Vec::<f64>::try_from(parts.to_kind(Kind::Double)).expect("numbers")
    };
    let wanted = losses(Precision::Off);
    for precision in [Precision::Bf16, Precision::F16] {
        let got = losses(precision);
        assert_ne!(got, wanted, "{precision:?} changes nothing");
        for (got, wanted) in got.iter().zip(&wanted) {
            assert!(
                (got - wanted).abs() < 0.05 * wanted,
                "{precision:?}: {got} instead of {wanted}"
            );
        }
    }
}

#[test]
fn fake_quantizers_stay_on_their_grid_in_half_precision() {
    let graph = small("yolov5n");
    // Activations of usual size: scales have a least one.
    let params = testing::fill_params(&graph, 2.5);
    let image = testing::input(2, 3, SIZE, SIZE);
    let quantizer = Located::from_value("quantizer", json!({"type": "tensorrt"}));
    let quantizer: Box<dyn Quantizer> = quantizer.read().expect("a quantizer");
    let mut calibration = Calibration::new(quantizer.as_ref(), &graph, &params).expect("a calibration");
    calibration.see(&image).expect("ranges");
    let (graph, params) = calibration.finish().expect("a quantized graph");
    let program = Program::new(&graph, &params).expect("a program");
    let (mut seen, mut finer) = (0, 0);
    let mut check = |value: yolo_core::ValueId, tensor: &Tensor| {
        let node = graph.node(value);
        let Op::FakeQuant { quant } = &node.op else {
            return Ok(());
        };
        assert_eq!(tensor.kind(), Kind::Float, "{}", node.name);
        let tensor = tensor.detach().to_kind(Kind::Double);
        let scale = params
            .require(&format!("{}.scale", node.name))?
            .detach()
            .to_kind(Kind::Double);
        let steps = &tensor / scale;
        let off = (&steps - steps.round()).abs().max().double_value(&[]);
        assert!(off < 1e-3, "{}: a value is {off} steps off the grid", node.name);
        assert!(
            steps.max().double_value(&[]) <= quant.qmax as f64 + 1e-3,
            "{}",
            node.name
        );
        // What bf16 would have made of it.
        let rounded = tensor.to_kind(Kind::BFloat16).to_kind(Kind::Double);
        finer += i32::from((rounded - &tensor).abs().max().double_value(&[]) > 0.0);
        seen += 1;
        Ok(())
    };
    let run = || Ok(program.run_observed(&image, Mode::Train, &mut check)?);
    let maps = Precision::Bf16.run(Device::Cpu, run).expect("maps");
    assert!(maps.iter().all(|map| map.isfinite().all().int64_value(&[]) == 1));
    assert_eq!(maps[0].kind(), Kind::BFloat16, "products are in half precision");
    assert!(
        seen > 20 && finer > seen / 2,
        "{seen} quantizers, of which {finer} are finer than bf16"
    );
}
