//! A tensor with its data, as it travels between files, sockets and engines.

use bytes::Bytes;
use cutline_core::tensor::{DType, Shape, byte_size};
use thiserror::Error;

/// Dense little-endian data with its type. Cloning shares the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Bytes,
}

/// Data whose length does not fit its type.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{dtype} tensor of shape {shape} needs {expected} bytes, got {actual}")]
pub struct TensorError {
    dtype: DType,
    shape: Shape,
    expected: String,
    actual: usize,
}

impl Tensor {
    /// Checks that `data` is exactly one tensor of this type.
    pub fn new(dtype: DType, shape: Shape, data: impl Into<Bytes>) -> Result<Self, TensorError> {
        let data = data.into();
        let expected = byte_size(dtype, &shape);
        if expected.map(|size| size.0) != Some(data.len() as u64) {
            let expected =
                expected.map_or("a fixed number of".to_owned(), |size| size.0.to_string());
            return Err(TensorError { dtype, shape, expected, actual: data.len() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// Takes over a vector of floats without copying it.
    pub fn from_f32(shape: Shape, values: Vec<f32>) -> Result<Self, TensorError> {
        Self::from_vec(DType::F32, shape, values)
    }

    /// Takes over a vector of elements without copying it; `T` is how `dtype` lies in memory.
    pub fn from_vec<T>(dtype: DType, shape: Shape, values: Vec<T>) -> Result<Self, TensorError>
    where
        T: bytemuck::NoUninit + Send + Sync,
    {
        struct Elements<T>(Vec<T>);
        impl<T: bytemuck::NoUninit> AsRef<[u8]> for Elements<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Self::new(dtype, shape, Bytes::from_owner(Elements(values)))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Axis sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The data, little-endian, row-major.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The data as floats: borrowed where it is aligned, copied where not; `None` for other types.
    pub fn as_f32(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        if self.dtype != DType::F32 {
            return None;
        }
        Some(match bytemuck::try_cast_slice(&self.data) {
            Ok(floats) => std::borrow::Cow::Borrowed(floats),
            Err(_) => std::borrow::Cow::Owned(bytemuck::pod_collect_to_vec(&self.data)),
        })
    }
}
