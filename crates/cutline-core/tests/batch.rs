//! A model for one frame as a model for any number of frames: which can be, and why others cannot.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cutline_core::{
    onnx::{
        ImportOptions, import, open_batch,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension::Value as Dim},
            type_proto,
        },
    },
    tensor::Shape,
    zoo,
};

fn info(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: Some(Dim::DimValue(size)), ..Dimension::default() };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sizes(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![values.len() as i64],
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), i: Some(value), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), ints: values.to_vec(), ..Default::default() }
}

fn node(op: &str, reads: &[&str], makes: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: Some(makes.to_owned()),
        op_type: Some(op.to_owned()),
        input: reads.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![makes.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// A network that makes `y` of `x`.
fn model(x: &[i64], y: &[i64], initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(14) }],
        graph: Some(GraphProto {
            input: vec![info("x", x)],
            output: vec![info("y", y)],
            initializer,
            node,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn networks_of_the_zoo_take_several_frames() {
    for name in zoo::names() {
        let built = zoo::build(name, &zoo::ZooOptions::default()).unwrap();
        let opened = open_batch(&built).unwrap_or_else(|error| panic!("{name}: {error}"));
        let alone = import(&built, &ImportOptions::default()).unwrap();
        let mut shape = alone.value(alone.inputs()[0]).shape.clone().unwrap();
        shape.0[0] = 5;
        let input_shapes = BTreeMap::from([("input".to_owned(), shape)]);
        let together = import(&opened, &ImportOptions { input_shapes }).unwrap();
        let answer = together.value(together.outputs()[0]).shape.clone().unwrap();
        assert_eq!(answer.0[0], 5, "{name}");
        // For one frame it is still the same network.
        let again = import(&opened, &ImportOptions::default()).unwrap();
        assert_eq!(again.layers().len(), alone.layers().len(), "{name}");
        for layer in alone.layers() {
            for value in layer.makes().map(|id| alone.value(id)) {
                let same = again.find_value(&value.name).map(|id| again.value(id).shape.clone());
                assert_eq!(same.as_ref(), Some(&value.shape), "{name}: {}", value.name);
            }
        }
        // And no weight was copied.
        let weights = |model: &ModelProto| {
            let tensors = &model.graph.as_ref().unwrap().initializer;
            let largest = tensors.iter().max_by_key(|t| t.raw_data.as_ref().map(|d| d.len()));
            largest.unwrap().raw_data.as_ref().unwrap().as_ptr()
        };
        assert_eq!(weights(&built), weights(&opened), "{name}");
    }
}

#[test]
fn what_cannot_take_several_frames_says_why() {
    let reshape = |to: &[i64], attributes: Vec<AttributeProto>| {
        (vec![sizes("to", to)], vec![node("Reshape", &["x", "to"], "y", attributes)])
    };
    let single = |op: &str, attributes: Vec<AttributeProto>| {
        (Vec::new(), vec![node(op, &["x"], "y", attributes)])
    };
    type Network = (Vec<TensorProto>, Vec<NodeProto>);
    let cases: [(&[i64], &[i64], Network, &str); 8] = [
        (&[4], &[4], single("Relu", vec![]), "input `x` is 4, whose first axis is not"),
        (&[1, 4], &[4], reshape(&[4], vec![]), "output `y` is 4, whose first axis is not"),
        (&[1, 6, 1], &[1, 6], reshape(&[1, 6], vec![int("allowzero", 1)]), "do not fit for 2"),
        (&[1, 4], &[1, 2, 2], reshape(&[-1, 2, 2], vec![]), ""),
        (&[1, 4], &[1, 2, 2], reshape(&[1, 2, 2], vec![]), ""),
        (&[1, 4], &[1, 1], single("ReduceMean", vec![ints("axes", &[0, 1])]), "would be 1x1"),
        (&[1, 4], &[4, 1], single("Transpose", vec![ints("perm", &[1, 0])]), "`y` is 4x1"),
        (&[1, 1], &[1, 1], single("Transpose", vec![ints("perm", &[1, 0])]), "would be 1x2"),
    ];
    for (x, y, (stored, nodes), words) in cases {
        match open_batch(&model(x, y, stored, nodes)) {
            Ok(_) => assert_eq!(words, "", "{x:?} -> {y:?}"),
            Err(error) => {
                let error = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                assert!(!words.is_empty() && error.contains(words), "{x:?} -> {y:?}: {error}");
            }
        }
    }
}

#[test]
fn what_is_said_of_one_frame_is_not_believed_of_several() {
    // Nothing is known of the operator, so that only the declaration gives its shape.
    let mut unknown = node("Mystery", &["x"], "y", vec![]);
    unknown.domain = Some("somewhere".to_owned());
    let error = open_batch(&model(&[1, 4], &[1, 4], Vec::new(), vec![unknown])).unwrap_err();
    assert!(error.to_string().contains("would be of unknown shape"), "{error}");
}

#[test]
fn sizes_that_others_read_stay_as_they_are() {
    let to = sizes("to", &[1, 2, 2]);
    let nodes = vec![node("Reshape", &["x", "to"], "r", vec![]), node("Relu", &["r"], "y", vec![])];
    let opened = open_batch(&model(&[1, 4], &[1, 2, 2], vec![to], nodes)).unwrap();
    let graph = opened.graph.unwrap();
    assert_eq!(graph.initializer[0].int64_data, [1, 2, 2]);
    assert_eq!(graph.node[0].input, ["x", "r.frames"]);
    let shape = Shape(vec![4, 2, 2]);
    let input_shapes = BTreeMap::from([("x".to_owned(), Shape(vec![4, 4]))]);
    let model = ModelProto {
        graph: Some(graph),
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(14) }],
        ..Default::default()
    };
    let graph = import(&model, &ImportOptions { input_shapes }).unwrap();
    assert_eq!(graph.value(graph.outputs()[0]).shape, Some(shape));
}
