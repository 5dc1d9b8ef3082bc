//! LiteRT (once TensorFlow Lite), loaded at run time from a shared library of the machine.
//!
//! It runs `.tflite` files as they are: nothing is converted, so that its answers are those of every
//! program that uses the library. An ONNX model it cannot run.
//!
//! It computes on the processor with the threads that a session asks for, by XNNPACK, whose results
//! depend neither on their number nor on chance. Inputs and outputs are copied at its border: they
//! are few, and the library wants them aligned to 64 bytes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cutline_core::{
    tensor::{DType, Shape},
    tflite::{self, split::wiring},
};

use super::{
    Engine, EngineError, EngineStatus, LoadOptions, ModelSource, Port, Session, check_inputs,
    check_threads, find_outputs,
};
use crate::tensor::Tensor;

mod binding;
pub(super) mod library;

/// The engine's name.
pub const NAME: &str = "litert";

/// The library, loaded.
#[derive(Clone)]
pub struct LiteRt {
    api: Arc<binding::Api>,
    version: Arc<str>,
}

impl LiteRt {
    /// Finds the library and loads it; the next call of the same process returns the same one.
    pub fn open() -> Result<Self, EngineError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((runtime, _)) = &*loaded {
            return Ok(runtime.clone());
        }
        let (found, api) = library::find().map_err(|missing| EngineError::Unavailable {
            engine: NAME.to_owned(),
            reason: missing.reason,
        })?;
        let runtime = Self { api: Arc::new(api), version: found.version.into() };
        *loaded = Some((runtime.clone(), found.path));
        Ok(runtime)
    }
}

/// What a process has loaded, and from where.
static LOADED: Mutex<Option<(LiteRt, PathBuf)>> = Mutex::new(None);

/// What is known of the engine on this machine. Loads the library, and keeps it.
pub fn status() -> EngineStatus {
    let (version, reason) = match LiteRt::open() {
        Ok(runtime) => (Some(runtime.version.to_string()), "found on this machine".to_owned()),
        Err(EngineError::Unavailable { reason, .. }) => (None, reason),
        Err(error) => (None, error.to_string()),
    };
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let path = loaded.as_ref().map(|(_, path)| path.clone());
    EngineStatus { name: NAME, available: version.is_some(), version, reason, path }
}

impl Engine for LiteRt {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn load(
        &self,
        model: &ModelSource,
        options: LoadOptions,
    ) -> Result<Box<dyn Session>, EngineError> {
        /// The library prepares its kernels at the first use, which several threads must not race.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        check_threads(NAME, options)?;
        let bytes = super::bytes(NAME, model)?;
        if !tflite::is_tflite(&bytes) {
            return Err(EngineError::load(
                NAME,
                "it runs TensorFlow Lite files only, and this is none; give the .tflite file that \
                 the model was made from, write its parts with --format tflite, or choose another \
                 engine, such as rten or onnxruntime",
            ));
        }
        // The library trusts what it reads more than a file from a network deserves.
        let wiring = wiring(&bytes).map_err(|error| EngineError::load(NAME, error))?;
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = binding::Loaded::new(self.api.clone(), &bytes, options.threads);
        drop(turn);
        let loaded = loaded.map_err(|reason| EngineError::load(NAME, reason))?;
        let port = |slot| port(slot, &wiring.names);
        let inputs = loaded.inputs.iter().map(port).collect::<Result<_, _>>()?;
        let outputs = loaded.outputs.iter().map(port).collect::<Result<_, _>>()?;
        Ok(Box::new(LiteRtSession { loaded, inputs, outputs }))
    }
}

/// An input or output, under the name that its tensor has in every other part of this program.
fn port(slot: &binding::Slot, names: &[String]) -> Result<Port, EngineError> {
    let name = names.get(slot.tensor as usize).cloned().unwrap_or_default();
    let dtype = dtype_of(slot.element).ok_or_else(|| {
        let reason = format!("tensor `{name}` has an element type that is not supported");
        EngineError::load(NAME, reason)
    })?;
    Ok(Port { name, dtype: Some(dtype) })
}

/// Element types as LiteRT numbers them.
fn dtype_of(element: i32) -> Option<DType> {
    Some(match element {
        1 => DType::F32,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        6 => DType::Bool,
        7 => DType::I16,
        9 => DType::I8,
        10 => DType::F16,
        11 => DType::F64,
        13 => DType::U64,
        16 => DType::U32,
        17 => DType::U16,
        19 => DType::BF16,
        _ => return None,
    })
}

struct LiteRtSession {
    loaded: binding::Loaded,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Session for LiteRtSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        let given = check_inputs(NAME, &self.inputs, inputs)?;
        let wanted = find_outputs(NAME, &self.outputs, outputs)?;
        let mut data: Vec<&[u8]> = vec![&[]; self.inputs.len()];
        for (&index, (name, tensor)) in given.iter().zip(inputs) {
            let expected = Shape(self.loaded.inputs[index].shape.clone());
            if *tensor.shape() != expected {
                let reason =
                    format!("input `{name}` is {}, the model declares {expected}", tensor.shape());
                return Err(EngineError::run(NAME, reason));
            }
            data[index] = tensor.data();
        }
        let answers =
            self.loaded.run(&data, &wanted).map_err(|reason| EngineError::run(NAME, reason))?;
        let tensor = |(&index, data): (&usize, Bytes)| {
            let shape = Shape(self.loaded.outputs[index].shape.clone());
            let dtype = self.outputs[index].dtype.unwrap_or(DType::U8);
            Tensor::new(dtype, shape, data).map_err(|error| EngineError::run(NAME, error))
        };
        wanted.iter().zip(answers).map(tensor).collect()
    }
}
