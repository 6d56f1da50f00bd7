//! Assembles a [`ModelProto`]: constants as raw data, nodes with attributes, names that are unique. Knows the format,
//! not the network.

use std::collections::{HashMap, HashSet};

use super::proto::{
    AttributeProto, AttributeType, DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};

/// IR version 8 belongs to ONNX 1.10 .. 1.13 (opsets 15 to 18); every runtime of the last years reads it.
const IR_VERSION: i64 = 8;

/// Size of an axis in an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// Always this.
    Fixed(i64),
    /// Any size; equal names are equal sizes.
    Named(String),
}

/// A model under construction. Values are known by their names.
#[derive(Debug, Default)]
pub struct Builder {
    graph: GraphProto,
    names: HashSet<String>,
    /// Small integer constants (shapes, axes) by content, so that each is stored once.
    ints: HashMap<(Vec<i64>, bool), String>,
    /// Small float constants (scalars) by bits.
    scalars: HashMap<u32, String>,
    domains: Vec<OperatorSetIdProto>,
}

impl Builder {
    /// An empty model of this name.
    pub fn new(name: &str) -> Self {
        Self {
            graph: GraphProto {
                name: name.to_owned(),
                ..GraphProto::default()
            },
            ..Self::default()
        }
    }

    /// Adds an input and returns its name.
    pub fn input(&mut self, name: &str, kind: DataType, sizes: &[Size]) -> String {
        let name = self.unique(name);
        self.graph.input.push(value_info(&name, kind, sizes));
        name
    }

    /// Declares `value` an output under its own name.
    pub fn output(&mut self, value: &str, kind: DataType, sizes: &[Size]) {
        self.graph.output.push(value_info(value, kind, sizes));
    }

    /// An `f32` constant.
    pub fn f32(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Float, dims, raw)
    }

    /// An `i8` constant.
    pub fn i8(&mut self, name: &str, dims: &[i64], values: &[i8]) -> String {
        let raw = values.iter().map(|v| v.cast_unsigned()).collect();
        self.constant(name, DataType::Int8, dims, raw)
    }

    /// A `u8` constant.
    pub fn u8(&mut self, name: &str, dims: &[i64], values: &[u8]) -> String {
        self.constant(name, DataType::Uint8, dims, values.to_vec())
    }

    /// An `i16` constant.
    pub fn i16(&mut self, name: &str, dims: &[i64], values: &[i16]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Int16, dims, raw)
    }

    /// A `u16` constant.
    pub fn u16(&mut self, name: &str, dims: &[i64], values: &[u16]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Uint16, dims, raw)
    }

    /// An `i32` constant.
    pub fn i32(&mut self, name: &str, dims: &[i64], values: &[i32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Int32, dims, raw)
    }

    /// A one-dimensional `i64` constant (a shape, axes, bounds). Equal ones are stored once.
    pub fn i64(&mut self, values: &[i64]) -> String {
        self.i64_constant(values, false)
    }

    /// An `i64` constant without dimensions.
    pub fn i64_scalar(&mut self, value: i64) -> String {
        self.i64_constant(&[value], true)
    }

    fn i64_constant(&mut self, values: &[i64], scalar: bool) -> String {
        if let Some(name) = self.ints.get(&(values.to_vec(), scalar)) {
            return name.clone();
        }
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = [values.len() as i64];
        let name = self.constant("const.i64", DataType::Int64, if scalar { &[] } else { &dims }, raw);
        self.ints.insert((values.to_vec(), scalar), name.clone());
        name
    }

    /// An `f32` constant without dimensions. Equal ones are stored once.
    pub fn scalar(&mut self, value: f32) -> String {
        if let Some(name) = self.scalars.get(&value.to_bits()) {
            return name.clone();
        }
        let name = self.f32("const.f32", &[], &[value]);
        self.scalars.insert(value.to_bits(), name.clone());
        name
    }

    fn constant(&mut self, name: &str, kind: DataType, dims: &[i64], raw_data: Vec<u8>) -> String {
        let name = self.unique(name);
        self.graph.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: kind.into(),
            name: name.clone(),
            raw_data,
            ..TensorProto::default()
        });
        name
    }

    /// Adds a node with one result, which gets the node's name.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.unique(name);
        self.push("", op, inputs, vec![output.clone()], attributes);
        output
    }

    /// Adds a node with one result, called exactly `name` (an output of the model).
    pub fn node_named(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<AttributeProto>) {
        self.names.insert(name.to_owned());
        self.push("", op, inputs, vec![name.to_owned()], attributes);
    }

    /// Adds a node with several results.
    pub fn node_multi(
        &mut self,
        op: &str,
        names: &[String],
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Vec<String> {
        let outputs: Vec<String> = names.iter().map(|name| self.unique(name)).collect();
        self.push("", op, inputs, outputs.clone(), attributes);
        outputs
    }

    /// Adds a node of another domain whose results are called exactly `outputs`.
    pub fn node_foreign(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        self.names.extend(outputs.iter().map(|&name| name.to_owned()));
        if !self.domains.iter().any(|known| known.domain == domain) {
            self.domains.push(OperatorSetIdProto {
                domain: domain.to_owned(),
                version: 1,
            });
        }
        self.push(
            domain,
            op,
            inputs,
            outputs.iter().map(|&name| name.to_owned()).collect(),
            attributes,
        );
    }

    fn push(&mut self, domain: &str, op: &str, inputs: &[&str], output: Vec<String>, attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            name: output[0].clone(),
            output,
            op_type: op.to_owned(),
            attribute,
            domain: domain.to_owned(),
        });
    }

    /// Renames a value everywhere. Used to give results their public names.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.names.insert(to.to_owned());
        for node in &mut self.graph.node {
            for value in node
                .input
                .iter_mut()
                .chain(&mut node.output)
                .filter(|value| *value == from)
            {
                to.clone_into(value);
            }
        }
    }

    /// Reserves a public name, so that no inner value takes it.
    pub fn reserve(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    /// The file.
    pub fn finish(self, opset: i64, metadata: Vec<(String, String)>) -> ModelProto {
        let mut opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version: opset,
        }];
        opset_import.extend(self.domains);
        ModelProto {
            // Opset 19 came with IR version 9, opset 21 with 10.
            ir_version: match opset {
                ..19 => IR_VERSION,
                19..21 => 9,
                _ => 10,
            },
            producer_name: "yolo".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import,
            metadata_props: metadata
                .into_iter()
                .map(|(key, value)| StringStringEntryProto { key, value })
                .collect(),
        }
    }

    fn unique(&mut self, wish: &str) -> String {
        if self.names.insert(wish.to_owned()) {
            return wish.to_owned();
        }
        let mut n = 1;
        loop {
            let name = format!("{wish}_{n}");
            if self.names.insert(name.clone()) {
                return name;
            }
            n += 1;
        }
    }
}

