//! Packages: folders that any Triton-like server loads, one per part.
//!
//! ```text
//! DIR/plan.json
//! DIR/0-edge/config.pbtxt      name: "0-edge"  backend: "onnxruntime"  inputs, outputs
//! DIR/0-edge/1/model.onnx      (+ model.onnx.data)
//! ```
//!
//! Parts of a TensorFlow Lite file are `1/model.tflite`, with `backend: "litert"`: the names, types
//! and shapes are there for agents and people, since no such server runs them.

use std::fmt::Write;

use thiserror::Error;

use crate::{
    split::{Format, Port, SubModel, SubModelFiles},
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
pub fn packages(parts: &[SubModel]) -> Result<Vec<Package>, PackageError> {
    let package = |(index, part): (usize, &SubModel)| {
        let name = package_name(index, &part.name);
        let files = part.files();
        let config = config_pbtxt(&name, files.format, &part.inputs, &part.outputs)?;
        Ok(Package { name, config, files })
    };
    parts.iter().enumerate().map(package).collect()
}

/// Folder name of a part: its position and its label, of letters, digits, `-`, `_` and `.` only.
pub fn package_name(index: usize, label: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{index}-{}", label.chars().map(safe).collect::<String>())
}

/// Triton's configuration of an ensemble, as protobuf text: the parts as steps, joined by the names of
/// the values that cross, which are the same on both sides of a cut.
pub fn ensemble_pbtxt(
    name: &str,
    [inputs, outputs]: [&[Port]; 2],
    parts: &[SubModel],
) -> Result<String, PackageError> {
    let mut text =
        format!("name: {}\nplatform: \"ensemble\"\nmax_batch_size: 0\n", quoted(name.as_bytes()));
    for (field, values) in [("input", inputs), ("output", outputs)] {
        for port in values {
            text.push_str(&declaration(name, field, port)?);
        }
    }
    text.push_str("ensemble_scheduling {\n");
    for (index, part) in parts.iter().enumerate() {
        let model = quoted(package_name(index, &part.name).as_bytes());
        text.push_str(&format!("  step {{\n    model_name: {model}\n    model_version: -1\n"));
        for (field, ports) in [("input_map", &part.inputs), ("output_map", &part.outputs)] {
            for port in ports {
                let value = quoted(port.name.as_bytes());
                text.push_str(&format!("    {field} {{ key: {value} value: {value} }}\n"));
            }
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    Ok(text)
}

/// Triton's model configuration, as protobuf text: no batching, one entry per input and output.
pub fn config_pbtxt(
    name: &str,
    format: Format,
    inputs: &[Port],
    outputs: &[Port],
) -> Result<String, PackageError> {
    let mut text = String::new();
    let backend = match format {
        Format::Onnx => "onnxruntime",
        Format::Tflite => "litert",
    };
    let quoted_name = quoted(name.as_bytes());
    let head = format!("name: {quoted_name}\nbackend: \"{backend}\"\nmax_batch_size: 0\n");
    text.push_str(&head);
    for (field, values) in [("input", inputs), ("output", outputs)] {
        for port in values {
            text.push_str(&declaration(name, field, port)?);
        }
    }
    Ok(text)
}

fn declaration(part: &str, field: &str, value: &Port) -> Result<String, PackageError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::GraphBuilder, tensor::Shape};

    /// A message of protobuf's text format: fields in order, each a scalar, a list or a message.
    #[derive(Clone, Debug, PartialEq)]
    enum Text {
        Scalar(String),
        Bytes(Vec<u8>),
        List(Vec<String>),
        Message(Vec<(String, Text)>),
    }

    /// Reads strictly what a configuration needs of the format; `None` for anything else.
    fn parse(mut rest: &str) -> Option<Vec<(String, Text)>> {
        let fields = fields(&mut rest)?;
        rest.trim_start().is_empty().then_some(fields)
    }

    fn fields(rest: &mut &str) -> Option<Vec<(String, Text)>> {
        let mut found = Vec::new();
        loop {
            *rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with('}') {
                return Some(found);
            }
            let name = word(rest)?;
            if let Some(inner) = rest.trim_start().strip_prefix('{') {
                *rest = inner;
                found.push((name, Text::Message(fields(rest)?)));
                *rest = rest.trim_start().strip_prefix('}')?;
                continue;
            }
            *rest = rest.strip_prefix(':')?.trim_start();
            found.push((name, value(rest)?));
        }
    }

    fn value(rest: &mut &str) -> Option<Text> {
        if let Some(inner) = rest.strip_prefix('"') {
            *rest = inner;
            return string(rest).map(Text::Bytes);
        }
        let Some(inner) = rest.strip_prefix('[') else { return word(rest).map(Text::Scalar) };
        let (items, after) = inner.split_once(']')?;
        *rest = after;
        let items = items.split(',').map(|item| item.trim().to_owned());
        Some(Text::List(items.filter(|item| !item.is_empty()).collect()))
    }

    fn word(rest: &mut &str) -> Option<String> {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn string(rest: &mut &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    *rest = &rest[at + 1..];
                    return Some(bytes);
                }
                '\\' => match chars.next()?.1 {
                    'n' => bytes.push(b'\n'),
                    c @ ('"' | '\\') => bytes.push(c as u8),
                    c @ '0'..='3' => {
                        let octal =
                            [c, chars.next()?.1, chars.next()?.1].iter().collect::<String>();
                        bytes.push(u8::from_str_radix(&octal, 8).ok()?);
                    }
                    _ => return None,
                },
                ' '..='~' => bytes.push(c as u8),
                _ => return None,
            }
        }
        None
    }

    fn message(fields: &[(&str, Text)]) -> Text {
        let pairs = fields.iter().map(|(name, text)| (name.to_string(), text.clone()));
        Text::Message(pairs.collect())
    }

    fn scalar(word: &str) -> Text {
        Text::Scalar(word.to_owned())
    }

    fn bytes(text: &str) -> Text {
        Text::Bytes(text.as_bytes().to_vec())
    }

    fn list(items: &[&str]) -> Text {
        Text::List(items.iter().map(|item| item.to_string()).collect())
    }

    #[test]
    fn a_configuration_declares_names_types_and_shapes() {
        let mut builder = GraphBuilder::new("net");
        let x = builder.input("x \"ä\"\\\n", Some(DType::F32), Some(Shape(vec![1, 3, 8, 8])));
        let s = builder.input("s", Some(DType::I64), Some(Shape(vec![])));
        let graph = builder.build();
        let [x, s] = [x, s].map(|id| Port::plain(&graph, id));
        let text = config_pbtxt("0-edge", Format::Onnx, &[x], &[s]).unwrap();
        let declared = |name: &str, dtype: &str, dims: Text| {
            vec![("name", bytes(name)), ("data_type", scalar(dtype)), ("dims", dims)]
        };
        let input = declared("x \"ä\"\\\n", "TYPE_FP32", list(&["1", "3", "8", "8"]));
        let mut output = declared("s", "TYPE_INT64", list(&["1"]));
        output.push(("reshape", message(&[("shape", list(&[]))])));
        let expected = message(&[
            ("name", bytes("0-edge")),
            ("backend", bytes("onnxruntime")),
            ("max_batch_size", scalar("0")),
            ("input", message(&input)),
            ("output", message(&output)),
        ]);
        assert_eq!(parse(&text).map(Text::Message), Some(expected), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_declared() {
        let mut builder = GraphBuilder::new("net");
        let untyped = builder.input("u", None, Some(Shape(vec![1])));
        let unshaped = builder.input("v", Some(DType::F32), None);
        let graph = builder.build();
        for (value, expected) in [(untyped, "`u`"), (unshaped, "`v`")] {
            let port = Port::plain(&graph, value);
            let error = config_pbtxt("0-edge", Format::Onnx, &[port], &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("0-edge"), "{error}");
        }
    }

    #[test]
    fn folder_names_hold_nothing_that_a_path_could_mistake() {
        assert_eq!(package_name(0, "pi-4.local"), "0-pi-4.local");
        assert_eq!(package_name(12, "../a b/ü"), "12-.._a_b__");
    }
}
