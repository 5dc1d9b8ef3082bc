//! One stage of a plan: what it receives, computes, sends on and answers.
//!
//! A [`StageSpec`] travels as JSON when a stage is deployed; [`Stage`] is the same thing checked.
//! A stage receives named tensors, or a picture in place of the network's input; it computes its
//! model on some of them, sends what the rest of the plan still needs to the next stage, and
//! answers with the network's outputs in their declared order: its own and those that came back.
//! Where branches of the network run at the same time, their stages are called first, all at once,
//! and what they answer joins what goes on.
//!
//! ```text
//!           inputs              ┌─▶ [ branch ] ─┐
//! caller ────────────▶ [ model ]┼─▶ [ branch ] ─┼────────────▶ next stage
//!        ◀──────────── answers ◀───────────────────────────────
//! ```
//!
//! The same type drives agents ([`agent`](crate::agent)) and runs without any
//! ([`runner`](crate::runner)), so that both compute the same thing.

use std::collections::BTreeSet;

use cutline_core::{
    picture::{InputEncoding, PictureSpec},
    tensor::{DType, Shape},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) mod batch;
mod coded;
pub mod content;
pub mod execute;
mod prepare;
#[cfg(test)]
mod tests;
pub mod trace;

pub use coded::{Coded, code_of};
pub use content::{Content, Named};
pub use execute::{Executed, Made, Ran, Sending, StageSession};

/// Name of the input through which a source stage takes a JPEG or PNG file.
pub const PICTURE_INPUT: &str = "picture";

/// Most tensors that a stage may receive, make, send or answer.
const MAX_TENSORS: usize = 4096;

/// Most branches that a stage may call at the same time.
const MAX_BRANCHES: usize = 64;

/// Most agents that may share one stage.
const MAX_REPLICAS: usize = 64;

/// Longest name of anything in a stage description, in bytes.
const MAX_NAME: usize = 1024;

/// A stage as its plan describes it; plain data, checked by [`Stage::new`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// Plan that it belongs to, for messages.
    pub plan: String,
    /// Name of the stage within its plan, e.g. `0-pi`.
    pub name: String,
    /// Device that runs it, as the platform names it.
    pub device: String,
    /// Tensors that it receives, as they are once any picture is turned into its tensor.
    pub inputs: Vec<TensorSpec>,
    /// How one of those inputs is made from a picture, where the plan says so.
    #[serde(default)]
    pub picture: Option<PictureInput>,
    /// What it computes; absent where it only prepares and forwards.
    #[serde(default)]
    pub model: Option<ModelSpec>,
    /// Tensors that it answers, in declared order: outputs of the network, its own and those of later
    /// stages; of a branch, what it makes.
    pub answers: Vec<TensorSpec>,
    /// Branches that run at the same time once this stage has computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    /// Who goes on; absent for the last stage.
    #[serde(default)]
    pub next: Option<NextStage>,
}

/// Name and type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name of the value in the model file.
    pub name: String,
    /// Element type on the wire: the one that the model file declares.
    pub dtype: DType,
    /// Axis sizes; absent where they are known only after the run.
    pub shape: Option<Shape>,
}

/// Which input is made from a picture, how, and how it travels on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureInput {
    /// Name of the network input that the picture becomes.
    pub input: String,
    /// From pixels to the tensor.
    pub spec: PictureSpec,
    /// How this stage sends it on, where the next stage needs it.
    pub encoding: InputEncoding,
}

/// The model of a stage and what it costs to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Its files; the first is the model, the others lie beside it under their names.
    pub files: Vec<FileSpec>,
    /// Engine that runs it; absent: the agent's own choice.
    #[serde(default)]
    pub engine: Option<String>,
    /// Threads of one run; absent: the agent's own choice.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Names of the stage's inputs that the model reads.
    pub inputs: Vec<String>,
    /// What it computes: values that cross to the next stage, and outputs of the network.
    pub outputs: Vec<TensorSpec>,
    /// Memory that running it takes.
    #[serde(default)]
    pub memory: MemoryEstimate,
}

/// One file of a model, by content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileSpec {
    /// File name, without folders: `model.onnx`, `model.onnx.data`.
    pub name: String,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// Length of its content.
    pub bytes: u64,
}

/// Memory of a stage, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// Weights.
    pub parameter_bytes: u64,
    /// Peak of live activations, inputs and outputs included.
    pub activation_bytes: u64,
    /// The engine itself.
    pub engine_bytes: u64,
}

