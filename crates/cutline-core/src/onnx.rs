//! ONNX files: the protobuf types, and the import of a model into a [`Graph`].
//!
//! ```text
//! bytes ── decode ──► ModelProto ── import ──► Graph (shapes, MACs, roles; no weights)
//! ```
//!
//! The import believes shapes in this order: what follows from the operands, then what the file
//! declares. A file may lie, be cut short or be hostile: every error names what is wrong, nothing
//! panics, and memory stays proportional to the length of the input. protobuf nesting is limited to
//! 100 levels by the decoder, so recursion over subgraphs is bounded too.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::{graph::Graph, tensor::Shape};

mod arithmetic;
mod attributes;
mod batch;
mod declared;
mod import;
mod layout;
mod macs;
mod order;
mod role;
mod shape;
mod tensors;
mod types;
mod window;

#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;

pub use batch::{BatchError, open_batch};

/// Oldest IR version that imports.
pub const OLDEST_IR: i64 = 3;
/// Oldest default operator set that imports.
pub const OLDEST_OPSET: i64 = 7;

/// What the caller decides about an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Sizes of network inputs by name, needed where the file leaves an axis other than the first
    /// open; an open first axis is 1 unless it is given here.
    pub input_shapes: BTreeMap<String, Shape>,
}

/// Why a model does not import.
#[derive(Debug, Clone, PartialEq, Error)]
#[allow(missing_docs)]
pub enum ImportError {
    #[error("the file is empty")]
    Empty,
    #[error("this is {found}, not an ONNX model; convert it to ONNX first")]
    OtherFormat { found: &'static str },
    #[error("not an ONNX model, or cut short: the protobuf message does not decode")]
    Decode(#[source] prost::DecodeError),
    #[error("not an ONNX model: it has no {missing}")]
    Missing { missing: &'static str },
    #[error("IR version {found} is older than {OLDEST_IR}, the oldest supported; export again")]
    IrVersion { found: i64 },
    #[error(
        "operator set {found} is older than {OLDEST_OPSET}, the oldest supported; raise it with \
         onnx.version_converter"
    )]
    Opset { found: i64 },
    #[error("the file names no version of the default operator set")]
    NoOpset,
    #[error("{what} has no name")]
    Unnamed { what: String },
    #[error("tensor `{name}`: {problem}")]
    Tensor { name: String, problem: String },
    #[error("input `{name}` is not a tensor")]
    InputKind { name: String },
    #[error(
        "input `{name}` has no fixed size on axis {axis}{symbol}; pass its whole shape, e.g. \
         --input-shape {name}=1x3x224x224"
    )]
    OpenAxis { name: String, axis: usize, symbol: String },
    #[error("input `{name}` has no declared shape; pass it, e.g. --input-shape {name}=1x3x224x224")]
    OpenShape { name: String },
    #[error("input `{name}` is declared as {declared}, the shape given is {given}")]
    GivenShape { name: String, declared: String, given: Shape },
    #[error("no input is called `{name}`; the inputs are {inputs}")]
    NoSuchInput { name: String, inputs: String },
    #[error("value `{name}` is made twice, by {first} and by {second}")]
    Duplicate { name: String, first: String, second: String },
    #[error("layer `{layer}` ({operator}) reads `{value}`, which nothing makes")]
    Undefined { layer: String, operator: String, value: String },
    #[error("the network's output `{value}` is made by nothing")]
    UndefinedOutput { value: String },
    #[error("the network has no {missing}")]
    NoEnd { missing: &'static str },
    #[error("the graph has a cycle: {layers}")]
    Cycle { layers: String },
    #[error(
        "layer `{layer}`: operator `{operator}` was an experiment that ONNX has retired, and no \
         engine here runs it; export the model again with a current converter"
    )]
    Retired { layer: String, operator: String },
    #[error("layer `{layer}` ({operator}): {problem}")]
    Layer { layer: String, operator: String, problem: String },
}

/// The message in an ONNX file. Weights stay slices of `bytes`: nothing large is copied.
pub fn decode(bytes: Bytes) -> Result<proto::ModelProto, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Empty);
    }
    if let Some(found) = other_format(&bytes) {
        return Err(ImportError::OtherFormat { found });
    }
    let model = proto::ModelProto::decode(bytes).map_err(ImportError::Decode)?;
    if model.graph.is_none() {
        return Err(ImportError::Missing { missing: "graph" });
    }
    Ok(model)
}

/// The network in a model: shapes, work and roles of all layers, in topological order.
///
/// Linear in the size of the graph apart from sorting; weights are only looked at for their type.
pub fn import(model: &proto::ModelProto, options: &ImportOptions) -> Result<Graph, ImportError> {
    import::import(model, options)
}

/// What a file of another well-known format begins with.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("a TensorFlow Lite model");
    }
    let known: [(&[u8], &str); 7] = [
        (b"PK\x03\x04", "a zip archive such as a PyTorch checkpoint"),
        (b"\x89HDF\r\n", "an HDF5 file such as a Keras model"),
        (b"GGUF", "a GGUF model"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\x89PNG\r\n", "a PNG picture"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"<!DOCTYPE", "a web page"),
    ];
    known.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name)
}
