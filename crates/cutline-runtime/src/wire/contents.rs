//! Tensors between the Open Inference Protocol and the runtime.
//!
//! Raw contents pass through without a copy; typed contents, which only clients send, are checked
//! and packed. Nothing here trusts a length, a shape or a type that came from outside.

use bytes::{BufMut, Bytes, BytesMut};
use cutline_core::tensor::{DType, Shape};
use prost::Message;
use thiserror::Error;

use super::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice, model_infer_request::InferInputTensor,
    model_infer_response::InferOutputTensor,
};
use crate::{
    stage::{Coded, Content, Named, clip},
    tensor::Tensor,
};

/// Extension of a server that reads tensors in the entropy code, and the parameter that marks such a
/// tensor of a request. Its datatype is UINT8, its shape that of the tensor; its raw content is the
/// code. Another code would have another name.
pub const ENTROPY_CODE: &str = "cutline.entropy_code.1";

/// What the first value of a request is aligned to: the widest element.
const ALIGNMENT: usize = 8;

/// Bytes before a message: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;

/// Bytes of a field's tag.
const TAG: usize = 1;

/// Most axes of a tensor.
const MAX_RANK: usize = 16;

/// A message whose tensors contradict themselves.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ContentsError {
    /// There must be one raw content per tensor, or none.
    #[error("{raw} raw contents for {tensors} tensors; every tensor needs one, or none has any")]
    Count {
        /// Raw contents in the message.
        raw: usize,
        /// Tensors in the message.
        tensors: usize,
    },
    /// One tensor is wrong.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Takes the tensors out of a request.
pub fn request_values(request: &mut ModelInferRequest) -> Result<Vec<Named>, ContentsError> {
    let tensors = std::mem::take(&mut request.inputs);
    let raw = std::mem::take(&mut request.raw_input_contents);
    let fields = tensors.into_iter().map(|tensor| {
        let InferInputTensor { name, datatype, shape, contents, parameters } = tensor;
        let is_coded = parameters.contains_key(ENTROPY_CODE);
        Field { name, datatype, shape, contents, is_coded }
    });
    values(fields.collect(), raw)
}

/// Takes the tensors out of a response.
pub fn response_values(response: &mut ModelInferResponse) -> Result<Vec<Named>, ContentsError> {
    let tensors = std::mem::take(&mut response.outputs);
    let raw = std::mem::take(&mut response.raw_output_contents);
    let fields = tensors.into_iter().map(|tensor| {
        let InferOutputTensor { name, datatype, shape, contents, .. } = tensor;
        Field { name, datatype, shape, contents, is_coded: false }
    });
    values(fields.collect(), raw)
}

/// Puts values into a request, and gives it an identifier of just the length that lets the first
/// value begin at a multiple of [`ALIGNMENT`] bytes where the message arrives. Whoever computes on
/// it in place is then spared a copy.
///
/// ```text
/// gRPC prefix │ names, types, shapes, identifier │ tag, length │ first value ...
/// 5 bytes     │                                  │             │ ◀ multiple of 8
/// ```
pub fn fill_request(request: &mut ModelInferRequest, values: Vec<Named>) {
    let mut raws = Vec::with_capacity(values.len());
    for (name, content) in values {
        let mut tensor = InferInputTensor { name, ..Default::default() };
        if let Content::Coded(_) = content {
            let parameter_choice = Some(ParameterChoice::BoolParam(true));
            let parameter = InferParameter { parameter_choice };
            tensor.parameters.insert(ENTROPY_CODE.to_owned(), parameter);
        }
        let (datatype, shape, raw) = encode(content);
        request.inputs.push(InferInputTensor { datatype, shape, ..tensor });
        raws.push(raw);
    }
    if let Some(first) = raws.first() {
        let field = TAG + prost::length_delimiter_len(first.len());
        let start = |request: &ModelInferRequest| GRPC_PREFIX + request.encoded_len() + field;
        while !start(request).is_multiple_of(ALIGNMENT) {
            request.id.push('0');
        }
    }
    request.raw_input_contents = raws;
}

