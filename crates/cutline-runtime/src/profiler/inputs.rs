//! What the network is fed while it is measured.

use std::collections::BTreeMap;

use cutline_core::{
    graph::Graph,
    picture::InputEncoding,
    tensor::{DType, Shape, byte_size},
};
use half::f16;
use thiserror::Error;

use super::PictureSample;
use crate::{picture, tensor::Tensor};

/// Largest input that is made up.
const MAX_INPUT_BYTES: u64 = 1 << 30;

/// Why an input could not be made.
#[derive(Debug, Error)]
pub enum InputError {
    /// Its type or shape is not known.
    #[error("the type or shape of `{0}` is not known; give the input's with `--input-shape`")]
    Unknown(String),
    /// It is larger than what is made up.
    #[error("`{name}` of shape {shape} is too large to make up")]
    Large {
        /// Name of the input.
        name: String,
        /// Its shape.
        shape: Shape,
    },
    /// The picture could not become the input.
    #[error("the picture cannot become input `{0}`")]
    Picture(String, #[source] picture::PictureError),
}

/// A tensor for every input of a network: the picture where one is given and fits, else random
/// values from a seed, as a picture's would be after normalisation.
pub fn sample_inputs(
    graph: &Graph,
    sample: Option<&PictureSample>,
    seed: u64,
) -> Result<BTreeMap<String, Tensor>, InputError> {
    let mut random = Random::new(seed);
    let mut inputs = BTreeMap::new();
    for &id in graph.inputs() {
        let value = graph.value(id);
        let fits = |s: &&PictureSample| {
            value.dtype == Some(s.spec.dtype) && value.shape == Some(s.spec.shape())
        };
        let tensor = match sample.filter(fits) {
            Some(sample) => picture::prepare(&sample.file, &sample.spec, InputEncoding::Fp32)
                .map(|payload| payload.tensor)
                .map_err(|error| InputError::Picture(value.name.clone(), error))?,
            None => made_up(&value.name, value.dtype, value.shape.as_ref(), &mut random)?,
        };
        inputs.insert(value.name.clone(), tensor);
    }
    Ok(inputs)
}

/// Random data of a value's type and shape.
pub(super) fn made_up(
    name: &str,
    dtype: Option<DType>,
    shape: Option<&Shape>,
    random: &mut Random,
) -> Result<Tensor, InputError> {
    let name = || name.to_owned();
    let (Some(dtype), Some(shape)) = (dtype, shape) else {
        return Err(InputError::Unknown(name()));
    };
    let large = || InputError::Large { name: name(), shape: shape.clone() };
    let size = byte_size(dtype, shape).filter(|size| size.0 <= MAX_INPUT_BYTES);
    let bytes = random.data(dtype, size.ok_or_else(large)?.0 as usize);
    Tensor::new(dtype, shape.clone(), bytes).map_err(|_| large())
}

/// A small generator of random numbers (G. Marsaglia, "Xorshift RNGs", 2003).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Any odd constant far from zero: the generator must not start at zero.
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in -1..1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }

    /// Data of a tensor: floats in -1..1, bytes at random, other integers zero, since they are
    /// mostly positions that must exist.
    pub(super) fn data(&mut self, dtype: DType, length: usize) -> Vec<u8> {
        match dtype {
            DType::F32 => (0..length / 4).flat_map(|_| self.float().to_le_bytes()).collect(),
            DType::F16 => {
                (0..length / 2).flat_map(|_| f16::from_f32(self.float()).to_le_bytes()).collect()
            }
            DType::F64 => {
                (0..length / 8).flat_map(|_| f64::from(self.float()).to_le_bytes()).collect()
            }
            DType::U8 | DType::I8 => (0..length).map(|_| (self.next() >> 32) as u8).collect(),
            _ => vec![0; length],
        }
    }
}

#[cfg(test)]
mod tests {
    use cutline_core::graph::GraphBuilder;

    use super::*;

    #[test]
    fn inputs_are_the_same_for_the_same_seed() {
        let mut builder = GraphBuilder::new("g");
        builder.input("x", Some(DType::F32), Some(Shape(vec![1, 3, 8, 8])));
        builder.input("n", Some(DType::I64), Some(Shape(vec![2])));
        let graph = builder.build();
        let inputs = sample_inputs(&graph, None, 7).unwrap();
        assert_eq!(inputs, sample_inputs(&graph, None, 7).unwrap());
        assert_ne!(inputs, sample_inputs(&graph, None, 8).unwrap());
        let floats = inputs["x"].as_f32().unwrap();
        assert!(floats.iter().all(|v| v.abs() <= 1.0) && floats.iter().any(|v| v.abs() > 0.5));
        assert!(inputs["n"].data().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn an_input_that_is_not_known_or_absurd_is_refused() {
        for shape in [None, Some(Shape(vec![u64::MAX, 4])), Some(Shape(vec![1 << 40]))] {
            let mut builder = GraphBuilder::new("g");
            builder.input("x", Some(DType::F32), shape);
            let error = sample_inputs(&builder.build(), None, 0).unwrap_err();
            assert!(error.to_string().contains("`x`"), "{error}");
        }
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
