//! What the [`builder`](super::builder) works with: values under construction, windows,
//! convolutions, and what activations do to the strength of a signal.

use super::wire::ints;
use crate::onnx::proto::AttributeProto;

/// What an activation does to a normally distributed operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    /// Share of the mean square that is left.
    pub(super) keeps: f64,
    /// Share of what is left that is the square of the mean.
    pub(super) common: f64,
}

/// `max(x, 0)`: half the mean square, of which 1 / pi is common to all elements.
pub(super) const RECTIFIER: Effect = Effect { keeps: 0.5, common: 0.32 };
/// `x * sigmoid(x)` and its piecewise linear likeness, for operands of [`SWISH_POWER`], by
/// numerical integration.
pub(super) const SWISH: Effect = Effect { keeps: 0.475, common: 0.25 };
/// Mean square that convolutions in front of such an activation answer with. Around 1 it would
/// halve weak signals more than strong ones, and what is a little weak would die away from layer
/// to layer; here it is nearly a rectifier, which does not care about scale.
pub(super) const SWISH_POWER: f64 = 9.0;
/// The mean square of a gate between 0 and 1.
pub(super) const GATE: f64 = 0.29;

/// A value while a network is built: an image of `channels`, or a vector where height and width
/// are 1.
#[derive(Clone, Debug)]
pub(super) struct Feature {
    /// Name of the value.
    pub(super) name: String,
    /// Channels, or elements of a vector.
    pub(super) channels: u64,
    /// Rows.
    pub(super) height: u64,
    /// Columns.
    pub(super) width: u64,
    /// Expected mean square of the elements.
    pub(super) power: f64,
    /// Share of it that is the square of the elements' common mean; 0 where nothing rectified.
    pub(super) common: f64,
}

impl Feature {
    /// How strong each residual branch of `blocks` may answer, so that all of them together raise
    /// the mean square of the shortcut by at most a factor of e.
    pub(super) fn branch_power(&self, blocks: u64) -> f64 {
        self.power / blocks as f64
    }

    /// This value after an activation.
    pub(super) fn after(&self, name: &str, effect: Effect) -> Self {
        let power = self.power * effect.keeps;
        Self { name: name.to_owned(), power, common: effect.common, ..*self }
    }
}

/// Where a convolution's additive term comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    /// Nowhere: it has none.
    None,
    /// It was trained with the weights.
    Own,
    /// A batch normalisation that was folded into the convolution.
    Folded,
}

/// How a convolution or a pooling walks over its input: kernel, stride and padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) kernel: [u64; 2],
    pub(super) stride: u64,
    pad: [u64; 2],
}

impl Window {
    /// A square window.
    pub(super) const fn new(kernel: u64, stride: u64, pad: u64) -> Self {
        Self { kernel: [kernel; 2], stride, pad: [pad; 2] }
    }

    /// Size of the result along `axis`, 0 for rows, of an input of this size.
    pub(super) fn out(&self, axis: usize, size: u64) -> u64 {
        let padded = size + 2 * self.pad[axis];
        let steps = padded.checked_sub(self.kernel[axis]);
        steps.expect("minimal input sizes keep every window inside its map") / self.stride + 1
    }

    /// ONNX attributes, with so much more padding at the end of each axis.
    pub(super) fn attributes(&self, end_pad: [u64; 2]) -> Vec<AttributeProto> {
        let pads = [self.pad[0], self.pad[1], self.pad[0] + end_pad[0], self.pad[1] + end_pad[1]];
        vec![
            ints("kernel_shape", &self.kernel),
            ints("pads", &pads),
            ints("strides", &[self.stride; 2]),
        ]
    }
}

/// A convolution to append.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    pub(super) out: u64,
    pub(super) window: Window,
    pub(super) groups: u64,
    pub(super) bias: Bias,
    pub(super) power: f64,
}

impl Conv {
    /// `out` filters over a square window, with the folded batch normalisation that most networks
    /// have after it.
    pub(super) fn new(out: u64, kernel: u64, stride: u64, pad: u64) -> Self {
        let window = Window::new(kernel, stride, pad);
        Self { out, window, groups: 1, bias: Bias::Folded, power: 1.0 }
    }

    /// One filter per channel.
    pub(super) fn depthwise(channels: u64, kernel: u64, stride: u64, pad: u64) -> Self {
        Self { groups: channels, ..Self::new(channels, kernel, stride, pad) }
    }

    /// A kernel that is not square, padded to keep the map's size.
    pub(super) fn same(out: u64, kernel: [u64; 2]) -> Self {
        let window = Window { kernel, stride: 1, pad: [kernel[0] / 2, kernel[1] / 2] };
        Self { window, ..Self::new(out, 1, 1, 0) }
    }

    /// A bias of its own, no normalisation.
    pub(super) fn plain(self) -> Self {
        Self { bias: Bias::Own, ..self }
    }

    /// Neither bias nor normalisation.
    pub(super) fn bare(self) -> Self {
        Self { bias: Bias::None, ..self }
    }

    /// Scales the weights for results of this mean square in place of 1.
    pub(super) fn power(self, power: f64) -> Self {
        Self { power, ..self }
    }
}
