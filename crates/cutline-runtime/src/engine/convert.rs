//! Between the types that a model declares and those that `rten` computes in.

use std::borrow::Cow;

use bytemuck::Pod;
use cutline_core::tensor::{DType, Shape};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rten::{Value, ValueOrView, ValueView};
use rten_tensor::Layout;

use crate::tensor::{Tensor, TensorError};

/// A tensor as the engine takes it: borrowed where the engine has its type and it is aligned.
/// The error is the reason, in words.
pub(super) fn to_rten<'a>(name: &str, tensor: &'a Tensor) -> Result<ValueOrView<'a>, String> {
    let data = tensor.data();
    let dims = tensor.shape().0.iter().map(|&dim| usize::try_from(dim));
    let shape: Vec<usize> = dims.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    match tensor.dtype() {
        DType::F32 => view_or_copy::<f32>(&shape, data),
        DType::I32 => view_or_copy::<i32>(&shape, data),
        DType::I8 => view_or_copy::<i8>(&shape, data),
        DType::U8 => view_or_copy::<u8>(&shape, data),
        DType::F16 => {
            let halves = aligned::<f16>(data);
            let mut floats = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut floats);
            owned(&shape, floats)
        }
        DType::BF16 => owned(&shape, each(data, bf16::to_f32)),
        DType::F64 => owned(&shape, each(data, |v: f64| v as f32)),
        DType::I64 => owned(&shape, each(data, saturate)),
        DType::Bool => owned(&shape, each(data, |v: u8| i32::from(v != 0))),
        other => Err(format!("input `{name}` is {other}, which this engine has no type for")),
    }
}

/// A result of the engine in its declared type; in the engine's where the model declares none.
pub(super) fn from_rten(
    name: &str,
    declared: Option<DType>,
    value: Value,
) -> Result<Tensor, String> {
    let shape = Shape(value.shape().iter().map(|&dim| dim as u64).collect());
    let tensor = match value {
        Value::FloatTensor(tensor) => from_floats(declared, shape, tensor.into_data()),
        Value::Int32Tensor(tensor) => from_integers(declared, shape, tensor.into_data()),
        Value::Int8Tensor(tensor) if matches!(declared, None | Some(DType::I8)) => {
            Some(Tensor::from_vec(DType::I8, shape, tensor.into_data()))
        }
        Value::UInt8Tensor(tensor) if matches!(declared, None | Some(DType::U8)) => {
            Some(Tensor::from_vec(DType::U8, shape, tensor.into_data()))
        }
        _ => None,
    };
    let declared = declared.map_or("another type", DType::oip);
    tensor
        .ok_or_else(|| format!("output `{name}` is not {declared}, as the model declares"))?
        .map_err(|error| error.to_string())
}

fn from_floats(
    declared: Option<DType>,
    shape: Shape,
    floats: Vec<f32>,
) -> Option<Result<Tensor, TensorError>> {
    Some(match declared {
        None | Some(DType::F32) => Tensor::from_vec(DType::F32, shape, floats),
        Some(DType::F16) => {
            let mut halves = vec![f16::ZERO; floats.len()];
            halves.convert_from_f32_slice(&floats);
            Tensor::from_vec(DType::F16, shape, halves)
        }
        Some(DType::BF16) => {
            let values = floats.into_iter().map(bf16::from_f32).collect();
            Tensor::from_vec::<bf16>(DType::BF16, shape, values)
        }
        Some(DType::F64) => {
            let values = floats.into_iter().map(f64::from).collect();
            Tensor::from_vec::<f64>(DType::F64, shape, values)
        }
        Some(_) => return None,
    })
}

fn from_integers(
    declared: Option<DType>,
    shape: Shape,
    integers: Vec<i32>,
) -> Option<Result<Tensor, TensorError>> {
    Some(match declared {
        None | Some(DType::I32) => Tensor::from_vec(DType::I32, shape, integers),
        Some(DType::I64) => {
            let values = integers.into_iter().map(i64::from).collect();
            Tensor::from_vec::<i64>(DType::I64, shape, values)
        }
        Some(DType::Bool) => {
            let values = integers.into_iter().map(|v| u8::from(v != 0)).collect();
            Tensor::from_vec::<u8>(DType::Bool, shape, values)
        }
        Some(_) => return None,
    })
}

