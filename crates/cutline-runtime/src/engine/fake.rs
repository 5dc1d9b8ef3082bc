//! An engine that computes nothing, for tests of what surrounds an engine.
//!
//! It reads the declared outputs of a model and answers each with its declared type and shape,
//! every byte the same: a checksum of the inputs. Equal inputs give equal answers, and a changed or
//! swapped input shows. Where the first axis of the outputs is open, each frame along the first axis of
//! the inputs is answered for itself.

use std::time::Duration;

use bytes::Bytes;
use cutline_core::{
    onnx::proto::{ModelProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto},
    tensor::{DType, Shape, byte_size},
};
use prost::Message;

use super::{Engine, EngineError, LoadOptions, ModelSource, Session};
use crate::tensor::Tensor;

const NAME: &str = "fake";

/// An engine whose every run takes the same time.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// How long a run takes.
    pub delay: Duration,
    /// An operator that it refuses to load.
    pub unsupported: Option<String>,
}

impl Engine for Fake {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        "0"
    }

    fn load(
        &self,
        model: &ModelSource,
        _options: LoadOptions,
    ) -> Result<Box<dyn Session>, EngineError> {
        let bytes = match model {
            ModelSource::File(path) => {
                std::fs::read(path).map_err(|error| EngineError::load(NAME, error))?.into()
            }
            ModelSource::Memory(bytes) => bytes.clone(),
        };
        let proto = ModelProto::decode(bytes).map_err(|error| EngineError::load(NAME, error))?;
        let graph = proto.graph.unwrap_or_default();
        let refused = graph.node.iter().find(|n| Some(n.op_type()) == self.unsupported.as_deref());
        if let Some(node) = refused {
            return Err(EngineError::Unsupported {
                engine: NAME.to_owned(),
                op: node.op_type().to_owned(),
                layer: Some(node.name().to_owned()),
            });
        }
        let outputs = graph.output.iter().filter_map(declared).collect();
        Ok(Box::new(FakeSession { delay: self.delay, outputs }))
    }
}

struct FakeSession {
    delay: Duration,
    outputs: Vec<Declared>,
}

/// An output.
struct Declared {
    name: String,
    dtype: DType,
    /// Of one frame.
    shape: Shape,
    /// Whether several frames may lie behind each other.
    is_open: bool,
}

impl Session for FakeSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        std::thread::sleep(self.delay);
        let answer = |name: &&str| {
            let found = self.outputs.iter().find(|output| output.name == **name);
            let missing = || EngineError::run(NAME, format!("the model has no output `{name}`"));
            let Declared { dtype, shape, is_open, .. } = found.ok_or_else(missing)?;
            let first = inputs.first().and_then(|(_, tensor)| tensor.shape().0.first());
            let frames = first.copied().filter(|_| *is_open).unwrap_or(1).max(1);
            let size = byte_size(*dtype, shape).map_or(0, |size| size.0 as usize);
            let sums = (0..frames as usize).map(|frame| checksum(inputs, frame, frames as usize));
            let data: Vec<u8> = sums.flat_map(|sum| std::iter::repeat_n(sum, size)).collect();
            let mut shape = shape.clone();
            if let Some(axis) = shape.0.first_mut() {
                *axis *= frames;
            }
            Tensor::new(*dtype, shape, Bytes::from(data))
                .map_err(|error| EngineError::run(NAME, error))
        };
        outputs.iter().map(answer).collect()
    }
}

/// Of one frame of so many.
fn checksum(inputs: &[(&str, &Tensor)], frame: usize, frames: usize) -> u8 {
    inputs.iter().fold(1u8, |sum, (name, tensor)| {
        let length = tensor.data().len() / frames;
        let data = &tensor.data()[frame * length..(frame + 1) * length];
        let bytes = name.bytes().chain(data.iter().copied());
        bytes.fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
    })
}

/// An output as the model declares it; symbolic dimensions are 1.
fn declared(info: &ValueInfoProto) -> Option<Declared> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref() else {
        return None;
    };
    let mut dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value {
        Some(dimension::Value::DimValue(size)) => u64::try_from(size).ok(),
        _ => None,
    });
    let first = dims.next();
    let shape = first.into_iter().chain(dims).map(|size| size.unwrap_or(1)).collect();
    Some(Declared {
        name: info.name().to_owned(),
        dtype: DType::from_onnx(tensor.elem_type?)?,
        shape: Shape(shape),
        is_open: first == Some(None),
    })
}
