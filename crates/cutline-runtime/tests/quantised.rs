//! Quantised ONNX models whose form is unusual, on both engines: each rewrites them before it runs
//! them, and must answer what the model says, computed here by hand.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cutline_core::{
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
        TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
        tensor_shape_proto, type_proto,
    },
    tensor::{DType, Shape},
};
use cutline_runtime::{
    engine::{self, LoadOptions, ModelSource},
    tensor::Tensor,
};
use prost::Message;

/// A model under construction.
struct Net(ModelProto);

impl Net {
    fn new(opset: i64) -> Self {
        let opset = OperatorSetIdProto { version: Some(opset), ..Default::default() };
        let graph = GraphProto { name: Some("g".to_owned()), ..Default::default() };
        Self(ModelProto {
            ir_version: Some(8),
            opset_import: vec![opset],
            graph: Some(graph),
            ..Default::default()
        })
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    fn input(mut self, name: &str, dtype: DType, shape: &[i64]) -> Self {
        self.graph().input.push(port(name, dtype, shape));
        self
    }

    fn output(mut self, name: &str, dtype: DType, shape: &[i64]) -> Self {
        self.graph().output.push(port(name, dtype, shape));
        self
    }

    fn stored(mut self, name: &str, dtype: DType, dims: &[i64], bytes: Vec<u8>) -> Self {
        self.graph().initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(dtype.onnx()),
            dims: dims.to_vec(),
            raw_data: Some(bytes.into()),
            ..Default::default()
        });
        self
    }

    fn floats(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.stored(name, DType::F32, dims, bytes)
    }

    fn bytes(self, name: &str, dims: &[i64], values: &[i8]) -> Self {
        self.stored(name, DType::I8, dims, values.iter().map(|&value| value as u8).collect())
    }

    /// A layer written `Op a b > c`, with attributes of integers.
    fn layer(mut self, line: &str, attributes: &[(&str, &[i64])]) -> Self {
        let (left, right) = line.split_once('>').unwrap();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let attribute = |&(name, values): &(&str, &[i64])| match values {
            &[value] if !name.contains("shape") => AttributeProto {
                name: Some(name.to_owned()),
                r#type: Some(AttributeType::Int as i32),
                i: Some(value),
                ..Default::default()
            },
            values => AttributeProto {
                name: Some(name.to_owned()),
                r#type: Some(AttributeType::Ints as i32),
                ints: values.to_vec(),
                ..Default::default()
            },
        };
        let left = words(left);
        self.graph().node.push(NodeProto {
            op_type: Some(left[0].clone()),
            input: left[1..].to_vec(),
            output: words(right),
            attribute: attributes.iter().map(attribute).collect(),
            ..Default::default()
        });
        self
    }

    /// What each of the engines that are there answers; fails where one of them cannot.
    #[track_caller]
    fn answers(self, engines: &[&str], input: &Tensor, expected: &[Tensor]) {
        let graph = self.0.graph.as_ref().unwrap();
        let name = graph.input[0].name().to_owned();
        let outputs: Vec<String> = graph.output.iter().map(|it| it.name().to_owned()).collect();
        let mut outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        outputs.dedup();
        let model = ModelSource::Memory(Bytes::from(self.0.encode_to_vec()));
        for engine in engines.iter().filter_map(|name| engine::open(name).ok()) {
            let place = engine.name().to_owned();
            let mut session = engine
                .load(&model, LoadOptions { threads: 1 })
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            let found = session.run(&[(&name, input)], &outputs).unwrap();
            assert_eq!(found, expected, "{place}");
        }
    }
}

fn port(name: &str, dtype: DType, shape: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(size)),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn f32s(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(Shape(shape.to_vec()), values.to_vec()).unwrap()
}

fn i8s(shape: &[u64], values: &[i8]) -> Tensor {
    Tensor::from_vec(DType::I8, Shape(shape.to_vec()), values.to_vec()).unwrap()
}

fn u8s(shape: &[u64], values: &[u8]) -> Tensor {
    Tensor::from_vec(DType::U8, Shape(shape.to_vec()), values.to_vec()).unwrap()
}

