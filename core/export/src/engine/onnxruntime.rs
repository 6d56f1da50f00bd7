//! onnxruntime behind the port: [`crate::ort`] does the work, in this process, since its interface is safe and hands tensors over
//! without a copy.

use std::path::Path;
use std::time::Instant;

use super::{Array, Engine, Found, Network, Port};
use crate::{Result, ort};

/// onnxruntime: ONNX.
#[derive(Debug)]
pub struct OnnxRuntime;

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        ort::ENGINE
    }

    fn title(&self) -> &'static str {
        ort::ENGINE
    }

    fn endings(&self) -> &'static [&'static str] {
        &["onnx"]
    }

    fn help(&self) -> &'static str {
        ort::HELP
    }

    fn find(&self) -> Result<Found> {
        let path = ort::available()?;
        Ok(Found {
            version: ort::version()?,
            path,
        })
    }

    fn open(&self, path: &Path, threads: usize) -> Result<Box<dyn Network>> {
        let session = ort::Session::open(path, threads)?;
        Ok(Box::new(Session {
            inputs: (ports(session.inputs()).into_iter())
                .zip(session.input_kinds())
                .map(|(port, kind)| Port { kind, ..port })
                .collect(),
            outputs: ports(session.output_sizes()),
            milliseconds: 0.0,
            session,
        }))
    }
}

fn ports(ports: Vec<(String, Vec<i64>)>) -> Vec<Port> {
    let port = |(name, shape)| Port {
        name,
        shape,
        kind: None,
    };
    ports.into_iter().map(port).collect()
}

struct Session {
    session: ort::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    milliseconds: f64,
}

impl Network for Session {
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        let views: Vec<_> = inputs
            .iter()
            .map(|input| (input.name.as_str(), input.shape.as_slice(), input.values.as_slice()))
            .collect();
        let start = Instant::now();
        let outputs = self.session.run_slices(&views)?;
        self.milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Ok(outputs
            .into_iter()
            .map(|output| Array {
                name: output.name,
                shape: output.shape,
                values: output.values,
            })
            .collect())
    }

    fn milliseconds(&self) -> f64 {
        self.milliseconds
    }
}
