//! What each operator becomes.

mod axes;
mod dense;
mod elementwise;
mod resample;
mod rows;
mod window;

use super::{
    convert::{Activation, Converter, Problem},
    reader::Operator,
    schema::tflite::{
        ActivationFunctionType, BuiltinOperator as Kind, BuiltinOptionsRef as Options,
    },
};

/// Why an operator's options are not what they should be.
const NO_OPTIONS: &str = "its options are missing or those of another operator";

/// Converts an operator; `None` where it is not one of the supported.
pub(super) fn convert(c: &mut Converter<'_>, op: &Operator<'_>) -> Option<Result<(), Problem>> {
    if let Err(problem) = check_scales(c, op) {
        return Some(Err(problem));
    }
    Some(match op.kind {
        Kind::Conv2d => window::conv(c, op),
        Kind::DepthwiseConv2d => window::depthwise(c, op),
        Kind::TransposeConv => window::transpose_conv(c, op),
        Kind::AveragePool2d => window::pool(c, op, "AveragePool"),
        Kind::MaxPool2d => window::pool(c, op, "MaxPool"),
        Kind::FullyConnected => dense::fully_connected(c, op),
        Kind::Add | Kind::Sub | Kind::Mul | Kind::Div | Kind::Maximum | Kind::Minimum => {
            elementwise::binary(c, op)
        }
        Kind::SquaredDifference | Kind::Square | Kind::Rsqrt => elementwise::composed(c, op),
        Kind::Prelu => elementwise::prelu(c, op),
        Kind::LeakyRelu => elementwise::leaky_relu(c, op),
        Kind::Quantize | Kind::Dequantize => elementwise::requantize(c, op),
        Kind::Cast => elementwise::cast(c, op),
        Kind::Softmax | Kind::LogSoftmax => axes::softmax(c, op),
        Kind::Mean | Kind::Sum | Kind::ReduceMax | Kind::ReduceMin | Kind::ReduceProd => {
            axes::reduce(c, op)
        }
        Kind::ArgMax | Kind::ArgMin => axes::arg(c, op),
        Kind::Concatenation => axes::concatenation(c, op),
        Kind::Pad | Kind::Padv2 | Kind::MirrorPad => axes::pad(c, op),
        Kind::Split | Kind::SplitV => axes::split(c, op),
        Kind::Slice => axes::slice(c, op),
        Kind::StridedSlice => axes::strided_slice(c, op),
        Kind::Reshape | Kind::Squeeze | Kind::ExpandDims => rows::reshape(c, op),
        Kind::Transpose => rows::transpose(c, op),
        Kind::Pack => rows::pack(c, op),
        Kind::Unpack => rows::unpack(c, op),
        Kind::ResizeBilinear | Kind::ResizeNearestNeighbor => resample::resize(c, op),
        Kind::DepthToSpace | Kind::SpaceToDepth => resample::depth(c, op),
        Kind::SpaceToBatchNd | Kind::BatchToSpaceNd => resample::batch(c, op),
        kind => return elementwise::unary(c, op, kind),
    })
}

/// Refuses an operator that takes integers as they are, where its result has another scale: LiteRT
/// would answer the same integers, which then stand for other numbers.
fn check_scales(c: &Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let takes_integers = matches!(
        op.kind,
        Kind::AveragePool2d
            | Kind::MaxPool2d
            | Kind::Maximum
            | Kind::Minimum
            | Kind::Pack
            | Kind::Unpack
            | Kind::Pad
            | Kind::Padv2
            | Kind::MirrorPad
            | Kind::Split
            | Kind::SplitV
            | Kind::Slice
            | Kind::StridedSlice
            | Kind::Transpose
            | Kind::Reshape
            | Kind::Squeeze
            | Kind::ExpandDims
            | Kind::ResizeBilinear
            | Kind::ResizeNearestNeighbor
            | Kind::DepthToSpace
            | Kind::SpaceToDepth
            | Kind::SpaceToBatchNd
            | Kind::BatchToSpaceNd
    );
    let operands = || op.inputs.iter().copied().flatten().filter(|&at| c.is_stored_integer(at));
    let pairs = op.outputs.iter().flat_map(|&output| operands().map(move |at| (at, output)));
    let differs = |(at, output): &(usize, usize)| takes_integers && !c.similar_scale(*at, *output);
    match pairs.into_iter().find(differs) {
        None => Ok(()),
        Some((at, _)) => {
            let name = &c.tensor(at).name;
            Err(format!("its result has another scale than its operand `{name}`"))
        }
    }
}

/// How an operator is called in an error: by the name that the format gives it, or its own.
pub(super) fn title(op: &Operator<'_>) -> (String, String) {
    let number = format!(" (number {})", op.kind as i32);
    match (op.kind, op.custom) {
        (Kind::Custom, Some(name)) => (format!("`{}`", brief(name)), " (custom)".to_owned()),
        (kind, _) => (spelled(&format!("{kind:?}")), number),
    }
}

/// The beginning of a name that a file gives.
fn brief(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// `BatchMatmul` as `BATCH_MATMUL`.
fn spelled(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text.replace("2D", "_2D").replace("3D", "_3D")
}

impl Operator<'_> {
    /// The tensor of an operand that must be there.
    fn input(&self, at: usize) -> Result<usize, Problem> {
        self.operand(at).ok_or_else(|| format!("it has no operand {at}"))
    }

    /// The tensor of an operand that may be absent.
    fn operand(&self, at: usize) -> Option<usize> {
        self.inputs.get(at).copied().flatten()
    }

    /// The tensor that it makes.
    fn output(&self) -> Result<usize, Problem> {
        self.outputs.first().copied().ok_or_else(|| "it makes nothing".to_owned())
    }
}

/// A field of the options.
fn field<T>(value: planus::Result<T>) -> Result<T, Problem> {
    value.map_err(|error| error.to_string())
}

fn fused(activation: planus::Result<ActivationFunctionType>) -> Result<Activation, Problem> {
    Ok(match field(activation)? {
        ActivationFunctionType::None => Activation::None,
        ActivationFunctionType::Relu => Activation::Clamp(0.0, f32::INFINITY),
        ActivationFunctionType::ReluN1To1 => Activation::Clamp(-1.0, 1.0),
        ActivationFunctionType::Relu6 => Activation::Clamp(0.0, 6.0),
        // LiteRT leaves them out, or refuses them, as it sees fit.
        activation @ (ActivationFunctionType::Tanh | ActivationFunctionType::SignBit) => {
            let name = spelled(&format!("{activation:?}"));
            return Err(format!("the activation {name} is not supported"));
        }
    })
}

/// The axis that a number from a file means.
fn axis(value: i64, rank: usize) -> Result<usize, Problem> {
    let from_front = if value < 0 { value.saturating_add(rank as i64) } else { value };
    let axis = usize::try_from(from_front).ok().filter(|&axis| axis < rank);
    axis.ok_or_else(|| format!("it has axis {value} of {rank}"))
}

/// The single number that a list must hold.
fn single(values: &[i64], what: &str) -> Result<i64, Problem> {
    match values {
        [value] => Ok(*value),
        _ => Err(format!("its {what} is not one number")),
    }
}

/// The four axes of a tensor.
fn four(shape: &[i64]) -> Result<[i64; 4], Problem> {
    shape.try_into().map_err(|_| format!("an operand has {} axes, not four", shape.len()))
}
