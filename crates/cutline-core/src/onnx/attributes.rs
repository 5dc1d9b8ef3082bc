//! From an ONNX node to its [`Op`]: the attributes that matter, with the defaults of the standard.
//!
//! An attribute of the wrong type counts as absent, except that a negative size is an error.

use crate::{
    onnx::proto::{AttributeProto, NodeProto},
    op::{Op, Padding, PoolKind, Resize, SliceBounds, Window, variant},
    tensor::DType,
};

/// Operators that once stood in the default domain as experiments and were taken out.
const RETIRED: [&str; 11] = [
    "ATen",
    "Affine",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "LoopIndexTensor",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
];

/// Whether a node of the default domain uses a retired operator.
pub(super) fn is_retired(node: &NodeProto) -> bool {
    is_default_domain(node) && RETIRED.contains(&node.op_type())
}

/// Whether a node uses the standard operators.
pub(super) fn is_default_domain(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
}

/// The operator of a node; the error says which attribute is malformed.
pub(super) fn operator(node: &NodeProto, opset: i64) -> Result<Op, String> {
    let attributes = Attributes(&node.attribute);
    let name = node.op_type();
    if is_default_domain(node)
        && let Some(op) = standard(name, &attributes, opset)?
    {
        return Ok(op);
    }
    Ok(Op::Opaque { domain: node.domain().to_owned(), name: name.to_owned() })
}

fn standard(name: &str, attributes: &Attributes<'_>, opset: i64) -> Result<Option<Op>, String> {
    let op = match name {
        "ConvTranspose" => Op::ConvTranspose {
            window: attributes.window()?,
            groups: attributes.size("group", 1)?,
            output_padding: attributes.sizes("output_padding")?,
            output_shape: attributes.sizes("output_shape")?,
        },
        "MaxPool" | "AveragePool" | "LpPool" => Op::Pool {
            kind: variant(name.trim_end_matches("Pool")).unwrap_or(PoolKind::Max),
            window: attributes.window()?,
            ceil: attributes.int("ceil_mode", 0) != 0,
        },
        "GlobalMaxPool" => Op::GlobalPool(PoolKind::Max),
        "GlobalAveragePool" => Op::GlobalPool(PoolKind::Average),
        "GlobalLpPool" => Op::GlobalPool(PoolKind::Lp),
        "Gemm" => Op::Gemm {
            transpose_a: attributes.int("transA", 0) != 0,
            transpose_b: attributes.int("transB", 0) != 0,
        },
        "Where" => Op::Where,
        "Cast" => Op::Cast(attributes.dtype("to", 0)),
        // An output type given through the zero point wins; the shape inference looks there.
        "QuantizeLinear" => Op::Quantize(attributes.dtype("output_dtype", 0)),
        "DequantizeLinear" => Op::Dequantize,
        "Identity" => Op::Identity,
        "Dropout" => Op::Dropout,
        "Reshape" => Op::Reshape { allow_zero: attributes.int("allowzero", 0) != 0 },
        "Flatten" => Op::Flatten { axis: attributes.int("axis", 1) },
        "Squeeze" => Op::Squeeze { axes: attributes.ints("axes") },
        "Unsqueeze" => Op::Unsqueeze { axes: attributes.ints("axes") },
        "Transpose" => Op::Transpose { permutation: attributes.ints("perm") },
        "Expand" => Op::Expand,
        "Concat" => Op::Concat { axis: attributes.int("axis", 1) },
        "Split" => Op::Split { axis: attributes.int("axis", 0), sizes: attributes.ints("split") },
        "Slice" => Op::Slice { bounds: attributes.slice_bounds() },
        "Gather" => Op::Gather { axis: attributes.int("axis", 0) },
        "Pad" => Op::Pad { pads: attributes.ints("pads") },
        "Tile" => Op::Tile,
        "DepthToSpace" => Op::DepthToSpace { block: attributes.size("blocksize", 1)? },
        "SpaceToDepth" => Op::SpaceToDepth { block: attributes.size("blocksize", 1)? },
        "Resize" | "Upsample" => Op::Resize(attributes.resize(name, opset)),
        "Shape" => Op::Shape {
            start: attributes.int("start", 0),
            end: attributes.find("end").map(AttributeProto::i),
        },
        "Size" => Op::Size,
        "Constant" => Op::Constant,
        "ConstantOfShape" => Op::ConstantOfShape,
        "Range" => Op::Range,
        _ => return family(name, attributes),
    };
    Ok(Some(op))
}

