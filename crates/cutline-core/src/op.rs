//! What a layer computes: the operators that Cutline can analyse, and `Opaque` for the rest.
//!
//! An [`Op`] keeps the attributes that a layer's shape, its multiply-accumulates or its fusion
//! depend on; everything else stays in the model file. Operators that differ in none of the three
//! share a variant; the enum inside has one variant per ONNX operator, under its ONNX name, so that
//! serde's derive is the table of names.

use serde::{Deserialize, Serialize};

use crate::tensor::DType;

/// An operator with the attributes that its shape, its cost or its fusion depend on.
///
/// Attributes that later operator sets turned into inputs are `None` where the file has none; the
/// operand then decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub enum Op {
    /// Convolution, float or quantised.
    Conv {
        /// Kernel placement.
        window: Window,
        /// Independent groups of channels.
        groups: u64,
        /// Which of the ONNX convolutions.
        kind: ConvKind,
    },
    /// Transposed convolution.
    ConvTranspose {
        /// Kernel placement.
        window: Window,
        /// Independent groups of channels.
        groups: u64,
        /// Added to the end of each spatial axis; empty for none.
        output_padding: Vec<u64>,
        /// Spatial sizes of the result where the file fixes them, else empty.
        output_shape: Vec<u64>,
    },
    /// Sliding-window pooling.
    Pool {
        /// Reduction of a window.
        kind: PoolKind,
        /// Kernel placement.
        window: Window,
        /// Whether a last partial window counts.
        ceil: bool,
    },
    /// Pooling over all spatial axes.
    GlobalPool(PoolKind),
    /// `alpha * A * B + beta * C` on matrices.
    Gemm {
        /// Whether A is transposed.
        transpose_a: bool,
        /// Whether B is transposed.
        transpose_b: bool,
    },
    /// Batched matrix product, float or quantised.
    MatMul(MatMulKind),
    /// Normalisation that keeps the shape.
    Normalize(Normalization),
    /// Elementwise function that engines fuse into the layer before it.
    Activate(Activation),
    /// Any other elementwise function of one operand.
    Unary(Unary),
    /// Elementwise function of broadcast operands.
    Binary(Binary),
    /// Elementwise choice between two operands.
    Where,
    /// Conversion to another element type; `None` for one that Cutline does not know.
    Cast(Option<DType>),
    /// Float to integer with scale and zero point.
    Quantize(Option<DType>),
    /// Integer to float with scale and zero point.
    Dequantize,
    /// Softmax, log-softmax or hardmax.
    Softmax(Softmax),
    /// Reduction over axes.
    Reduce {
        /// What is computed over the axes.
        kind: Reduction,
        /// The axes, negative from the end.
        axes: Option<Vec<i64>>,
        /// Whether reduced axes stay, with size 1.
        keep: bool,
        /// Whether no axes means none instead of all.
        noop_without_axes: bool,
    },
    /// The operand itself.
    Identity,
    /// The operand itself, when not training.
    Dropout,
    /// Another shape for the same elements.
    Reshape {
        /// Whether a 0 means an empty axis instead of the operand's axis.
        allow_zero: bool,
    },
    /// A matrix of the same elements.
    Flatten {
        /// First axis of the columns.
        axis: i64,
    },
    /// Removal of axes of size 1.
    Squeeze {
        /// Which; all of size 1 where neither attribute nor operand says.
        axes: Option<Vec<i64>>,
    },
    /// Insertion of axes of size 1.
    Unsqueeze {
        /// Where, in the result.
        axes: Option<Vec<i64>>,
    },
    /// Permutation of the axes.
    Transpose {
        /// Source axis of each result axis; reversed order if absent.
        permutation: Option<Vec<i64>>,
    },
    /// Broadcast to a shape.
    Expand,
    /// Concatenation along an axis.
    Concat {
        /// The axis.
        axis: i64,
    },
    /// Division along an axis.
    Split {
        /// The axis.
        axis: i64,
        /// Sizes of the parts.
        sizes: Option<Vec<i64>>,
    },
    /// A regular sub-box.
    Slice {
        /// Bounds and axes where they are attributes.
        bounds: Option<SliceBounds>,
    },
    /// Selection along an axis.
    Gather {
        /// The axis.
        axis: i64,
    },
    /// Border of constant, mirrored or repeated elements.
    Pad {
        /// Elements added: all starts, then all ends.
        pads: Option<Vec<i64>>,
    },
    /// Repetition along each axis.
    Tile,
    /// Channel blocks to pixels.
    DepthToSpace {
        /// Edge of a block.
        block: u64,
    },
    /// Pixels to channel blocks.
    SpaceToDepth {
        /// Edge of a block.
        block: u64,
    },
    /// Resampling.
    Resize(Resize),
    /// The shape of the operand.
    Shape {
        /// First axis.
        start: i64,
        /// End of the axes, exclusive.
        end: Option<i64>,
    },
    /// The number of elements of the operand.
    Size,
    /// A stored tensor.
    Constant,
    /// A tensor of the shape that the operand holds, filled with one value.
    ConstantOfShape,
    /// An arithmetic sequence.
    Range,
    /// An operator that cannot be analysed: placeable, but of unknown shape and cost.
    Opaque {
        /// ONNX domain, empty for the default one.
        domain: String,
        /// Operator name.
        name: String,
    },
}

