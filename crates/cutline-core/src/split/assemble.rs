//! The model of one part, assembled from nodes and tensors of the whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use super::{
    CUT_ENCODING, Port, SplitError, StageLabel, SubModel,
    borders::{Border, opset},
    encode,
    rest::model_rest,
    stages::Stage,
};
use crate::{
    graph::{Graph, Layer, Value, ValueId},
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto,
        StringStringEntryProto, TensorAnnotation, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    op::Op,
    tensor::{DType, Shape},
};

/// First IR version whose initializers need not be listed among the inputs.
const IR_WITH_PRIVATE_INITIALIZERS: i64 = 4;

/// Where the model file keeps a weight.
#[derive(Clone, Copy)]
enum Stored<'a> {
    Dense(&'a TensorProto),
    Sparse(&'a SparseTensorProto),
    /// The result of a `Constant` node.
    Node(usize),
}

/// The whole network: its file and its graph, with the file's parts by name.
pub(super) struct Source<'a> {
    model: &'a ModelProto,
    file: &'a GraphProto,
    graph: &'a Graph,
    stored: HashMap<&'a str, Stored<'a>>,
    declared: HashMap<&'a str, &'a ValueInfoProto>,
}

impl<'a> Source<'a> {
    pub(super) fn new(model: &'a ModelProto, graph: &'a Graph) -> Result<Self, SplitError> {
        let Some(file) = &model.graph else {
            return Err(SplitError::OtherModel { what: "network", name: graph.name().to_owned() });
        };
        let mut stored = HashMap::new();
        for (index, node) in file.node.iter().enumerate() {
            stored.extend(node.output.iter().map(|name| (name.as_str(), Stored::Node(index))));
        }
        for tensor in &file.sparse_initializer {
            let name = tensor.values.as_ref().map_or("", |values| values.name());
            stored.insert(name, Stored::Sparse(tensor));
        }
        for tensor in &file.initializer {
            if encode::is_external(tensor) && encode::payload(tensor).is_none() {
                return Err(SplitError::ExternalData { tensor: tensor.name().to_owned() });
            }
            stored.insert(tensor.name(), Stored::Dense(tensor));
        }
        let declared = file.input.iter().chain(&file.output).map(|info| (info.name(), info));
        Ok(Self { model, file, graph, stored, declared: declared.collect() })
    }

    /// Makes the model of part `index` of `count`.
    pub(super) fn sub_model(
        &self,
        [index, count]: [usize; 2],
        stage: &Stage,
        border: Border,
        label: &StageLabel,
    ) -> Result<SubModel, SplitError> {
        let opset = opset(self.model);
        let mut file = GraphProto {
            name: Some(self.graph_name(label)),
            doc_string: self.file.doc_string.clone(),
            input: border.inputs.iter().map(|port| self.port_info(port)).collect(),
            output: border.outputs.iter().map(|port| self.port_info(port)).collect(),
            metadata_props: self.file.metadata_props.clone(),
            ..GraphProto::default()
        };
        self.add_weights(&mut file, stage)?;
        file.initializer.extend(border.scales(opset));
        file.node.extend(border.decoders(opset));
        self.add_layers(&mut file, stage)?;
        file.node.extend(border.encoders(opset));
        if self.model.ir_version() < IR_WITH_PRIVATE_INITIALIZERS {
            let listed: Vec<ValueInfoProto> = file.initializer.iter().map(tensor_info).collect();
            file.input.extend(listed);
        }
        file.quantization_annotation = self.annotations(&file);
        let model = ModelProto {
            graph: Some(file),
            metadata_props: metadata(self.model, [index, count], &border, label),
            training_info: Vec::new(),
            ..model_rest(self.model)
        };
        Ok(SubModel {
            name: label.name.clone(),
            cut_encoding: border.encoding(),
            inputs: border.inputs,
            outputs: border.outputs,
            layers: stage.layers.iter().copied().collect(),
            model,
            tflite: None,
        })
    }

    fn graph_name(&self, label: &StageLabel) -> String {
        match self.file.name() {
            "" => label.name.clone(),
            name => format!("{name}.{}", label.name),
        }
    }

    /// Adds stored weights and known results, in the order of the graph's values.
    fn add_weights(&self, file: &mut GraphProto, stage: &Stage) -> Result<(), SplitError> {
        let mut constants = BTreeSet::new();
        for &id in &stage.weights {
            let name = self.graph.value(id).name.as_str();
            match self.stored.get(name) {
                Some(&Stored::Dense(tensor)) => file.initializer.push(shared(tensor)),
                Some(&Stored::Sparse(tensor)) => file.sparse_initializer.push(tensor.clone()),
                Some(&Stored::Node(node)) => {
                    constants.insert(node);
                }
                None => {
                    return Err(SplitError::OtherModel { what: "weight", name: name.to_owned() });
                }
            }
        }
        file.node.extend(constants.into_iter().map(|node| self.file.node[node].clone()));
        let folded = stage.folded.iter().filter_map(|&id| stored_result(self.graph.value(id)));
        file.initializer.extend(folded);
        Ok(())
    }

    /// Adds the nodes, and the types of what no shape inference can find again.
    fn add_layers(&self, file: &mut GraphProto, stage: &Stage) -> Result<(), SplitError> {
        for &id in &stage.layers {
            let layer = self.graph.layer(id);
            let node = self.file.node.get(layer.node).filter(|node| makes(node, layer, self.graph));
            let Some(node) = node else {
                let name = layer.name.clone();
                return Err(SplitError::OtherModel { what: "layer", name });
            };
            file.node.push(without_stale_types(node));
            if matches!(layer.op, Op::Opaque { .. }) {
                let inner = layer.makes().filter(|value| !stage.outputs.contains(value));
                let known = inner.filter(|&id| self.graph.value(id).bytes().is_some());
                file.value_info.extend(known.map(|id| self.value_info(id)));
            }
        }
        Ok(())
    }

