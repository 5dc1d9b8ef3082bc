//! Operators with axes that can be renamed, so that they work in the layout they get: softmax,
//! reductions, concatenation, padding, slices.

use super::{NO_OPTIONS, Options, axis, field, fused, single};
use crate::tensor::DType;
use crate::tflite::{
    convert::{Activation, Converter, Problem, int, ints, word},
    layout::Layout,
    operators::Kind,
    reader::Operator,
    schema::tflite::MirrorPadMode,
};

pub(super) fn softmax(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let (name, beta) = match op.options {
        Some(Options::SoftmaxOptions(o)) => ("Softmax", field(o.beta())?),
        _ if op.kind == Kind::LogSoftmax => ("LogSoftmax", 1.0),
        _ => return Err(NO_OPTIONS.to_owned()),
    };
    let layout = c.common_layout(&[x]);
    let mut real = c.real(x, layout)?;
    if beta != 1.0 {
        let beta = c.float(output, beta);
        real = c.step(output, "Mul", vec![real, beta], vec![]);
    }
    let last = c.shape(x).len().checked_sub(1).ok_or("its operand is a number")?;
    let attributes = vec![int("axis", layout.place(last) as i64)];
    c.make((output, layout), Activation::None, name, vec![real], attributes)
}

/// The layout in which axes can be taken away: NCHW where those that stay keep their order.
fn reducible(c: &Converter<'_>, x: usize, gone: &[usize]) -> Layout {
    let layout = c.common_layout(&[x]);
    let stay = (0..c.shape(x).len()).filter(|axis| !gone.contains(axis));
    let places: Vec<usize> = stay.map(|axis| layout.place(axis)).collect();
    if places.is_sorted() { layout } else { Layout::Plain }
}

pub(super) fn reduce(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::ReducerOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    let (x, output, keep) = (op.input(0)?, op.output()?, field(o.keep_dims())?);
    let rank = c.shape(x).len();
    let axes = c.integers(op.input(1)?)?;
    let axes = axes.into_iter().map(|at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    let layout = if keep { c.common_layout(&[x]) } else { reducible(c, x, &axes) };
    let mut places: Vec<i64> = axes.iter().map(|&at| layout.place(at) as i64).collect();
    places.sort_unstable();
    places.dedup();
    let mut inputs = vec![c.real(x, layout)?];
    let mut attributes = vec![int("keepdims", i64::from(keep))];
    let name = match op.kind {
        Kind::Mean => "ReduceMean",
        Kind::Sum => "ReduceSum",
        Kind::ReduceMax => "ReduceMax",
        Kind::ReduceMin => "ReduceMin",
        _ => "ReduceProd",
    };
    if op.kind == Kind::Sum {
        inputs.push(c.int64s(output, &places));
    } else {
        attributes.push(ints("axes", &places));
    }
    let made = if keep { layout } else { Layout::Plain };
    c.make((output, made), Activation::None, name, inputs, attributes)
}

pub(super) fn arg(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let along = single(&c.integers(op.input(1)?)?, "axis")?;
    let along = axis(along, c.shape(x).len())?;
    let layout = reducible(c, x, &[along]);
    let name = if op.kind == Kind::ArgMax { "ArgMax" } else { "ArgMin" };
    let attributes = vec![int("axis", layout.place(along) as i64), int("keepdims", 0)];
    let inputs = vec![c.real(x, layout)?];
    if c.tensor(output).dtype == Some(DType::I64) {
        return c.make_stored((output, Layout::Plain), name, inputs, attributes);
    }
    let found = c.step(output, name, inputs, attributes);
    let to = vec![int("to", i64::from(DType::I32.onnx()))];
    c.make_stored((output, Layout::Plain), "Cast", vec![found], to)
}

pub(super) fn concatenation(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::ConcatenationOptions(o)) = op.options else {
        return Err(NO_OPTIONS.to_owned());
    };
    let operands: Vec<usize> = op.inputs.iter().copied().flatten().collect();
    let output = op.output()?;
    let along = axis(i64::from(field(o.axis())?), c.shape(output).len())?;
    let layout = c.common_layout(&operands);
    let inputs = operands.iter().map(|&at| c.real(at, layout)).collect::<Result<Vec<_>, _>>()?;
    let attributes = vec![int("axis", layout.place(along) as i64)];
    if fused(o.fused_activation_function())? != Activation::None {
        return Err("an activation behind it is not supported; LiteRT leaves it out".to_owned());
    }
    c.make((output, layout), Activation::None, "Concat", inputs, attributes)
}

