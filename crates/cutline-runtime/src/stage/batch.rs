//! Several frames as one: their tensors behind each other along the first axis, and apart again.

use cutline_core::tensor::{DType, Shape};

use crate::tensor::{Tensor, TensorError};

/// The tensors of several frames as one: one copy of each, none of a single one. They must be alike;
/// see [`kind`].
pub(crate) fn stack(frames: &[&Tensor]) -> Result<Tensor, TensorError> {
    if let &[alone] = frames {
        return Ok(alone.clone());
    }
    let mut data = Vec::with_capacity(frames.iter().map(|tensor| tensor.data().len()).sum());
    frames.iter().for_each(|tensor| data.extend_from_slice(tensor.data()));
    let mut shape = frames.first().map(|tensor| tensor.shape().clone()).unwrap_or_default();
    if let Some(first) = shape.0.first_mut() {
        *first = first.saturating_mul(frames.len() as u64);
    }
    let dtype = frames.first().map_or(DType::F32, |tensor| tensor.dtype());
    Tensor::new(dtype, shape, data)
}

/// The tensor of each of so many frames, which share its data; `None` where it is not made of so
/// many.
pub(crate) fn unstack(tensor: &Tensor, frames: usize) -> Option<Vec<Tensor>> {
    let (&first, rest) = tensor.shape().0.split_first()?;
    let count = u64::try_from(frames).ok().filter(|&count| count > 0)?;
    if !first.is_multiple_of(count) {
        return None;
    }
    let shape = Shape(std::iter::once(first / count).chain(rest.iter().copied()).collect());
    let length = tensor.data().len() / frames;
    let of_frame = |at: usize| {
        let data = tensor.data().slice(at * length..(at + 1) * length);
        Tensor::new(tensor.dtype(), shape.clone(), data).ok()
    };
    (0..frames).map(of_frame).collect()
}

/// What must be equal of tensors that are to be stacked; `None` of one that cannot be.
pub(crate) fn kind(tensor: &Tensor) -> Option<(DType, &Shape)> {
    let is_frame = tensor.shape().0.first() == Some(&1) && tensor.dtype().size().is_some();
    is_frame.then(|| (tensor.dtype(), tensor.shape()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u64], values: &[f32]) -> Tensor {
        Tensor::from_f32(Shape(shape.to_vec()), values.to_vec()).unwrap()
    }

    #[test]
    fn what_was_stacked_comes_apart_again_without_a_copy() {
        let frames = [tensor(&[1, 2], &[1.0, 2.0]), tensor(&[1, 2], &[3.0, 4.0])];
        let both = stack(&[&frames[0], &frames[1]]).unwrap();
        assert_eq!(both, tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        let apart = unstack(&both, 2).unwrap();
        assert_eq!(apart, frames);
        assert_eq!(apart[1].data().as_ptr(), both.data()[8..].as_ptr());
        assert_eq!(unstack(&both, 3), None);
        assert_eq!(unstack(&both, 0), None);
        assert_eq!(unstack(&tensor(&[], &[1.0]), 1), None);
    }

    #[test]
    fn only_single_frames_can_be_stacked() {
        assert!(kind(&tensor(&[1, 2], &[1.0, 2.0])).is_some());
        for other in [tensor(&[2, 1], &[1.0, 2.0]), tensor(&[], &[1.0])] {
            assert_eq!(kind(&other), None);
        }
    }
}