fn view_or_copy<'a, T>(shape: &[usize], data: &'a [u8]) -> Result<ValueOrView<'a>, String>
where
    T: Pod,
    ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
    Value: From<rten_tensor::Tensor<T>>,
{
    match aligned::<T>(data) {
        Cow::Borrowed(values) => {
            ValueView::from_shape(shape, values).map(ValueOrView::View).map_err(|e| e.to_string())
        }
        Cow::Owned(values) => owned(shape, values),
    }
}

fn owned<'a, T>(shape: &[usize], values: Vec<T>) -> Result<ValueOrView<'a>, String>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    Value::from_shape(shape, values).map(ValueOrView::Value).map_err(|e| e.to_string())
}

fn aligned<T: Pod>(data: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(data) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(data)),
    }
}

fn each<T: Pod, U>(data: &[u8], convert: impl Fn(T) -> U) -> Vec<U> {
    aligned::<T>(data).iter().map(|&value| convert(value)).collect()
}

/// The engine's own rule for 64-bit integers: many models say `i64::MAX` for "to the end".
fn saturate(value: i64) -> i32 {
    value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through the engine's types and back, in the declared type.
    fn round_trip(tensor: &Tensor) -> Tensor {
        let value = match to_rten("x", tensor).unwrap() {
            ValueOrView::View(view) => view.to_owned(),
            ValueOrView::Value(value) => value,
        };
        from_rten("x", Some(tensor.dtype()), value).unwrap()
    }

    #[test]
    fn values_that_fit_survive_in_every_declared_type() {
        let shape = || Shape(vec![2, 1]);
        let halves = [f16::from_f32(-1.5), f16::INFINITY].to_vec();
        let short = [bf16::from_f32(-1.5), bf16::from_f32(3e38)].to_vec();
        let tensors = [
            Tensor::from_vec(DType::F32, shape(), vec![1.25f32, -0.0]),
            Tensor::from_vec(DType::F16, shape(), halves),
            Tensor::from_vec(DType::BF16, shape(), short),
            Tensor::from_vec(DType::F64, shape(), vec![0.5f64, -2.0]),
            Tensor::from_vec(DType::I32, shape(), vec![i32::MIN, 7]),
            Tensor::from_vec(DType::I64, shape(), vec![-3i64, 1 << 30]),
            Tensor::from_vec(DType::I8, shape(), vec![-128i8, 127]),
            Tensor::from_vec(DType::U8, shape(), vec![0u8, 255]),
            Tensor::from_vec(DType::Bool, shape(), vec![0u8, 1]),
        ];
        for tensor in tensors.map(Result::unwrap) {
            assert_eq!(round_trip(&tensor), tensor);
        }
    }

    #[test]
    fn what_the_engine_cannot_hold_is_refused_or_saturated() {
        let wide = Tensor::from_vec(DType::U64, Shape(vec![1]), vec![1u64]).unwrap();
        assert!(to_rten("x", &wide).is_err());
        let end = Tensor::from_vec(DType::I64, Shape(vec![1]), vec![i64::MAX]).unwrap();
        let back = round_trip(&end);
        assert_eq!(back.data()[..], i64::from(i32::MAX).to_le_bytes());
        let float = Value::from_shape([1], vec![1.0f32]).unwrap();
        assert!(from_rten("y", Some(DType::I64), float).unwrap_err().contains("`y`"));
    }

    #[test]
    fn misaligned_data_is_copied_and_aligned_data_is_not() {
        let bytes = bytes::Bytes::from(vec![0u8; 17]);
        let start = usize::from(bytes.as_ptr().addr().is_multiple_of(4));
        let tensor =
            Tensor::new(DType::F32, Shape(vec![4]), bytes.slice(start..start + 16)).unwrap();
        assert!(matches!(to_rten("x", &tensor).unwrap(), ValueOrView::Value(_)));
        let tensor = Tensor::from_f32(Shape(vec![4]), vec![0.0; 4]).unwrap();
        assert!(matches!(to_rten("x", &tensor).unwrap(), ValueOrView::View(_)));
    }
}
