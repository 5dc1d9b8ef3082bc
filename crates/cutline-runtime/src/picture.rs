//! Pictures on their way into a network, in two halves that may run on two devices.
//!
//! ```text
//! file ── decode ── resize ── pixels ──┬─ jpeg ──┐
//!                                      ├─ uint8 ─┤ (travels) ── pixels ── normalize ── tensor
//!                                      └──────────── normalize ── fp32 (travels) ───── tensor
//! └────────────── prepare ──────────────┘         └──────────────── finish ────────────────┘
//! ```
//!
//! Decoding, resizing and normalising are integer arithmetic or single operations of IEEE 754, so
//! the tensor has the same bits wherever it is made; only `jpeg` changes it.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use cutline_core::{
    picture::{Channels, Filter, Fit, InputEncoding, PictureSpec, PictureSpecError},
    tensor::{DType, Shape},
};
use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image, images::ImageRef,
};
use half::{f16, slice::HalfFloatSliceExt};
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, codecs::jpeg::JpegEncoder,
};
use thiserror::Error;

use crate::tensor::{Tensor, TensorError};

/// Longest side of a picture that is decoded.
const MAX_SIDE: u32 = 16_384;

/// Most memory that decoding may take.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// A picture half-way into the network, as it travels.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// What `tensor` holds.
    pub encoding: InputEncoding,
    /// `jpeg`: UINT8 of the file's length; `uint8`: UINT8 1xHxWxC; `fp32`: the network's input.
    pub tensor: Tensor,
}

