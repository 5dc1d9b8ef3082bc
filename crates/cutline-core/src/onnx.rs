//! ONNX files: the protobuf types, and the import of a model into a [`Graph`](crate::graph::Graph).

#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;
