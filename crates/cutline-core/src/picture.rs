//! How a picture becomes the network's input tensor: a specification, and its arithmetic.
//!
//! The specification is part of a plan, because preparation may run on either side of the link and
//! must give the same tensor on both. Decoding and resizing live in the runtime; the step from
//! 8-bit pixels to the tensor is [`PictureSpec::normalize`], the same code on every device.
//!
//! People write a [`Recipe`], the name of a preset or a few lines of TOML; together with the
//! network's input it becomes a [`PictureSpec`]:
//!
//! ```toml
//! preset = "imagenet"        # imagenet | imagenet-bgr | unit | symmetric; the rest overrides it
//! fit = "crop"
//! filter = "bicubic"
//! channels = "bgr"
//! mean = [104, 117, 123]     # value = (pixel - mean) * scale, per channel of the tensor
//! scale = [1]                # a single number stands for all channels
//! ```

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    graph::Scale,
    tensor::{DType, Shape},
};

/// Names of the built-in ways to prepare a picture.
///
/// | name | channels | values |
/// |---|---|---|
/// | `imagenet` | RGB | ImageNet's mean removed, divided by its deviation |
/// | `imagenet-bgr` | BGR | 0..255 minus (104, 117, 123), as Caffe models want it |
/// | `unit` | RGB | 0..1 |
/// | `symmetric` | RGB | -1..1 |
pub const PRESETS: [&str; 4] = ["imagenet", "imagenet-bgr", "unit", "symmetric"];

/// Quality at which a picture is sent as JPEG unless the recipe says otherwise.
pub const JPEG_QUALITY: u8 = 85;

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

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
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

/// What travels when the input is made on one device and used on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputEncoding {
    /// The resized picture as JPEG: small, and lossy.
    Jpeg,
    /// The resized picture's pixels, a byte per channel: lossless.
    Uint8,
    /// The finished input tensor.
    Fp32,
}

impl InputEncoding {
    /// Every encoding, smallest first.
    pub const ALL: [Self; 3] = [Self::Jpeg, Self::Uint8, Self::Fp32];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Uint8 => "uint8",
            Self::Fp32 => "fp32",
        }
    }

    /// Whether the receiver's tensor may differ from the sender's.
    pub fn is_lossy(self) -> bool {
        self == Self::Jpeg
    }
}

impl fmt::Display for InputEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InputEncoding {
    type Err = PictureSpecError;

    fn from_str(text: &str) -> Result<Self, PictureSpecError> {
        let found = Self::ALL.into_iter().find(|encoding| encoding.name() == text);
        found.ok_or_else(|| PictureSpecError::UnknownEncoding(text.to_owned()))
    }
}

/// Why a picture cannot become the input of a network.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PictureSpecError {
    /// No preset of that name.
    #[error("unknown picture preset `{0}`; there are {list}, or a TOML file", list = PRESETS.join(", "))]
    UnknownPreset(String),
    /// No encoding of that name.
    #[error("unknown input encoding `{0}`; there are jpeg, uint8 and fp32")]
    UnknownEncoding(String),
    /// The network's input has no picture's shape.
    #[error("an input of shape {0} is no picture; it takes 1x3xHxW, 1xHxWx3, or one channel")]
    NotAPicture(Shape),
    /// The network's input has a type that pixels are not turned into.
    #[error("an input of type {0} is not made from pictures; FP32, FP16, UINT8 and INT8 are")]
    Type(DType),
    /// Colour for a network of one channel, or the reverse.
    #[error("the recipe asks for {recipe} channels, the network's input has {input}")]
    Channels {
        /// What the recipe says.
        recipe: usize,
        /// What the network says.
        input: usize,
    },
    /// As many means or scales as channels are needed, or one for all.
    #[error("`{field}` has {given} numbers; give one, or one for each of the {channels} channels")]
    Numbers {
        /// `mean` or `scale`.
        field: &'static str,
        /// How many it has.
        given: usize,
        /// Channels of the input.
        channels: usize,
    },
    /// The pixels are not those of one picture.
    #[error(
        "a picture of {width}x{height} has {expected} bytes in {channels} channels, got {actual}"
    )]
    Pixels {
        /// Width of the input.
        width: u32,
        /// Height of the input.
        height: u32,
        /// Channels of the input.
        channels: usize,
        /// Bytes it should have.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
}

