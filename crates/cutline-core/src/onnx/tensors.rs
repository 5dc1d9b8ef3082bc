//! Stored tensors: their type, a check of their size, and the data of the small ones.
//!
//! A weight's data is never copied unless it is a small constant. External data is believed to be
//! there; whoever has the files checks that it is.

use crate::{
    graph::SMALL_CONSTANT,
    onnx::{
        ImportError,
        arithmetic::{Data, Known},
        proto::{SparseTensorProto, TensorProto, tensor_proto::DataLocation},
    },
    tensor::{DType, Shape, byte_size},
};

/// What a stored tensor tells, and its bytes if they are few.
pub(super) struct Stored {
    pub(super) known: Known,
    pub(super) bytes: Option<Vec<u8>>,
}

/// Reads a stored tensor; `name` is for messages.
pub(super) fn stored(tensor: &TensorProto, name: &str) -> Result<Stored, ImportError> {
    let error = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
    let shape = shape_of(&tensor.dims).map_err(&error)?;
    let dtype = DType::from_onnx(tensor.data_type.unwrap_or(0));
    let elements =
        shape.elements().ok_or_else(|| error(format!("{shape} has more than 2^64 elements")))?;
    let size = match dtype.and_then(DType::size) {
        Some(_) => Some(
            dtype
                .and_then(|dtype| byte_size(dtype, &shape))
                .ok_or_else(|| error(format!("{shape} has more than 2^64 bytes")))?
                .0,
        ),
        None => None,
    };
    let is_external = tensor.data_location == Some(DataLocation::External as i32);
    let mut bytes = None;
    if is_external {
        check_external(tensor, size).map_err(&error)?;
    } else {
        check_length(tensor, dtype, elements, size).map_err(&error)?;
        bytes = dtype.zip(size).and_then(|(dtype, size)| {
            (size <= SMALL_CONSTANT.0).then(|| little_endian(tensor, dtype)).flatten()
        });
    }
    let data = bytes.as_deref().zip(dtype).and_then(|(bytes, dtype)| Data::parse(dtype, bytes));
    Ok(Stored { known: Known { dtype, shape: Some(shape), data }, bytes })
}

/// What a sparse tensor tells: engines unpack it, so it counts as dense.
pub(super) fn sparse(tensor: &SparseTensorProto, name: &str) -> Result<Known, ImportError> {
    let error = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
    let shape = shape_of(&tensor.dims).map_err(error)?;
    let dtype = tensor.values.as_ref().and_then(|values| values.data_type);
    Ok(Known { dtype: dtype.and_then(DType::from_onnx), shape: Some(shape), data: None })
}

fn shape_of(dims: &[i64]) -> Result<Shape, String> {
    let sizes: Result<Vec<u64>, _> = dims.iter().map(|&dim| u64::try_from(dim)).collect();
    sizes.map(Shape).map_err(|_| format!("negative size in its shape {dims:?}"))
}

fn check_external(tensor: &TensorProto, size: Option<u64>) -> Result<(), String> {
    let entry = |key: &str| {
        let found = tensor.external_data.iter().find(|entry| entry.key() == key);
        found.map(|entry| entry.value())
    };
    let location = entry("location").unwrap_or("");
    let leaves = location.split(['/', '\\']).any(|part| part == "..");
    if location.is_empty() || location.starts_with(['/', '\\']) || leaves {
        return Err(format!(
            "external data at `{location}`; it must be a file in the model's own folder"
        ));
    }
    let number = |key: &str| match entry(key) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("external data with {key} `{text}`, which is not a size")),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    if offset.checked_add(length.or(size).unwrap_or(0)).is_none() {
        return Err("external data that ends after 2^64 bytes".to_owned());
    }
    match (length, size) {
        (Some(length), Some(size)) if length != size => {
            Err(format!("external data of {length} bytes, its type and shape need {size}"))
        }
        _ => Ok(()),
    }
}

fn check_length(
    tensor: &TensorProto,
    dtype: Option<DType>,
    elements: u64,
    size: Option<u64>,
) -> Result<(), String> {
    if let Some(raw) = &tensor.raw_data {
        return match size {
            Some(size) if raw.len() as u64 != size => {
                Err(format!("{} bytes of data, its type and shape need {size}", raw.len()))
            }
            _ => Ok(()),
        };
    }
    let stored = match dtype {
        Some(DType::F32) => tensor.float_data.len(),
        Some(DType::F64) => tensor.double_data.len(),
        Some(DType::I64) => tensor.int64_data.len(),
        Some(DType::U32 | DType::U64) => tensor.uint64_data.len(),
        Some(DType::String) => tensor.string_data.len(),
        Some(_) => tensor.int32_data.len(),
        None => return Ok(()),
    };
    if stored as u64 != elements {
        return Err(format!("{stored} elements of data, its shape needs {elements}"));
    }
    Ok(())
}

/// The data as a raw tensor stores it.
fn little_endian(tensor: &TensorProto, dtype: DType) -> Option<Vec<u8>> {
    if let Some(raw) = &tensor.raw_data {
        return Some(raw.to_vec());
    }
    let narrow = |size: usize| {
        tensor.int32_data.iter().flat_map(move |value| value.to_le_bytes().into_iter().take(size))
    };
    Some(match dtype {
        DType::F32 => tensor.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F64 => tensor.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::I64 => tensor.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::U64 => tensor.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::U32 => tensor
            .uint64_data
            .iter()
            .flat_map(|value| value.to_le_bytes().into_iter().take(4))
            .collect(),
        DType::I32 => narrow(4).collect(),
        DType::F16 | DType::BF16 | DType::I16 | DType::U16 => narrow(2).collect(),
        DType::I8 | DType::U8 | DType::Bool => narrow(1).collect(),
        DType::String => return None,
    })
}