/// Puts tensors into a response.
pub fn fill_response(response: &mut ModelInferResponse, values: Vec<Named>) {
    for (name, content) in values {
        let (datatype, shape, raw) = encode(content);
        response.outputs.push(InferOutputTensor { name, datatype, shape, ..Default::default() });
        response.raw_output_contents.push(raw);
    }
}

/// A tensor's axes as the protocol writes them.
pub fn wire_shape(shape: &Shape) -> Vec<i64> {
    shape.0.iter().map(|&axis| i64::try_from(axis).unwrap_or(i64::MAX)).collect()
}

/// A value from its description and its bytes.
pub(super) fn named(
    name: String,
    datatype: String,
    shape: Vec<i64>,
    raw: Bytes,
) -> Result<Named, ContentsError> {
    let field = Field { name, datatype, shape, contents: None, is_coded: false };
    match decode(&field, Some(raw)) {
        Ok(content) => Ok((field.name, content)),
        Err(reason) => Err(ContentsError::Tensor { name: clip(&field.name), reason }),
    }
}

/// What requests and responses have in common.
struct Field {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    contents: Option<InferTensorContents>,
    is_coded: bool,
}

fn values(fields: Vec<Field>, raw: Vec<Bytes>) -> Result<Vec<Named>, ContentsError> {
    if !raw.is_empty() && raw.len() != fields.len() {
        return Err(ContentsError::Count { raw: raw.len(), tensors: fields.len() });
    }
    let mut raw = raw.into_iter();
    let fields = fields.into_iter().map(|field| {
        let raw = raw.next();
        match decode(&field, raw) {
            Ok(content) => Ok((field.name, content)),
            Err(reason) => Err(ContentsError::Tensor { name: clip(&field.name), reason }),
        }
    });
    fields.collect()
}

fn decode(field: &Field, raw: Option<Bytes>) -> Result<Content, String> {
    let dtype = DType::from_oip(&field.datatype)
        .ok_or_else(|| format!("`{}` is not a known datatype", clip(&field.datatype)))?;
    let shape = shape(&field.shape)?;
    if dtype == DType::String {
        return file(&shape, field.contents.as_ref(), raw).map(Content::Bytes);
    }
    if field.is_coded {
        return coded(dtype, shape, raw);
    }
    let data = match (&field.contents, raw) {
        (Some(contents), Some(_)) if !is_empty(contents) => {
            return Err("it has raw and typed contents".to_owned());
        }
        (_, Some(raw)) => raw,
        (Some(contents), None) => pack(dtype, contents)?,
        (None, None) => Bytes::new(),
    };
    Tensor::new(dtype, shape, data).map(Content::Tensor).map_err(|error| error.to_string())
}

/// A tensor in the entropy code, which stays one until its shape is found to be the declared one.
fn coded(dtype: DType, shape: Shape, raw: Option<Bytes>) -> Result<Content, String> {
    match (dtype, raw) {
        (DType::U8, Some(code)) => Ok(Content::Coded(Coded::new(shape, code))),
        (DType::U8, None) => Err("it is in the entropy code but has no raw content".to_owned()),
        _ => Err(format!("{dtype} in the entropy code; only UINT8 can be")),
    }
}

fn shape(axes: &[i64]) -> Result<Shape, String> {
    if axes.len() > MAX_RANK {
        return Err(format!("{} axes, at most {MAX_RANK} are possible", axes.len()));
    }
    let sizes = axes.iter().map(|&axis| {
        u64::try_from(axis).map_err(|_| format!("axis size {axis}; a request needs fixed sizes"))
    });
    sizes.collect::<Result<_, _>>().map(Shape)
}

/// The one element of a BYTES tensor. In raw form its length stands before it, in four bytes.
fn file(
    shape: &Shape,
    contents: Option<&InferTensorContents>,
    raw: Option<Bytes>,
) -> Result<Bytes, String> {
    if shape.elements() != Some(1) {
        return Err(format!("BYTES of shape {shape}; only one element is possible"));
    }
    match (raw, contents.map(|contents| contents.bytes_contents.as_slice())) {
        (Some(raw), _) => match raw.split_first_chunk::<4>() {
            Some((length, rest)) if u32::from_le_bytes(*length) as usize == rest.len() => {
                Ok(raw.slice(4..))
            }
            _ => Err(format!("{} raw bytes are not one element with its length", raw.len())),
        },
        (None, Some([element])) => Ok(element.clone()),
        (None, elements) => {
            Err(format!("{} elements, expected 1", elements.map_or(0, <[Bytes]>::len)))
        }
    }
}

