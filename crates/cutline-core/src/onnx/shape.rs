//! The shapes of a layer's results, from the shapes of its operands and, where the operator asks
//! for it, their elements.
//!
//! All arithmetic is checked: a size beyond 64 bits is an error, as are operands that do not fit
//! each other. `None` means that the result depends on data which only a run knows.

use std::ops::Range;

use crate::{
    onnx::{
        arithmetic::{Data, Known},
        layout, window,
    },
    op::{ConvKind, MatMulKind, Op},
    tensor::Shape,
};

/// The operands of a layer as far as they are known.
pub(super) struct Operands<'a>(pub(super) Vec<Option<&'a Known>>);

impl Operands<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_given(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(Option::is_some)
    }

    pub(super) fn known(&self, at: usize) -> Option<&Known> {
        self.0.get(at).copied().flatten()
    }

    pub(super) fn shape(&self, at: usize) -> Option<&Shape> {
        self.known(at)?.shape.as_ref()
    }

    pub(super) fn data(&self, at: usize) -> Option<&Data> {
        self.known(at)?.data.as_ref()
    }

    pub(super) fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.0.iter().flatten().filter_map(|known| known.shape.as_ref())
    }

    pub(super) fn ints(&self, at: usize) -> Option<&[i64]> {
        self.data(at)?.ints()
    }
}

/// What a shape rule answers: the shape, unknown, or why the operands do not fit.
pub(super) type Inferred = Result<Option<Shape>, String>;

/// The shapes of all `results` results of a layer.
pub(super) fn infer(
    op: &Op,
    operands: &Operands<'_>,
    stored: Option<&Known>,
    results: usize,
) -> Result<Vec<Option<Shape>>, String> {
    if let Op::Split { axis, sizes } = op {
        return layout::split(operands, *axis, sizes.as_deref(), results);
    }
    let mut shapes = vec![None; results];
    if let Some(first) = shapes.first_mut() {
        *first = first_result(op, operands, stored)?;
    }
    // The second result of these is a mask, or the places of the maxima: of the same shape.
    if results > 1 && matches!(op, Op::Dropout | Op::Pool { .. }) {
        shapes[1] = shapes[0].clone();
    }
    Ok(shapes)
}

fn first_result(op: &Op, operands: &Operands<'_>, stored: Option<&Known>) -> Inferred {
    match op {
        Op::Conv { window, groups, kind } => {
            let weight = if *kind == ConvKind::QLinear { 3 } else { 1 };
            let (Some(x), Some(w)) = (operands.shape(0), operands.shape(weight)) else {
                return Ok(None);
            };
            window::convolution(x, w, window, *groups).map(Some)
        }
        Op::ConvTranspose { window, groups, output_padding, output_shape } => {
            let (Some(x), Some(w)) = (operands.shape(0), operands.shape(1)) else {
                return Ok(None);
            };
            window::transposed(x, w, window, *groups, output_padding, output_shape).map(Some)
        }
        Op::Pool { window, ceil, .. } => {
            operands.shape(0).map(|x| window::pool(x, window, *ceil)).transpose()
        }
        Op::GlobalPool(_) => operands.shape(0).map(window::global_pool).transpose(),
        Op::Gemm { transpose_a, transpose_b } => gemm(operands, *transpose_a, *transpose_b),
        Op::MatMul(kind) => {
            let second = if *kind == MatMulKind::QLinear { 3 } else { 1 };
            let (Some(a), Some(b)) = (operands.shape(0), operands.shape(second)) else {
                return Ok(None);
            };
            mat_mul(a, b).map(Some)
        }
        Op::Binary(_) | Op::Where => broadcast_all(operands),
        Op::Normalize(_)
        | Op::Activate(_)
        | Op::Unary(_)
        | Op::Cast(_)
        | Op::Quantize(_)
        | Op::Dequantize
        | Op::Softmax(_)
        | Op::Identity
        | Op::Dropout => Ok(operands.shape(0).cloned()),
        Op::Constant => Ok(stored.and_then(|known| known.shape.clone())),
        Op::ConstantOfShape => operands.ints(0).map(to_shape).transpose(),
        Op::Size => Ok(Some(Shape(Vec::new()))),
        Op::Shape { start, end } => Ok(operands
            .shape(0)
            .map(|x| Shape(vec![axis_range(x.0.len(), *start, *end).len() as u64]))),
        Op::Range => range(operands),
        Op::Reduce { axes, keep, noop_without_axes, .. } => match operands.shape(0) {
            Some(x) => reduce(x, axes.as_deref(), *keep, *noop_without_axes, operands),
            None => Ok(None),
        },
        Op::Split { .. } | Op::Opaque { .. } => Ok(None),
        _ => layout::infer(op, operands),
    }
}

/// The axis that a possibly negative number means.
pub(super) fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// The same, with a reason where there is none.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    resolve_axis(axis, rank).ok_or_else(|| format!("axis {axis} of a tensor of rank {rank}"))
}

