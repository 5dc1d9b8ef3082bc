//! Inference engines behind one small trait: load model bytes, run named tensors.
//!
//! | engine | what | where |
//! |---|---|---|
//! | `rten` | pure Rust, part of every build | [`rten`] |
//! | `onnxruntime` | the fast path; a shared library found on the machine | [`onnxruntime`] |
//! | `onnxruntime-cuda` | the same library on an NVIDIA GPU | [`onnxruntime`] |
//! | `litert` | runs `.tflite` files only; a shared library found on the machine | [`litert`] |
//!
//! An engine computes in whatever types it has; what enters and leaves a [`Session`] has the types
//! that the model file declares. Nothing outside this module knows an engine.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use cutline_core::{onnx::proto::ModelProto, split::Format, tensor::DType, tflite};
use prost::Message;
use thiserror::Error;

use crate::tensor::Tensor;

mod convert;
pub mod fake;
pub mod install;
mod legacy;
mod library;
pub mod litert;
pub mod onnxruntime;
pub mod rten;
mod support;
mod unsigned;
mod whole;

pub use support::unsupported_layers;

/// Most threads that a session may be asked to compute with.
pub const MAX_THREADS: usize = 512;

/// Where a model's bytes are.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A file; external data is looked for beside it.
    File(PathBuf),
    /// A whole model in memory, without external data.
    Memory(Bytes),
}

/// How a session computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads of one run; at least 1, at most [`MAX_THREADS`].
    pub threads: usize,
}

/// An inference engine that is ready to load models.
pub trait Engine: Send + Sync {
    /// Short name, one of [`NAMES`].
    fn name(&self) -> &str;

    /// Version of the library that computes.
    fn version(&self) -> &str;

    /// Loads a model. Fails on anything that the engine cannot run.
    fn load(
        &self,
        model: &ModelSource,
        options: LoadOptions,
    ) -> Result<Box<dyn Session>, EngineError>;
}

/// A loaded model.
pub trait Session: Send {
    /// Runs once: every input of the model by name, the named outputs back in the asked order, in
    /// the types that the model file declares.
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError>;
}

/// An engine by choice, shared by all who load models.
pub type SharedEngine = Arc<dyn Engine>;

/// Names of the engines that this build knows, the embedded one first.
pub const NAMES: [&str; 4] = [rten::NAME, onnxruntime::NAME, onnxruntime::CUDA_NAME, litert::NAME];

/// The format of the parts that an engine is given: TensorFlow Lite files where it takes no others.
pub fn part_format(engine: &str) -> Format {
    match engine {
        litert::NAME => Format::Tflite,
        _ => Format::Onnx,
    }
}

/// What is known of an engine on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// Its name, as [`open`] takes it.
    pub name: &'static str,
    /// Version of the library that would compute, where there is one.
    pub version: Option<String>,
    /// Whether [`open`] would succeed.
    pub available: bool,
    /// Why not, and what to do; or where it comes from.
    pub reason: String,
    /// The shared library, for an engine that is one.
    pub path: Option<PathBuf>,
}

/// Opens an engine by name. `auto` is not a name: it is resolved by who holds the measurements.
pub fn open(name: &str) -> Result<SharedEngine, EngineError> {
    match name {
        rten::NAME => Ok(Arc::new(rten::Rten)),
        onnxruntime::NAME => Ok(Arc::new(onnxruntime::OnnxRuntime::open()?)),
        onnxruntime::CUDA_NAME => Ok(Arc::new(onnxruntime::OnnxRuntime::open_cuda()?)),
        litert::NAME => Ok(Arc::new(litert::LiteRt::open()?)),
        _ => Err(EngineError::Unknown(name.to_owned())),
    }
}

/// Those of [`available`] that are here and take ONNX files.
pub fn for_onnx() -> impl DoubleEndedIterator<Item = EngineStatus> {
    let takes = |status: &EngineStatus| part_format(status.name) == Format::Onnx;
    available().into_iter().filter(move |status| status.available && takes(status))
}

/// The state of every engine of [`NAMES`], in that order. Loads libraries, and runs one
/// operator on a GPU where a library is built for one.
pub fn available() -> Vec<EngineStatus> {
    let embedded = EngineStatus {
        name: rten::NAME,
        version: Some(rten::VERSION.to_owned()),
        available: true,
        reason: "part of this build".to_owned(),
        path: None,
    };
    vec![embedded, onnxruntime::status(), onnxruntime::cuda_status(), litert::status()]
}

