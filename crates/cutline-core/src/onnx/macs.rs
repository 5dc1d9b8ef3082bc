//! Multiply-accumulates of a layer, as the field counts them: convolutions and matrix products,
//! without bias; every other operator counts 0.

use crate::{
    onnx::shape::Operands,
    op::{ConvKind, MatMulKind, Op},
    tensor::Shape,
    units::Macs,
};

/// Work of one run; 0 where a shape is unknown, saturating where it leaves 64 bits.
pub(super) fn count(op: &Op, operands: &Operands<'_>, result: Option<&Shape>) -> Macs {
    exact(op, operands, result).unwrap_or(Macs::ZERO)
}

fn exact(op: &Op, operands: &Operands<'_>, result: Option<&Shape>) -> Option<Macs> {
    match op {
        Op::Conv { kind, .. } => {
            let weights = operands.shape(if *kind == ConvKind::QLinear { 3 } else { 1 })?;
            Some(multiply(result?.elements()?, weights.0.get(1..)?))
        }
        Op::ConvTranspose { .. } => {
            let weights = operands.shape(1)?;
            Some(multiply(operands.shape(0)?.elements()?, weights.0.get(1..)?))
        }
        Op::Gemm { transpose_a, .. } => {
            let inner = operands.shape(0)?.0.get(usize::from(!transpose_a))?;
            Some(multiply(result?.elements()?, &[*inner]))
        }
        Op::MatMul(MatMulKind::MatMul | MatMulKind::MatMulInteger | MatMulKind::QLinear) => {
            let inner = operands.shape(0)?.0.last()?;
            Some(multiply(result?.elements()?, &[*inner]))
        }
        _ => None,
    }
}

fn multiply(elements: u64, dims: &[u64]) -> Macs {
    dims.iter().fold(Macs(elements), |macs, &dim| macs * dim)
}
