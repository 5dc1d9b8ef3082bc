//! How a picture becomes the network's input tensor: a specification, and its arithmetic.
//!
//! The specification is part of a plan, because preparation may run on either side of the link and
//! must give the same tensor on both. Decoding and resizing live in the runtime; the step from
//! 8-bit pixels to the tensor is [`PictureSpec::normalize`], the same code on every device.

use serde::{Deserialize, Serialize};

/// Resampling filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Filter {
    Nearest,
    #[default]
    Bilinear,
    Bicubic,
    Lanczos3,
}

/// How a picture of another aspect ratio fits the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Resize both axes independently.
    #[default]
    Stretch,
    /// Resize the shorter side to 8/7 of the input, then cut out the centre (256 to 224).
    Crop,
}

/// Order of the colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Channels {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

/// Order of the axes of the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Layout {
    #[default]
    Nchw,
    Nhwc,
}

/// From picture to tensor: `value = (pixel - mean[c]) * scale[c]`, pixel 0..=255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureSpec {
    /// Width of the network's input.
    pub width: u32,
    /// Height of the network's input.
    pub height: u32,
    /// Resampling filter.
    #[serde(default)]
    pub filter: Filter,
    /// Treatment of the aspect ratio.
    #[serde(default)]
    pub fit: Fit,
    /// Channel order of the tensor.
    #[serde(default)]
    pub channels: Channels,
    /// Axis order of the tensor.
    #[serde(default)]
    pub layout: Layout,
    /// Subtracted from the pixel, per channel in the tensor's order.
    pub mean: Vec<f32>,
    /// Multiplied afterwards, per channel in the tensor's order.
    pub scale: Vec<f32>,
}