pub(super) fn pad(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let amounts = c.integers(op.input(1)?)?;
    let rank = c.shape(x).len();
    if amounts.len() != 2 * rank || amounts.iter().any(|&amount| amount < 0) {
        return Err(format!("its paddings {amounts:?} do not fit {rank} axes"));
    }
    // Engines mirror rows and columns where those are the last axes, and not others.
    let mirrors = op.kind == Kind::MirrorPad && rank == 4;
    let layout = if mirrors { Layout::Nchw } else { c.common_layout(&[x]) };
    let side = |side: usize| amounts.iter().copied().skip(side).step_by(2).collect::<Vec<i64>>();
    let pads = [layout.arrange(&side(0)), layout.arrange(&side(1))].concat();
    let mut inputs = vec![c.real(x, layout)?, c.int64s(output, &pads)];
    let mode = match op.options {
        Some(Options::MirrorPadOptions(o)) => match field(o.mode())? {
            MirrorPadMode::Reflect => "reflect",
            MirrorPadMode::Symmetric => {
                return Err("mirroring the border itself is not supported".to_owned());
            }
        },
        _ if op.kind == Kind::MirrorPad => "reflect",
        _ => "constant",
    };
    if let Some(value) = op.operand(2) {
        inputs.push(c.real(value, Layout::Plain)?);
    }
    c.make((output, layout), Activation::None, "Pad", inputs, vec![word("mode", mode)])
}

pub(super) fn split(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, along) = match op.kind {
        Kind::Split => (op.input(1)?, op.input(0)?),
        _ => (op.input(0)?, op.input(2)?),
    };
    let along = axis(single(&c.integers(along)?, "axis")?, c.shape(x).len())?;
    let size = |&at: &usize| c.shape(at).get(along).copied().ok_or("a part has no such axis");
    let sizes = op.outputs.iter().map(size).collect::<Result<Vec<_>, _>>()?;
    let layout = c.common_layout(&[x]);
    let first = op.output()?;
    let inputs = vec![c.real(x, layout)?, c.int64s(first, &sizes)];
    let attributes = vec![int("axis", layout.place(along) as i64)];
    let begin = |&at: &usize| c.begin(at, layout, Activation::None);
    let names = op.outputs.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
    c.node("Split", inputs, names.clone(), attributes);
    for (&at, name) in op.outputs.iter().zip(names) {
        c.end(at, Activation::None, name);
    }
    Ok(())
}

/// What a slice takes of each axis of the file.
struct Taken {
    starts: Vec<i64>,
    ends: Vec<i64>,
    steps: Vec<i64>,
}

pub(super) fn slice(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let (starts, sizes) = (c.integers(op.input(1)?)?, c.integers(op.input(2)?)?);
    let rank = c.shape(x).len();
    if starts.len() != rank || sizes.len() != rank {
        return Err(format!("its bounds do not fit {rank} axes"));
    }
    let end = |(&start, &size): (&i64, &i64)| match size {
        -1 => i64::MAX,
        size => start.saturating_add(size),
    };
    let ends = starts.iter().zip(&sizes).map(end).collect();
    let taken = Taken { starts, ends, steps: vec![1; rank] };
    let layout = c.common_layout(&[x]);
    let (stored, same) = source(c, x, output, layout)?;
    let inputs = sliced(c, output, stored, &taken, layout);
    if same {
        return c.make_stored((output, layout), "Slice", inputs, vec![]);
    }
    c.make((output, layout), Activation::None, "Slice", inputs, vec![])
}

