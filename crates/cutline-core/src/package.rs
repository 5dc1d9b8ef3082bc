//! Packages: folders that any Triton-like server loads, one per part.
//!
//! ```text
//! DIR/plan.json
//! DIR/0-edge/config.pbtxt      name: "0-edge"  backend: "onnxruntime"  inputs, outputs
//! DIR/0-edge/1/model.onnx      (+ model.onnx.data)
//! ```

use std::fmt::Write;

use thiserror::Error;

use crate::{
    graph::{Graph, Value, ValueId},
    split::{SubModel, SubModelFiles},
    tensor::DType,
};

/// One part as a folder to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name of the folder and of the model on a server: `<index>-<label>`.
    pub name: String,
    /// Text of `config.pbtxt`.
    pub config: String,
    /// Files of the version folder `1`.
    pub files: SubModelFiles,
}

/// A value that a server's configuration cannot declare.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{value}` of part `{part}` cannot be declared to a server: its {unknown} is unknown; bind the input's dimensions with --input-shape"
)]
pub struct PackageError {
    value: String,
    part: String,
    unknown: &'static str,
}

/// The folders of a split network, in order.
pub fn packages(graph: &Graph, parts: &[SubModel]) -> Result<Vec<Package>, PackageError> {
    let package = |(index, part): (usize, &SubModel)| {
        let name = package_name(index, &part.name);
        let config = config_pbtxt(&name, graph, &part.inputs, &part.outputs)?;
        Ok(Package { name, config, files: part.files() })
    };
    parts.iter().enumerate().map(package).collect()
}

/// Folder name of a part: its position and its label, of letters, digits, `-`, `_` and `.` only.
pub fn package_name(index: usize, label: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{index}-{}", label.chars().map(safe).collect::<String>())
}

/// Triton's model configuration, as protobuf text: no batching, one entry per input and output.
pub fn config_pbtxt(
    name: &str,
    graph: &Graph,
    inputs: &[ValueId],
    outputs: &[ValueId],
) -> Result<String, PackageError> {
    let mut text = String::new();
    let head =
        format!("name: {}\nbackend: \"onnxruntime\"\nmax_batch_size: 0\n", quoted(name.as_bytes()));
    text.push_str(&head);
    for (field, values) in [("input", inputs), ("output", outputs)] {
        for &id in values {
            text.push_str(&declaration(name, field, graph.value(id))?);
        }
    }
    Ok(text)
}

fn declaration(part: &str, field: &str, value: &Value) -> Result<String, PackageError> {
    let error =
        |unknown| PackageError { value: value.name.clone(), part: part.to_owned(), unknown };
    let dtype = value.dtype.ok_or_else(|| error("element type"))?;
    let shape = value.shape.as_ref().ok_or_else(|| error("shape"))?;
    let dims: Vec<String> = shape.0.iter().map(u64::to_string).collect();
    // A server asks for at least one dimension, and lets the model see another shape.
    let dims = match dims.as_slice() {
        [] => "dims: [1]\n  reshape { shape: [] }".to_owned(),
        dims => format!("dims: [{}]", dims.join(", ")),
    };
    Ok(format!(
        "{field} {{\n  name: {}\n  data_type: {}\n  {dims}\n}}\n",
        quoted(value.name.as_bytes()),
        triton(dtype),
    ))
}

/// A string literal of the protobuf text format.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            0x20..0x7f => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:03o}").expect("writing to a string cannot fail"),
        }
    }
    text.push('"');
    text
}

/// The type's name in Triton's configuration.
fn triton(dtype: DType) -> String {
    match dtype {
        DType::String => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{}", other.oip()),
    }
}