/// Placement of a kernel over the spatial axes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Kernel size per spatial axis; empty where the weights say it.
    pub kernel: Vec<u64>,
    /// Step per spatial axis; empty for 1.
    pub strides: Vec<u64>,
    /// Spacing of kernel elements per spatial axis; empty for 1.
    pub dilations: Vec<u64>,
    /// Border.
    pub padding: Padding,
}

/// Border around the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Padding {
    /// All starts, then all ends; empty for none.
    Explicit(Vec<i64>),
    /// As much as makes the result `ceil(input / stride)`.
    Same,
}

impl Default for Padding {
    fn default() -> Self {
        Self::Explicit(Vec::new())
    }
}

/// `Slice` bounds given as attributes, as they were before operator set 10.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceBounds {
    /// First element per axis.
    pub starts: Vec<i64>,
    /// End per axis, exclusive.
    pub ends: Vec<i64>,
    /// The axes; the first ones if absent.
    pub axes: Option<Vec<i64>>,
}

/// What decides the size of a resampled tensor besides its operands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Whether the operator is the older `Upsample`.
    pub upsample: bool,
    /// Operand that holds the scale factors.
    pub scales_operand: Option<usize>,
    /// Scale factors where they are an attribute.
    pub scales: Option<Vec<f32>>,
    /// Axes that scales and sizes refer to; all if absent.
    pub axes: Option<Vec<i64>>,
    /// Whether scales and sizes alone give the result's shape: no crop box, no aspect policy.
    pub plain: bool,
}

/// The convolutions of ONNX; they differ in where their operands stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ConvKind {
    Conv,
    ConvInteger,
    #[serde(rename = "QLinearConv")]
    QLinear,
}

/// The matrix products of ONNX; they differ in where their operands stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum MatMulKind {
    MatMul,
    MatMulInteger,
    #[serde(rename = "QLinearMatMul")]
    QLinear,
}

/// Reduction of a pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PoolKind {
    Max,
    Average,
    Lp,
}

/// Normalisations that keep the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Normalization {
    BatchNormalization,
    InstanceNormalization,
    LayerNormalization,
    GroupNormalization,
    #[serde(rename = "RMSNormalization")]
    Rms,
    MeanVarianceNormalization,
    LpNormalization,
    #[serde(rename = "LRN")]
    Lrn,
}

/// Elementwise functions that engines fuse into the layer before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Activation {
    Relu,
    LeakyRelu,
    PRelu,
    ThresholdedRelu,
    Clip,
    Sigmoid,
    Tanh,
    HardSigmoid,
    HardSwish,
    Elu,
    Selu,
    Celu,
    Gelu,
    Swish,
    Mish,
    Softplus,
    Softsign,
}

/// Elementwise functions of one operand that are not activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Neg,
    Floor,
    Ceil,
    Round,
    Sign,
    Sqrt,
    Reciprocal,
    Exp,
    Log,
    Erf,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Not,
    BitwiseNot,
    IsNaN,
    IsInf,
    Shrink,
}

