//! Quantizers.

use super::model::{backward, finite};
use super::{Report, because};
use crate::quant::{Artifact, Calibration, Quantizer, Ranges};
use crate::{Graph, Mode, Op, Params, Program, passes, testing};

/// A quantizer on a small network: calibrated, run, trained, and its files written.
pub fn quantizer(quantizer: &dyn Quantizer) -> Report {
    let mut report = Report::default();
    let backend = quantizer.backend();
    report.check("its bits make sense", || {
        let odd = [("weights", &backend.weight), ("activations", &backend.activation)]
            .into_iter()
            .find(|(_, scheme)| !(2..=16).contains(&scheme.bits));
        odd.map_or(Ok(()), |(what, scheme)| Err(format!("{} bits for {what}", scheme.bits)))
    });
    report.check("the ops of its placement exist", || {
        backend.placement.check().map_err(because)
    });
    report.check("it quantizes something", || {
        let graph = super::prune::network().map_err(because)?;
        let mut weights = 0;
        for node in &graph.nodes {
            weights += usize::from(quantizer.quantizes(node).map_err(because)?);
        }
        let activations = backend.placement.values(&graph).len();
        if weights + activations > 0 {
            Ok(())
        } else {
            Err("neither a weight nor an activation".into())
        }
    });
    let Some((graph, params)) = report.get("a network can be calibrated with it", || calibrated(quantizer)) else {
        return report;
    };
    report.check(
        "the quantized network stays nearer to the float one than silence does",
        || stays_near(&graph, &params),
    );
    report.check("it trains: gradients are finite", || trains(&graph, &params));
    report.check("its files can be written", || {
        let ranges = Ranges::of(&graph, &params).map_err(because)?;
        let artifacts = quantizer.artifacts("model", &ranges).map_err(because)?;
        can_be_written(&artifacts)
    });
    report
}

/// Every output of the quantized network, beside that of the float one.
fn stays_near(graph: &Graph, params: &Params) -> Result<(), String> {
    let (float, float_params) = fused()?;
    let image = testing::input(1, 3, 32, 32);
    let run = |graph: &Graph, params: &Params| {
        let program = Program::new(graph, params).map_err(because)?;
        tch::no_grad(|| program.run(&image, Mode::Eval)).map_err(because)
    };
    for (value, wanted) in run(graph, params)?.iter().zip(run(&float, &float_params)?) {
        let norm = |t: &tch::Tensor| t.f_norm().map(|norm| norm.double_value(&[])).map_err(because);
        let error = norm(&value.f_sub(&wanted).map_err(because)?)? / norm(&wanted)?.max(1e-9);
        if error.is_nan() || error >= 1.0 {
            return Err(format!("relative error {error:.2}"));
        }
    }
    Ok(())
}

/// One backward pass: all that is trained gets a finite gradient. Quantizers of the network's outputs are read by nobody here: they say
/// what range a file gets.
pub(super) fn trains(graph: &Graph, params: &Params) -> Result<(), String> {
    let params = params.deep_clone();
    let specs = graph.param_specs();
    let trained = || {
        specs
            .iter()
            .filter(|spec| spec.role.trainable())
            .map(|spec| spec.key.as_str())
    };
    for key in trained() {
        let _ = params.require(key).map_err(because)?.set_requires_grad(true);
    }
    let program = Program::new(graph, &params).map_err(because)?;
    backward(
        &program
            .run(&testing::input(2, 3, 32, 32), Mode::Train)
            .map_err(because)?,
    )?;
    let consumers = graph.consumers();
    let unread = |owner: &str| {
        let mut nodes = graph.values().zip(&graph.nodes);
        nodes.any(|(value, node)| {
            let is_quantizer = matches!(node.op, Op::FakeQuant { .. });
            is_quantizer && node.name == owner && consumers[value.index()].is_empty()
        })
    };
    trained().try_for_each(|key| {
        let grad = params.require(key).map_err(because)?.grad();
        if !grad.defined() {
            return match key.rsplit_once('.') {
                Some((owner, _)) if unread(owner) => Ok(()),
                _ => Err(format!("`{key}` gets none")),
            };
        }
        finite(&grad).map_err(|reason| format!("`{key}`: {reason}"))
    })
}

/// Names lead to one file each, in one folder.
fn can_be_written(artifacts: &[Artifact]) -> Result<(), String> {
    for (at, file) in artifacts.iter().enumerate() {
        let name = &file.name;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(format!("`{name}` leads out of its folder"));
        }
        if file.text.is_empty() {
            return Err(format!("`{name}` is empty"));
        }
        if artifacts[..at].iter().any(|other| other.name == *name) {
            return Err(format!("there are two files `{name}`"));
        }
    }
    Ok(())
}

fn fused() -> Result<(Graph, Params), String> {
    let graph = super::prune::network().map_err(because)?;
    let params = testing::fill_params(&graph, 2.5);
    let (graph, params) = passes::fuse(&graph, &params).map_err(because)?;
    Ok((graph, params.deep_clone()))
}

pub(super) fn calibrated(quantizer: &dyn Quantizer) -> Result<(Graph, Params), String> {
    let graph = super::prune::network().map_err(because)?;
    let params = testing::fill_params(&graph, 2.5);
    let mut calibration = Calibration::new(quantizer, &graph, &params).map_err(because)?;
    calibration.see(&testing::input(2, 3, 32, 32)).map_err(because)?;
    let (graph, params) = calibration.finish().map_err(because)?;
    Ok((graph, params.deep_clone()))
}
