//! Shape arithmetic: small tensors whose elements are known at import.
//!
//! Exporters write shapes as computations (`Shape`, `Gather`, `Concat`, ...). Where every operand
//! is known, [`evaluate`] computes the result as an engine would: integers exactly, `float32` in
//! `float32` and only by functions that IEEE 754 rounds correctly. What it cannot compute stays
//! unknown; it never guesses.

use crate::{
    graph::SMALL_CONSTANT,
    onnx::{
        layout,
        shape::{self, Operands},
    },
    op::{Binary, Op, Reduction, Unary},
    tensor::{DType, Shape},
};

/// Largest tensor that is computed, in elements.
const LIMIT: u64 = SMALL_CONSTANT.0;

/// Elements of a small tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// Of any integer type, or bool.
    Ints(Vec<i64>),
    /// Of `float32`.
    Floats(Vec<f32>),
}

/// What the import knows of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Shape>,
    pub(super) data: Option<Data>,
}

impl Data {
    /// Elements from little-endian bytes; `None` for types without exact arithmetic here.
    pub(super) fn parse(dtype: DType, bytes: &[u8]) -> Option<Self> {
        fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Data {
            Data::Ints(bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect())
        }
        Some(match dtype {
            DType::F32 => {
                let chunks = bytes.as_chunks::<4>().0;
                Self::Floats(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
            }
            DType::I64 => each(bytes, i64::from_le_bytes),
            DType::I32 => each(bytes, |chunk| i32::from_le_bytes(chunk).into()),
            DType::U32 => each(bytes, |chunk| u32::from_le_bytes(chunk).into()),
            DType::I16 => each(bytes, |chunk| i16::from_le_bytes(chunk).into()),
            DType::U16 => each(bytes, |chunk| u16::from_le_bytes(chunk).into()),
            DType::I8 => each(bytes, |chunk| i8::from_le_bytes(chunk).into()),
            DType::U8 | DType::Bool => each(bytes, |chunk: [u8; 1]| chunk[0].into()),
            DType::F16 | DType::BF16 | DType::F64 | DType::U64 | DType::String => return None,
        })
    }

    /// Little-endian bytes; `None` where an element does not fit the type.
    pub(super) fn bytes(&self, dtype: DType) -> Option<Vec<u8>> {
        let ints = match self {
            Self::Floats(values) if dtype == DType::F32 => {
                return Some(values.iter().flat_map(|value| value.to_le_bytes()).collect());
            }
            Self::Floats(_) => return None,
            Self::Ints(values) => values,
        };
        let mut bytes = Vec::new();
        for &value in ints {
            match dtype {
                DType::I64 => bytes.extend(value.to_le_bytes()),
                DType::I32 => bytes.extend(i32::try_from(value).ok()?.to_le_bytes()),
                DType::U32 => bytes.extend(u32::try_from(value).ok()?.to_le_bytes()),
                DType::I16 => bytes.extend(i16::try_from(value).ok()?.to_le_bytes()),
                DType::U16 => bytes.extend(u16::try_from(value).ok()?.to_le_bytes()),
                DType::I8 => bytes.extend(i8::try_from(value).ok()?.to_le_bytes()),
                DType::U8 => bytes.push(u8::try_from(value).ok()?),
                DType::Bool => bytes.push(u8::from(value != 0)),
                _ => return None,
            }
        }
        Some(bytes)
    }

    pub(super) fn ints(&self) -> Option<&[i64]> {
        match self {
            Self::Ints(values) => Some(values),
            Self::Floats(_) => None,
        }
    }

    pub(super) fn floats(&self) -> Option<&[f32]> {
        match self {
            Self::Floats(values) => Some(values),
            Self::Ints(_) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// The elements at the given positions.
    fn pick(&self, positions: impl Iterator<Item = usize>) -> Option<Self> {
        Some(match self {
            Self::Ints(values) => {
                Self::Ints(positions.map(|at| values.get(at).copied()).collect::<Option<_>>()?)
            }
            Self::Floats(values) => {
                Self::Floats(positions.map(|at| values.get(at).copied()).collect::<Option<_>>()?)
            }
        })
    }
}

/// The elements of a layer's first result, of shape `out` and type `dtype`, where they follow from
/// its operands.
pub(super) fn evaluate(
    op: &Op,
    operands: &Operands<'_>,
    stored: Option<&Known>,
    dtype: Option<DType>,
    out: &Shape,
) -> Option<Data> {
    if out.elements()? > LIMIT || is_degenerate(out) || operands.shapes().any(is_degenerate) {
        return None;
    }
    match op {
        Op::Shape { start, end } => {
            let dims = &operands.shape(0)?.0;
            let range = shape::axis_range(dims.len(), *start, *end);
            return as_ints(&dims[range]);
        }
        Op::Size => return as_ints(&[operands.shape(0)?.elements()?]),
        Op::Constant => return stored?.data.clone(),
        Op::ConstantOfShape => return fill(stored, out),
        _ => {}
    }
    let first = operands.data(0)?;
    let data = match op {
        op if op.is_relabelling() => first.clone(),
        Op::Expand => broadcast(first, operands.shape(0)?, out)?,
        Op::Cast(to) => cast(first, (*to)?)?,
        Op::Unary(unary) => apply(*unary, first)?,
        Op::Binary(binary) => combine(*binary, operands, dtype?, out)?,
        Op::Where => choose(operands, out)?,
        Op::Gather { axis } => gather(operands, *axis)?,
        Op::Slice { .. } => slice(op, operands)?,
        Op::Transpose { permutation } => transpose(operands, permutation.as_deref())?,
        Op::Concat { axis } => concat(operands, *axis, out)?,
        Op::Range => range(operands, out)?,
        Op::Reduce { kind, .. } if out.elements() == Some(1) => reduce(*kind, first.ints()?)?,
        _ => return None,
    };
    (data.len() as u64 == out.elements()?).then_some(data)
}

/// Empty, of several axes: the other axes may then be of any size, so it is not computed with.
fn is_degenerate(shape: &Shape) -> bool {
    shape.0.len() > 1 && shape.0.contains(&0)
}

fn as_ints(sizes: &[u64]) -> Option<Data> {
    let ints: Result<Vec<i64>, _> = sizes.iter().map(|&size| i64::try_from(size)).collect();
    ints.ok().map(Data::Ints)
}

fn fill(stored: Option<&Known>, out: &Shape) -> Option<Data> {
    let count = usize::try_from(out.elements()?).ok()?;
    match stored.map(|known| known.data.as_ref()) {
        None => Some(Data::Floats(vec![0.0; count])),
        Some(data) => data?.pick(std::iter::repeat_n(0, count)),
    }
}

fn cast(data: &Data, to: DType) -> Option<Data> {
    let to_int = |value: f32| {
        // Beyond this, engines differ in what they make of the value.
        (value.abs() < 1e9).then_some(value as i64)
    };
    match (data, to) {
        (Data::Floats(_), DType::F32) => Some(data.clone()),
        (Data::Ints(values), DType::F32) => {
            Some(Data::Floats(values.iter().map(|&value| value as f32).collect()))
        }
        (Data::Ints(values), DType::Bool) => {
            Some(Data::Ints(values.iter().map(|&value| (value != 0).into()).collect()))
        }
        (Data::Floats(values), DType::I32 | DType::I64) => {
            Some(Data::Ints(values.iter().map(|&value| to_int(value)).collect::<Option<_>>()?))
        }
        (Data::Ints(_), to) => data.bytes(to).is_some().then(|| data.clone()),
        _ => None,
    }
}

fn apply(unary: Unary, data: &Data) -> Option<Data> {
    match data {
        Data::Ints(values) => {
            let function: fn(i64) -> Option<i64> = match unary {
                Unary::Neg => i64::checked_neg,
                Unary::Abs => i64::checked_abs,
                Unary::Not => |value| Some((value == 0).into()),
                _ => return None,
            };
            Some(Data::Ints(values.iter().map(|&value| function(value)).collect::<Option<_>>()?))
        }
        Data::Floats(values) => {
            let function: fn(f32) -> f32 = match unary {
                Unary::Neg => |value| -value,
                Unary::Abs => f32::abs,
                Unary::Floor => f32::floor,
                Unary::Ceil => f32::ceil,
                Unary::Round => f32::round_ties_even,
                Unary::Sqrt => f32::sqrt,
                _ => return None,
            };
            Some(Data::Floats(values.iter().map(|&value| function(value)).collect()))
        }
    }
}

fn combine(binary: Binary, operands: &Operands<'_>, dtype: DType, out: &Shape) -> Option<Data> {
    if operands.len() != 2 {
        return None;
    }
    let left = broadcast(operands.data(0)?, operands.shape(0)?, out)?;
    let right = broadcast(operands.data(1)?, operands.shape(1)?, out)?;
    match (&left, &right) {
        (Data::Ints(left), Data::Ints(right)) => {
            let values = left.iter().zip(right).map(|(&a, &b)| combine_ints(binary, a, b));
            let data = Data::Ints(values.collect::<Option<_>>()?);
            data.bytes(dtype).is_some().then_some(data)
        }
        (Data::Floats(left), Data::Floats(right)) => {
            let function: fn(f32, f32) -> f32 = match binary {
                Binary::Add => |a, b| a + b,
                Binary::Sub => |a, b| a - b,
                Binary::Mul => |a, b| a * b,
                Binary::Div => |a, b| a / b,
                _ => return None,
            };
            let values = left.iter().zip(right).map(|(&a, &b)| function(a, b));
            Some(Data::Floats(values.collect()))
        }
        _ => None,
    }
}

fn combine_ints(binary: Binary, a: i64, b: i64) -> Option<i64> {
    Some(match binary {
        Binary::Add => a.checked_add(b)?,
        Binary::Sub => a.checked_sub(b)?,
        Binary::Mul => a.checked_mul(b)?,
        Binary::Div => a.checked_div(b)?,
        // Only where the two definitions of the remainder agree.
        Binary::Mod if a >= 0 && b > 0 => a % b,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Equal => (a == b).into(),
        Binary::Greater => (a > b).into(),
        Binary::GreaterOrEqual => (a >= b).into(),
        Binary::Less => (a < b).into(),
        Binary::LessOrEqual => (a <= b).into(),
        Binary::And => (a != 0 && b != 0).into(),
        Binary::Or => (a != 0 || b != 0).into(),
        _ => return None,
    })
}

fn choose(operands: &Operands<'_>, out: &Shape) -> Option<Data> {
    let spread = |at| broadcast(operands.data(at)?, operands.shape(at)?, out);
    let (condition, yes, no) = (spread(0)?, spread(1)?, spread(2)?);
    let condition = condition.ints()?;
    match (yes, no) {
        (Data::Ints(yes), Data::Ints(no)) => Some(Data::Ints(
            (0..condition.len())
                .map(|at| if condition[at] != 0 { yes[at] } else { no[at] })
                .collect(),
        )),
        _ => None,
    }
}

fn reduce(kind: Reduction, values: &[i64]) -> Option<Data> {
    let result = match kind {
        Reduction::ReduceProd => {
            values.iter().try_fold(1i64, |product, &value| product.checked_mul(value))
        }
        Reduction::ReduceSum => values.iter().try_fold(0i64, |sum, &value| sum.checked_add(value)),
        Reduction::ReduceMax => values.iter().copied().max(),
        Reduction::ReduceMin => values.iter().copied().min(),
        _ => None,
    };
    Some(Data::Ints(vec![result?]))
}

fn range(operands: &Operands<'_>, out: &Shape) -> Option<Data> {
    let start = *operands.data(0)?.ints()?.first()?;
    let step = *operands.data(2)?.ints()?.first()?;
    let count = i64::try_from(out.elements()?).ok()?;
    let values = (0..count).map(|at| start.checked_add(step.checked_mul(at)?));
    Some(Data::Ints(values.collect::<Option<_>>()?))
}

/// The positions of a row-major index space, one multi-index at a time.
fn indices(dims: &[u64]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let count = dims.iter().product::<u64>();
    (0..count).map(move |mut flat| {
        let mut index = vec![0; dims.len()];
        for (at, &dim) in dims.iter().enumerate().rev() {
            index[at] = (flat % dim) as usize;
            flat /= dim;
        }
        index
    })
}

/// Row-major position of an index; an axis of size 1 repeats.
fn position(index: &[usize], dims: &[u64]) -> usize {
    index
        .iter()
        .zip(dims)
        .fold(0, |flat, (&at, &dim)| flat * dim as usize + if dim == 1 { 0 } else { at })
}

fn broadcast(data: &Data, dims: &Shape, out: &Shape) -> Option<Data> {
    let lead = out.0.len().checked_sub(dims.0.len())?;
    data.pick(indices(&out.0).map(|index| position(&index[lead..], &dims.0)))
}

fn gather(operands: &Operands<'_>, axis: i64) -> Option<Data> {
    let (dims, chosen) = (&operands.shape(0)?.0, operands.data(1)?.ints()?);
    let axis = shape::resolve_axis(axis, dims.len())?;
    let count = dims[axis] as usize;
    let inner: usize = dims[axis + 1..].iter().product::<u64>() as usize;
    let outer: usize = dims[..axis].iter().product::<u64>() as usize;
    let chosen: Option<Vec<usize>> = chosen
        .iter()
        .map(|&at| {
            let at = if at < 0 { at.checked_add(count as i64)? } else { at };
            usize::try_from(at).ok().filter(|&at| at < count)
        })
        .collect();
    let chosen = &chosen?;
    let positions = (0..outer).flat_map(move |outer| {
        chosen.iter().flat_map(move |&at| {
            (0..inner).map(move |inner_at| (outer * count + at) * inner + inner_at)
        })
    });
    operands.data(0)?.pick(positions)
}

fn slice(op: &Op, operands: &Operands<'_>) -> Option<Data> {
    let dims = &operands.shape(0)?.0;
    let slices = layout::slices(op, operands, dims).ok()??;
    let counts: Vec<u64> = slices.iter().map(|slice| slice.count).collect();
    let positions = indices(&counts).map(|index| {
        let source = index.iter().zip(&slices).map(|(&at, slice)| slice.at(at)).collect::<Vec<_>>();
        source.iter().zip(dims).fold(0, |flat, (&at, &dim)| flat * dim as usize + at)
    });
    operands.data(0)?.pick(positions)
}

fn transpose(operands: &Operands<'_>, permutation: Option<&[i64]>) -> Option<Data> {
    let dims = &operands.shape(0)?.0;
    let permutation = layout::permutation(permutation, dims.len()).ok()?;
    let out: Vec<u64> = permutation.iter().map(|&axis| dims[axis]).collect();
    let positions = indices(&out).map(|index| {
        let mut source = vec![0; dims.len()];
        for (at, &axis) in permutation.iter().enumerate() {
            source[axis] = index[at];
        }
        source.iter().zip(dims).fold(0, |flat, (&at, &dim)| flat * dim as usize + at)
    });
    operands.data(0)?.pick(positions)
}

fn concat(operands: &Operands<'_>, axis: i64, out: &Shape) -> Option<Data> {
    let axis = shape::resolve_axis(axis, out.0.len())?;
    let outer: u64 = out.0[..axis].iter().product();
    let mut rows: Vec<Data> = Vec::new();
    for row in 0..outer as usize {
        for at in 0..operands.len() {
            let data = operands.data(at)?;
            let width = operands.shape(at)?.0[axis..].iter().product::<u64>() as usize;
            rows.push(data.pick(row * width..(row + 1) * width)?);
        }
    }
    let mut rows = rows.into_iter();
    let mut all = rows.next()?;
    for row in rows {
        match (&mut all, row) {
            (Data::Ints(all), Data::Ints(row)) => all.extend(row),
            (Data::Floats(all), Data::Floats(row)) => all.extend(row),
            _ => return None,
        }
    }
    Some(all)
}