/// Operators whose variant is named after them.
fn family(name: &str, attributes: &Attributes<'_>) -> Result<Option<Op>, String> {
    if let Some(kind) = variant(name) {
        let (window, groups) = (attributes.window()?, attributes.size("group", 1)?);
        return Ok(Some(Op::Conv { window, groups, kind }));
    }
    if let Some(kind) = variant(name) {
        return Ok(Some(Op::Reduce {
            kind,
            axes: attributes.ints("axes").or_else(|| attributes.arg_axis(name)),
            keep: attributes.int("keepdims", 1) != 0,
            noop_without_axes: attributes.int("noop_with_empty_axes", 0) != 0,
        }));
    }
    Ok(variant(name)
        .map(Op::MatMul)
        .or_else(|| variant(name).map(Op::Normalize))
        .or_else(|| variant(name).map(Op::Activate))
        .or_else(|| variant(name).map(Op::Unary))
        .or_else(|| variant(name).map(Op::Binary))
        .or_else(|| variant(name).map(Op::Softmax)))
}

/// The attributes of a node, looked up by name.
pub(super) struct Attributes<'a>(pub(super) &'a [AttributeProto]);

impl<'a> Attributes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name() == name)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).and_then(|attribute| attribute.i).unwrap_or(default)
    }

    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.find(name).map(|attribute| attribute.ints.clone())
    }

    fn size(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(value) = self.find(name).and_then(|attribute| attribute.i) else {
            return Ok(default);
        };
        u64::try_from(value).map_err(|_| format!("attribute `{name}` is {value}"))
    }

    fn sizes(&self, name: &str) -> Result<Vec<u64>, String> {
        let values = self.find(name).map_or(&[][..], |attribute| &attribute.ints);
        values
            .iter()
            .map(|&value| {
                u64::try_from(value).map_err(|_| format!("attribute `{name}` holds {value}"))
            })
            .collect()
    }

    fn dtype(&self, name: &str, default: i32) -> Option<DType> {
        let code = self.find(name).and_then(|attribute| attribute.i);
        DType::from_onnx(code.map_or(Some(default), |code| i32::try_from(code).ok())?)
    }

    fn window(&self) -> Result<Window, String> {
        let auto = self.find("auto_pad").map_or(&b"NOTSET"[..], |attribute| attribute.s());
        let padding = match auto {
            b"SAME_UPPER" | b"SAME_LOWER" => Padding::Same,
            b"VALID" => Padding::default(),
            _ => Padding::Explicit(self.ints("pads").unwrap_or_default()),
        };
        Ok(Window {
            kernel: self.sizes("kernel_shape")?,
            strides: self.sizes("strides")?,
            dilations: self.sizes("dilations")?,
            padding,
        })
    }

    /// `ArgMax` and `ArgMin` reduce the one axis that they name, the first by default.
    fn arg_axis(&self, name: &str) -> Option<Vec<i64>> {
        name.starts_with("Arg").then(|| vec![self.int("axis", 0)])
    }

    fn slice_bounds(&self) -> Option<SliceBounds> {
        Some(SliceBounds {
            starts: self.ints("starts")?,
            ends: self.ints("ends")?,
            axes: self.ints("axes"),
        })
    }

    fn resize(&self, name: &str, opset: i64) -> Resize {
        let upsample = name == "Upsample";
        let text = |name| self.find(name).map_or(&b""[..], |attribute| attribute.s());
        let crops = text("coordinate_transformation_mode") == b"tf_crop_and_resize";
        let policy = text("keep_aspect_ratio_policy");
        Resize {
            upsample,
            scales_operand: match (upsample, opset) {
                (true, ..=8) => None,
                (true, _) | (false, ..=10) => Some(1),
                (false, _) => Some(2),
            },
            scales: self.find("scales").map(|attribute| attribute.floats.clone()),
            axes: self.ints("axes"),
            plain: !crops && matches!(policy, b"" | b"stretch"),
        }
    }
}
