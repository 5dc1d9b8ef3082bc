//! Stored elements: as numbers, and in another order.

use bytes::Bytes;

use super::{layout::permuted, reader::Tensor};
use crate::tensor::DType;

/// The elements of a small stored tensor of integers; `None` where it stores none, or others.
pub(super) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    let data = tensor.data.as_ref()?;
    match tensor.dtype? {
        DType::I32 => {
            let chunks = data.chunks_exact(4);
            Some(chunks.map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]])))
                .map(|values| values.map(i64::from).collect())
        }
        DType::I64 => {
            Some(data.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect())
        }
        _ => None,
    }
}

/// Elements in the order of permuted axes: axis `at` of the result is axis `order[at]` of `shape`.
/// O(elements).
pub(super) fn transposed(data: &[u8], shape: &[i64], order: &[usize], size: usize) -> Vec<u8> {
    let dims: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
    let mut strides = vec![size; dims.len()];
    for at in (0..dims.len().saturating_sub(1)).rev() {
        strides[at] = strides[at + 1] * dims[at + 1];
    }
    let (dims, strides) = (permuted(&dims, order), permuted(&strides, order));
    let mut result = Vec::with_capacity(data.len());
    let mut index = vec![0usize; dims.len()];
    let mut start = 0;
    while result.len() < data.len() {
        result.extend_from_slice(&data[start..start + size]);
        for at in (0..dims.len()).rev() {
            index[at] += 1;
            start += strides[at];
            if index[at] < dims[at] {
                break;
            }
            start -= strides[at] * dims[at];
            index[at] = 0;
        }
    }
    result
}

/// Half floats as floats.
pub(super) fn widened(data: &[u8]) -> Bytes {
    let halves = data.as_chunks::<2>().0.iter().map(|&bytes| half(u16::from_le_bytes(bytes)));
    halves.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into()
}

/// The float that a half float stands for (IEEE 754 binary16).
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        0 => return f32::from_bits(sign | (fraction as f32 / 16_777_216.0).to_bits()),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_their_axes() {
        let data: Vec<u8> = (0..24).collect();
        let result = transposed(&data, &[2, 3, 4], &[2, 0, 1], 1);
        for (at, &value) in result.iter().enumerate() {
            let (i, j, k) = (at / 6, at / 3 % 2, at % 3);
            assert_eq!(usize::from(value), j * 12 + k * 4 + i);
        }
        assert_eq!(transposed(&data, &[2, 3, 2], &[0, 1, 2], 2), data);
    }

    #[test]
    fn half_floats_have_their_values() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
            (0x8000, -0.0),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
    }
}
