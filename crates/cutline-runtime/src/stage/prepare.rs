//! The picture steps of a stage: what the source makes of a file, and what a receiver finishes.

use cutline_core::{
    picture::{InputEncoding, PictureSpec},
    tensor::{DType, Shape},
};

use super::{Content, Named, PICTURE_INPUT, PictureInput, Stage, StageError, TensorSpec, chain};
use crate::{
    picture::{self, Payload, PictureError},
    tensor::Tensor,
};

/// Values of a stage, by name.
type Values = std::collections::BTreeMap<String, Content>;

/// Turns a picture into the input tensor where this stage needs the tensor, and returns the input
/// in the form in which it is to be sent on, where that differs.
///
/// Whoever reads the network's input reads the same tensor: where the picture is sent as JPEG, the
/// sender too uses what the receiver will see.
pub(super) fn prepare(
    stage: &Stage,
    picture: &PictureInput,
    values: &mut Values,
) -> Result<Option<Named>, StageError> {
    let failed = |error: PictureError| StageError::Picture {
        stage: stage.spec().name.clone(),
        reason: chain(&error),
    };
    let mut calls = stage.calls().filter(|call| !call.here);
    let sent = calls.any(|call| call.sends.contains(&picture.input));
    let payload = match values.remove(PICTURE_INPUT) {
        Some(file) => {
            let encoding = if sent { travels_as(picture) } else { InputEncoding::Fp32 };
            picture::prepare(file.data(), &picture.spec, encoding).map_err(failed)?
        }
        None => match values.get(&picture.input).and_then(|content| arrived(content, picture)) {
            Some(payload) => payload,
            // It came as the tensor that it is.
            None => return Ok(None),
        },
    };
    let dense = payload.encoding == InputEncoding::Fp32;
    if dense || stage.needs_tensor(&picture.input) {
        let tensor = picture::finish(&payload, &picture.spec).map_err(failed)?;
        values.insert(picture.input.clone(), Content::Tensor(tensor));
    }
    Ok((sent && !dense).then(|| (picture.input.clone(), Content::Tensor(payload.tensor))))
}

/// How the plan sends the input. Pixels of a network that reads bytes are its tensor already.
fn travels_as(picture: &PictureInput) -> InputEncoding {
    match picture.encoding {
        InputEncoding::Uint8 if picture.spec.dtype == DType::U8 => InputEncoding::Fp32,
        encoding => encoding,
    }
}

/// The payload of an input that came encoded; `None` where it came as a tensor.
fn arrived(content: &Content, picture: &PictureInput) -> Option<Payload> {
    match content {
        Content::Bytes(file) => {
            let shape = Shape(vec![file.len() as u64]);
            let tensor = Tensor::new(DType::U8, shape, file.clone()).ok()?;
            Some(Payload { encoding: InputEncoding::Jpeg, tensor })
        }
        Content::Tensor(tensor) => {
            let encoding = encoding(tensor, &picture.spec)?;
            Some(Payload { encoding, tensor: tensor.clone() })
        }
        Content::Coded(_) => None,
    }
}

/// How a tensor encodes a picture: a file is one axis of bytes, pixels have four.
fn encoding(tensor: &Tensor, spec: &PictureSpec) -> Option<InputEncoding> {
    match (tensor.dtype(), tensor.shape().0.len()) {
        _ if (tensor.dtype(), tensor.shape()) == (spec.dtype, &spec.shape()) => None,
        (DType::U8, 1) => Some(InputEncoding::Jpeg),
        (DType::U8, _) => Some(InputEncoding::Uint8),
        _ => None,
    }
}

/// Whether an input that can be made from a picture has one of the forms that are understood.
pub(super) fn check(
    picture: &PictureInput,
    input: &TensorSpec,
    content: &Content,
) -> Result<(), String> {
    let Content::Tensor(tensor) = content else { return Ok(()) };
    let spec = &picture.spec;
    let pixels = [1, u64::from(spec.height), u64::from(spec.width), spec.channels.count() as u64];
    match encoding(tensor, spec) {
        Some(InputEncoding::Jpeg) => Ok(()),
        Some(InputEncoding::Uint8) if tensor.shape().0 == pixels => Ok(()),
        None if input.admits(tensor) => Ok(()),
        _ => Err(format!(
            "`{}` is {}, expected {}, pixels as UINT8 {}, or a JPEG file",
            input.name,
            super::content::describe(tensor.dtype(), tensor.shape()),
            input.describe(),
            Shape(pixels.to_vec())
        )),
    }
}
