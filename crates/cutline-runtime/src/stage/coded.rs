//! A tensor of bytes in the entropy code, as agents send it to each other.

use bytes::Bytes;
use cutline_core::{
    entropy::{self, EntropyError},
    tensor::{DType, Shape},
};

use crate::tensor::Tensor;

/// A tensor of bytes, and its code in place of them. What its shape says is believed only once it
/// is found to be the declared one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    shape: Shape,
    code: Bytes,
}

impl Coded {
    /// What came under this shape.
    pub fn new(shape: Shape, code: Bytes) -> Self {
        Self { shape, code }
    }

    /// The code of a tensor; `None` where it is not one of bytes.
    pub fn of(tensor: &Tensor) -> Option<Self> {
        if tensor.dtype() != DType::U8 {
            return None;
        }
        let code = code_of(tensor.data(), tensor.shape());
        Some(Self { shape: tensor.shape().clone(), code: code.into() })
    }

    /// Bytes of the tensor that its shape says it is; more than there can be where that has no size.
    pub fn decoded_bytes(&self) -> u64 {
        self.shape.elements().unwrap_or(u64::MAX)
    }

    /// The tensor. Reserves memory for the shape, so this must have been compared with what is
    /// declared.
    pub fn tensor(&self) -> Result<Tensor, EntropyError> {
        let too_large = EntropyError::Damaged("its shape has no size");
        let elements = self.shape.elements().and_then(|count| usize::try_from(count).ok());
        let elements = elements.ok_or(too_large.clone())?;
        let bytes = entropy::decode(&self.code, elements, row(&self.shape))?;
        Tensor::new(DType::U8, self.shape.clone(), bytes).map_err(|_| too_large)
    }

    /// Sizes of its axes, as they came.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What travels.
    pub fn code(&self) -> &Bytes {
        &self.code
    }
}

/// The code of bytes as a tensor of this shape would be sent in it.
pub fn code_of(bytes: &[u8], shape: &Shape) -> Vec<u8> {
    entropy::encode(bytes, row(shape))
}

/// Size of the last axis: how far apart neighbours above each other lie.
fn row(shape: &Shape) -> usize {
    shape.0.last().and_then(|&size| usize::try_from(size).ok()).unwrap_or(1)
}