impl MemoryEstimate {
    /// Everything together, where at least the model's files are held.
    pub fn total(&self, file_bytes: u64) -> u64 {
        let weights = self.parameter_bytes.max(file_bytes);
        weights.saturating_add(self.activation_bytes).saturating_add(self.engine_bytes)
    }
}

/// A stage that is called beside others, and answers to the one that called it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// Who runs it, and what it is sent.
    pub stage: NextStage,
    /// What it answers.
    pub brings: Vec<TensorSpec>,
}

/// Who goes on after a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStage {
    /// Its name within the plan, for messages.
    pub stage: String,
    /// Its device, for messages.
    pub device: String,
    /// Address to dial: the device's own, or that of the link in front of it.
    pub address: String,
    /// Addresses of further agents that do the same: each frame goes to one of them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<String>,
    /// Whether it is on this stage's own agent, which then calls it without a message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
    /// Name under which it is deployed there.
    pub model_name: String,
    /// Names of the values that it receives: made here, or received here and passed on.
    pub sends: Vec<String>,
    /// Those of them that are sent in the entropy code, if its agent says that it reads that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entropy_coded: Vec<String>,
    /// Whether another program than an agent answers there: it is sent plain tensors, and asked
    /// neither for its clock nor where the time went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
}

/// What is wrong with a stage description, its inputs, or its run.
#[derive(Debug, Error)]
pub enum StageError {
    /// The description contradicts itself.
    #[error("stage `{stage}` is not valid: {reason}")]
    Invalid {
        /// Stage name.
        stage: String,
        /// What contradicts what.
        reason: String,
    },
    /// A request does not fit the stage.
    #[error("stage `{stage}` cannot take this input: {reason}")]
    Input {
        /// Stage name.
        stage: String,
        /// Which tensor, what was expected and what came.
        reason: String,
    },
    /// A picture could not be read.
    #[error("stage `{stage}` could not prepare the picture: {reason}")]
    Picture {
        /// Stage name.
        stage: String,
        /// The decoder's words.
        reason: String,
    },
    /// The engine failed.
    #[error("stage `{stage}` failed to compute")]
    Engine {
        /// Stage name.
        stage: String,
        /// The engine's error.
        #[source]
        source: crate::engine::EngineError,
    },
    /// A result is not what the description promises.
    #[error("stage `{stage}` got a wrong result: {reason}")]
    Result {
        /// Stage name.
        stage: String,
        /// Which tensor, what was expected and what came.
        reason: String,
    },
}

/// A checked stage: every name it sends or answers has a known origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage(StageSpec);

impl Stage {
    /// Checks that the description is consistent. O(n log n) in the number of tensors.
    pub fn new(spec: StageSpec) -> Result<Self, StageError> {
        match check(&spec) {
            Ok(()) => Ok(Self(spec)),
            Err(reason) => Err(StageError::Invalid { stage: clip(&spec.name), reason }),
        }
    }

    /// Reads a description as it travels.
    pub fn from_json(json: &str) -> Result<Self, StageError> {
        let spec = serde_json::from_str(json).map_err(|error| StageError::Invalid {
            stage: "?".to_owned(),
            reason: format!("its description does not parse: {error}"),
        })?;
        Self::new(spec)
    }

    /// The description.
    pub fn spec(&self) -> &StageSpec {
        &self.0
    }

    /// Stages that this one calls: branches, then the next one.
    pub fn calls(&self) -> impl Iterator<Item = &NextStage> {
        self.0.calls()
    }
}

impl NextStage {
    /// Where it may be called.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.address).chain(&self.replicas).map(String::as_str)
    }
}

impl StageSpec {
    /// Stages that this one calls: branches, then the next one.
    pub fn calls(&self) -> impl Iterator<Item = &NextStage> {
        self.branches.iter().map(|branch| &branch.stage).chain(&self.next)
    }

    /// The same, to be changed.
    pub fn calls_mut(&mut self) -> impl Iterator<Item = &mut NextStage> {
        self.branches.iter_mut().map(|branch| &mut branch.stage).chain(&mut self.next)
    }
}

