//! Shapes of layers that rearrange, repeat or select elements: reshaping, slicing, joining, padding,
//! resizing.
//!
//! As in `shape`: checked arithmetic, `None` where only a run knows, an error where the operands do
//! not fit.

use crate::{
    onnx::{
        arithmetic::Data,
        shape::{Inferred, Operands, axis, broadcast, to_shape},
    },
    op::{Op, Resize, SliceBounds},
    tensor::Shape,
};

/// Shape of the first result of an operator that rearranges or selects elements; unknown for others.
pub(super) fn infer(op: &Op, operands: &Operands<'_>) -> Inferred {
    if let Op::Concat { axis } = op {
        return concat(operands, *axis);
    }
    let Some(x) = operands.shape(0) else { return Ok(None) };
    match op {
        Op::Reshape { allow_zero } => {
            operands.ints(1).map(|target| reshape(x, target, *allow_zero)).transpose()
        }
        Op::Flatten { axis } => flatten(x, *axis).map(Some),
        Op::Squeeze { axes } => squeeze(x, axes.as_deref(), operands),
        Op::Unsqueeze { axes } => {
            let axes = axes.as_deref().or_else(|| operands.ints(1));
            axes.map(|axes| unsqueeze(x, axes)).transpose()
        }
        Op::Transpose { permutation: order } => {
            let order = permutation(order.as_deref(), x.0.len())?;
            Ok(Some(Shape(order.iter().map(|&axis| x.0[axis]).collect())))
        }
        Op::Expand => {
            let target = operands.ints(1).map(to_shape).transpose()?;
            target.map(|target| broadcast(x, &target)).transpose()
        }
        Op::Slice { .. } => Ok(slices(op, operands, &x.0)?
            .map(|slices| Shape(slices.iter().map(|slice| slice.count).collect()))),
        Op::Gather { axis } => gather(x, operands.shape(1), *axis),
        Op::Pad { pads } => pad(x, pads.as_deref(), operands),
        Op::Tile => operands.ints(1).map(|repeats| tile(x, repeats)).transpose(),
        Op::DepthToSpace { block } => blocks(x, *block, Direction::ToSpace).map(Some),
        Op::SpaceToDepth { block } => blocks(x, *block, Direction::ToDepth).map(Some),
        Op::Resize(resize) => resized(x, resize, operands),
        _ => Ok(None),
    }
}

fn reshape(x: &Shape, target: &[i64], allow_zero: bool) -> Result<Shape, String> {
    let error = || format!("{x} does not reshape to {target:?}");
    let mut dims = Vec::with_capacity(target.len());
    let mut open = None;
    for (at, &size) in target.iter().enumerate() {
        dims.push(match size {
            0 if !allow_zero => *x.0.get(at).ok_or_else(error)?,
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            size => u64::try_from(size).map_err(|_| error())?,
        });
    }
    let mut shape = Shape(dims);
    let elements = x.elements().ok_or_else(error)?;
    let fixed = shape.elements().ok_or_else(error)?;
    if let Some(open) = open {
        if fixed == 0 || elements % fixed != 0 {
            return Err(error());
        }
        shape.0[open] = elements / fixed;
    } else if fixed != elements {
        return Err(error());
    }
    Ok(shape)
}

fn product(dims: &[u64]) -> Result<u64, String> {
    let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    product.ok_or_else(|| "more than 2^64 elements".to_owned())
}

fn flatten(x: &Shape, at: i64) -> Result<Shape, String> {
    let rank = x.0.len();
    let at = if at == rank as i64 { rank } else { axis(at, rank)? };
    Ok(Shape(vec![product(&x.0[..at])?, product(&x.0[at..])?]))
}

fn squeeze(x: &Shape, axes: Option<&[i64]>, operands: &Operands<'_>) -> Inferred {
    let axes = match (axes, operands.is_given(1)) {
        (Some(axes), _) => Some(axes),
        (None, false) => None,
        (None, true) => match operands.ints(1) {
            Some(axes) => Some(axes),
            None => return Ok(None),
        },
    };
    let rank = x.0.len();
    let mut removed = vec![false; rank];
    match axes {
        None => removed = x.0.iter().map(|&dim| dim == 1).collect(),
        Some(axes) => {
            for &at in axes {
                let at = axis(at, rank)?;
                if x.0[at] != 1 {
                    return Err(format!("axis {at} of {x} is not of size 1"));
                }
                removed[at] = true;
            }
        }
    }
    let kept = x.0.iter().zip(removed).filter(|(_, removed)| !removed);
    Ok(Some(Shape(kept.map(|(&dim, _)| dim).collect())))
}

