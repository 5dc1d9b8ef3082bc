//! The file: tables of tensors, operators and the data of constants.

use bytes::Bytes;

use super::{
    super::schema::tflite::{
        BuiltinOperator as Code, Model, Operator as WrittenOperator, OperatorCode,
        QuantizationParameters, SubGraph, Tensor as WrittenTensor, TensorType,
    },
    super::write::{self, TooLarge},
    Data, Network, Scales, Tensor,
};

/// Version of the format.
const VERSION: u32 = 3;

impl Network {
    /// The file. Takes memory for the weights twice.
    pub fn encode(self) -> Result<Bytes, TooLarge> {
        let Network { name, tensors, operators, inputs, outputs } = self;
        let mut codes: Vec<(Code, i32)> = Vec::new();
        let indices = |list: Vec<usize>| Some(list.into_iter().map(|at| at as i32).collect());
        let quantised = |at: &usize| tensors[*at].scales.is_some();
        let mut written = Vec::with_capacity(operators.len());
        for operator in operators {
            let code =
                (operator.code, version(operator.code, operator.outputs.iter().any(quantised)));
            let at = codes.iter().position(|known| *known == code).unwrap_or_else(|| {
                codes.push(code);
                codes.len() - 1
            });
            written.push(WrittenOperator {
                opcode_index: at as u32,
                inputs: indices(operator.inputs),
                outputs: indices(operator.outputs),
                builtin_options: operator.options,
                ..WrittenOperator::default()
            });
        }
        // The first buffer stands for no data.
        let mut buffers = vec![Vec::new()];
        let tensors = tensors.into_iter().map(|tensor| tensor.write(&mut buffers)).collect();
        let graph = SubGraph {
            tensors: Some(tensors),
            inputs: indices(inputs),
            outputs: indices(outputs),
            operators: Some(written),
            name: Some(name),
            ..SubGraph::default()
        };
        let codes = codes.into_iter().map(|(builtin_code, version)| OperatorCode {
            // Readers from before there were more than 127 look here.
            deprecated_builtin_code: (builtin_code as i32).min(127) as i8,
            version,
            builtin_code,
            ..OperatorCode::default()
        });
        let model = Model {
            version: VERSION,
            operator_codes: Some(codes.collect()),
            subgraphs: Some(vec![graph]),
            description: Some(format!("cutline {}", env!("CARGO_PKG_VERSION"))),
            ..Model::default()
        };
        let buffers: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        write::encode(&model, &buffers)
    }
}

impl Tensor {
    fn write(self, buffers: &mut Vec<Vec<u8>>) -> WrittenTensor {
        let quantised = self.scales.is_some();
        let (type_, data) = match self.data {
            Data::Made if quantised => (TensorType::Int8, None),
            Data::Made => (TensorType::Float32, None),
            Data::Floats(list) => {
                (TensorType::Float32, Some(list.into_iter().flat_map(f32::to_le_bytes).collect()))
            }
            Data::Integers(list) => {
                (TensorType::Int32, Some(list.into_iter().flat_map(i32::to_le_bytes).collect()))
            }
            Data::Bytes(list) => {
                (TensorType::Int8, Some(list.into_iter().map(|byte| byte as u8).collect()))
            }
        };
        let buffer = data.map_or(0, |data| {
            buffers.push(data);
            buffers.len() as u32 - 1
        });
        WrittenTensor {
            shape: Some(self.shape),
            type_,
            buffer,
            name: Some(self.name),
            quantization: self.scales.map(|scales| Box::new(scales.write())),
            ..WrittenTensor::default()
        }
    }
}

impl Scales {
    fn write(self) -> QuantizationParameters {
        QuantizationParameters {
            scale: Some(self.scale),
            zero_point: Some(self.zero_point),
            quantized_dimension: self.axis,
            ..QuantizationParameters::default()
        }
    }
}

/// The first version of an operator that computes with these types.
fn version(code: Code, quantised: bool) -> i32 {
    match code {
        _ if !quantised => 1,
        Code::Conv2d | Code::DepthwiseConv2d => 3,
        Code::FullyConnected => 4,
        Code::Reshape | Code::HardSwish => 1,
        _ => 2,
    }
}
