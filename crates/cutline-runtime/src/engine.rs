//! Inference engines behind one small trait: load model bytes, run named tensors.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use thiserror::Error;

use crate::tensor::Tensor;

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
    /// Threads of one run; at least 1.
    pub threads: usize,
}

/// An inference engine that is ready to load models.
pub trait Engine: Send + Sync {
    /// Short name: `rten`, `onnxruntime`.
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

/// Why an engine could not be had, could not load, or could not run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No engine of that name exists.
    #[error("unknown engine `{0}`; this build knows `rten` and `onnxruntime`")]
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