fn unsqueeze(x: &Shape, axes: &[i64]) -> Result<Shape, String> {
    let rank = x.0.len() + axes.len();
    let mut inserted = vec![false; rank];
    for &at in axes {
        let at = axis(at, rank)?;
        if std::mem::replace(&mut inserted[at], true) {
            return Err(format!("axis {at} is inserted twice"));
        }
    }
    let mut dims = x.0.iter().copied();
    let sizes = inserted.iter().map(|&new| if new { Some(1) } else { dims.next() });
    Ok(Shape(sizes.flatten().collect()))
}

/// The source axis of each result axis of `Transpose`.
pub(super) fn permutation(order: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, String> {
    let Some(order) = order else { return Ok((0..rank).rev().collect()) };
    let axes: Vec<usize> = order.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(format!("{order:?} is not an order of {rank} axes"));
    }
    Ok(axes)
}

fn concat(operands: &Operands<'_>, at: i64) -> Inferred {
    let mut result: Option<Shape> = None;
    for operand in 0..operands.len() {
        let Some(shape) = operands.shape(operand) else { return Ok(None) };
        let Some(so_far) = &mut result else {
            result = Some(shape.clone());
            continue;
        };
        let at = axis(at, so_far.0.len())?;
        let fits = so_far.0.len() == shape.0.len()
            && (0..so_far.0.len()).all(|other| other == at || so_far.0[other] == shape.0[other]);
        if !fits {
            return Err(format!("{so_far} and {shape} do not join along axis {at}"));
        }
        so_far.0[at] = so_far.0[at]
            .checked_add(shape.0[at])
            .ok_or_else(|| "more than 2^64 elements".to_owned())?;
    }
    if let Some(shape) = &result {
        axis(at, shape.0.len())?;
    }
    Ok(result)
}

/// Shapes of the results of `Split`.
pub(super) fn split(
    operands: &Operands<'_>,
    at: i64,
    sizes: Option<&[i64]>,
    results: usize,
) -> Result<Vec<Option<Shape>>, String> {
    let Some(x) = operands.shape(0) else { return Ok(vec![None; results]) };
    let at = axis(at, x.0.len())?;
    let sizes: Vec<u64> = match sizes.or_else(|| operands.ints(1)) {
        Some(sizes) => to_shape(sizes)?.0,
        None if operands.is_given(1) => return Ok(vec![None; results]),
        None => {
            let chunk = x.0[at].div_ceil(results.max(1) as u64);
            let ends = (1..=results as u64).map(|part| chunk.saturating_mul(part).min(x.0[at]));
            let mut start = 0;
            ends.map(|end| end - std::mem::replace(&mut start, end)).collect()
        }
    };
    if sizes.len() != results || sum(&sizes) != Some(x.0[at]) {
        return Err(format!("axis {at} of {x} does not divide into {sizes:?}"));
    }
    let part = |&size: &u64| {
        let mut shape = x.clone();
        shape.0[at] = size;
        Some(shape)
    };
    Ok(sizes.iter().map(part).collect())
}

fn sum(sizes: &[u64]) -> Option<u64> {
    sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size))
}

/// What `Slice` takes of one axis.
pub(super) struct AxisSlice {
    start: i64,
    step: i64,
    pub(super) count: u64,
}

impl AxisSlice {
    /// Source position of result position `index`, which is less than `count`.
    pub(super) fn at(&self, index: usize) -> usize {
        (self.start + self.step * index as i64) as usize
    }

    fn new(size: u64, start: i64, end: i64, step: i64) -> Result<Self, String> {
        let size = i64::try_from(size).map_err(|_| "more than 2^63 elements".to_owned())?;
        let from_end = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (start, span) = match step {
            1.. => {
                let start = from_end(start).clamp(0, size);
                (start, from_end(end).clamp(0, size) - start)
            }
            0 => return Err("a slice with step 0".to_owned()),
            _ => {
                let start = from_end(start).clamp(-1, size - 1);
                (start, start - from_end(end).clamp(-1, size - 1))
            }
        };
        let count = (span.max(0) as u64).div_ceil(step.unsigned_abs());
        Ok(Self { start, step, count })
    }
}

/// What `Slice` takes of each axis of a tensor of these sizes.
pub(super) fn slices(
    op: &Op,
    operands: &Operands<'_>,
    dims: &[u64],
) -> Result<Option<Vec<AxisSlice>>, String> {
    let Op::Slice { bounds } = op else { return Ok(None) };
    let (starts, ends, axes, steps) = match bounds {
        Some(SliceBounds { starts, ends, axes }) => (&starts[..], &ends[..], axes.as_deref(), None),
        None => {
            let (Some(starts), Some(ends)) = (operands.ints(1), operands.ints(2)) else {
                return Ok(None);
            };
            let (axes, steps) = (operands.ints(3), operands.ints(4));
            if operands.is_given(3) && axes.is_none() || operands.is_given(4) && steps.is_none() {
                return Ok(None);
            }
            (starts, ends, axes, steps)
        }
    };
    let lengths = [ends.len(), axes.map_or(starts.len(), <[i64]>::len)];
    if lengths.iter().chain([&steps.map_or(starts.len(), <[i64]>::len)]).any(|&n| n != starts.len())
    {
        return Err("bounds, axes and steps of unequal number".to_owned());
    }
    let whole = |&size: &u64| AxisSlice { start: 0, step: 1, count: size };
    let mut slices: Vec<AxisSlice> = dims.iter().map(whole).collect();
    for (at, (&start, &end)) in starts.iter().zip(ends).enumerate() {
        let axis = axis(axes.map_or(at as i64, |axes| axes[at]), dims.len())?;
        let step = steps.map_or(1, |steps| steps[at]);
        slices[axis] = AxisSlice::new(dims[axis], start, end, step)?;
    }
    Ok(Some(slices))
}

