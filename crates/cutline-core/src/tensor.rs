//! What a tensor is, without its data: element type and shape.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// Element type of a tensor, as ONNX and the Open Inference Protocol name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Bool,
    String,
}

impl DType {
    /// Every type with its ONNX code and its protocol name.
    const TABLE: [(DType, i32, &'static str); 14] = [
        (DType::F32, 1, "FP32"),
        (DType::U8, 2, "UINT8"),
        (DType::I8, 3, "INT8"),
        (DType::U16, 4, "UINT16"),
        (DType::I16, 5, "INT16"),
        (DType::I32, 6, "INT32"),
        (DType::I64, 7, "INT64"),
        (DType::String, 8, "BYTES"),
        (DType::Bool, 9, "BOOL"),
        (DType::F16, 10, "FP16"),
        (DType::F64, 11, "FP64"),
        (DType::U32, 12, "UINT32"),
        (DType::U64, 13, "UINT64"),
        (DType::BF16, 16, "BF16"),
    ];

    /// The type behind an ONNX `TensorProto.DataType` code; `None` for codes that Cutline does not
    /// know (complex numbers, 4-bit and 8-bit floats).
    pub fn from_onnx(code: i32) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The ONNX code.
    pub fn onnx(self) -> i32 {
        self.row().1
    }

    /// The type behind an Open Inference Protocol name such as `FP32`.
    pub fn from_oip(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    /// The Open Inference Protocol name.
    pub fn oip(self) -> &'static str {
        self.row().2
    }

    /// Bytes per element; `None` for strings, which have no fixed size.
    pub fn size(self) -> Option<u64> {
        Some(match self {
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::String => return None,
        })
    }

    fn row(self) -> &'static (DType, i32, &'static str) {
        Self::TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("every variant has a row, checked by the test below")
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oip())
    }
}

/// Sizes of a tensor's axes, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Vec<u64>);

impl Shape {
    /// Number of elements; 1 for a scalar, `None` when the product leaves 64 bits.
    pub fn elements(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
    }
}

impl fmt::Display for Shape {
    /// Writes `1x3x224x224`; a scalar is `scalar`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("scalar");
        }
        for (axis, dim) in self.0.iter().enumerate() {
            let separator = if axis == 0 { "" } else { "x" };
            write!(f, "{separator}{dim}")?;
        }
        Ok(())
    }
}

/// Size of a dense tensor; `None` for strings and for sizes beyond 64 bits.
pub fn byte_size(dtype: DType, shape: &Shape) -> Option<Bytes> {
    shape.elements()?.checked_mul(dtype.size()?).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_round_trip() {
        for (dtype, code, name) in DType::TABLE {
            assert_eq!(DType::from_onnx(code), Some(dtype));
            assert_eq!(DType::from_oip(name), Some(dtype));
            assert_eq!((dtype.onnx(), dtype.oip()), (code, name));
        }
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert_eq!(byte_size(DType::F32, &Shape(vec![1, 3, 2, 2])), Some(Bytes(48)));
        assert_eq!(byte_size(DType::F32, &Shape(vec![u64::MAX, 2])), None);
        assert_eq!(byte_size(DType::F32, &Shape(vec![])), Some(Bytes(4)));
    }
}