fn check(spec: &StageSpec) -> Result<(), String> {
    let inputs = unique("input", spec.inputs.iter().map(|tensor| &tensor.name))?;
    unique("answer", spec.answers.iter().map(|tensor| &tensor.name))?;
    for text in [&spec.plan, &spec.name, &spec.device] {
        bounded(text)?;
    }
    let mut made = BTreeSet::new();
    if let Some(model) = &spec.model {
        for name in unique("model input", model.inputs.iter())? {
            if !inputs.contains(name) {
                return Err(format!("its model reads `{name}`, which it does not receive"));
            }
        }
        made = unique("model output", model.outputs.iter().map(|tensor| &tensor.name))?;
        check_files(&model.files)?;
    }
    if let Some(picture) = &spec.picture {
        check_picture(picture, &spec.inputs)?;
    }
    if spec.branches.len() > MAX_BRANCHES {
        return Err(format!("it calls {} branches, more than {MAX_BRANCHES}", spec.branches.len()));
    }
    let mut has: BTreeSet<&str> = inputs.union(&made).copied().collect();
    for branch in &spec.branches {
        check_sends(&branch.stage, &has)?;
    }
    for branch in &spec.branches {
        for name in unique("value of a branch", branch.brings.iter().map(|tensor| &tensor.name))? {
            if !has.insert(name) {
                return Err(format!(
                    "branch `{}` brings `{name}`, which is here",
                    branch.stage.stage
                ));
            }
        }
    }
    if let Some(next) = &spec.next {
        return check_sends(next, &has);
    }
    let mut held = spec.answers.iter().map(|tensor| tensor.name.as_str());
    match held.find(|name| !has.contains(name)) {
        Some(name) => Err(format!("it answers `{name}`, which it neither receives nor computes")),
        None => Ok(()),
    }
}

fn check_sends(next: &NextStage, has: &BTreeSet<&str>) -> Result<(), String> {
    unique(
        "address",
        std::iter::once(&next.address).filter(|a| !a.is_empty()).chain(&next.replicas),
    )?;
    if next.replicas.len() >= MAX_REPLICAS {
        let count = 1 + next.replicas.len();
        return Err(format!("`{}` is on {count} agents, more than {MAX_REPLICAS}", next.stage));
    }
    let sends = unique("value to send", next.sends.iter())?;
    if let Some(name) = sends.iter().find(|name| !has.contains(*name)) {
        return Err(format!("it sends `{name}`, which it neither receives nor computes"));
    }
    for name in unique("value in the entropy code", next.entropy_coded.iter())? {
        if !sends.contains(name) {
            return Err(format!("it codes `{name}`, which it does not send"));
        }
    }
    Ok(())
}

fn check_files(files: &[FileSpec]) -> Result<(), String> {
    if files.is_empty() {
        return Err("its model has no file".to_owned());
    }
    unique("file", files.iter().map(|file| &file.name))?;
    for file in files {
        if !is_file_name(&file.name) {
            return Err(format!("`{}` is not a plain file name", clip(&file.name)));
        }
        if !is_sha256(&file.sha256) {
            return Err(format!("file `{}` has no SHA-256 in lower-case hex", file.name));
        }
    }
    Ok(())
}

fn check_picture(picture: &PictureInput, inputs: &[TensorSpec]) -> Result<(), String> {
    let Some(input) = inputs.iter().find(|tensor| tensor.name == picture.input) else {
        return Err(format!("its picture becomes `{}`, which is no input", clip(&picture.input)));
    };
    let (width, height) = (picture.spec.width, picture.spec.height);
    if width == 0 || height == 0 || width > 16384 || height > 16384 {
        return Err(format!("a picture of {width}x{height} pixels is not 1 to 16384 a side"));
    }
    match input.shape == Some(picture.spec.shape()) && input.dtype == picture.spec.dtype {
        true => Ok(()),
        false => Err(format!(
            "its picture becomes {} {}, but `{}` is {}",
            picture.spec.dtype,
            picture.spec.shape(),
            input.name,
            input.describe()
        )),
    }
}

/// Whether a text names a file of a folder and nothing outside it, on every system.
pub(crate) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0', ':'])
}

/// Whether a text is a SHA-256 in lower-case hex; such a text is also a safe file name.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn unique<'a>(
    what: &str,
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeSet<&'a str>, String> {
    let mut seen = BTreeSet::new();
    for name in names {
        bounded(name)?;
        if !seen.insert(name.as_str()) {
            return Err(format!("{what} `{name}` stands twice"));
        }
        if seen.len() > MAX_TENSORS {
            return Err(format!("it has more than {MAX_TENSORS} of: {what}"));
        }
    }
    Ok(seen)
}

fn bounded(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("a name has {} bytes, not 1 to {MAX_NAME}", name.len()));
    }
    Ok(())
}

/// A name from outside, cut to a length that fits a message.
pub(crate) fn clip(name: &str) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// An error with all its causes, for where only text can go on.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
