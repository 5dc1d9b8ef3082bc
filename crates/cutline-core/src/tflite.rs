//! TensorFlow Lite files: the tables of the format, and their conversion to ONNX.
//!
//! `schema` is generated from `proto/tflite.fbs`. Its readers check each access and copy nothing;
//! its owned types are for writing. Never turn a whole untrusted file into owned values: tables of a
//! file may share sub-tables, so that a short file stands for an enormous tree.

#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, clippy::all, clippy::pedantic)]
pub mod schema;

pub mod author;