/// What a person says about pictures; everything is optional and fills in from the preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Recipe {
    pub preset: Option<String>,
    pub filter: Option<Filter>,
    pub fit: Option<Fit>,
    pub channels: Option<Channels>,
    /// Subtracted from the pixel 0..=255; one number, or one per channel in the tensor's order.
    pub mean: Option<Vec<f32>>,
    /// Multiplied afterwards; one number, or one per channel in the tensor's order.
    pub scale: Option<Vec<f32>>,
    /// 1 to 100.
    pub jpeg_quality: Option<u8>,
}

impl Recipe {
    /// One of [`PRESETS`], with nothing overridden.
    pub fn preset(name: &str) -> Result<Self, PictureSpecError> {
        match PRESETS.contains(&name) {
            true => Ok(Self { preset: Some(name.to_owned()), ..Self::default() }),
            false => Err(PictureSpecError::UnknownPreset(name.to_owned())),
        }
    }

    /// The recipe for a network's input: its size, layout and number of channels come from `shape`,
    /// its type from `dtype`.
    pub fn for_input(&self, dtype: DType, shape: &Shape) -> Result<PictureSpec, PictureSpecError> {
        let Some((layout, count, height, width)) = read_shape(shape) else {
            return Err(PictureSpecError::NotAPicture(shape.clone()));
        };
        if ![DType::F32, DType::F16, DType::U8, DType::I8].contains(&dtype) {
            return Err(PictureSpecError::Type(dtype));
        }
        let name = self.preset.as_deref().unwrap_or("unit");
        let (order, mean, scale) = preset(name)?;
        let order = if count == 1 { Channels::Gray } else { order };
        let channels = self.channels.unwrap_or(order);
        if channels.count() != count {
            return Err(PictureSpecError::Channels { recipe: channels.count(), input: count });
        }
        Ok(PictureSpec {
            width,
            height,
            dtype,
            filter: self.filter.unwrap_or_default(),
            fit: self.fit.unwrap_or_default(),
            channels,
            layout,
            mean: spread("mean", self.mean.as_deref().unwrap_or(&mean), count)?,
            scale: spread("scale", self.scale.as_deref().unwrap_or(&scale), count)?,
            jpeg_quality: self.jpeg_quality.unwrap_or(JPEG_QUALITY).clamp(1, 100),
        })
    }
}

/// Layout, channels, height and width of a picture's tensor, with a batch of one or without.
fn read_shape(shape: &Shape) -> Option<(Layout, usize, u32, u32)> {
    let [a, b, c] = match shape.0[..] {
        [1, a, b, c] | [a, b, c] => [a, b, c].map(|dim| u32::try_from(dim).unwrap_or(0)),
        _ => return None,
    };
    let picture = match (a, c) {
        (1 | 3, _) => (Layout::Nchw, a as usize, b, c),
        (_, 1 | 3) => (Layout::Nhwc, c as usize, a, b),
        _ => return None,
    };
    // A side that no camera has is a shape that means something else.
    let is_side = |side| (1..=16384).contains(&side);
    (is_side(picture.2) && is_side(picture.3)).then_some(picture)
}

/// Channel order, mean and scale of a preset.
fn preset(name: &str) -> Result<(Channels, Vec<f32>, Vec<f32>), PictureSpecError> {
    Ok(match name {
        "imagenet" => (
            Channels::Rgb,
            [0.485, 0.456, 0.406].map(|mean: f32| mean * 255.0).to_vec(),
            [0.229, 0.224, 0.225].map(|deviation: f32| 1.0 / (deviation * 255.0)).to_vec(),
        ),
        "imagenet-bgr" => (Channels::Bgr, vec![104.0, 117.0, 123.0], vec![1.0]),
        "unit" => (Channels::Rgb, vec![0.0], vec![1.0 / 255.0]),
        "symmetric" => (Channels::Rgb, vec![127.5], vec![1.0 / 127.5]),
        _ => return Err(PictureSpecError::UnknownPreset(name.to_owned())),
    })
}

fn spread(
    field: &'static str,
    numbers: &[f32],
    channels: usize,
) -> Result<Vec<f32>, PictureSpecError> {
    match numbers {
        [one] => Ok(vec![*one; channels]),
        _ if numbers.len() == channels => Ok(numbers.to_vec()),
        _ => Err(PictureSpecError::Numbers { field, given: numbers.len(), channels }),
    }
}

