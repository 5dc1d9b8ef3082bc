//! Copies of messages without the field that holds the weights.

use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// All but the graph.
pub(super) fn model_rest(model: &ModelProto) -> ModelProto {
    ModelProto {
        ir_version: model.ir_version,
        producer_name: model.producer_name.clone(),
        producer_version: model.producer_version.clone(),
        domain: model.domain.clone(),
        model_version: model.model_version,
        doc_string: model.doc_string.clone(),
        graph: None,
        opset_import: model.opset_import.clone(),
        metadata_props: model.metadata_props.clone(),
        training_info: model.training_info.clone(),
        functions: model.functions.clone(),
        configuration: model.configuration.clone(),
    }
}

/// All but the initializers, around these nodes.
pub(super) fn graph_rest(graph: &GraphProto, node: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        node,
        name: graph.name.clone(),
        initializer: Vec::new(),
        doc_string: graph.doc_string.clone(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        value_info: graph.value_info.clone(),
        quantization_annotation: graph.quantization_annotation.clone(),
        sparse_initializer: graph.sparse_initializer.clone(),
        metadata_props: graph.metadata_props.clone(),
    }
}

/// All but the attributes.
pub(super) fn node_rest(node: &NodeProto) -> NodeProto {
    NodeProto {
        input: node.input.clone(),
        output: node.output.clone(),
        name: node.name.clone(),
        op_type: node.op_type.clone(),
        attribute: Vec::new(),
        doc_string: node.doc_string.clone(),
        domain: node.domain.clone(),
        overload: node.overload.clone(),
        metadata_props: node.metadata_props.clone(),
        device_configurations: node.device_configurations.clone(),
    }
}

/// All but the tensor and the graph.
pub(super) fn attribute_rest(attribute: &AttributeProto) -> AttributeProto {
    AttributeProto {
        name: attribute.name.clone(),
        f: attribute.f,
        i: attribute.i,
        s: attribute.s.clone(),
        t: None,
        g: None,
        floats: attribute.floats.clone(),
        ints: attribute.ints.clone(),
        strings: attribute.strings.clone(),
        tensors: attribute.tensors.clone(),
        graphs: attribute.graphs.clone(),
        doc_string: attribute.doc_string.clone(),
        tp: attribute.tp.clone(),
        type_protos: attribute.type_protos.clone(),
        r#type: attribute.r#type,
        ref_attr_name: attribute.ref_attr_name.clone(),
        sparse_tensor: attribute.sparse_tensor.clone(),
        sparse_tensors: attribute.sparse_tensors.clone(),
    }
}

/// All but data that is raw or external.
pub(super) fn tensor_rest(tensor: &TensorProto) -> TensorProto {
    TensorProto {
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        segment: tensor.segment,
        name: tensor.name.clone(),
        doc_string: tensor.doc_string.clone(),
        metadata_props: tensor.metadata_props.clone(),
        ..TensorProto::default()
    }
}
