//! Operators that slide a window over rows and columns: convolutions and pools.

use super::{NO_OPTIONS, Options, field, four, fused};
use crate::onnx::proto::AttributeProto;
use crate::tensor::DType;
use crate::tflite::{
    convert::{Activation, Converter, Problem, View, int, ints},
    layout::Layout,
    reader::Operator,
    schema::tflite::Padding,
};

/// Where a window is laid, rows before columns.
struct Window {
    kernel: [i64; 2],
    strides: [i64; 2],
    dilations: [i64; 2],
    same: bool,
}

impl Window {
    fn new(
        kernel: [i64; 2],
        strides: [i32; 2],
        dilations: [i32; 2],
        padding: planus::Result<Padding>,
    ) -> Result<Self, Problem> {
        let window = Self {
            kernel,
            strides: strides.map(i64::from),
            dilations: dilations.map(i64::from),
            same: field(padding)? == Padding::Same,
        };
        let sizes = [window.kernel, window.strides, window.dilations];
        if sizes.iter().flatten().any(|&size| !(1..1 << 20).contains(&size)) {
            return Err("a size of its window is not positive, or enormous".to_owned());
        }
        Ok(window)
    }

    /// Rows and columns that the window covers.
    fn reach(&self, at: usize) -> i64 {
        (self.kernel[at] - 1) * self.dilations[at] + 1
    }

    /// The border that makes the result as the file says, more at the end where it is odd:
    /// starts, then ends.
    fn pads(&self, input: [i64; 2]) -> [i64; 4] {
        let mut pads = [0; 4];
        for at in (0..2).filter(|_| self.same) {
            let output = (input[at] - 1) / self.strides[at] + 1;
            let total = ((output - 1) * self.strides[at] + self.reach(at) - input[at]).max(0);
            pads[at] = total / 2;
            pads[at + 2] = total - total / 2;
        }
        pads
    }

    fn attributes(&self, pads: [i64; 4]) -> Vec<AttributeProto> {
        let mut attributes = vec![
            ints("kernel_shape", &self.kernel),
            ints("strides", &self.strides),
            ints("pads", &pads),
        ];
        if self.dilations != [1, 1] {
            attributes.push(ints("dilations", &self.dilations));
        }
        attributes
    }
}

pub(super) fn conv(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::Conv2DOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    let [_, rows, columns, per_group] = four(c.shape(op.input(1)?))?;
    let window = Window::new(
        [rows, columns],
        [field(o.stride_h())?, field(o.stride_w())?],
        [field(o.dilation_h_factor())?, field(o.dilation_w_factor())?],
        o.padding(),
    )?;
    let [_, _, _, channels] = four(c.shape(op.input(0)?))?;
    if channels % per_group != 0 {
        return Err(format!("{channels} channels do not fit weights for {per_group}"));
    }
    let activation = fused(o.fused_activation_function())?;
    convolution(c, op, &window, &[0, 3, 1, 2], channels / per_group, activation)
}

pub(super) fn depthwise(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::DepthwiseConv2DOptions(o)) = op.options else {
        return Err(NO_OPTIONS.to_owned());
    };
    let [one, rows, columns, out] = four(c.shape(op.input(1)?))?;
    let window = Window::new(
        [rows, columns],
        [field(o.stride_h())?, field(o.stride_w())?],
        [field(o.dilation_h_factor())?, field(o.dilation_w_factor())?],
        o.padding(),
    )?;
    let [_, _, _, channels] = four(c.shape(op.input(0)?))?;
    if one != 1 || out % channels != 0 {
        return Err(format!("{out} filters do not fit {channels} channels"));
    }
    let activation = fused(o.fused_activation_function())?;
    convolution(c, op, &window, &[3, 0, 1, 2], channels, activation)
}

fn convolution(
    c: &mut Converter<'_>,
    op: &Operator<'_>,
    window: &Window,
    order: &[usize],
    groups: i64,
    activation: Activation,
) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let [_, height, width, _] = four(c.shape(x))?;
    let mut attributes = window.attributes(window.pads([height, width]));
    attributes.push(int("group", groups));
    let mut inputs = vec![c.real(x, Layout::Nchw)?, weights(c, op.input(1)?, order)?];
    if let Some(bias) = op.operand(2) {
        inputs.push(c.real(bias, Layout::Plain)?);
    }
    c.make((output, Layout::Nchw), activation, "Conv", inputs, attributes)
}