/// Why an engine could not be had, could not load, or could not run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No engine of that name exists.
    #[error("unknown engine `{0}`; this build knows `{names}`", names = NAMES.join("`, `"))]
    Unknown(String),
    /// The engine's library is missing or unfit.
    #[error("engine `{engine}` is not available: {reason}")]
    Unavailable {
        /// Engine name.
        engine: String,
        /// Cause and remedy.
        reason: String,
    },
    /// The model has an operator that the engine lacks.
    #[error("engine `{engine}` cannot run operator `{op}`{}", layer.as_ref().map(|l| format!(" of layer `{l}`")).unwrap_or_default())]
    Unsupported {
        /// Engine name.
        engine: String,
        /// Operator name.
        op: String,
        /// Layer name, where the engine says it.
        layer: Option<String>,
    },
    /// Loading failed otherwise.
    #[error("engine `{engine}` could not load the model: {reason}")]
    Load {
        /// Engine name.
        engine: String,
        /// The engine's own words.
        reason: String,
    },
    /// Running failed.
    #[error("engine `{engine}` failed to run: {reason}")]
    Run {
        /// Engine name.
        engine: String,
        /// The engine's own words.
        reason: String,
    },
}

impl EngineError {
    fn unsupported(engine: &str, op: &str, layer: Option<String>) -> Self {
        Self::Unsupported { engine: engine.to_owned(), op: op.to_owned(), layer }
    }

    fn load(engine: &str, reason: impl ToString) -> Self {
        Self::Load { engine: engine.to_owned(), reason: reason.to_string() }
    }

    fn run(engine: &str, reason: impl ToString) -> Self {
        Self::Run { engine: engine.to_owned(), reason: reason.to_string() }
    }
}

/// The bytes of a model; a file is mapped, and only what is looked at is read.
fn bytes(engine: &str, source: &ModelSource) -> Result<Bytes, EngineError> {
    match source {
        ModelSource::Memory(bytes) => Ok(bytes.clone()),
        ModelSource::File(path) => {
            let failed = |error| EngineError::load(engine, format!("{}: {error}", path.display()));
            map(&File::open(path).map_err(failed)?).map_err(failed)
        }
    }
}

/// The message of a model.
fn decode(engine: &str, source: &ModelSource) -> Result<ModelProto, EngineError> {
    ModelProto::decode(bytes(engine, source)?)
        .map_err(|error| EngineError::load(engine, format!("not an ONNX model: {error}")))
}

/// A file's bytes without reading them.
fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the map is read-only, and a package's files are written under a temporary name and
    // renamed: a model file is replaced, never changed in place.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}

/// A TensorFlow Lite model as ONNX, for engines that load nothing else; `None` for other models.
fn converted(engine: &str, source: &ModelSource) -> Result<Option<ModelSource>, EngineError> {
    let bytes = bytes(engine, source)?;
    if !tflite::is_tflite(&bytes) {
        return Ok(None);
    }
    let converted = tflite::convert(&bytes).map_err(|error| EngineError::load(engine, error))?;
    Ok(Some(ModelSource::Memory(converted.model.encode_to_vec().into())))
}

/// The first layer with this operator: its node name, else its first output.
fn layer_with(model: &ModelProto, op: &str) -> Option<String> {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let node = nodes.into_iter().find(|node| node.op_type() == op)?;
    let name = node.name.as_ref().filter(|name| !name.is_empty());
    name.or(node.output.first()).cloned()
}

/// An input or output of a loaded model, as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// `None` where the file does not say.
    dtype: Option<DType>,
}

/// Refuses a thread count that no machine has.
fn check_threads(engine: &str, options: LoadOptions) -> Result<(), EngineError> {
    match options.threads {
        1..=MAX_THREADS => Ok(()),
        threads => Err(EngineError::load(
            engine,
            format!("cannot compute with {threads} threads; choose 1 to {MAX_THREADS}"),
        )),
    }
}

/// Positions of the given inputs among the declared ones. Refuses a run that lacks an input, has
/// one too many, or brings one in another type.
fn check_inputs(
    engine: &str,
    declared: &[Port],
    inputs: &[(&str, &Tensor)],
) -> Result<Vec<usize>, EngineError> {
    let mut given = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let position = declared.iter().position(|port| port.name == *name);
        let Some(index) = position else {
            return Err(EngineError::run(engine, format!("the model has no input `{name}`")));
        };
        if given.contains(&index) {
            return Err(EngineError::run(engine, format!("input `{name}` is given twice")));
        }
        let actual = tensor.dtype();
        match declared[index].dtype {
            Some(dtype) if dtype != actual => {
                let reason = format!("input `{name}` is {actual}, the model declares {dtype}");
                return Err(EngineError::run(engine, reason));
            }
            _ => given.push(index),
        }
    }
    match declared.iter().enumerate().find(|(index, _)| !given.contains(index)) {
        Some((_, port)) => {
            Err(EngineError::run(engine, format!("input `{}` is missing", port.name)))
        }
        None => Ok(given),
    }
}

/// Positions of the asked outputs among the declared ones.
fn find_outputs(
    engine: &str,
    declared: &[Port],
    outputs: &[&str],
) -> Result<Vec<usize>, EngineError> {
    let find = |name: &&str| {
        declared
            .iter()
            .position(|port| port.name == **name)
            .ok_or_else(|| EngineError::run(engine, format!("the model has no output `{name}`")))
    };
    outputs.iter().map(find).collect()
}
