//! Operators that compute each element of the result from one element of each operand.

use super::{Kind, NO_OPTIONS, Options, field, fused};
use crate::tflite::{
    convert::{Activation, Converter, Problem, float, int},
    layout::{Layout, TO_NCHW, keeps_order, permuted},
    reader::Operator,
};
use crate::{onnx::proto::AttributeProto, tensor::DType};

pub(super) fn binary(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let activation = match op.options {
        Some(Options::AddOptions(o) | Options::SubOptions(o)) => {
            fused(o.fused_activation_function())?
        }
        Some(Options::MulOptions(o) | Options::DivOptions(o)) => {
            fused(o.fused_activation_function())?
        }
        _ => Activation::None,
    };
    let name = match op.kind {
        Kind::Add => "Add",
        Kind::Sub => "Sub",
        Kind::Mul => "Mul",
        Kind::Div => "Div",
        Kind::Maximum => "Max",
        _ => "Min",
    };
    let (layout, inputs) = operands(c, op)?;
    c.make((op.output()?, layout), activation, name, inputs, vec![])
}

/// Squares and the like, which ONNX writes in two steps.
pub(super) fn composed(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let output = op.output()?;
    let (target, none) = (|layout| (output, layout), Activation::None);
    if op.kind == Kind::SquaredDifference {
        let (layout, inputs) = operands(c, op)?;
        let difference = c.step(output, "Sub", inputs, vec![]);
        return c.make(target(layout), none, "Mul", vec![difference.clone(), difference], vec![]);
    }
    let x = op.input(0)?;
    let layout = c.common_layout(&[x]);
    let real = c.real(x, layout)?;
    if op.kind == Kind::Square {
        return c.make(target(layout), none, "Mul", vec![real.clone(), real], vec![]);
    }
    let root = c.step(output, "Sqrt", vec![real], vec![]);
    c.make(target(layout), none, "Reciprocal", vec![root], vec![])
}

/// The two operands as real numbers that ONNX broadcasts to the result.
fn operands(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(Layout, Vec<String>), Problem> {
    let (pair, output) = ([op.input(0)?, op.input(1)?], op.output()?);
    let rank = c.shape(output).len();
    let layout = if rank == 4 { c.common_layout(&pair) } else { Layout::Plain };
    let inputs = pair.into_iter().map(|at| broadcast(c, at, layout, output));
    Ok((layout, inputs.collect::<Result<_, _>>()?))
}

/// An operand as real numbers; one with fewer axes gets its place among the four of the result.
fn broadcast(
    c: &mut Converter<'_>,
    at: usize,
    layout: Layout,
    output: usize,
) -> Result<String, Problem> {
    let shape = c.shape(at);
    if layout != Layout::Nchw || shape.is_empty() || shape.len() >= 4 {
        return c.real(at, if shape.len() == 4 { layout } else { Layout::Plain });
    }
    let mut whole = vec![1; 4 - shape.len()];
    whole.extend(shape);
    if let Some(constant) = c.constant(at) {
        let mut view = c.permuted_view(constant, &(0..shape.len()).collect::<Vec<_>>());
        if c.quantisation(constant).is_some_and(|it| it.scale.len() > 1) {
            return Err("an operand with a scale per channel cannot be broadcast".to_owned());
        }
        (view.shape, view.order) = (permuted(&whole, &TO_NCHW), TO_NCHW.to_vec());
        view.seen = whole;
        return c.real_weight(constant, &view);
    }
    let real = c.real(at, Layout::Plain)?;
    if keeps_order(&whole, &TO_NCHW) {
        return Ok(c.reshaped(output, real, &permuted(&whole, &TO_NCHW)));
    }
    let real = c.reshaped(output, real, &whole);
    let order = crate::tflite::convert::perm(&TO_NCHW);
    Ok(c.step(output, "Transpose", vec![real], vec![order]))
}

/// Functions of one operand; `None` for what is no such function.
pub(super) fn unary(
    c: &mut Converter<'_>,
    op: &Operator<'_>,
    kind: Kind,
) -> Option<Result<(), Problem>> {
    let name = match kind {
        Kind::Relu => return Some(clamp(c, op, 0.0, f32::INFINITY)),
        Kind::Relu6 => return Some(clamp(c, op, 0.0, 6.0)),
        Kind::ReluN1To1 => return Some(clamp(c, op, -1.0, 1.0)),
        Kind::Relu0To1 => return Some(clamp(c, op, 0.0, 1.0)),
        Kind::Logistic => "Sigmoid",
        Kind::Tanh => "Tanh",
        Kind::HardSwish => "HardSwish",
        Kind::Elu => "Elu",
        Kind::Exp => "Exp",
        Kind::Log => "Log",
        Kind::Sqrt => "Sqrt",
        Kind::Abs => "Abs",
        Kind::Neg => "Neg",
        Kind::Floor => "Floor",
        Kind::Ceil => "Ceil",
        _ => return None,
    };
    Some(apply(c, op, name, vec![]))
}

fn apply(
    c: &mut Converter<'_>,
    op: &Operator<'_>,
    name: &str,
    attributes: Vec<AttributeProto>,
) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let layout = c.common_layout(&[x]);
    let inputs = vec![c.real(x, layout)?];
    c.make((output, layout), Activation::None, name, inputs, attributes)
}

/// A clamp as a layer of its own: in ONNX the same node as one that is fused.
fn clamp(c: &mut Converter<'_>, op: &Operator<'_>, low: f32, high: f32) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let layout = c.common_layout(&[x]);
    let real = c.real(x, layout)?;
    if high == f32::INFINITY {
        return c.make((output, layout), Activation::None, "Relu", vec![real], vec![]);
    }
    let inputs = vec![real, c.float(output, low), c.float(output, high)];
    c.make((output, layout), Activation::None, "Clip", inputs, vec![])
}

pub(super) fn leaky_relu(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::LeakyReluOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    apply(c, op, "LeakyRelu", vec![float("alpha", field(o.alpha())?)])
}

pub(super) fn prelu(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (layout, inputs) = operands(c, op)?;
    c.make((op.output()?, layout), Activation::None, "PRelu", inputs, vec![])
}

/// To integers, from integers, or from integers of one scale to those of another.
pub(super) fn requantize(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let constant = c.constant(x).filter(|_| op.kind == Kind::Dequantize);
    if let Some(constant) = constant {
        c.alias(output, constant);
        return Ok(());
    }
    let needed = if op.kind == Kind::Dequantize { x } else { output };
    if c.quantisation(needed).is_none() {
        return Err(format!("`{}` has no scale", c.tensor(needed).name));
    }
    let layout = c.common_layout(&[x]);
    if op.kind == Kind::Quantize {
        let real = c.real(x, layout)?;
        return c.quantize((output, layout), real);
    }
    let stored = c.value(x, layout)?;
    c.make_real((output, layout), x, stored)
}

pub(super) fn cast(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let dtype = c.tensor(output).dtype.unwrap_or(DType::F32);
    let layout = c.common_layout(&[x]);
    let inputs = vec![c.value(x, layout)?];
    let attributes = vec![int("to", i64::from(dtype.onnx()))];
    c.make_stored((output, layout), "Cast", inputs, attributes)
}