const BOTH: [&str; 2] = ["rten", "onnxruntime"];

#[test]
fn a_bias_has_its_own_scale() {
    // ONNX Runtime itself takes a bias by the scales of the other operands.
    Net::new(17)
        .input("x", DType::U8, &[1, 2])
        .output("y", DType::U8, &[1, 2])
        .floats("half", &[], &[0.5])
        .floats("quarter", &[], &[0.25])
        .stored("u0", DType::U8, &[], vec![0])
        .bytes("w", &[2, 2], &[2, 0, 0, 4])
        .stored("b", DType::I32, &[2], [8i32, -8].iter().flat_map(|v| v.to_le_bytes()).collect())
        .layer("DequantizeLinear x half u0 > a", &[])
        .layer("DequantizeLinear w half > v", &[])
        .layer("DequantizeLinear b half > c", &[])
        .layer("Gemm a v c > p", &[("transB", &[1])])
        .layer("QuantizeLinear p quarter u0 > y", &[])
        .answers(&["rten"], &u8s(&[1, 2], &[10, 20]), &[u8s(&[1, 2], &[36, 64])]);
}

#[test]
fn scales_along_the_axis_of_the_operand_are_no_factors_of_the_result() {
    // 5 * 0.5 + 10 * 6, and 5 * 1 + 10 * 8.
    Net::new(17)
        .input("x", DType::U8, &[1, 2])
        .output("y", DType::U8, &[1, 2])
        .floats("half", &[], &[0.5])
        .floats("two", &[2], &[0.5, 2.0])
        .stored("u0", DType::U8, &[], vec![0])
        .bytes("w", &[2, 2], &[1, 2, 3, 4])
        .layer("DequantizeLinear x half u0 > a", &[])
        .layer("DequantizeLinear w two > v", &[("axis", &[0])])
        .layer("Gemm a v > p", &[])
        .layer("QuantizeLinear p half u0 > y", &[])
        .answers(&BOTH, &u8s(&[1, 2], &[10, 20]), &[u8s(&[1, 2], &[125, 170])]);
    // The default axis of scales is 1, which is not that of a convolution's results.
    Net::new(17)
        .input("x", DType::U8, &[1, 2, 1, 1])
        .output("y", DType::U8, &[1, 2, 1, 1])
        .floats("half", &[], &[0.5])
        .floats("two", &[2], &[0.5, 2.0])
        .stored("u0", DType::U8, &[], vec![0])
        .bytes("w", &[2, 2, 1, 1], &[1, 3, 2, 4])
        .layer("DequantizeLinear x half u0 > a", &[])
        .layer("DequantizeLinear w two > v", &[])
        .layer("Conv a v > p", &[("kernel_shape", &[1, 1])])
        .layer("QuantizeLinear p half u0 > y", &[])
        .answers(&["rten"], &u8s(&[1, 2, 1, 1], &[10, 20]), &[u8s(&[1, 2, 1, 1], &[125, 170])]);
}

#[test]
fn scales_of_one_element_may_have_an_axis() {
    Net::new(17)
        .input("x", DType::I8, &[1, 2])
        .output("y", DType::I8, &[1, 2])
        .floats("half", &[1], &[0.5])
        .bytes("z", &[1], &[-3])
        .bytes("z0", &[1], &[0])
        .bytes("w", &[2, 2], &[2, 0, 0, 4])
        .layer("DequantizeLinear x half z > a", &[])
        .layer("DequantizeLinear w half z0 > v", &[])
        .layer("Gemm a v > p", &[("transB", &[1])])
        .layer("QuantizeLinear p half z > y", &[])
        .answers(&BOTH, &i8s(&[1, 2], &[7, -13]), &[i8s(&[1, 2], &[7, -23])]);
}