fn is_empty(contents: &InferTensorContents) -> bool {
    *contents == InferTensorContents::default()
}

/// Packs typed contents; only the field that belongs to the type counts.
fn pack(dtype: DType, contents: &InferTensorContents) -> Result<Bytes, String> {
    let c = contents;
    let int = "out of the type's range";
    Ok(match dtype {
        DType::F32 => pack_each(&c.fp32_contents, |v| Some(v.to_le_bytes())),
        DType::F64 => pack_each(&c.fp64_contents, |v| Some(v.to_le_bytes())),
        DType::I8 => pack_each(&c.int_contents, |v| Some(i8::try_from(v).ok()?.to_le_bytes())),
        DType::I16 => pack_each(&c.int_contents, |v| Some(i16::try_from(v).ok()?.to_le_bytes())),
        DType::I32 => pack_each(&c.int_contents, |v| Some(v.to_le_bytes())),
        DType::I64 => pack_each(&c.int64_contents, |v| Some(v.to_le_bytes())),
        DType::U8 => pack_each(&c.uint_contents, |v| Some(u8::try_from(v).ok()?.to_le_bytes())),
        DType::U16 => pack_each(&c.uint_contents, |v| Some(u16::try_from(v).ok()?.to_le_bytes())),
        DType::U32 => pack_each(&c.uint_contents, |v| Some(v.to_le_bytes())),
        DType::U64 => pack_each(&c.uint64_contents, |v| Some(v.to_le_bytes())),
        DType::Bool => pack_each(&c.bool_contents, |v| Some([u8::from(v)])),
        DType::F16 | DType::BF16 | DType::String => {
            return Err(format!("{dtype} has no typed contents; send raw ones"));
        }
    }
    .ok_or(int)?)
}

fn pack_each<T: Copy, const N: usize>(
    values: &[T],
    encode: impl Fn(T) -> Option<[u8; N]>,
) -> Option<Bytes> {
    let mut data = BytesMut::with_capacity(values.len() * N);
    for &value in values {
        data.put_slice(&encode(value)?);
    }
    Some(data.freeze())
}

