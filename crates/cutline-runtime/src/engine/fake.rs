//! An engine that computes nothing, for tests of what surrounds an engine.
//!
//! It reads the declared outputs of a model and answers each with its declared type and shape,
//! every byte the same: a checksum of the inputs. Equal inputs give equal answers, and a changed or
//! swapped input shows.

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
    outputs: Vec<(String, DType, Shape)>,
}

impl Session for FakeSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        std::thread::sleep(self.delay);
        let sum = inputs.iter().fold(1u8, |sum, (name, tensor)| {
            let bytes = name.bytes().chain(tensor.data().iter().copied());
            bytes.fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
        });
        let answer = |name: &&str| {
            let found = self.outputs.iter().find(|output| output.0 == **name);
            let missing = || EngineError::run(NAME, format!("the model has no output `{name}`"));
            let (_, dtype, shape) = found.ok_or_else(missing)?;
            let size = byte_size(*dtype, shape).map_or(0, |size| size.0 as usize);
            Tensor::new(*dtype, shape.clone(), Bytes::from(vec![sum; size]))
                .map_err(|error| EngineError::run(NAME, error))
        };
        outputs.iter().map(answer).collect()
    }
}

/// Name, type and shape of an output; symbolic dimensions are 1.
fn declared(info: &ValueInfoProto) -> Option<(String, DType, Shape)> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref() else {
        return None;
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value {
        Some(dimension::Value::DimValue(size)) => u64::try_from(size).unwrap_or(1),
        _ => 1,
    });
    Some((info.name().to_owned(), DType::from_onnx(tensor.elem_type?)?, Shape(dims.collect())))
}
