//! Tables as a file: what [`schema`](super::schema) cannot do by itself is to put the data of
//! buffers at multiples of 16 bytes, as the format asks.
//!
//! A flatbuffer is built from its end. Data come first, so that they stand last, each at such a
//! distance from the end; the few bytes that make the whole file a multiple of 16 go behind the
//! header, which refers to the rest only by where the root is.
//!
//! ```text
//! root offset, "TFL3" │ some zeros │ tables │ filler, length, data │ filler, length, data
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use planus::{Builder, Offset};
use thiserror::Error;

use super::schema::tflite::{Buffer, Model};

/// Alignment of the data of buffers.
const ALIGNMENT: usize = 16;

/// Length of the root's offset.
const ROOT: usize = 4;

/// Length of that and the identifier.
const HEADER: usize = 8;

/// Most bytes of a file: its offsets are numbers of 32 bits, of which others use 31.
const LIMIT: usize = (1 << 31) - 1;

/// A file would be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its weights are larger than the 2 GB that a TensorFlow Lite file holds; write ONNX files")]
pub struct TooLarge;

/// The file of a model whose buffers have these data, in their order; an empty one stands for none.
/// Those of `model` itself are ignored. O(bytes of the file).
pub fn encode(model: &Model, buffers: &[&[u8]]) -> Result<Bytes, TooLarge> {
    let data: usize = buffers.iter().map(|data| data.len() + 2 * ALIGNMENT).sum();
    // Tables take a few per cent of that; a file of tables alone is small.
    if data > LIMIT - LIMIT / 16 {
        return Err(TooLarge);
    }
    let mut builder = Builder::new();
    // With a vector of this type the file's length will be a multiple of 8.
    builder.create_vector::<i64>(&[] as &[i64]);
    let data: Vec<Option<Offset<[u8]>>> =
        buffers.iter().map(|data| aligned(&mut builder, data)).collect();
    let buffers: Vec<Offset<Buffer>> =
        data.into_iter().map(|data| Buffer::create(&mut builder, data, 0u64, 0u64)).collect();
    let root = Model::create(
        &mut builder,
        model.version,
        &model.operator_codes,
        &model.subgraphs,
        &model.description,
        buffers.as_slice(),
        &model.metadata_buffer,
        &model.metadata,
        &model.signature_defs,
    );
    // The builder would put an identifier before the root's offset, and the format asks for it behind.
    let file = builder.finish(root, None);
    if file.len() > LIMIT - 2 * ALIGNMENT {
        return Err(TooLarge);
    }
    let (root, rest) = file.split_at(ROOT);
    let gap = (HEADER + rest.len()).wrapping_neg() % ALIGNMENT;
    let root = u32::from_le_bytes([root[0], root[1], root[2], root[3]]);
    let mut whole = BytesMut::with_capacity(HEADER + gap + rest.len());
    whole.put_u32_le(root + (HEADER - ROOT + gap) as u32);
    whole.put_slice(b"TFL3");
    whole.put_bytes(0, gap);
    whole.put_slice(rest);
    Ok(whole.freeze())
}

/// Writes the data of a buffer so that they begin at a multiple of the alignment from the end.
fn aligned(builder: &mut Builder, data: &[u8]) -> Option<Offset<[u8]>> {
    if data.is_empty() {
        return None;
    }
    // The builder itself fills up to a multiple of 4.
    let length = data.len().next_multiple_of(4);
    let gap = (builder.len() + length).wrapping_neg() % ALIGNMENT;
    if gap > 0 {
        // A vector that nobody refers to: its length, and zeros.
        builder.create_vector::<u8>(&[0u8; ALIGNMENT][..gap.saturating_sub(4)]);
    }
    Some(builder.create_vector::<u8>(data))
}

#[cfg(test)]
mod tests {
    use planus::ReadAsRoot;

    use super::*;
    use crate::tflite::schema::tflite::{Metadata, ModelRef};

    #[test]
    fn data_of_any_length_begin_at_multiples_of_sixteen() {
        let bytes: Vec<u8> = (0..100).collect();
        for lengths in [vec![], vec![1], vec![16, 1], (0..40).collect(), vec![3, 0, 64, 17, 5]] {
            for name in ["", "a", "a name of some length"] {
                let buffers: Vec<&[u8]> = lengths.iter().map(|&length| &bytes[..length]).collect();
                let entry = Metadata { name: Some(name.to_owned()), buffer: 0 };
                let model = Model { version: 3, metadata: Some(vec![entry]), ..Model::default() };
                let file = encode(&model, &buffers).unwrap();
                assert_eq!(&file[4..8], b"TFL3");
                assert_eq!(file.len() % ALIGNMENT, 0);
                let read = ModelRef::read_as_root(&file).unwrap();
                assert_eq!(read.version().unwrap(), 3);
                let entry = read.metadata().unwrap().unwrap().get(0).unwrap().unwrap();
                assert_eq!(entry.name().unwrap(), Some(name));
                let found = read.buffers().unwrap().unwrap();
                assert_eq!(found.len(), buffers.len());
                for (buffer, data) in found.iter().zip(&buffers) {
                    let there = buffer.unwrap().data().unwrap().unwrap_or_default();
                    assert_eq!(there, *data);
                    let place = there.as_ptr().addr().wrapping_sub(file.as_ptr().addr());
                    assert!(data.is_empty() || place.is_multiple_of(ALIGNMENT), "{lengths:?}");
                }
            }
        }
    }
}