#[test]
fn places_of_the_greatest_elements_are_no_bytes() {
    Net::new(17)
        .input("x", DType::F32, &[1, 1, 1, 4])
        .output("y", DType::F32, &[1, 1, 1, 2])
        .output("places", DType::I64, &[1, 1, 1, 2])
        .floats("s", &[], &[1.0])
        .bytes("z", &[], &[-3])
        .layer("QuantizeLinear x s z > q", &[])
        .layer("MaxPool q > m places", &[("kernel_shape", &[1, 2]), ("strides", &[1, 2])])
        .layer("DequantizeLinear m s z > y", &[])
        .answers(
            &["onnxruntime"],
            &f32s(&[1, 1, 1, 4], &[1.0, 2.0, 4.0, 3.0]),
            &[
                f32s(&[1, 1, 1, 2], &[2.0, 4.0]),
                Tensor::from_vec::<i64>(DType::I64, Shape(vec![1, 1, 1, 2]), vec![1, 2]).unwrap(),
            ],
        );
}

#[test]
fn a_layer_that_states_its_type_is_rewritten_with_it() {
    Net::new(21)
        .input("x", DType::F32, &[1, 2])
        .output("y", DType::F32, &[1, 2])
        .floats("s", &[], &[0.5])
        .bytes("z", &[], &[-3])
        .layer("QuantizeLinear x s z > q", &[("output_dtype", &[3])])
        .layer("DequantizeLinear q s z > y", &[])
        .answers(&["onnxruntime"], &f32s(&[1, 2], &[1.2, -99.0]), &[f32s(&[1, 2], &[1.0, -62.5])]);
}

#[test]
fn activations_may_have_a_scale_for_each_channel() {
    Net::new(17)
        .input("x", DType::I8, &[1, 2, 2])
        .output("y", DType::F32, &[1, 2, 2])
        .floats("s", &[2], &[0.5, 2.0])
        .layer("DequantizeLinear x s > y", &[("axis", &[1])])
        .answers(
            &["onnxruntime"],
            &i8s(&[1, 2, 2], &[1, -2, 3, -128]),
            &[f32s(&[1, 2, 2], &[0.5, -1.0, 6.0, -256.0])],
        );
}

#[test]
fn bytes_that_only_move_need_no_layers_that_an_old_model_lacks() {
    Net::new(9)
        .input("x", DType::I8, &[2, 2])
        .output("y", DType::I8, &[2, 2])
        .layer("Transpose x > y", &[("perm", &[1, 0])])
        .answers(
            &["onnxruntime"],
            &i8s(&[2, 2], &[1, -2, 3, -128]),
            &[i8s(&[2, 2], &[1, 3, -2, -128])],
        );
}

#[test]
fn an_answer_may_be_read_inside_and_be_named_twice() {
    Net::new(17)
        .input("x", DType::F32, &[1, 2])
        .output("q", DType::I8, &[1, 2])
        .output("q", DType::I8, &[1, 2])
        .output("r", DType::I8, &[1, 4])
        .floats("s", &[], &[0.5])
        .bytes("z", &[], &[-3])
        .bytes("z5", &[], &[5])
        .layer("QuantizeLinear x s z > q", &[])
        .layer("DequantizeLinear q s z > a", &[])
        .layer("QuantizeLinear a s z5 > p", &[])
        .layer("Concat q p > r", &[("axis", &[1])])
        .answers(
            &["onnxruntime"],
            &f32s(&[1, 2], &[1.0, -1.0]),
            &[i8s(&[1, 2], &[-1, -5]), i8s(&[1, 4], &[-1, -5, 7, 3])],
        );
}

#[test]
fn weights_may_be_quantised_within_the_model() {
    Net::new(17)
        .input("x", DType::I8, &[1, 1, 1, 2])
        .output("y", DType::I8, &[1, 2, 1, 2])
        .floats("half", &[], &[0.5])
        .floats("w", &[2, 1, 1, 1], &[1.1, -64.0])
        .bytes("z", &[], &[-3])
        .bytes("z0", &[], &[0])
        .layer("DequantizeLinear x half z > a", &[])
        .layer("QuantizeLinear w half z0 > q", &[])
        .layer("DequantizeLinear q half z0 > v", &[])
        .layer("Conv a v > p", &[("kernel_shape", &[1, 1])])
        .layer("QuantizeLinear p half z > y", &[])
        .answers(&BOTH, &i8s(&[1, 1, 1, 2], &[7, -4]), &[i8s(&[1, 2, 1, 2], &[7, -4, -128, 61])]);
}