fn gather(x: &Shape, indices: Option<&Shape>, at: i64) -> Inferred {
    let Some(indices) = indices else { return Ok(None) };
    let at = axis(at, x.0.len())?;
    let dims = x.0[..at].iter().chain(&indices.0).chain(&x.0[at + 1..]);
    Ok(Some(Shape(dims.copied().collect())))
}

fn pad(x: &Shape, pads: Option<&[i64]>, operands: &Operands<'_>) -> Inferred {
    let Some(pads) = pads.or_else(|| operands.ints(1)) else { return Ok(None) };
    let rank = x.0.len();
    let axes: Vec<usize> = match (operands.ints(3), operands.is_given(3)) {
        (Some(axes), _) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
        (None, true) => return Ok(None),
        (None, false) => (0..rank).collect(),
    };
    if pads.len() != axes.len() * 2 {
        return Err(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut shape = x.clone();
    for (at, &axis) in axes.iter().enumerate() {
        let sum = i128::from(x.0[axis]) + i128::from(pads[at]) + i128::from(pads[axes.len() + at]);
        shape.0[axis] =
            u64::try_from(sum).map_err(|_| format!("pads {pads:?} leave {sum} of axis {axis}"))?;
    }
    Ok(Some(shape))
}

fn tile(x: &Shape, repeats: &[i64]) -> Result<Shape, String> {
    let error = || format!("{x} does not repeat {repeats:?} times");
    if repeats.len() != x.0.len() {
        return Err(error());
    }
    let dims = x.0.iter().zip(repeats);
    let dims = dims.map(|(&dim, &times)| dim.checked_mul(u64::try_from(times).ok()?));
    dims.collect::<Option<_>>().map(Shape).ok_or_else(error)
}

enum Direction {
    ToSpace,
    ToDepth,
}

fn blocks(x: &Shape, block: u64, direction: Direction) -> Result<Shape, String> {
    let error = || format!("{x} does not divide into blocks of {block}");
    let [batch, channels, height, width] = x.0[..] else { return Err(error()) };
    let area = block.checked_mul(block).filter(|&area| area > 0).ok_or_else(error)?;
    let divide = |size: u64, by: u64| size.is_multiple_of(by).then_some(size / by);
    let dims = match direction {
        Direction::ToSpace => {
            [divide(channels, area), height.checked_mul(block), width.checked_mul(block)]
        }
        Direction::ToDepth => {
            [channels.checked_mul(area), divide(height, block), divide(width, block)]
        }
    };
    let dims: Option<Vec<u64>> = [Some(batch)].into_iter().chain(dims).collect();
    dims.map(Shape).ok_or_else(error)
}

fn resized(x: &Shape, resize: &Resize, operands: &Operands<'_>) -> Inferred {
    let rank = x.0.len();
    let axes: Vec<usize> = match &resize.axes {
        Some(axes) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if !resize.plain {
        return Ok(None);
    }
    let mut shape = x.clone();
    let sizes = operands.ints(3).filter(|sizes| !sizes.is_empty());
    if let Some(sizes) = sizes {
        let sizes = to_shape(sizes)?;
        if sizes.0.len() != axes.len() {
            return Err(format!("{} sizes for {} axes", sizes.0.len(), axes.len()));
        }
        for (&axis, &size) in axes.iter().zip(&sizes.0) {
            shape.0[axis] = size;
        }
        return Ok(Some(shape));
    }
    let operand = resize.scales_operand.and_then(|at| operands.data(at)).and_then(Data::floats);
    let scales = resize.scales.as_deref().or(operand).filter(|scales| !scales.is_empty());
    let Some(scales) = scales else { return Ok(None) };
    if scales.len() != axes.len() {
        return Err(format!("{} scales for {} axes", scales.len(), axes.len()));
    }
    for (&axis, &scale) in axes.iter().zip(scales) {
        if !(scale > 0.0 && scale < 1e6) || x.0[axis] > 1 << 40 {
            return Err(format!("axis {axis} of {x} does not scale by {scale}"));
        }
        // Engines multiply in float32 before they round down.
        shape.0[axis] = (x.0[axis] as f32 * scale).floor() as u64;
    }
    Ok(Some(shape))
}