    /// Declares a value in the form in which it travels.
    fn port_info(&self, port: &Port) -> ValueInfoProto {
        match (port.dtype, &port.shape) {
            (Some(dtype), Some(shape)) if port.name != self.graph.value(port.value).name => {
                ValueInfoProto {
                    name: Some(port.name.clone()),
                    r#type: Some(tensor_type(dtype, shape)),
                    ..ValueInfoProto::default()
                }
            }
            _ => self.value_info(port.value),
        }
    }

    /// Declares a value with the shape that the graph knows, else as the file declares it.
    fn value_info(&self, id: ValueId) -> ValueInfoProto {
        let value = self.graph.value(id);
        let mut info = self.declared.get(value.name.as_str()).map_or_else(
            || ValueInfoProto { name: Some(value.name.clone()), ..ValueInfoProto::default() },
            |&info| info.clone(),
        );
        if let (Some(dtype), Some(shape)) = (value.dtype, &value.shape) {
            info.r#type = Some(tensor_type(dtype, shape));
        }
        info
    }

    /// Quantisation annotations whose tensors are all here.
    fn annotations(&self, file: &GraphProto) -> Vec<TensorAnnotation> {
        let nodes = file.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
        let stored = file.initializer.iter().map(TensorProto::name);
        let inputs = file.input.iter().map(ValueInfoProto::name);
        let here: HashSet<&str> = nodes.chain(stored).chain(inputs).collect();
        let complete = |annotation: &&TensorAnnotation| {
            let parameters = &annotation.quant_parameter_tensor_names;
            here.contains(annotation.tensor_name())
                && parameters.iter().all(|entry| here.contains(entry.value()))
        };
        self.file.quantization_annotation.iter().filter(complete).cloned().collect()
    }
}

/// Whether the node is the one that the layer was imported from.
fn makes(node: &NodeProto, layer: &Layer, graph: &Graph) -> bool {
    layer.makes().all(|id| node.output.contains(&graph.value(id).name))
}

/// The tensor with typed data as raw data, which parts share instead of each copying it.
fn shared(tensor: &TensorProto) -> TensorProto {
    let raw: Vec<u8> = match DType::from_onnx(tensor.data_type()) {
        Some(DType::F32) if !tensor.float_data.is_empty() => {
            tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        Some(DType::I64) if !tensor.int64_data.is_empty() => {
            tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        _ => return tensor.clone(),
    };
    TensorProto {
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        name: tensor.name.clone(),
        doc_string: tensor.doc_string.clone(),
        raw_data: Some(Bytes::from(raw)),
        metadata_props: tensor.metadata_props.clone(),
        ..TensorProto::default()
    }
}

/// A known result as an initializer.
fn stored_result(value: &Value) -> Option<TensorProto> {
    let data = value.constant.as_ref()?;
    Some(TensorProto {
        dims: value.shape.as_ref()?.0.iter().map(|&dim| dim as i64).collect(),
        data_type: Some(value.dtype?.onnx()),
        name: Some(value.name.clone()),
        raw_data: Some(Bytes::copy_from_slice(data)),
        ..TensorProto::default()
    })
}

/// The node, its subgraphs without the types of inner values: these may name dimensions that are
/// now bound.
fn without_stale_types(node: &NodeProto) -> NodeProto {
    let mut node = node.clone();
    for attribute in &mut node.attribute {
        let AttributeProto { g, graphs, .. } = attribute;
        g.iter_mut().chain(graphs).for_each(drop_value_info);
    }
    node
}

fn drop_value_info(graph: &mut GraphProto) {
    graph.value_info.clear();
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            let AttributeProto { g, graphs, .. } = attribute;
            g.iter_mut().chain(graphs).for_each(drop_value_info);
        }
    }
}

fn tensor_info(tensor: &TensorProto) -> ValueInfoProto {
    let shape = tensor.dims.iter().map(|&dim| dimension_of(dim)).collect();
    let r#type = typed(tensor.data_type(), shape);
    ValueInfoProto { name: tensor.name.clone(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

fn tensor_type(dtype: DType, shape: &Shape) -> TypeProto {
    typed(dtype.onnx(), shape.0.iter().map(|&dim| dimension_of(dim as i64)).collect())
}

fn typed(elem_type: i32, dim: Vec<Dimension>) -> TypeProto {
    let tensor =
        type_proto::Tensor { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
    TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(tensor)) }
}

fn dimension_of(size: i64) -> Dimension {
    Dimension { denotation: None, value: Some(dimension::Value::DimValue(size)) }
}

/// The metadata of the whole, and what Cutline says about the part.
fn metadata(
    model: &ModelProto,
    [index, count]: [usize; 2],
    border: &Border,
    label: &StageLabel,
) -> Vec<StringStringEntryProto> {
    let ours = label.metadata.iter().map(|(key, value)| (prefixed(key), value.clone()));
    let mut entries: BTreeMap<String, String> = ours.collect();
    entries.insert(prefixed("part"), index.to_string());
    entries.insert(prefixed("parts"), count.to_string());
    entries.insert(prefixed("label"), label.name.clone());
    if let Some(encoding) = border.encoding() {
        entries.insert(CUT_ENCODING.to_owned(), encoding.name().to_owned());
    }
    let kept = model.metadata_props.iter().filter(|entry| !entries.contains_key(entry.key()));
    let mut result: Vec<StringStringEntryProto> = kept.cloned().collect();
    result.extend(
        entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key), value: Some(value) }),
    );
    result
}

fn prefixed(key: &str) -> String {
    if key.starts_with("cutline.") { key.to_owned() } else { format!("cutline.{key}") }
}
