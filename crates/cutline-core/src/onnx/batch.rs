//! A model for one frame as a model for any number of frames at once.
//!
//! The first axis of every input becomes open, and what the file says of sizes in between goes, since
//! it is said of one frame. A `Reshape` to sizes that begin with the 1 of a single frame is told to
//! keep the first axis instead, which for one frame is the same. Whether that gives a network that
//! computes frames side by side shows in two imports with more than one frame: every output must have
//! the shape that it has for one frame, but for so many times its first axis.
//!
//! Shapes cannot tell whether the frames stay apart: a mean over the first axis, taken from every
//! frame, has the right shape. Whoever runs the result compares its answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::{
    graph::{Graph, Origin, Value},
    onnx::{
        ImportError, ImportOptions, attributes, import,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto,
            TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
    tensor::{DType, Shape},
};

/// The name of the open axis.
const FRAMES: &str = "frames";

/// First IR version whose initializers need not be listed among the inputs.
const IR_WITH_PRIVATE_INITIALIZERS: i64 = 4;

/// Numbers of frames that shapes are inferred for: a power of two may fit by chance.
const TRIED: [u64; 2] = [2, 3];

/// Why a model cannot compute several frames at once.
#[derive(Debug, Clone, PartialEq, Error)]
#[allow(missing_docs)]
pub enum BatchError {
    #[error("it does not import")]
    Import(#[from] ImportError),
    #[error("it reads nothing")]
    NoInput,
    #[error("its {what} `{name}` is {shape}, whose first axis is not that of a single frame")]
    NoFrameAxis { what: &'static str, name: String, shape: String },
    #[error("its shapes do not fit for {frames} frames")]
    Shapes {
        frames: u64,
        #[source]
        source: ImportError,
    },
    #[error(
        "for {frames} frames its output `{output}` would be {together}, not {frames} times {alone}"
    )]
    Output { output: String, frames: u64, alone: Shape, together: String },
}

/// The same model for any number of frames: they lie behind each other along the first axis of every
/// input and of every output. Weights are shared with `model`. Twice the work of an import.
pub fn open_batch(model: &ModelProto) -> Result<ModelProto, BatchError> {
    let alone = import(model, &ImportOptions::default())?;
    let mut inputs = BTreeMap::new();
    for value in alone.inputs().iter().map(|&id| alone.value(id)) {
        inputs.insert(value.name.clone(), single("input", value)?);
    }
    if inputs.is_empty() {
        return Err(BatchError::NoInput);
    }
    let outputs = alone.outputs().iter().map(|&id| single("output", alone.value(id)));
    let outputs: Vec<Shape> = outputs.collect::<Result<_, _>>()?;
    let mut opened = model.clone();
    let Some(graph) = &mut opened.graph else {
        return Err(ImportError::Missing { missing: "graph" }.into());
    };
    let stored = keep_first_axes(graph, &alone);
    if model.ir_version() < IR_WITH_PRIVATE_INITIALIZERS {
        graph.input.extend(stored.iter().map(tensor_info));
    }
    graph.initializer.extend(stored);
    graph.value_info.clear();
    graph.node.iter_mut().for_each(forget_sizes);
    for info in &mut graph.input {
        if let Some(shape) = inputs.get(info.name()) {
            declare(info, Some(shape));
        }
    }
    // What the check is to find out must not be believed.
    graph.output.iter_mut().for_each(|info| declare(info, None));
    for frames in TRIED {
        check(&opened, &inputs, &alone, &outputs, frames)?;
    }
    if let Some(graph) = &mut opened.graph {
        let declared = graph.output.iter_mut().zip(&outputs);
        declared.for_each(|(info, shape)| declare(info, Some(shape)));
    }
    Ok(opened)
}

/// The shape of an input or output of one frame.
fn single(what: &'static str, value: &Value) -> Result<Shape, BatchError> {
    match &value.shape {
        Some(shape) if shape.0.first() == Some(&1) => Ok(shape.clone()),
        shape => Err(BatchError::NoFrameAxis {
            what,
            name: value.name.clone(),
            shape: describe(shape.as_ref()),
        }),
    }
}

fn describe(shape: Option<&Shape>) -> String {
    shape.map_or("of unknown shape".to_owned(), Shape::to_string)
}

fn times(shape: &Shape, frames: u64) -> Shape {
    let first = shape.0.first().map(|&size| size.saturating_mul(frames));
    Shape(first.into_iter().chain(shape.0.iter().skip(1).copied()).collect())
}