/// The axes that `Shape` with these attributes tells.
pub(super) fn axis_range(rank: usize, start: i64, end: Option<i64>) -> Range<usize> {
    let clamp = |at: i64| {
        let rank = rank as i64;
        let at = if at < 0 { at.saturating_add(rank) } else { at };
        at.clamp(0, rank) as usize
    };
    let start = clamp(start);
    start..end.map_or(rank, clamp).max(start)
}

/// A shape that a tensor of integers spells.
pub(super) fn to_shape(ints: &[i64]) -> Result<Shape, String> {
    let sizes: Result<Vec<u64>, _> = ints.iter().map(|&size| u64::try_from(size)).collect();
    sizes.map(Shape).map_err(|_| format!("negative size in the shape {ints:?}"))
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(left: &Shape, right: &Shape) -> Result<Shape, String> {
    let rank = left.0.len().max(right.0.len());
    let dim = |shape: &Shape, at: usize| {
        (at + shape.0.len()).checked_sub(rank).map_or(1, |at| shape.0[at])
    };
    let dims = (0..rank).map(|at| match (dim(left, at), dim(right, at)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    });
    let dims: Option<Vec<u64>> = dims.collect();
    dims.map(Shape).ok_or_else(|| format!("operands of {left} and {right} do not broadcast"))
}

fn broadcast_all(operands: &Operands<'_>) -> Inferred {
    let mut result: Option<Shape> = None;
    for at in 0..operands.len() {
        let Some(shape) = operands.shape(at) else { return Ok(None) };
        result = Some(match result {
            None => shape.clone(),
            Some(so_far) => broadcast(&so_far, shape)?,
        });
    }
    Ok(result)
}

fn gemm(operands: &Operands<'_>, transpose_a: bool, transpose_b: bool) -> Inferred {
    let (Some(a), Some(b)) = (operands.shape(0), operands.shape(1)) else { return Ok(None) };
    let ([a0, a1], [b0, b1]) = (&a.0[..], &b.0[..]) else {
        return Err(format!("operands of {a} and {b} are not matrices"));
    };
    let (rows, inner) = if transpose_a { (a1, a0) } else { (a0, a1) };
    let (inner_b, columns) = if transpose_b { (b1, b0) } else { (b0, b1) };
    if inner != inner_b {
        return Err(format!("operands of {a} and {b} do not multiply: {inner} against {inner_b}"));
    }
    Ok(Some(Shape(vec![*rows, *columns])))
}

fn mat_mul(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let error = || format!("operands of {a} and {b} do not multiply");
    let (&inner, rows) = a.0.split_last().ok_or_else(error)?;
    let (rows, batch_a) = rows.split_last().map_or((None, rows), |(row, batch)| (Some(row), batch));
    let (inner_b, columns, batch_b) = match &b.0[..] {
        [] => return Err(error()),
        [inner] => (*inner, None, &[][..]),
        [batch @ .., inner, column] => (*inner, Some(column), batch),
    };
    if inner != inner_b {
        return Err(error());
    }
    let mut shape = broadcast(&Shape(batch_a.to_vec()), &Shape(batch_b.to_vec()))?;
    shape.0.extend(rows.into_iter().chain(columns));
    Ok(shape)
}

fn reduce(
    x: &Shape,
    axes: Option<&[i64]>,
    keep: bool,
    noop_without_axes: bool,
    operands: &Operands<'_>,
) -> Inferred {
    let rank = x.0.len();
    let axes = match (axes.or_else(|| operands.ints(1)), operands.is_given(1)) {
        (Some(axes), _) => axes,
        (None, true) => return Ok(None),
        (None, false) => &[],
    };
    if axes.is_empty() && noop_without_axes {
        return Ok(Some(x.clone()));
    }
    let mut reduced = vec![axes.is_empty(); rank];
    for &at in axes {
        reduced[axis(at, rank)?] = true;
    }
    let dims = x.0.iter().zip(reduced).filter_map(|(&dim, reduced)| match (reduced, keep) {
        (false, _) => Some(dim),
        (true, true) => Some(1),
        (true, false) => None,
    });
    Ok(Some(Shape(dims.collect())))
}

fn range(operands: &Operands<'_>) -> Inferred {
    let bound = |at: usize| operands.ints(at).and_then(|values| values.first().copied());
    let (Some(start), Some(end), Some(step)) = (bound(0), bound(1), bound(2)) else {
        return Ok(None);
    };
    if step == 0 {
        return Err("a range with step 0".to_owned());
    }
    let span = (i128::from(end) - i128::from(start)) * i128::from(step.signum());
    let count = span.max(0).unsigned_abs().div_ceil(step.unsigned_abs().into());
    u64::try_from(count)
        .map(|count| Some(Shape(vec![count])))
        .map_err(|_| "a range of more than 2^64 elements".to_owned())
}
