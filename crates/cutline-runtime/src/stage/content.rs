//! What a named tensor of a request holds: numbers, or the bytes of a picture.

use bytes::Bytes;
use cutline_core::tensor::{DType, Shape};

use crate::{
    stage::{Branch, Coded, Stage, StageError, TensorSpec},
    tensor::Tensor,
};

/// Data under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A dense tensor.
    Tensor(Tensor),
    /// One element of type BYTES: a picture file.
    Bytes(Bytes),
    /// A dense tensor in the entropy code.
    Coded(Coded),
}

impl Content {
    /// The data itself, as it travels.
    pub fn data(&self) -> &Bytes {
        match self {
            Content::Tensor(tensor) => tensor.data(),
            Content::Bytes(bytes) => bytes,
            Content::Coded(coded) => coded.code(),
        }
    }

    /// Bytes of the data.
    pub fn len(&self) -> usize {
        self.data().len()
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.data().is_empty()
    }
}

/// A value's name with its data.
pub type Named = (String, Content);

/// Bytes of several values.
pub fn total_bytes<'a>(values: impl IntoIterator<Item = &'a Named>) -> u64 {
    values.into_iter().map(|(_, content)| content.len() as u64).sum()
}

impl TensorSpec {
    /// `FP32 1x3x224x224`, for messages.
    pub fn describe(&self) -> String {
        match &self.shape {
            Some(shape) => format!("{} {shape}", self.dtype),
            None => format!("{} of any shape", self.dtype),
        }
    }

    /// Whether a coded tensor has this type. The shape must be declared, since memory is reserved
    /// for it.
    pub fn admits_coded(&self, coded: &Coded) -> bool {
        self.dtype == DType::U8 && self.shape.as_ref() == Some(coded.shape())
    }

    /// Whether a tensor has this type.
    pub fn admits(&self, tensor: &Tensor) -> bool {
        self.dtype == tensor.dtype()
            && self.shape.as_ref().is_none_or(|shape| shape == tensor.shape())
    }
}

/// A tensor's type, for messages.
pub(crate) fn describe(dtype: DType, shape: &Shape) -> String {
    format!("{dtype} {shape}")
}

impl Stage {
    /// An error about a request.
    pub(crate) fn input_error(&self, reason: impl Into<String>) -> StageError {
        StageError::Input { stage: self.spec().name.clone(), reason: reason.into() }
    }

    /// An error about a result.
    pub(crate) fn result_error(&self, reason: impl Into<String>) -> StageError {
        StageError::Result { stage: self.spec().name.clone(), reason: reason.into() }
    }

    /// Picks what a stage answers, in declared order, from what it has of its own and what others
    /// answered.
    pub fn join(&self, pool: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, StageError> {
        self.pick(&self.spec().answers, pool, "no stage")
    }

    /// What a branch was called for, from what it answered.
    pub fn brought(
        &self,
        branch: &Branch,
        answers: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, StageError> {
        self.pick(&branch.brings, answers, &format!("stage `{}` has not", branch.stage.stage))
    }

    fn pick(
        &self,
        wanted: &[TensorSpec],
        mut pool: Vec<(String, Tensor)>,
        nobody: &str,
    ) -> Result<Vec<(String, Tensor)>, StageError> {
        let mut picked = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let Some(position) = pool.iter().position(|(name, _)| *name == wanted.name) else {
                return Err(self.result_error(format!("{nobody} answered `{}`", wanted.name)));
            };
            let (name, tensor) = pool.swap_remove(position);
            if !wanted.admits(&tensor) {
                return Err(self.result_error(format!(
                    "`{name}` is {}, declared is {}",
                    describe(tensor.dtype(), tensor.shape()),
                    wanted.describe()
                )));
            }
            picked.push((name, tensor));
        }
        Ok(picked)
    }
}
