//! TensorFlow Lite files: the tables of the format, and their conversion to ONNX.
//!
//! ```text
//! bytes ── reader ──► Network (checked, bounded) ── convert ──► ModelProto
//! ```
//!
//! `schema` is generated from `proto/tflite.fbs`. Its readers check each access and copy nothing;
//! its owned types are for writing. Never turn a whole untrusted file into owned values: tables of a
//! file may share sub-tables, so that a short file stands for an enormous tree. `reader` therefore
//! visits no more elements than the file has bytes, a few times over.
//!
//! **Layout.** TensorFlow Lite computes in NHWC, ONNX in NCHW. The network's inputs and outputs keep
//! the shapes of the file; in between, a value is stored in the layout that its operator makes, and
//! an operator that needs another one has a `Transpose` of its own, so that each tensor goes from
//! operator to operator in one layout. Operators whose axes can be renamed (concatenation, padding,
//! means, softmax, ...) take what they get, so a tower of convolutions has no transpose inside. A
//! value carries the name of its tensor, and in another layout that name and `:nchw` or `:nhwc`.
//!
//! **Quantised tensors** stay integers: an operator dequantises its operands, computes in floats and
//! quantises its result, which is what engines recognise and run on integers.

pub mod author;
mod constants;
mod convert;
mod layout;
mod operators;
mod reader;

#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, clippy::all, clippy::pedantic)]
pub mod schema;

pub mod split;
pub mod write;

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::onnx::proto::ModelProto;

/// A model file converted to ONNX, and which part of the file each part of it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The model. Weights whose elements keep their order are slices of the file.
    pub model: ModelProto,
    /// The operator of each node, by the node's name.
    pub operator_of: BTreeMap<String, usize>,
    /// The tensor that a value holds, in either layout, by the value's name.
    pub tensor_of: BTreeMap<String, usize>,
}

/// Why a file is not converted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum TfliteError {
    #[error(
        "not a TensorFlow Lite model: the identifier TFL3 is missing; download or export it again"
    )]
    Identifier,
    #[error("the TensorFlow Lite model is damaged or cut short: {problem}; export it again")]
    Damaged { problem: String },
    #[error("the model is made for schema version {found}, and 3 is the one supported")]
    Version { found: u32 },
    #[error(
        "the model has {found} subgraphs, as control flow needs, and one is supported; export it \
         without loops and conditions"
    )]
    Subgraphs { found: usize },
    #[error("tensor `{tensor}`: {problem}")]
    Tensor { tensor: String, problem: String },
    #[error(
        "operator {name}{number}, which makes `{output}`, is not supported; cut the network before \
         it, or export it without"
    )]
    Operator { name: String, number: String, output: String },
    #[error("operator {name}, which makes `{output}`: {problem}")]
    Layer { name: String, output: String, problem: String },
}

impl From<planus::Error> for TfliteError {
    fn from(error: planus::Error) -> Self {
        Self::Damaged { problem: error.to_string() }
    }
}

/// Whether bytes begin as a TensorFlow Lite file.
pub fn is_tflite(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"TFL3")
}

/// A model file as an ONNX model that computes the same. O(file), apart from sorting names; copies
/// only weights whose elements change their order.
pub fn convert(bytes: &Bytes) -> Result<Converted, TfliteError> {
    let network = reader::read(bytes)?;
    convert::convert(&network, bytes.len())
}