/// From picture to tensor: `value = (pixel - mean[c]) * scale[c]`, pixel 0..=255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureSpec {
    /// Width of the network's input.
    pub width: u32,
    /// Height of the network's input.
    pub height: u32,
    /// Type of the network's input.
    #[serde(default = "default_dtype")]
    pub dtype: DType,
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
    /// Quality at which the resized picture is sent as JPEG, 1 to 100.
    #[serde(default = "default_quality")]
    pub jpeg_quality: u8,
}

fn default_dtype() -> DType {
    DType::F32
}

fn default_quality() -> u8 {
    JPEG_QUALITY
}

impl PictureSpec {
    /// The same picture for an input whose integers stand for the values: those are divided by the
    /// scale and moved by the zero point, and whoever makes the tensor rounds.
    pub fn quantised(mut self, input: Scale) -> Self {
        for (mean, scale) in self.mean.iter_mut().zip(&mut self.scale) {
            *mean -= input.zero_point as f32 * input.scale / *scale;
            *scale /= input.scale;
        }
        self
    }

    /// The same picture as pixels, for an input of bytes: 0 to 255, or -128 to 127.
    pub fn as_pixels(mut self) -> Self {
        let least = if self.dtype == DType::I8 { 128.0 } else { 0.0 };
        self.mean.fill(least);
        self.scale.fill(1.0);
        self
    }

    /// Shape of the tensor, with a batch of one.
    pub fn shape(&self) -> Shape {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        let channels = self.channels.count() as u64;
        Shape(match self.layout {
            Layout::Nchw => vec![1, channels, height, width],
            Layout::Nhwc => vec![1, height, width, channels],
        })
    }

    /// Bytes of the resized picture, a byte per channel.
    pub fn pixel_bytes(&self) -> usize {
        self.width as usize * self.height as usize * self.channels.count()
    }

    /// The tensor's values from the resized picture: rows of interleaved red, green, blue, or of
    /// gray. Each value is one subtraction and one multiplication in single precision, so that
    /// every device computes the same bits.
    pub fn normalize(&self, pixels: &[u8]) -> Result<Vec<f32>, PictureSpecError> {
        let channels = self.channels.count();
        if pixels.len() != self.pixel_bytes() {
            return Err(PictureSpecError::Pixels {
                width: self.width,
                height: self.height,
                channels,
                expected: self.pixel_bytes(),
                actual: pixels.len(),
            });
        }
        let mean = spread("mean", &self.mean, channels)?;
        let scale = spread("scale", &self.scale, channels)?;
        // Where in a pixel the tensor's channel is found.
        let source = |channel: usize| match self.channels {
            Channels::Rgb | Channels::Gray => channel,
            Channels::Bgr => 2 - channel,
        };
        let mut values = vec![0.0; pixels.len()];
        match self.layout {
            Layout::Nchw => {
                let plane = pixels.len() / channels;
                for (channel, plane) in values.chunks_exact_mut(plane.max(1)).enumerate() {
                    let (mean, scale, source) = (mean[channel], scale[channel], source(channel));
                    for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(channels)) {
                        *value = (f32::from(pixel[source]) - mean) * scale;
                    }
                }
            }
            Layout::Nhwc => {
                let rows = values.chunks_exact_mut(channels).zip(pixels.chunks_exact(channels));
                for (values, pixel) in rows {
                    for (channel, value) in values.iter_mut().enumerate() {
                        *value =
                            (f32::from(pixel[source(channel)]) - mean[channel]) * scale[channel];
                    }
                }
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[u64]) -> PictureSpec {
        Recipe::preset(name).unwrap().for_input(DType::F32, &Shape(shape.to_vec())).unwrap()
    }

    #[test]
    fn layout_and_size_come_from_the_network() {
        type Case<'a> = (&'a [u64], Option<(Layout, usize, u32, u32)>);
        let cases: [Case; 9] = [
            (&[1, 3, 240, 320], Some((Layout::Nchw, 3, 240, 320))),
            (&[1, 96, 128, 3], Some((Layout::Nhwc, 3, 96, 128))),
            (&[1, 1, 28, 28], Some((Layout::Nchw, 1, 28, 28))),
            (&[28, 28, 1], Some((Layout::Nhwc, 1, 28, 28))),
            (&[3, 5, 3], Some((Layout::Nchw, 3, 5, 3))),
            (&[2, 3, 224, 224], None),
            (&[1, 1000], None),
            (&[1, 3, 0, 224], None),
            (&[1, 3, 1 << 40, 224], None),
        ];
        for (shape, expected) in cases {
            assert_eq!(read_shape(&Shape(shape.to_vec())), expected, "{shape:?}");
        }
    }

