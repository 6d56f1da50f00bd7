//! Quantizers.

use super::super::quant::{calibrated, trains};
use super::super::{Report, quantizer};
use super::{every_check_refuses, faulty};
use crate::graph::{Node, Op};
use crate::quant::{Artifact, BackendSpec, Observer, Placement, Quantizer, Ranges, Scheme};
use crate::{Error, Result};

faulty!(BadQuantizer);

#[typetag::serde(name = "bad-quantizer")]
impl Quantizer for BadQuantizer {
    fn backend(&self) -> BackendSpec {
        let mut backend = BackendSpec::default();
        match self.fault.as_str() {
            "its bits make sense" => backend.weight.bits = 17,
            "the ops of its placement exist" => backend.placement = Placement::inputs_of(&["conv2dd", "linear"]),
            "it quantizes something" => backend.placement = Placement::default(),
            "the quantized network stays nearer to the float one than silence does" => {
                // Two bits, and the range of the largest value.
                let coarse = Scheme {
                    bits: 2,
                    observer: Observer::MinMax,
                    ..Scheme::INT8
                };
                backend.weight = coarse;
                backend.activation = coarse;
            }
            _ => {}
        }
        backend
    }

    fn quantizes(&self, node: &Node) -> Result<bool> {
        match &node.op {
            // Only what is calibrated has its batch norms folded, and so a bias.
            Op::Conv2d { bias: true, .. } if self.is("a network can be calibrated with it") => {
                Err(Error::Config("on purpose".into()))
            }
            Op::Conv2d { .. } => Ok(!self.is("it quantizes something")),
            _ => Ok(false),
        }
    }

    fn artifacts(&self, model: &str, _: &Ranges) -> Result<Vec<Artifact>> {
        let file = |name: &str, text: &str| Artifact {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        Ok(match self.fault.as_str() {
            "its files can be written" => vec![file("../ranges", "1")],
            "empty" => vec![file(model, "")],
            "twice" => vec![file(model, "1"), file(model, "2")],
            "hidden" => vec![file(".ranges", "1")],
            _ => vec![file(model, "1")],
        })
    }
}

/// A backend is data and learns nothing: no component can spoil the gradients, only tensors can.
const TRAINS: &str = "it trains: gradients are finite";

#[test]
fn quantizers() {
    let report = |fault: &str| -> Report { quantizer(&BadQuantizer::breaks(fault)) };
    let mut good = report("");
    good.assert();
    let before = good.checks.len();
    good.checks.retain(|check| check.what != TRAINS);
    assert_eq!(good.checks.len() + 1, before);
    every_check_refuses(&good, report);
    for fault in ["empty", "twice", "hidden"] {
        let report = report(fault);
        let first = report.failures().next().expect("a failure");
        assert_eq!(first.what, "its files can be written", "{fault}");
    }
}

#[test]
fn gradients_that_are_not_finite() {
    let (graph, params) = calibrated(&BadQuantizer::default()).expect("a quantized network");
    assert_eq!(trains(&graph, &params), Ok(()));
    let specs = graph.param_specs();
    for end in [".bias", ".weight_quant.scale", ".act_quant.scale"] {
        let key = &specs.iter().find(|spec| spec.key.ends_with(end)).expect(end).key;
        let spoilt = params.deep_clone();
        let tensor = spoilt.require(key).expect("a tensor");
        spoilt_by(tensor, f64::NAN);
        let reason = trains(&graph, &spoilt).expect_err(key);
        assert!(reason.contains("finite"), "{key}: {reason}");
    }
}

fn spoilt_by(tensor: &tch::Tensor, value: f64) {
    let _ = tensor.shallow_clone().fill_(value);
}
