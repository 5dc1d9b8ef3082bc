//! Operators that depend on the order of all elements: reshaping, transposing, packing.

use super::{NO_OPTIONS, Options, axis, field};
use crate::tflite::{
    convert::{Activation, Converter, Problem, int, perm},
    layout::{Layout, TO_NCHW, keeps_order},
    operators::Kind,
    reader::Operator,
};

/// Other axes for the same elements. A picture that is flattened for fully connected layers alone
/// is not brought into the order of the file: their weights are.
pub(super) fn reshape(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let shape = c.shape(output);
    if c.shape(x).iter().product::<i64>() != shape.iter().product::<i64>() {
        return Err(format!("{:?} does not reshape to {shape:?}", c.shape(x)));
    }
    if c.tensor(x).dtype != c.tensor(output).dtype {
        return Err("its result has another type than its operand".to_owned());
    }
    let layout = if is_flattening(c, x, output) { Layout::Flat } else { Layout::Plain };
    let value = match layout {
        Layout::Flat => c.value(x, Layout::Nchw)?,
        _ => c.in_order(x)?,
    };
    let shape = c.int64s(output, shape);
    c.make_stored((output, layout), "Reshape", vec![value, shape], vec![])?;
    if layout == Layout::Flat {
        c.remember_flat(output, x);
    }
    Ok(())
}

/// Whether pictures become rows that nothing but fully connected layers with constant weights read.
fn is_flattening(c: &Converter<'_>, x: usize, output: usize) -> bool {
    let (&[batch, height, width, channels], &[rows, features]) = (c.shape(x), c.shape(output))
    else {
        return false;
    };
    let readers = || c.network.operators.iter().filter(|op| op.inputs.contains(&Some(output)));
    c.common_layout(&[x]) == Layout::Nchw
        && !keeps_order(c.shape(x), &TO_NCHW)
        && (rows, features) == (batch, height * width * channels)
        && !c.is_output(output)
        && readers().next().is_some()
        && readers().all(|op| {
            let weights = op.inputs.get(1).copied().flatten();
            op.kind == Kind::FullyConnected
                && op.inputs.first() == Some(&Some(output))
                && weights.is_some_and(|at| {
                    let per_row = c.quantisation(at).is_none_or(|it| it.axis == 0);
                    c.constant(at).is_some() && per_row && c.shape(at).get(1) == Some(&features)
                })
        })
}

pub(super) fn transpose(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let rank = c.shape(x).len();
    let order = c.integers(op.input(1)?)?;
    let order = order.into_iter().map(|at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("its order {order:?} is no permutation of {rank} axes"));
    }
    let layout = c.common_layout(&[x]);
    let order: Vec<usize> = order.into_iter().map(|at| layout.place(at)).collect();
    let value = c.value(x, layout)?;
    let target = (output, Layout::Plain);
    if order.is_sorted() {
        return c.make_stored(target, "Identity", vec![value], vec![]);
    }
    c.make_stored(target, "Transpose", vec![value], vec![perm(&order)])
}

/// Operands side by side along a new axis.
pub(super) fn pack(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::PackOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    let output = op.output()?;
    let along = axis(i64::from(field(o.axis())?), c.shape(output).len())?;
    let mut shape = c.shape(output).to_vec();
    shape[along] = 1;
    let mut inputs = Vec::new();
    for at in op.inputs.iter().copied().flatten() {
        let real = c.real(at, Layout::Plain)?;
        inputs.push(c.reshaped(output, real, &shape));
    }
    let attributes = vec![int("axis", along as i64)];
    c.make((output, Layout::Plain), Activation::None, "Concat", inputs, attributes)
}

/// One result for each index of an axis, without that axis.
pub(super) fn unpack(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::UnpackOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    let x = op.input(0)?;
    let along = axis(i64::from(field(o.axis())?), c.shape(x).len())?;
    if c.shape(x)[along] != op.outputs.len() as i64 {
        return Err("it does not make as many results as its axis is long".to_owned());
    }
    let value = c.real(x, Layout::Plain)?;
    for (index, &output) in op.outputs.iter().enumerate() {
        let bounds = [&[index as i64][..], &[index as i64 + 1], &[along as i64]];
        let bounds = bounds.map(|list| c.int64s(output, list));
        let inputs = [value.clone()].into_iter().chain(bounds).collect();
        let part = c.step(output, "Slice", inputs, vec![]);
        let shape = c.int64s(output, c.shape(output));
        let target = (output, Layout::Plain);
        c.make(target, Activation::None, "Reshape", vec![part, shape], vec![])?;
    }
    Ok(())
}
