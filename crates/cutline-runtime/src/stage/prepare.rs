//! The picture steps of a stage: what the source makes of a file, and what a receiver finishes.

use bytes::Bytes;
use cutline_core::picture::{Channels, PictureSpec};

use super::{Content, InputEncoding};
use crate::tensor::Tensor;

/// The bytes of a picture file, whichever way they came.
pub(super) fn file_bytes(content: &Content) -> Bytes {
    match content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::Tensor(tensor) => tensor.data().clone(),
    }
}

/// From a file to the input tensor.
pub(super) fn tensor(_spec: &PictureSpec, _file: &Bytes) -> Result<Tensor, String> {
    Err("this build cannot read pictures".to_owned())
}

/// From a file to the bytes that travel.
pub(super) fn encode(
    _spec: &PictureSpec,
    _file: &Bytes,
    _encoding: InputEncoding,
) -> Result<Content, String> {
    Err("this build cannot read pictures".to_owned())
}

/// From the bytes that travelled to the input tensor.
pub(super) fn finish(_spec: &PictureSpec, _encoded: &Content) -> Result<Tensor, String> {
    Err("this build cannot read pictures".to_owned())
}

/// Whether a tensor of bytes has as many as the network's picture has pixels and channels.
pub(super) fn check_pixels(spec: &PictureSpec, tensor: &Tensor) -> Result<(), String> {
    let channels: u64 = if spec.channels == Channels::Gray { 1 } else { 3 };
    let expected = u64::from(spec.width) * u64::from(spec.height) * channels;
    match tensor.data().len() as u64 {
        got if got == expected => Ok(()),
        got => {
            Err(format!("{got} pixel bytes, expected {}x{}x{channels}", spec.height, spec.width))
        }
    }
}