    /// What networks of bytes are made for: 127 stands for 0, and the pixel 255 for 1.
    #[test]
    fn quantised_inputs_get_the_integers_for_their_values() {
        let spec = spec("symmetric", &[1, 1, 1, 3]);
        let input = Scale { scale: 1.0 / 128.0, zero_point: 127 };
        let bytes = spec.clone().quantised(input).normalize(&[255, 0, 51]).unwrap();
        let rounded: Vec<f32> = bytes.into_iter().map(f32::round).collect();
        assert_eq!(rounded, [255.0, -1.0, 50.0]);
        let signed = PictureSpec { dtype: DType::I8, ..spec }.as_pixels();
        assert_eq!(signed.normalize(&[255, 0, 51]).unwrap(), [127.0, -128.0, -77.0]);
    }

    #[test]
    fn presets_give_the_values_their_networks_expect() {
        // One pixel: red 255, green 0, blue 51.
        let pixel = [255, 0, 51];
        let cases: [(&str, [f32; 3]); 4] = [
            ("imagenet", [2.2489083, -2.0357144, -0.915_555_54]),
            ("imagenet-bgr", [-53.0, -117.0, 132.0]),
            ("unit", [1.0, 0.0, 0.2]),
            ("symmetric", [1.0, -1.0, -0.6]),
        ];
        for (name, expected) in cases {
            let values = spec(name, &[1, 3, 1, 1]).normalize(&pixel).unwrap();
            let close = values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close, "{name}: {values:?}");
        }
    }

    #[test]
    fn planes_and_interleaved_pixels_hold_the_same_values() {
        let pixels: Vec<u8> = (0..2 * 5 * 3).map(|value| value * 7).collect();
        let planes = spec("imagenet-bgr", &[1, 3, 2, 5]).normalize(&pixels).unwrap();
        let interleaved = spec("imagenet-bgr", &[1, 2, 5, 3]).normalize(&pixels).unwrap();
        for pixel in 0..10 {
            for channel in 0..3 {
                assert_eq!(planes[channel * 10 + pixel], interleaved[pixel * 3 + channel]);
            }
        }
    }

    #[test]
    fn a_recipe_overrides_its_preset_and_must_fit_the_network() {
        let color = Shape(vec![1, 3, 8, 8]);
        let recipe = Recipe {
            channels: Some(Channels::Bgr),
            mean: Some(vec![127.0]),
            ..Recipe::preset("imagenet").unwrap()
        };
        let spec = recipe.for_input(DType::F32, &color).unwrap();
        assert_eq!((spec.channels, spec.mean), (Channels::Bgr, vec![127.0; 3]));
        assert_eq!(spec.scale.len(), 3);

        let gray = Shape(vec![1, 1, 8, 8]);
        assert_eq!(
            recipe.for_input(DType::F32, &gray),
            Err(PictureSpecError::Channels { recipe: 3, input: 1 })
        );
        assert_eq!(
            Recipe::preset("imagenet").unwrap().for_input(DType::F32, &gray),
            Err(PictureSpecError::Numbers { field: "mean", given: 3, channels: 1 })
        );
        assert_eq!(
            Recipe::default().for_input(DType::I64, &color),
            Err(PictureSpecError::Type(DType::I64))
        );
        assert!(Recipe::preset("imagnet").is_err());
    }

    #[test]
    fn pixels_of_another_size_are_refused() {
        assert!(spec("unit", &[1, 3, 4, 4]).normalize(&[0; 47]).is_err());
        let wrong = PictureSpec { mean: vec![0.0; 2], ..spec("unit", &[1, 3, 4, 4]) };
        assert!(wrong.normalize(&[0; 48]).is_err());
    }
}