/// Why a picture did not become a tensor.
#[derive(Debug, Error)]
pub enum PictureError {
    /// Not a JPEG or PNG, damaged, or larger than is decoded.
    #[error("the picture cannot be decoded (JPEG and PNG up to {MAX_SIDE} pixels a side can)")]
    Decode(#[source] ImageError),
    /// The picture cannot be brought to the input's size.
    #[error("the picture cannot be resized to {width}x{height}: {reason}")]
    Resize {
        /// Width of the network's input.
        width: u32,
        /// Height of the network's input.
        height: u32,
        /// The resizer's own words.
        reason: String,
    },
    /// The picture cannot be written as JPEG.
    #[error("the picture cannot be written as JPEG")]
    Encode(#[source] ImageError),
    /// What arrived is not what the specification says.
    #[error("a picture sent as {encoding} arrived as {dtype} of shape {shape}")]
    Payload {
        /// What it was to be.
        encoding: InputEncoding,
        /// The type that came.
        dtype: DType,
        /// The shape that came.
        shape: Shape,
    },
    /// The picture that arrived has another size than the network's input.
    #[error("a picture of {actual_width}x{actual_height} arrived for an input of {width}x{height}")]
    Size {
        /// Width of the network's input.
        width: u32,
        /// Height of the network's input.
        height: u32,
        /// Width that came.
        actual_width: u32,
        /// Height that came.
        actual_height: u32,
    },
    /// The specification contradicts itself.
    #[error("the picture does not fit the network's input")]
    Spec(#[from] PictureSpecError),
    /// A tensor that does not match its own shape.
    #[error("the picture's tensor is malformed")]
    Tensor(#[from] TensorError),
}

/// Where the time of the sender's half went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrepareTimes {
    /// From the file to its pixels.
    pub decode: Duration,
    /// To the input's size and channels.
    pub resize: Duration,
    /// To what travels: a JPEG, nothing, or the normalised tensor.
    pub encode: Duration,
}

/// A picture that is decoded, upright as its camera was held.
#[derive(Clone, Debug)]
pub struct Picture(DynamicImage);

impl Picture {
    /// Decodes a JPEG or PNG.
    pub fn decode(file: &[u8]) -> Result<Self, PictureError> {
        Ok(Self(decode(file)?))
    }

    /// The picture at the input's size and in its channels: rows of interleaved red, green, blue, or
    /// of gray.
    pub fn pixels(&self, spec: &PictureSpec) -> Result<Vec<u8>, PictureError> {
        resize(self.0.clone(), spec)
    }
}

/// What travels of a picture that has the input's size already: [`prepare`] without decoding and
/// resizing.
pub fn send(
    pixels: Vec<u8>,
    spec: &PictureSpec,
    encoding: InputEncoding,
) -> Result<Payload, PictureError> {
    encode(pixels, spec, encoding)
}

/// The sender's half: from a picture file to what travels.
pub fn prepare(
    file: &[u8],
    spec: &PictureSpec,
    encoding: InputEncoding,
) -> Result<Payload, PictureError> {
    Ok(prepare_timed(file, spec, encoding)?.0)
}

/// The same, and how long its steps took.
pub fn prepare_timed(
    file: &[u8],
    spec: &PictureSpec,
    encoding: InputEncoding,
) -> Result<(Payload, PrepareTimes), PictureError> {
    let began = Instant::now();
    let picture = decode(file)?;
    let decoded = Instant::now();
    let pixels = resize(picture, spec)?;
    let resized = Instant::now();
    let payload = encode(pixels, spec, encoding)?;
    let times = PrepareTimes {
        decode: decoded - began,
        resize: resized - decoded,
        encode: resized.elapsed(),
    };
    Ok((payload, times))
}

fn encode(
    pixels: Vec<u8>,
    spec: &PictureSpec,
    encoding: InputEncoding,
) -> Result<Payload, PictureError> {
    let tensor = match encoding {
        InputEncoding::Jpeg => {
            let file = encode_jpeg(&pixels, spec)?;
            Tensor::new(DType::U8, Shape(vec![file.len() as u64]), file)?
        }
        InputEncoding::Uint8 => Tensor::new(DType::U8, pixel_shape(spec), pixels)?,
        InputEncoding::Fp32 => to_tensor(&pixels, spec)?,
    };
    Ok(Payload { encoding, tensor })
}

/// The receiver's half: from what travelled to the network's input.
pub fn finish(payload: &Payload, spec: &PictureSpec) -> Result<Tensor, PictureError> {
    let tensor = &payload.tensor;
    let refuse = || PictureError::Payload {
        encoding: payload.encoding,
        dtype: tensor.dtype(),
        shape: tensor.shape().clone(),
    };
    let is = |dtype, shape: &Shape| tensor.dtype() == dtype && tensor.shape() == shape;
    match payload.encoding {
        InputEncoding::Jpeg if tensor.dtype() == DType::U8 => {
            let picture = decode(tensor.data())?;
            let (actual_width, actual_height) = (picture.width(), picture.height());
            if (actual_width, actual_height) != (spec.width, spec.height) {
                let (width, height) = (spec.width, spec.height);
                return Err(PictureError::Size { width, height, actual_width, actual_height });
            }
            to_tensor(&to_pixels(picture, spec.channels), spec)
        }
        InputEncoding::Uint8 if is(DType::U8, &pixel_shape(spec)) => to_tensor(tensor.data(), spec),
        InputEncoding::Fp32 if is(spec.dtype, &spec.shape()) => Ok(tensor.clone()),
        _ => Err(refuse()),
    }
}

/// Decodes a JPEG or PNG, upright as its camera was held.
fn decode(file: &[u8]) -> Result<DynamicImage, PictureError> {
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|error| PictureError::Decode(ImageError::IoError(error)))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(PictureError::Decode)?;
    decoder.set_limits(limits).map_err(PictureError::Decode)?;
    let orientation = decoder.orientation().map_err(PictureError::Decode)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(PictureError::Decode)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Rows of interleaved red, green, blue, or of gray.
fn to_pixels(picture: DynamicImage, channels: Channels) -> Vec<u8> {
    match channels {
        Channels::Rgb | Channels::Bgr => picture.into_rgb8().into_raw(),
        Channels::Gray => picture.into_luma8().into_raw(),
    }
}

fn resize(picture: DynamicImage, spec: &PictureSpec) -> Result<Vec<u8>, PictureError> {
    let (width, height) = (picture.width(), picture.height());
    if (width, height) == (spec.width, spec.height) {
        return Ok(to_pixels(picture, spec.channels));
    }
    let pixel = match spec.channels {
        Channels::Rgb | Channels::Bgr => PixelType::U8x3,
        Channels::Gray => PixelType::U8,
    };
    let pixels = to_pixels(picture, spec.channels);
    let failed = |error: &dyn std::fmt::Display| PictureError::Resize {
        width: spec.width,
        height: spec.height,
        reason: error.to_string(),
    };
    let source = ImageRef::new(width, height, &pixels, pixel).map_err(|e| failed(&e))?;
    let mut target = Image::new(spec.width, spec.height, pixel);
    let mut options = ResizeOptions::new().resize_alg(match spec.filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
    });
    if spec.fit == Fit::Crop {
        let (left, top, width, height) = centre(width, height, spec);
        options = options.crop(left, top, width, height);
    }
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))?;
    Ok(target.into_vec())
}