fn value_info(name: &str, kind: DataType, sizes: &[Size]) -> ValueInfoProto {
    let dim = sizes
        .iter()
        .map(|size| DimensionProto {
            value: Some(match size {
                Size::Fixed(n) => DimensionValue::DimValue(*n),
                Size::Named(name) => DimensionValue::DimParam(name.clone()),
            }),
        })
        .collect();
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: kind.into(),
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
    }
}

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: AttributeType::Int.into(),
        ..Default::default()
    }
}

/// A list of integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: AttributeType::Ints.into(),
        ..Default::default()
    }
}

/// A number.
pub fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value as f32),
        r#type: AttributeType::Float.into(),
        ..Default::default()
    }
}

/// A text.
pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.as_bytes().to_vec()),
        r#type: AttributeType::String.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let mut b = Builder::new("net");
        let x = b.input(
            "images",
            DataType::Float,
            &[Size::Named("batch".into()), Size::Fixed(3)],
        );
        let w = b.f32("w", &[3], &[1.0, -2.5, 0.0]);
        let y = b.node("Mul", "y", &[&x, &w], vec![]);
        let z = b.node(
            "Mul",
            "y",
            &[&y, &w],
            vec![int("zero", 0), float("f", 0.5), ints("v", &[1, -1]), text("s", "abc")],
        );
        assert_ne!(y, z, "a taken name gets a suffix");
        assert_eq!(b.i64(&[1, 2]), b.i64(&[1, 2]), "equal constants are stored once");
        assert_ne!(b.i64(&[1]), b.i64_scalar(1));
        b.rename(&z, "output");
        b.output(
            "output",
            DataType::Float,
            &[Size::Named("batch".into()), Size::Fixed(3)],
        );
        let model = b.finish(13, vec![("names".into(), "{}".into())]);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        model.write(&path).unwrap();
        let back = ModelProto::read(&path).unwrap();
        assert_eq!(back, model);
        let graph = back.graph.as_ref().unwrap();
        assert_eq!(graph.initializer[0].f32_values().unwrap(), [1.0, -2.5, 0.0]);
        assert_eq!(graph.node[1].output, ["output"]);
        assert_eq!(
            graph.node[1].attribute("zero").unwrap().i,
            Some(0),
            "a zero has presence"
        );
        assert_eq!(graph.input[0].dims(), [None, Some(3)]);
        assert_eq!(back.metadata("names"), Some("{}"));
    }

    #[test]
    fn a_file_of_another_kind_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, b"not a protocol buffer at all").unwrap();
        assert!(
            ModelProto::read(&path)
                .unwrap_err()
                .to_string()
                .contains("not an ONNX file")
        );
        assert!(
            ModelProto::read(&dir.path().join("none.onnx"))
                .unwrap_err()
                .to_string()
                .contains("none.onnx")
        );
    }
}
