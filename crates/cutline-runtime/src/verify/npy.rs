//! Reads NumPy's `.npy` files, versions 1 to 3.
//!
//! ```text
//! \x93NUMPY │ major │ minor │ header length (2 or 4 bytes) │ header │ data
//! header: {'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 224, 224), }
//! ```
//!
//! Only C order and little-endian data are read; the data must have exactly the declared size.

use std::{fs, io, path::Path};

use bytes::Bytes;
use cutline_core::tensor::{DType, Shape};
use thiserror::Error;

use crate::tensor::{Tensor, TensorError};

/// Characters of a header that a message shows; version 2 allows four thousand million.
const LONGEST_SHOWN: usize = 200;

/// Why a file is no tensor.
#[derive(Debug, Error)]
pub enum NpyError {
    /// The file could not be read.
    #[error("cannot read the file")]
    Io(#[from] io::Error),
    /// The file does not begin as `.npy` files do.
    #[error("not a .npy file; numpy.save writes them")]
    NotNpy,
    /// The header could not be understood.
    #[error("the .npy header `{header}` {problem}")]
    Header {
        /// The header's text.
        header: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The data does not fit the header.
    #[error("the data does not fit the .npy header")]
    Data(#[from] TensorError),
}

/// Reads a tensor from a `.npy` file.
pub fn read_npy(path: &Path) -> Result<Tensor, NpyError> {
    parse_npy(fs::read(path)?.into())
}

/// Reads a tensor from the bytes of a `.npy` file, without copying the data.
pub fn parse_npy(bytes: Bytes) -> Result<Tensor, NpyError> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or(NpyError::NotNpy)?;
    let (start, length) = match rest {
        [1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => return Err(NpyError::NotNpy),
    };
    let header = bytes.get(start..).and_then(|rest| rest.get(..length)).ok_or(NpyError::NotNpy)?;
    let header = String::from_utf8_lossy(header);
    let (dtype, shape) = parse_header(&header).map_err(|problem| NpyError::Header {
        header: header.trim().chars().take(LONGEST_SHOWN).collect(),
        problem,
    })?;
    Ok(Tensor::new(dtype, shape, bytes.slice(start + length..))?)
}

fn parse_header(header: &str) -> Result<(DType, Shape), &'static str> {
    let entry = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}'"))?;
        rest.trim_start().strip_prefix(':').map(str::trim_start)
    };
    let descr = entry("descr").ok_or("has no `descr`")?;
    let descr = descr.strip_prefix('\'').and_then(|text| text.split_once('\''));
    let (descr, _) = descr.ok_or("has structured elements, which are not read")?;
    let order = entry("fortran_order").ok_or("has no `fortran_order`")?;
    if !order.starts_with("False") {
        return Err("has Fortran order; save numpy.ascontiguousarray(x)");
    }
    let shape = entry("shape").and_then(|text| text.strip_prefix('('));
    let (shape, _) = shape.and_then(|text| text.split_once(')')).ok_or("has no `shape`")?;
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let dims: Result<Vec<u64>, _> = dims.map(str::parse).collect();
    let shape = Shape(dims.map_err(|_| "has a `shape` that is not made of numbers")?);
    Ok((dtype_of(descr).ok_or("has an element type that is not read")?, shape))
}

fn dtype_of(descr: &str) -> Option<DType> {
    Some(match descr {
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<f8" => DType::F64,
        "|i1" => DType::I8,
        "|u1" => DType::U8,
        "<i2" => DType::I16,
        "<u2" => DType::U16,
        "<i4" => DType::I32,
        "<u4" => DType::U32,
        "<i8" => DType::I64,
        "<u8" => DType::U64,
        "|b1" => DType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes.into()
    }

    #[test]
    fn tensors_are_read_with_their_type() {
        let cases: [(&str, &[u8], DType, &[u64]); 4] = [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  \n",
                &[0; 8],
                DType::F32,
                &[1, 2],
            ),
            (
                "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }",
                &[1, 2, 3],
                DType::U8,
                &[3],
            ),
            ("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", &[9; 8], DType::I64, &[]),
            ("{'shape':(0,4),'fortran_order':False,'descr':'<f2'}", &[], DType::F16, &[0, 4]),
        ];
        for (header, data, dtype, shape) in cases {
            let tensor = parse_npy(file(header, data)).unwrap();
            assert_eq!(
                (tensor.dtype(), tensor.shape()),
                (dtype, &Shape(shape.to_vec())),
                "{header}"
            );
            assert_eq!(tensor.data(), data);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let headers = [
            good.replace("<f4", ">f4"),
            good.replace("<f4", "<c8"),
            good.replace("<f4", "|O"),
            good.replace("False", "True"),
            good.replace("(2,)", "(-2,)"),
            good.replace("(2,)", "(2"),
            good.replace("(2,)", "(3,)"),
            good.replace("(2,)", "(18446744073709551615, 2)"),
            good.replace("(2,)", "(99999999999999999999,)"),
            good.replace("(2,)", "(4611686018427387904,)"),
            good.replace("(2,)", "(1000000000000, 1000000000000)"),
            good.replace("'<f4'", "[('a', '<f4')]"),
            good.replace("descr", "desc"),
            String::new(),
        ];
        for header in headers {
            assert!(parse_npy(file(&header, &[0; 8])).is_err(), "{header}");
        }
        assert!(parse_npy(file(good, &[0; 8])).is_ok());
        let whole = file(good, &[0; 8]);
        for end in 0..whole.len() {
            assert!(parse_npy(whole.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(matches!(parse_npy(Bytes::from_static(b"PNG")), Err(NpyError::NotNpy)));
    }

    #[test]
    fn a_message_says_what_is_wrong_and_stays_short() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let said = |header: &str| {
            let error = parse_npy(file(header, &[0; 8])).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", source.unwrap_or_default())
        };
        let cases = [
            (good.replace("False", "True"), "ascontiguousarray"),
            (good.replace("<f4", ">f4"), "element type"),
            (good.replace("(2,)", "(3,)"), "needs 12 bytes, got 8"),
            (good.replace("descr", &"descr".repeat(9000)), "has no `descr`"),
        ];
        for (header, words) in cases {
            let said = said(&header);
            assert!(said.contains(words) && said.len() < 400, "{said}");
        }
    }
}