/// The part of a picture that lands in the input when its shorter side becomes 8/7 of the input's:
/// 7/8 of the largest rectangle of the input's aspect ratio. Left, top, width, height.
fn centre(width: u32, height: u32, spec: &PictureSpec) -> (f64, f64, f64, f64) {
    let (width, height) = (f64::from(width), f64::from(height));
    let (target_width, target_height) = (f64::from(spec.width), f64::from(spec.height));
    let scale = (width / target_width).min(height / target_height) * 7.0 / 8.0;
    let (cut_width, cut_height) = (target_width * scale, target_height * scale);
    ((width - cut_width) / 2.0, (height - cut_height) / 2.0, cut_width, cut_height)
}

fn encode_jpeg(pixels: &[u8], spec: &PictureSpec) -> Result<Vec<u8>, PictureError> {
    let color = match spec.channels {
        Channels::Rgb | Channels::Bgr => image::ExtendedColorType::Rgb8,
        Channels::Gray => image::ExtendedColorType::L8,
    };
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, spec.jpeg_quality)
        .encode(pixels, spec.width, spec.height, color)
        .map_err(PictureError::Encode)?;
    Ok(file)
}

fn pixel_shape(spec: &PictureSpec) -> Shape {
    let channels = spec.channels.count() as u64;
    Shape(vec![1, u64::from(spec.height), u64::from(spec.width), channels])
}

fn to_tensor(pixels: &[u8], spec: &PictureSpec) -> Result<Tensor, PictureError> {
    let values = spec.normalize(pixels)?;
    let shape = spec.shape();
    let tensor = match spec.dtype {
        DType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(&values);
            Tensor::from_vec(DType::F16, shape, halves)
        }
        DType::U8 => {
            let bytes: Vec<u8> = values.iter().map(|value| value.round() as u8).collect();
            Tensor::from_vec(DType::U8, shape, bytes)
        }
        DType::I8 => {
            let bytes: Vec<i8> = values.iter().map(|value| value.round() as i8).collect();
            Tensor::from_vec(DType::I8, shape, bytes)
        }
        DType::F32 => Tensor::from_f32(shape, values),
        other => return Err(PictureSpecError::Type(other).into()),
    };
    Ok(tensor?)
}

#[cfg(test)]
mod tests {
    use cutline_core::picture::{PRESETS, Recipe};
    use fast_image_resize::CpuExtensions;
    use image::{ImageFormat, RgbImage};

    use super::*;

