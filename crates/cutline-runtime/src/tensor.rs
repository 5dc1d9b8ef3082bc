//! A tensor with its data, as it travels between files, sockets and engines.

use bytes::Bytes;
use cutline_core::tensor::{DType, Shape, byte_size};
use half::{bf16, f16};
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

    /// Every element as a float, for printing and comparing; integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        let size = self.dtype.size().unwrap_or(1) as usize;
        self.data.chunks_exact(size).map(|bytes| number(self.dtype, bytes)).collect()
    }
}

/// A little-endian element as a float; integers beyond 2^53 are rounded.
pub(crate) fn number(dtype: DType, element: &[u8]) -> f64 {
    let mut word = [0u8; 8];
    word[..element.len()].copy_from_slice(element);
    let unsigned = u64::from_le_bytes(word);
    match dtype {
        DType::F32 => f64::from(f32::from_bits(unsigned as u32)),
        DType::F16 => f16::from_bits(unsigned as u16).to_f64(),
        DType::BF16 => bf16::from_bits(unsigned as u16).to_f64(),
        DType::F64 => f64::from_bits(unsigned),
        DType::I8 => f64::from(unsigned as u8 as i8),
        DType::I16 => f64::from(unsigned as u16 as i16),
        DType::I32 => f64::from(unsigned as u32 as i32),
        DType::I64 => unsigned as i64 as f64,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool | DType::String => {
            unsigned as f64
        }
    }
}