/// Elementwise functions of broadcast operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Mod,
    Min,
    Max,
    Sum,
    Mean,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    And,
    Or,
    Xor,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    BitShift,
}

/// The softmax family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Softmax {
    Softmax,
    LogSoftmax,
    Hardmax,
}

/// Reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reduction {
    ReduceSum,
    ReduceMean,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceL1,
    ReduceL2,
    ReduceLogSum,
    ReduceLogSumExp,
    ReduceSumSquare,
    ArgMax,
    ArgMin,
}

impl Op {
    /// The operator's ONNX name.
    pub fn name(&self) -> String {
        let name = match self {
            Self::Opaque { name, .. } => name,
            Self::Conv { kind, .. } => return named(kind),
            Self::ConvTranspose { .. } => "ConvTranspose",
            Self::Pool { kind, .. } => return named(kind) + "Pool",
            Self::GlobalPool(kind) => return format!("Global{}Pool", named(kind)),
            Self::Gemm { .. } => "Gemm",
            Self::MatMul(kind) => return named(kind),
            Self::Normalize(kind) => return named(kind),
            Self::Activate(kind) => return named(kind),
            Self::Unary(kind) => return named(kind),
            Self::Binary(kind) => return named(kind),
            Self::Softmax(kind) => return named(kind),
            Self::Reduce { kind, .. } => return named(kind),
            Self::Where => "Where",
            Self::Cast(_) => "Cast",
            Self::Quantize(_) => "QuantizeLinear",
            Self::Dequantize => "DequantizeLinear",
            Self::Identity => "Identity",
            Self::Dropout => "Dropout",
            Self::Reshape { .. } => "Reshape",
            Self::Flatten { .. } => "Flatten",
            Self::Squeeze { .. } => "Squeeze",
            Self::Unsqueeze { .. } => "Unsqueeze",
            Self::Transpose { .. } => "Transpose",
            Self::Expand => "Expand",
            Self::Concat { .. } => "Concat",
            Self::Split { .. } => "Split",
            Self::Slice { .. } => "Slice",
            Self::Gather { .. } => "Gather",
            Self::Pad { .. } => "Pad",
            Self::Tile => "Tile",
            Self::DepthToSpace { .. } => "DepthToSpace",
            Self::SpaceToDepth { .. } => "SpaceToDepth",
            Self::Resize(resize) if resize.upsample => "Upsample",
            Self::Resize(_) => "Resize",
            Self::Shape { .. } => "Shape",
            Self::Size => "Size",
            Self::Constant => "Constant",
            Self::ConstantOfShape => "ConstantOfShape",
            Self::Range => "Range",
        };
        name.to_owned()
    }

    /// Whether the result has the elements of operand 0, in order, under another shape or name:
    /// engines do nothing, or copy.
    pub fn is_relabelling(&self) -> bool {
        matches!(
            self,
            Self::Identity
                | Self::Dropout
                | Self::Reshape { .. }
                | Self::Flatten { .. }
                | Self::Squeeze { .. }
                | Self::Unsqueeze { .. }
        )
    }

    /// Whether the result has the elements of operand 0, each as it is, in whatever order.
    pub fn moves_elements(&self) -> bool {
        self.is_relabelling() || matches!(self, Self::Transpose { .. })
    }

    /// Whether each element of the result depends on one element of each operand.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Self::Activate(_) | Self::Unary(_) | Self::Binary(_) | Self::Where | Self::Cast(_)
        )
    }
}

/// The name of a variant as serde writes it.
fn named(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// The variant that serde reads from a name.
pub(crate) fn variant<T: serde::de::DeserializeOwned>(name: &str) -> Option<T> {
    let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        serde::de::IntoDeserializer::into_deserializer(name);
    T::deserialize(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_carry_their_onnx_names() {
        assert_eq!(Op::Normalize(Normalization::Lrn).name(), "LRN");
        assert_eq!(Op::GlobalPool(PoolKind::Average).name(), "GlobalAveragePool");
        assert_eq!(variant("PRelu"), Some(Activation::PRelu));
        assert_eq!(variant("QLinearConv"), Some(ConvKind::QLinear));
        assert_eq!(variant::<Unary>("Relu"), None);
    }
}