    /// A picture with edges, ramps and noise.
    fn picture(width: u32, height: u32) -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| {
            let noise = x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 13;
            image::Rgb([(x * 255 / width) as u8, ((x / 9 + y / 7) % 2 * 255) as u8, noise as u8])
        }))
    }

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    fn spec(preset: &str, dtype: DType, shape: &[u64]) -> PictureSpec {
        Recipe::preset(preset).unwrap().for_input(dtype, &Shape(shape.to_vec())).unwrap()
    }

    #[test]
    fn pixels_finished_at_the_receiver_give_the_senders_tensor() {
        let file = png(&picture(97, 61));
        for preset in PRESETS {
            for shape in [[1, 3, 24, 32], [1, 24, 32, 3]] {
                for dtype in [DType::F32, DType::F16] {
                    for (fit, filter) in
                        [(Fit::Stretch, Filter::Bilinear), (Fit::Crop, Filter::Lanczos3)]
                    {
                        let spec = PictureSpec { fit, filter, ..spec(preset, dtype, &shape) };
                        let through = |encoding| {
                            finish(&prepare(&file, &spec, encoding).unwrap(), &spec).unwrap()
                        };
                        let tensor = through(InputEncoding::Fp32);
                        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &spec.shape()));
                        assert_eq!(through(InputEncoding::Uint8), tensor, "{spec:?}");
                        assert_ne!(through(InputEncoding::Jpeg), tensor, "JPEG loses nothing?");
                    }
                }
            }
        }
    }

    /// Resizing must not depend on the processor's instructions.
    #[test]
    fn every_processor_resizes_alike() {
        let source = picture(333, 217).into_rgb8().into_raw();
        let source = ImageRef::new(333, 217, &source, PixelType::U8x3).unwrap();
        for filter in [FilterType::Bilinear, FilterType::CatmullRom, FilterType::Lanczos3] {
            for (width, height) in [(224, 224), (32, 17), (400, 300)] {
                let resized = |plain: bool| {
                    let mut resizer = Resizer::new();
                    if plain {
                        // SAFETY: no instructions beyond the basic ones are on every processor.
                        #[allow(unsafe_code)]
                        unsafe {
                            resizer.set_cpu_extensions(CpuExtensions::None);
                        }
                    }
                    let mut target = Image::new(width, height, PixelType::U8x3);
                    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
                    resizer.resize(&source, &mut target, &options).unwrap();
                    target.into_vec()
                };
                assert_eq!(resized(true), resized(false), "{filter:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn a_picture_of_the_right_size_is_taken_as_it_is() {
        let picture = picture(32, 24);
        let spec = spec("unit", DType::F32, &[1, 24, 32, 3]);
        let payload = prepare(&png(&picture), &spec, InputEncoding::Uint8).unwrap();
        assert_eq!(payload.tensor.data()[..], picture.into_rgb8().into_raw()[..]);
    }

    #[test]
    fn a_decoded_picture_is_prepared_as_its_file_is() {
        let file = png(&picture(97, 61));
        let picture = Picture::decode(&file).unwrap();
        for shape in [[1, 3, 24, 32], [1, 1, 50, 50]] {
            let spec = spec("unit", DType::F32, &shape);
            for encoding in InputEncoding::ALL {
                let sent = send(picture.pixels(&spec).unwrap(), &spec, encoding).unwrap();
                assert_eq!(sent, prepare(&file, &spec, encoding).unwrap(), "{encoding}");
            }
        }
    }

    #[test]
    fn cropping_keeps_the_middle() {
        // Left and right quarters black, the middle white: a crop sees hardly any black.
        let middle = DynamicImage::ImageRgb8(RgbImage::from_fn(400, 100, |x, _| {
            image::Rgb([if (100..300).contains(&x) { 255 } else { 0 }; 3])
        }));
        let share = |fit| {
            let spec = PictureSpec { fit, ..spec("unit", DType::F32, &[1, 3, 50, 50]) };
            let tensor = prepare(&png(&middle), &spec, InputEncoding::Fp32).unwrap().tensor;
            let values = tensor.as_f32().unwrap();
            values.iter().sum::<f32>() / values.len() as f32
        };
        assert!(share(Fit::Crop) > 0.99, "{}", share(Fit::Crop));
        assert!((share(Fit::Stretch) - 0.5).abs() < 0.02, "{}", share(Fit::Stretch));
    }

    #[test]
    fn gray_networks_see_gray_pictures() {
        let spec = spec("unit", DType::F32, &[1, 1, 28, 28]);
        for encoding in InputEncoding::ALL {
            let payload = prepare(&png(&picture(50, 50)), &spec, encoding).unwrap();
            assert_eq!(finish(&payload, &spec).unwrap().shape(), &spec.shape(), "{encoding}");
        }
    }

    #[test]
    fn damaged_pictures_are_refused() {
        let spec = spec("unit", DType::F32, &[1, 3, 8, 8]);
        let file = png(&picture(40, 40));
        for bad in [&b""[..], b"GIF89a", &file[..file.len() / 2], &file[..20]] {
            let outcome = prepare(bad, &spec, InputEncoding::Fp32);
            assert!(matches!(outcome, Err(PictureError::Decode(_))), "{outcome:?}");
        }
        // A header that claims 60000x60000 pixels.
        let mut huge = file.clone();
        huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        assert!(prepare(&huge, &spec, InputEncoding::Fp32).is_err());
    }

    #[test]
    fn a_payload_must_be_what_it_says() {
        let spec = spec("unit", DType::F32, &[1, 3, 8, 8]);
        let file = png(&picture(8, 8));
        let payload = prepare(&file, &spec, InputEncoding::Uint8).unwrap();
        for encoding in [InputEncoding::Fp32, InputEncoding::Jpeg] {
            let lie = Payload { encoding, ..payload.clone() };
            assert!(finish(&lie, &spec).is_err(), "{encoding}");
        }
        let large = PictureSpec { width: 16, ..spec.clone() };
        let other = prepare(&file, &large, InputEncoding::Jpeg).unwrap();
        assert!(matches!(finish(&other, &spec), Err(PictureError::Size { .. })));
    }
}