fn encode(content: Content) -> (String, Vec<i64>, Bytes) {
    match content {
        Content::Tensor(tensor) => {
            let shape = wire_shape(tensor.shape());
            (tensor.dtype().oip().to_owned(), shape, tensor.data().clone())
        }
        Content::Bytes(file) => {
            let mut raw = BytesMut::with_capacity(file.len() + 4);
            raw.put_u32_le(u32::try_from(file.len()).unwrap_or(u32::MAX));
            raw.put_slice(&file);
            (DType::String.oip().to_owned(), vec![1], raw.freeze())
        }
        Content::Coded(coded) => {
            let shape = wire_shape(coded.shape());
            (DType::U8.oip().to_owned(), shape, coded.code().clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_value_arrives_aligned_whatever_comes_before_it() {
        for length in 0..40 {
            let mut request =
                ModelInferRequest { model_name: "m".repeat(length), ..Default::default() };
            let data: Vec<f32> = (0..3000).map(|v| v as f32).collect();
            let tensor = Tensor::from_f32(Shape(vec![3000]), data).unwrap();
            let second = tensor.clone();
            let values = [("x".to_owned(), tensor), ("y".to_owned(), second)];
            fill_request(&mut request, values.map(|(n, t)| (n, Content::Tensor(t))).to_vec());
            let mut frame = BytesMut::zeroed(GRPC_PREFIX);
            request.encode(&mut frame).unwrap();
            let frame = frame.freeze();
            let first = request.raw_input_contents[0].clone();
            let at = frame.windows(first.len()).position(|window| window == first).unwrap();
            assert!(at.is_multiple_of(ALIGNMENT), "{length}: {at}");
            assert!(request.id.len() <= ALIGNMENT + 1);
        }
    }

    fn field(datatype: &str, shape: &[i64], contents: InferTensorContents) -> Field {
        Field {
            name: "x".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            contents: Some(contents),
            is_coded: false,
        }
    }

    #[test]
    fn a_tensor_in_the_entropy_code_arrives_as_one() {
        let data: Vec<u8> = (0..3000u32).map(|i| (i % 7 / 5) as u8).collect();
        let tensor = Tensor::new(DType::U8, Shape(vec![1, 30, 100]), data).unwrap();
        let coded = Coded::of(&tensor).unwrap();
        let mut request = ModelInferRequest::default();
        let content = Content::Coded(coded.clone());
        fill_request(&mut request, vec![("x.bits2".to_owned(), content.clone())]);
        assert!(request.raw_input_contents[0].len() < 1000);
        let mut plain = request.clone();
        assert_eq!(request_values(&mut request), Ok(vec![("x.bits2".to_owned(), content)]));
        assert_eq!(coded.tensor(), Ok(tensor));
        // A server that does not know the mark sees a tensor of the wrong length, and refuses it.
        plain.inputs[0].parameters.clear();
        assert!(request_values(&mut plain).unwrap_err().to_string().contains("3000 bytes"));
    }

    #[test]
    fn typed_contents_pack_like_raw_ones() {
        let ints = InferTensorContents { int_contents: vec![-1, 2], ..Default::default() };
        for (datatype, raw) in [
            ("INT8", vec![255, 2]),
            ("INT16", vec![255, 255, 2, 0]),
            ("INT32", vec![255, 255, 255, 255, 2, 0, 0, 0]),
        ] {
            let typed = decode(&field(datatype, &[2], ints.clone()), None).unwrap();
            let plain = field(datatype, &[2], InferTensorContents::default());
            assert_eq!(typed, decode(&plain, Some(raw.into())).unwrap(), "{datatype}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let typed =
            |datatype, shape: &[i64], contents| decode(&field(datatype, shape, contents), None);
        let floats = |n| InferTensorContents { fp32_contents: vec![0.5; n], ..Default::default() };
        let big = InferTensorContents { int_contents: vec![300], ..Default::default() };
        for (result, words) in [
            (typed("FP32", &[3], floats(2)), "needs 12 bytes, got 8"),
            (typed("FP32", &[-1], floats(2)), "fixed sizes"),
            (typed("FP33", &[2], floats(2)), "not a known datatype"),
            (typed("FP16", &[2], floats(2)), "send raw ones"),
            (typed("INT8", &[1], big), "range"),
            (typed("FP32", &[i64::MAX, i64::MAX, 9], floats(1)), "a fixed number of bytes"),
            (typed("BYTES", &[2], floats(0)), "only one element"),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_keeps_its_bytes() {
        let (datatype, shape, raw) = encode(Content::Bytes(Bytes::from_static(b"jpeg")));
        let back = decode(&field(&datatype, &shape, InferTensorContents::default()), Some(raw));
        assert_eq!(back, Ok(Content::Bytes(Bytes::from_static(b"jpeg"))));
    }

    proptest! {
        /// Any message is refused or understood, never a panic, and what is understood encodes to
        /// the same data.
        #[test]
        fn decoding_never_panics(
            datatype in prop::sample::select(vec!["FP32", "INT8", "BYTES", "BOOL", "UINT64", "?"]),
            shape in prop::collection::vec(prop_oneof![0i64..5, any::<i64>()], 0..5),
            ints in prop::collection::vec(any::<i32>(), 0..9),
            files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..3),
            raw in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        ) {
            let contents = InferTensorContents {
                int_contents: ints,
                bytes_contents: files.into_iter().map(Bytes::from).collect(),
                ..Default::default()
            };
            let field = field(datatype, &shape, contents);
            if let Ok(content) = decode(&field, raw.map(Bytes::from)) {
                let (datatype, shape, raw) = encode(content.clone());
                let plain =
                    Field { name: "x".into(), datatype, shape, contents: None, is_coded: false };
                prop_assert_eq!(decode(&plain, Some(raw)), Ok(content));
            }
        }
    }
}