/// The operand: stored elements where the result has its scale, else real numbers.
fn source(
    c: &mut Converter<'_>,
    x: usize,
    output: usize,
    layout: Layout,
) -> Result<(String, bool), Problem> {
    let same = c.same_scale(x, output);
    Ok((if same { c.value(x, layout)? } else { c.real(x, layout)? }, same))
}

fn sliced(
    c: &mut Converter<'_>,
    output: usize,
    value: String,
    taken: &Taken,
    layout: Layout,
) -> Vec<String> {
    let axes: Vec<i64> = (0..taken.starts.len() as i64).collect();
    let lists = [&taken.starts, &taken.ends].map(|list| layout.arrange(list));
    let lists = [&lists[0], &lists[1], &axes, &layout.arrange(&taken.steps)];
    let lists = lists.map(|list| c.int64s(output, list));
    [value].into_iter().chain(lists).collect()
}

pub(super) fn strided_slice(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::StridedSliceOptions(o)) = op.options else {
        return Err(NO_OPTIONS.to_owned());
    };
    let (x, output) = (op.input(0)?, op.output()?);
    if field(o.ellipsis_mask())? != 0 || field(o.new_axis_mask())? != 0 {
        return Err("an ellipsis or new axis in its bounds is not supported".to_owned());
    }
    let mut taken = Taken {
        starts: c.integers(op.input(1)?)?,
        ends: c.integers(op.input(2)?)?,
        steps: c.integers(op.input(3)?)?,
    };
    let rank = c.shape(x).len();
    let fits = |list: &Vec<i64>| list.len() == taken.starts.len() && list.len() <= rank;
    if !fits(&taken.starts) || !fits(&taken.ends) || !fits(&taken.steps) {
        return Err(format!("its bounds do not fit {rank} axes"));
    }
    let bits = [field(o.begin_mask())?, field(o.end_mask())?, field(o.shrink_axis_mask())?];
    let has = |mask: i32, at: usize| mask >> at & 1 == 1;
    for at in 0..rank {
        if at >= taken.starts.len() {
            taken.starts.push(0);
            taken.ends.push(i64::MAX);
            taken.steps.push(1);
            continue;
        }
        if taken.steps[at] == 0 {
            return Err("it has a step of 0".to_owned());
        }
        let forward = taken.steps[at] > 0;
        // As LiteRT has it, also where the axis is taken away.
        if has(bits[0], at) {
            taken.starts[at] = if forward { 0 } else { -1 };
        }
        if field(o.offset())? {
            // An end that counts from the start needs one that counts from the front.
            let (start, size) = (taken.starts[at], c.shape(x)[at]);
            let start = if start < 0 { start.saturating_add(size) } else { start }.clamp(0, size);
            taken.starts[at] = start;
            taken.ends[at] = taken.ends[at].saturating_add(start);
        }
        if has(bits[1], at) {
            taken.ends[at] = if forward { i64::MAX } else { i64::MIN };
        }
        if has(bits[2], at) {
            let start = taken.starts[at];
            taken.ends[at] = if start == -1 { i64::MAX } else { start.saturating_add(1) };
            taken.steps[at] = 1;
        }
    }
    let gone: Vec<usize> = (0..rank).filter(|&at| has(bits[2], at)).collect();
    let layout = if gone.is_empty() { c.common_layout(&[x]) } else { reducible(c, x, &gone) };
    let (stored, same) = source(c, x, output, layout)?;
    let inputs = sliced(c, output, stored, &taken, layout);
    let (name, inputs, made) = if gone.is_empty() {
        ("Slice", inputs, layout)
    } else {
        let part = c.step(output, "Slice", inputs, vec![]);
        ("Reshape", vec![part, c.int64s(output, c.shape(output))], Layout::Plain)
    };
    if same {
        return c.make_stored((output, made), name, inputs, vec![]);
    }
    c.make((output, made), Activation::None, name, inputs, vec![])
}