fn check(
    opened: &ModelProto,
    inputs: &BTreeMap<String, Shape>,
    alone: &Graph,
    outputs: &[Shape],
    frames: u64,
) -> Result<(), BatchError> {
    let shapes = inputs.iter().map(|(name, shape)| (name.clone(), times(shape, frames)));
    let options = ImportOptions { input_shapes: shapes.collect() };
    let together =
        import(opened, &options).map_err(|source| BatchError::Shapes { frames, source })?;
    for ((&of_one, &of_all), shape) in alone.outputs().iter().zip(together.outputs()).zip(outputs) {
        let (of_one, of_all) = (alone.value(of_one), together.value(of_all));
        if of_all.shape.as_ref() != Some(&times(shape, frames)) || of_all.dtype != of_one.dtype {
            return Err(BatchError::Output {
                output: of_one.name.clone(),
                frames,
                alone: shape.clone(),
                together: describe(of_all.shape.as_ref()),
            });
        }
    }
    Ok(())
}

/// Declares a value whose first axis is open, or a value of unknown shape.
fn declare(info: &mut ValueInfoProto, shape: Option<&Shape>) {
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) =
        &mut info.r#type
    else {
        return;
    };
    let dim = |value| Dimension { value: Some(value), ..Dimension::default() };
    tensor.shape = shape.map(|shape| {
        let frames = dim(dimension::Value::DimParam(FRAMES.to_owned()));
        let rest = shape.0.iter().skip(1);
        let rest = rest.map(|&size| dim(dimension::Value::DimValue(size as i64)));
        TensorShapeProto { dim: std::iter::once(frames).chain(rest).collect() }
    });
}

/// Drops what subgraphs say of the sizes of their values.
fn forget_sizes(node: &mut NodeProto) {
    for attribute in &mut node.attribute {
        let AttributeProto { g, graphs, .. } = attribute;
        for graph in g.iter_mut().chain(graphs) {
            graph.value_info.clear();
            graph.node.iter_mut().for_each(forget_sizes);
        }
    }
}

/// Has every `Reshape` of a single frame to stored sizes that begin with 1 keep the first axis.
/// Returns the sizes that say so.
fn keep_first_axes(graph: &mut GraphProto, alone: &Graph) -> Vec<TensorProto> {
    let mut stored: Vec<TensorProto> = Vec::new();
    for layer in alone.layers() {
        let Some(node) = graph.node.get_mut(layer.node) else { continue };
        if node.op_type() != "Reshape" || !attributes::is_default_domain(node) {
            continue;
        }
        let &[Some(data), Some(sizes)] = layer.inputs.as_slice() else { continue };
        let single = alone.value(data).shape.as_ref().and_then(|shape| shape.0.first()) == Some(&1);
        let zero_is_zero =
            node.attribute.iter().any(|entry| entry.name() == "allowzero" && entry.i() != 0);
        let sizes = alone.value(sizes);
        let is_stored = match sizes.origin {
            Origin::Weight => true,
            Origin::Input => false,
            Origin::Layer(maker) => alone.layer(maker).inputs.is_empty(),
        };
        let Some(data) = sizes.constant.as_ref().filter(|_| is_stored) else { continue };
        let begins_with_one =
            sizes.dtype == Some(DType::I64) && data.starts_with(&1i64.to_le_bytes());
        if !single || zero_is_zero || !begins_with_one {
            continue;
        }
        let name = format!("{}.{FRAMES}", layer.name);
        if alone.find_value(&name).is_some() || stored.iter().any(|tensor| tensor.name() == name) {
            continue;
        }
        let raw: Vec<u8> =
            0i64.to_le_bytes().into_iter().chain(data[8..].iter().copied()).collect();
        node.input[1] = name.clone();
        stored.push(TensorProto {
            dims: vec![(raw.len() / 8) as i64],
            data_type: Some(DType::I64.onnx()),
            name: Some(name),
            raw_data: Some(Bytes::from(raw)),
            ..TensorProto::default()
        });
    }
    stored
}

/// Declares a list of sizes.
fn tensor_info(tensor: &TensorProto) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        value: Some(dimension::Value::DimValue(size)),
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: tensor.dims.iter().map(dim).collect() });
    let tensor_type = type_proto::Tensor { elem_type: tensor.data_type, shape };
    ValueInfoProto {
        name: tensor.name.clone(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor_type)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
