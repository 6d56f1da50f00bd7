//! The messages of the ONNX format that we write and read back. Field numbers and enum values are those of the public
//! `onnx.proto` (ONNX IR version 8); messages that no file of ours holds (functions, training, sparse and string
//! tensors) are left out, and a reader skips them. What the fields mean to a network stands in `lower.rs`, not here.

use std::path::Path;

use prost::Message;

use crate::{Error, Result, file};

/// A whole file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Name of the program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The network.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets in use, one per domain.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Free key-value pairs (class names, strides, ...).
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// Version of the operators of one domain.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A key-value pair.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Nodes in topological order with the constants they use.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Operators.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the network.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants (weights).
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of values between.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
}

/// One operator.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the values that go in; an empty name is an absent optional input.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values that come out.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator, for example `Conv`.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Domain of the operator, empty for the standard ones.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A named constant of a node. Exactly one value field is set, the one that `type` names; the scalar ones have explicit
/// presence so that a zero is written too.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// An integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// A string (UTF-8 bytes).
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Numbers.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Which of the fields is set.
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub r#type: i32,
}

/// Kinds of attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AttributeType {
    /// Not set.
    Undefined = 0,
    /// `f`.
    Float = 1,
    /// `i`.
    Int = 2,
    /// `s`.
    String = 3,
    /// `t`.
    Tensor = 4,
    /// `floats`.
    Floats = 6,
    /// `ints`.
    Ints = 7,
}

/// A constant tensor. We write `raw_data` only (little endian); the typed fields are read for files of others.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// Element type ([`DataType`]).
    #[prost(enumeration = "DataType", tag = "2")]
    pub data_type: i32,
    /// `f32` elements, when not raw.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// `i64` elements, when not raw.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements, little endian.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
}

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DataType {
    /// Not set.
    Undefined = 0,
    /// `f32`.
    Float = 1,
    /// `u8`.
    Uint8 = 2,
    /// `i8`.
    Int8 = 3,
    /// `u16`.
    Uint16 = 4,
    /// `i16`.
    Int16 = 5,
    /// `i32`.
    Int32 = 6,
    /// `i64`.
    Int64 = 7,
    /// `bool`.
    Bool = 9,
    /// `f16`.
    Float16 = 10,
    /// `f64`.
    Double = 11,
}

/// Name and type of a value.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// Type of a value; only tensors here.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Tensor type.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// Element type ([`DataType`]).
    #[prost(enumeration = "DataType", tag = "1")]
    pub elem_type: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Sizes.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One size: a number or a name.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Number or name.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// Value of a [`DimensionProto`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// Fixed size.
    #[prost(int64, tag = "1")]
    DimValue(i64),
    /// Any size; equal names are equal sizes.
    #[prost(string, tag = "2")]
    DimParam(String),
}

impl ModelProto {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Read`] where it can't be read, [`Error::Format`] where it is no ONNX file; both name it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
        Self::decode(bytes.as_slice()).map_err(|error| Error::Format {
            path: path.to_owned(),
            reason: format!("not an ONNX file ({error})"),
        })
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a network of more than 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        // Protocol buffers cannot hold more than 2 GiB and every reader refuses such a file.
        if self.encoded_len() > i32::MAX as usize {
            return Err(Error::Unsupported(format!(
                "the network needs {} MB and one ONNX file holds 2 GiB; export a smaller model",
                self.encoded_len() >> 20
            )));
        }
        Ok(self.encode_to_vec())
    }

    /// Writes a file: all of it or, on an error, nothing.
    ///
    /// # Errors
    /// Those of [`ModelProto::to_bytes`]; [`Error::Write`] names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        file::write_atomic(path, &self.to_bytes()?)
    }

    /// Whether some of it computes with integers on a grid.
    pub fn is_quantized(&self) -> bool {
        let nodes = self.graph.iter().flat_map(|graph| &graph.node);
        nodes
            .into_iter()
            .any(|node| node.op_type.contains("QuantizeLinear") || node.op_type.starts_with("QLinear"))
    }

    /// The value of a metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata_props
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    }
}

impl NodeProto {
    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name == name)
    }
}

impl TensorProto {
    /// The elements of an `f32` tensor; `None` for another type.
    pub fn f32_values(&self) -> Option<Vec<f32>> {
        if self.data_type() != DataType::Float {
            return None;
        }
        if self.raw_data.is_empty() {
            return Some(self.float_data.clone());
        }
        let (words, _) = self.raw_data.as_chunks::<4>();
        Some(words.iter().map(|&w| f32::from_le_bytes(w)).collect())
    }

    /// The raw elements of a tensor of 8 or 16-bit integers; `None` for another type.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let words = self.raw_data.as_chunks::<2>().0.iter();
        Some(match self.data_type() {
            DataType::Int8 => self.raw_data.iter().map(|b| i64::from(*b as i8)).collect(),
            DataType::Uint8 => self.raw_data.iter().map(|b| i64::from(*b)).collect(),
            DataType::Int16 => words.map(|w| i64::from(i16::from_le_bytes(*w))).collect(),
            DataType::Uint16 => words.map(|w| i64::from(u16::from_le_bytes(*w))).collect(),
            _ => return None,
        })
    }
}

impl ValueInfoProto {
    /// Sizes of a tensor; a named size is `None`.
    pub fn dims(&self) -> Vec<Option<i64>> {
        let shape = self
            .r#type
            .as_ref()
            .and_then(|t| t.tensor_type.as_ref())
            .and_then(|t| t.shape.as_ref());
        shape.map_or_else(Vec::new, |s| {
            s.dim
                .iter()
                .map(|d| match d.value {
                    Some(DimensionValue::DimValue(n)) => Some(n),
                    _ => None,
                })
                .collect()
        })
    }
}
