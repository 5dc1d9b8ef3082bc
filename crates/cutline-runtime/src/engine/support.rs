//! What an engine cannot run, known before anything is deployed.
//!
//! Every layer is put to the engine as a network of its own: its node, with what it reads as
//! inputs of their known types. Layers that differ in nothing that an engine looks at are asked
//! about once. Only "this operator is not there" counts: a layer that fails for want of its
//! surroundings is not held against the engine.

use std::collections::BTreeMap;

use cutline_core::{
    graph::{Graph, Layer, Value, ValueId},
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
};
use prost::Message;

use super::{Engine, EngineError, LoadOptions, ModelSource};

/// Names of the layers that the engine has no operator for, in the graph's order.
pub fn unsupported_layers(engine: &dyn Engine, model: &ModelProto, graph: &Graph) -> Vec<String> {
    let Some(nodes) = model.graph.as_ref().map(|graph| &graph.node) else {
        return Vec::new();
    };
    let mut known: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let mut cannot = |layer: &Layer, node: &NodeProto| {
        let alone = alone(model, graph, layer, node).encode_to_vec();
        *known.entry(alone).or_insert_with_key(|bytes| {
            let source = ModelSource::Memory(bytes.clone().into());
            let loaded = engine.load(&source, LoadOptions { threads: 1 });
            matches!(loaded, Err(EngineError::Unsupported { .. }))
        })
    };
    let layers = graph.layers().iter();
    let refused = layers.filter(|layer| {
        nodes
            .get(layer.node)
            .is_some_and(|node| node.op_type() != "Constant" && cannot(layer, node))
    });
    refused.map(|layer| layer.name.clone()).collect()
}

/// A model of one layer. Its values are renamed by position, so that equal layers give equal bytes.
fn alone(model: &ModelProto, graph: &Graph, layer: &Layer, node: &NodeProto) -> ModelProto {
    let mut node = node.clone();
    let mut inputs = Vec::new();
    let mut initializer = Vec::new();
    let mut add = |name: String, id: ValueId| {
        let value = graph.value(id);
        match &value.constant {
            Some(data) => initializer.push(constant(name, value, data)),
            None => inputs.push(info(name, value)),
        }
    };
    for (position, (name, id)) in node.input.iter_mut().zip(&layer.inputs).enumerate() {
        if let Some(id) = id {
            *name = format!("in{position}");
            add(name.clone(), *id);
        }
    }
    // Subgraphs refer to captured values by name, so these keep theirs.
    for &id in &layer.captures {
        add(graph.value(id).name.clone(), id);
    }
    let mut outputs = Vec::new();
    for (position, (name, id)) in node.output.iter_mut().zip(&layer.outputs).enumerate() {
        if let Some(id) = id {
            *name = format!("out{position}");
            outputs.push(info(name.clone(), graph.value(*id)));
        }
    }
    node.name = Some("layer".to_owned());
    ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        functions: model.functions.clone(),
        graph: Some(GraphProto {
            name: Some("layer".to_owned()),
            node: vec![node],
            input: inputs,
            output: outputs,
            initializer,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn info(name: String, value: &Value) -> ValueInfoProto {
    let dimension = |&dim: &u64| Dimension {
        value: Some(dimension::Value::DimValue(dim as i64)),
        ..Dimension::default()
    };
    let shape = value
        .shape
        .as_ref()
        .map(|shape| TensorShapeProto { dim: shape.0.iter().map(dimension).collect() });
    let r#type = value.dtype.map(|dtype| TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(dtype.onnx()),
            shape,
        })),
        ..TypeProto::default()
    });
    ValueInfoProto { name: Some(name), r#type, ..ValueInfoProto::default() }
}

fn constant(name: String, value: &Value, data: &[u8]) -> TensorProto {
    let shape = value.shape.clone().unwrap_or_default();
    TensorProto {
        name: Some(name),
        dims: shape.0.iter().map(|&dim| dim as i64).collect(),
        data_type: value.dtype.map(|dtype| dtype.onnx()),
        raw_data: Some(data.to_vec().into()),
        ..TensorProto::default()
    }
}
