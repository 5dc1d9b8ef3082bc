//! Fully connected layers.

use super::{NO_OPTIONS, Options, field, fused};
use crate::tflite::{
    convert::{Converter, Problem, View, int},
    layout::{Layout, TO_NCHW, keeps_order},
    reader::Operator,
    schema::tflite::FullyConnectedOptionsWeightsFormat as Format,
};

pub(super) fn fully_connected(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::FullyConnectedOptions(o)) = op.options else {
        return Err(NO_OPTIONS.to_owned());
    };
    if field(o.weights_format())? != Format::Default {
        return Err("its weights are shuffled, which is not supported".to_owned());
    }
    let (x, weights, output) = (op.input(0)?, op.input(1)?, op.output()?);
    let &[out, features] = c.shape(weights) else {
        return Err("its weights are no matrix".to_owned());
    };
    let elements: i64 = c.shape(x).iter().product();
    if elements % features != 0 {
        return Err(format!("{elements} elements are no rows of {features}"));
    }
    let rows = [elements / features, features];
    let (x, weights) = match flattened(c, x, weights, features)? {
        Some(both) => both,
        None => (matrix(c, x, output, &rows)?, c.real(weights, Layout::Plain)?),
    };
    let mut inputs = vec![x, weights];
    if let Some(bias) = op.operand(2) {
        inputs.push(c.real(bias, Layout::Plain)?);
    }
    let activation = fused(o.fused_activation_function())?;
    let attributes = vec![int("transB", 1)];
    if c.shape(output) == [rows[0], out] {
        return c.make((output, Layout::Plain), activation, "Gemm", inputs, attributes);
    }
    let product = c.step(output, "Gemm", inputs, attributes);
    let shape = c.int64s(output, c.shape(output));
    c.make((output, Layout::Plain), activation, "Reshape", vec![product, shape], vec![])
}

/// The operand as rows, real.
fn matrix(c: &mut Converter<'_>, x: usize, output: usize, rows: &[i64]) -> Result<String, Problem> {
    if c.shape(x) == rows {
        return c.real(x, Layout::Plain);
    }
    let value = c.in_order(x)?;
    let value = c.reshaped(output, value, rows);
    c.real_of(x, value)
}

/// Where the operand is a picture in NCHW that would be flattened: its elements as they are, and
/// the weights with their columns in that order.
fn flattened(
    c: &mut Converter<'_>,
    x: usize,
    weights: usize,
    features: i64,
) -> Result<Option<(String, String)>, Problem> {
    let Some(constant) = c.constant(weights) else { return Ok(None) };
    let (stored, [height, width, channels]) = if let Some((name, shape)) = c.flat(x) {
        (name, shape)
    } else {
        let &[batch, height, width, channels] = c.shape(x) else { return Ok(None) };
        let is_moved = c.layout(x) == Layout::Nchw && !keeps_order(c.shape(x), &TO_NCHW);
        if !is_moved || c.constant(x).is_some() || height * width * channels != features {
            return Ok(None);
        }
        let value = c.value(x, Layout::Nchw)?;
        (c.reshaped(x, value, &[batch, features]), [height, width, channels])
    };
    if height * width * channels != features {
        return Ok(None);
    }
    let out = c.shape(weights)[0];
    let view = View {
        seen: vec![out, height, width, channels],
        order: TO_NCHW.to_vec(),
        shape: vec![out, features],
        axis: 0,
    };
    if c.quantisation(constant).is_some_and(|it| it.scale.len() > 1 && it.axis != 0) {
        return Ok(None);
    }
    let weights = c.real_weight(constant, &view)?;
    Ok(Some((c.real_of(x, stored)?, weights)))
}
