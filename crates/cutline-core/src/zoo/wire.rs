//! The protobuf messages that the [`builder`](super::builder) puts together.

use bytes::Bytes;

use crate::{
    onnx::proto::{
        AttributeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
        tensor_shape_proto, type_proto,
    },
    tensor::DType,
};

/// An initializer that holds its data.
pub(super) fn tensor(name: &str, dtype: DType, dims: &[u64], data: Bytes) -> TensorProto {
    TensorProto { raw_data: Some(data), ..dataless(name, dtype, dims) }
}

/// An initializer whose data would lie in a file that nobody wrote.
pub(super) fn absent_tensor(name: &str, dtype: DType, dims: &[u64]) -> TensorProto {
    let location = StringStringEntryProto {
        key: Some("location".to_owned()),
        value: Some("absent".to_owned()),
    };
    TensorProto {
        data_location: Some(DataLocation::External as i32),
        external_data: vec![location],
        ..dataless(name, dtype, dims)
    }
}

fn dataless(name: &str, dtype: DType, dims: &[u64]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        data_type: Some(dtype.onnx()),
        name: Some(name.to_owned()),
        ..TensorProto::default()
    }
}

/// A float input or output of this shape.
pub(super) fn float_value(name: &str, dims: &[u64]) -> ValueInfoProto {
    let dim = |&dim: &u64| tensor_shape_proto::Dimension {
        denotation: None,
        value: Some(tensor_shape_proto::dimension::Value::DimValue(dim as i64)),
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(DType::F32.onnx()),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        ..ValueInfoProto::default()
    }
}

/// Little-endian data of an `INT64` tensor.
pub(super) fn int64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        ..AttributeProto::default()
    }
}

/// An integer attribute.
pub(super) fn int(name: &str, value: u64) -> AttributeProto {
    AttributeProto { i: Some(value as i64), ..attribute(name, AttributeType::Int) }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// An attribute of several integers.
pub(super) fn ints(name: &str, values: &[u64]) -> AttributeProto {
    let ints = values.iter().map(|&value| value as i64).collect();
    AttributeProto { ints, ..attribute(name, AttributeType::Ints) }
}