/// Constant weights with their axes in the order that ONNX wants.
fn weights(c: &mut Converter<'_>, at: usize, order: &[usize]) -> Result<String, Problem> {
    let constant = c.constant(at).ok_or("its weights are no constant")?;
    let view: View = c.permuted_view(constant, order);
    c.real_weight(constant, &view)
}

pub(super) fn transpose_conv(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let Some(Options::TransposeConvOptions(o)) = op.options else {
        return Err(NO_OPTIONS.to_owned());
    };
    let (x, output) = (op.input(2)?, op.output()?);
    let [_, rows, columns, _] = four(c.shape(op.input(1)?))?;
    let window = Window::new(
        [rows, columns],
        [field(o.stride_h())?, field(o.stride_w())?],
        [1, 1],
        o.padding(),
    )?;
    let ([_, height, width, _], [_, high, wide, _]) = (four(c.shape(x))?, four(c.shape(output))?);
    let mut pads = [0; 4];
    let mut missing = [0; 2];
    for (at, (input, made)) in [(height, high), (width, wide)].into_iter().enumerate() {
        let full = (input - 1) * window.strides[at] + window.kernel[at];
        let total = if window.same { (full - made).max(0) } else { 0 };
        pads[at] = total / 2;
        pads[at + 2] = total - total / 2;
        missing[at] = made - (full - total);
        if !(0..window.strides[at].max(1)).contains(&missing[at]) {
            return Err(format!("{input} cannot become {made} by steps of {}", window.strides[at]));
        }
    }
    let mut attributes = window.attributes(pads);
    attributes.push(ints("output_padding", &missing));
    let mut inputs = vec![c.real(x, Layout::Nchw)?, weights(c, op.input(1)?, &[3, 0, 1, 2])?];
    if let Some(bias) = op.operand(3) {
        inputs.push(c.real(bias, Layout::Plain)?);
    }
    let activation = fused(o.fused_activation_function())?;
    c.make((output, Layout::Nchw), activation, "ConvTranspose", inputs, attributes)
}

pub(super) fn pool(c: &mut Converter<'_>, op: &Operator<'_>, kind: &str) -> Result<(), Problem> {
    let Some(Options::Pool2DOptions(o)) = op.options else { return Err(NO_OPTIONS.to_owned()) };
    let window = Window::new(
        [field(o.filter_height())?, field(o.filter_width())?].map(i64::from),
        [field(o.stride_h())?, field(o.stride_w())?],
        [1, 1],
        o.padding(),
    )?;
    let (x, output) = (op.input(0)?, op.output()?);
    let [_, height, width, _] = four(c.shape(x))?;
    let attributes = window.attributes(window.pads([height, width]));
    let activation = fused(o.fused_activation_function())?;
    let count = window.kernel[0] * window.kernel[1];
    let is_whole = c.quantisation(x).is_some() && c.same_scale(x, output);
    if kind == "AveragePool" && count < 1000 && is_whole {
        return whole_averages(c, (x, output), count, activation, attributes);
    }
    let inputs = vec![c.real(x, Layout::Nchw)?];
    c.make((output, Layout::Nchw), activation, kind, inputs, attributes)
}

/// Averages of stored integers, rounded as LiteRT does it: halves away from zero, where quantisation
/// rounds them to even numbers. Halves are common where a window has few elements, and a step more or
/// less here can be many in a softmax. A scale a little below 1 moves them, and nothing else: by at
/// most two fifths of what lies between a half and the next average of so many elements. That is as
/// far as it may be, because an engine may add a zero point of 128 before it rounds, so that less than
/// a 2^17th is lost, with windows of more than 200 elements.
fn whole_averages(
    c: &mut Converter<'_>,
    (x, output): (usize, usize),
    count: i64,
    activation: Activation,
    attributes: Vec<AttributeProto>,
) -> Result<(), Problem> {
    let stored = c.value(x, Layout::Nchw)?;
    let inputs = [vec![stored], c.plain_scale(x, 1.0)].concat();
    let whole = c.step(output, "DequantizeLinear", inputs, vec![]);
    let mut average = c.step(output, "AveragePool", vec![whole], attributes);
    if let Some((low, high)) = c.stored_clamp(output, activation) {
        let bounds = vec![average, c.float(output, low), c.float(output, high)];
        average = c.step(output, "Clip", bounds, vec![]);
    }
    let most = if c.tensor(x).dtype == Some(DType::I8) { 128.0 } else { 255.0 };
    let away = 0.4 / (most * count as f32);
    let inputs = [vec![average], c.plain_scale(x, 1.0 - away)].concat();
    c.make_stored((output, Layout::Nchw), "QuantizeLinear", inputs, vec![])
}
