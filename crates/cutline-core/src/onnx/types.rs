//! Element types of a layer's results.

use crate::{
    onnx::{
        arithmetic::{Data, Known},
        attributes::Attributes,
        shape::Operands,
    },
    op::{Binary, ConvKind, MatMulKind, Op, Reduction, Unary},
    tensor::{DType, Shape},
};

/// The type of result number `position`, where it follows from the operator and its operands.
pub(super) fn result(
    op: &Op,
    operands: &Operands<'_>,
    stored: Option<&Known>,
    position: usize,
) -> Option<DType> {
    let operand = |at: usize| operands.known(at).and_then(|known| known.dtype);
    if position > 0 {
        return match op {
            Op::Split { .. } => operand(0),
            Op::Pool { .. } => Some(DType::I64),
            // Among them the mask of a dropout, whose type changed between operator sets.
            _ => None,
        };
    }
    match op {
        Op::Opaque { .. } => None,
        Op::Conv { kind: ConvKind::ConvInteger, .. } | Op::MatMul(MatMulKind::MatMulInteger) => {
            Some(DType::I32)
        }
        // The zero point of the result stands eighth.
        Op::Conv { kind: ConvKind::QLinear, .. } | Op::MatMul(MatMulKind::QLinear) => operand(7),
        Op::Cast(to) => *to,
        Op::Quantize(declared) => match operands.is_given(2) {
            true => operand(2),
            false => declared.or(Some(DType::U8)),
        },
        Op::Dequantize | Op::Where => operand(1),
        Op::Unary(Unary::Not | Unary::IsNaN | Unary::IsInf) => Some(DType::Bool),
        Op::Binary(
            Binary::Equal
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::And
            | Binary::Or
            | Binary::Xor,
        ) => Some(DType::Bool),
        Op::Shape { .. }
        | Op::Size
        | Op::Reduce { kind: Reduction::ArgMax | Reduction::ArgMin, .. } => Some(DType::I64),
        Op::Constant => stored?.dtype,
        Op::ConstantOfShape => stored.map_or(Some(DType::F32), |known| known.dtype),
        _ => operand(0),
    }
}

/// The value of a `Constant` written as plain numbers.
pub(super) fn literal(attributes: &Attributes<'_>) -> Option<Known> {
    let known =
        |dtype, dims: Vec<u64>, data| Known { dtype: Some(dtype), shape: Some(Shape(dims)), data };
    let find = |name| attributes.find(name);
    if let Some(value) = find("value_int").and_then(|attribute| attribute.i) {
        return Some(known(DType::I64, vec![], Some(Data::Ints(vec![value]))));
    }
    if let Some(value) = find("value_float").and_then(|attribute| attribute.f) {
        return Some(known(DType::F32, vec![], Some(Data::Floats(vec![value]))));
    }
    if let Some(attribute) = find("value_ints") {
        let data = Data::Ints(attribute.ints.clone());
        return Some(known(DType::I64, vec![attribute.ints.len() as u64], Some(data)));
    }
    if let Some(attribute) = find("value_floats") {
        let data = Data::Floats(attribute.floats.clone());
        return Some(known(DType::F32, vec![attribute.floats.len() as u64], Some(data)));
    }
    if find("value_string").is_some() {
        return Some(known(DType::String, vec![], None));
    }
    let strings = find("value_strings")?;
    Some(known(DType::String, vec![strings.strings.len() as u64], None))
}
