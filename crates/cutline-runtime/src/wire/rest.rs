//! The Open Inference Protocol's messages over HTTP: JSON, and tensors as bytes behind it.
//!
//! ```text
//! ┌ JSON: names, types, shapes, `data` or `binary_data_size` ┐┌ first tensor ┐┌ second tensor ┐
//!   Inference-Header-Content-Length: its length (absent: all)   raw, as over gRPC
//! ```
//!
//! Nothing here trusts a length, a shape or a type that came from outside. Elements in JSON are
//! packed as they are read, and never more of them than the tensor's type has room for.

use bytes::{BufMut, Bytes, BytesMut};
use cutline_core::tensor::{DType, Shape, byte_size};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor},
};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use thiserror::Error;

use super::contents::{self, ContentsError};
use crate::{
    stage::{Content, Named, clip},
    tensor::Tensor,
};

/// Most tensors of a request.
const MAX_TENSORS: usize = 4096;

/// A request that is not one.
#[derive(Debug, Error)]
pub enum RestError {
    /// The header's length exceeds the body.
    #[error(
        "the body has {body} bytes, and its header says that {json} of them are JSON; is it complete"
    )]
    Header {
        /// What the header says.
        json: usize,
        /// What there is.
        body: usize,
    },
    /// The JSON does not parse.
    #[error("the request is not JSON of the Open Inference Protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// More tensors than any model here takes.
    #[error("{0} inputs; at most {MAX_TENSORS} are possible")]
    Count(usize),
    /// A tensor that contradicts itself.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// Bytes that belong to no tensor.
    #[error("{0} bytes follow the last tensor's")]
    Rest(usize),
}

/// What a client asks for.
#[derive(Debug)]
pub struct Request {
    /// The client's own name of the request.
    pub id: String,
    /// What the protocol leaves to servers, such as `timeout` in microseconds.
    pub parameters: Map<String, Value>,
    /// Inputs by name.
    pub inputs: Vec<Named>,
    /// Outputs by name, and whether as bytes; empty: all.
    pub outputs: Vec<(String, bool)>,
    /// Whether outputs that were not named come as bytes.
    pub binary: bool,
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    #[serde(default)]
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Reads a request. `json` is the length of its JSON where the header gives one. Tensors that come
/// as bytes are slices of the body, not copies.
pub fn read(body: &Bytes, json: Option<usize>) -> Result<Request, RestError> {
    let length = json.unwrap_or(body.len());
    let header = body.get(..length).ok_or(RestError::Header { json: length, body: body.len() })?;
    let request: RequestJson<'_> = serde_json::from_slice(header)?;
    if request.inputs.len() > MAX_TENSORS {
        return Err(RestError::Count(request.inputs.len()));
    }
    let mut rest = body.slice(length..);
    let inputs = request.inputs.into_iter().map(|input| input.read(&mut rest));
    let inputs = inputs.collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        return Err(RestError::Rest(rest.len()));
    }
    let binary = flag(&request.parameters, "binary_data_output").unwrap_or(false);
    let outputs = request.outputs.into_iter().map(|output| {
        let binary = flag(&output.parameters, "binary_data").unwrap_or(binary);
        (output.name, binary)
    });
    let outputs = outputs.collect();
    Ok(Request { id: request.id, parameters: request.parameters, inputs, outputs, binary })
}

fn flag(parameters: &Map<String, Value>, name: &str) -> Option<bool> {
    parameters.get(name)?.as_bool()
}

impl InputJson<'_> {
    /// Takes the tensor, and its bytes from the front of the rest.
    fn read(self, rest: &mut Bytes) -> Result<Named, ContentsError> {
        let wrong = |reason| ContentsError::Tensor { name: clip(&self.name), reason };
        let raw = match (self.parameters.get("binary_data_size"), self.data) {
            (Some(_), Some(_)) => return Err(wrong("it has `data` and bytes".to_owned())),
            (Some(size), None) => {
                let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
                let size = size.filter(|&size| size <= rest.len()).ok_or_else(|| {
                    wrong(format!(
                        "`binary_data_size` is none, or more than the {} bytes that are left",
                        rest.len()
                    ))
                })?;
                rest.split_to(size)
            }
            (None, Some(data)) => self.pack(data).map_err(wrong)?,
            (None, None) => {
                let reason = "it has neither `data` nor `binary_data_size`; shared memory is not possible here";
                return Err(wrong(reason.to_owned()));
            }
        };
        contents::named(self.name, self.datatype, self.shape, raw)
    }

    /// Elements in JSON, nested by axis or not, as they lie in memory.
    fn pack(&self, data: &RawValue) -> Result<Bytes, String> {
        let dtype = DType::from_oip(&self.datatype)
            .ok_or_else(|| format!("`{}` is not a known datatype", clip(&self.datatype)))?;
        let axes = self.shape.iter().map(|&axis| u64::try_from(axis).ok());
        let shape = Shape(axes.collect::<Option<_>>().ok_or("an axis is negative")?);
        let room = byte_size(dtype, &shape).and_then(|size| usize::try_from(size.0).ok());
        let room = match (dtype, room) {
            (DType::F16 | DType::BF16 | DType::String, _) | (_, None) => {
                return Err(format!("{dtype} cannot come as `data`; send its bytes"));
            }
            (_, Some(room)) => room,
        };
        // A shape may claim much; what is reserved is bounded by the text that is there.
        let mut out = BytesMut::with_capacity(room.min(data.get().len() * 4));
        let elements = Elements { dtype, room, out: &mut out };
        let mut json = serde_json::Deserializer::from_str(data.get());
        elements.deserialize(&mut json).map_err(|error| error.to_string())?;
        Ok(out.freeze())
    }
}

/// Packs numbers of any nesting.
struct Elements<'a> {
    dtype: DType,
    room: usize,
    out: &'a mut BytesMut,
}

impl Elements<'_> {
    fn put<E: Error>(self, bytes: Option<&[u8]>, what: impl std::fmt::Display) -> Result<(), E> {
        let bytes = bytes.ok_or_else(|| E::custom(format_args!("{what} is no {}", self.dtype)))?;
        if self.out.len() + bytes.len() > self.room {
            return Err(E::custom("more elements than its shape has"));
        }
        self.out.put_slice(bytes);
        Ok(())
    }

    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        macro_rules! packed {
            ($type:ty) => {
                <$type>::try_from(value).ok().map(<$type>::to_le_bytes)
            };
        }
        macro_rules! put {
            ($bytes:expr) => {{
                let bytes = $bytes;
                self.put(bytes.as_ref().map(|bytes| bytes.as_slice()), value)
            }};
        }
        match self.dtype {
            DType::F32 => put!(Some((value as f32).to_le_bytes())),
            DType::F64 => put!(Some((value as f64).to_le_bytes())),
            DType::I8 => put!(packed!(i8)),
            DType::I16 => put!(packed!(i16)),
            DType::I32 => put!(packed!(i32)),
            DType::I64 => put!(packed!(i64)),
            DType::U8 => put!(packed!(u8)),
            DType::U16 => put!(packed!(u16)),
            DType::U32 => put!(packed!(u32)),
            DType::U64 => put!(packed!(u64)),
            DType::Bool => put!(u8::try_from(value).ok().filter(|&bit| bit < 2).map(|bit| [bit])),
            DType::F16 | DType::BF16 | DType::String => self.put(None, value),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "elements of type {}, in lists", self.dtype)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { dtype, room, out } = self;
        while list.next_element_seed(Elements { dtype, room, out: &mut *out })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.dtype {
            DType::Bool => self.put(Some(&[u8::from(value)]), value),
            _ => self.put(None, value),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.dtype {
            DType::F32 => self.put(Some(&(value as f32).to_le_bytes()), value),
            DType::F64 => self.put(Some(&value.to_le_bytes()), value),
            _ => self.put(None, value),
        }
    }
}

/// An answer before its tensors are written.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Name of the model.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: &'a str,
    /// The client's own name of the request.
    pub id: &'a str,
    /// What the protocol leaves to servers.
    pub parameters: Map<String, Value>,
    /// Outputs by name, and whether as bytes.
    pub outputs: Vec<(Named, bool)>,
}

#[derive(Serialize)]
struct AnswerJson<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    parameters: Map<String, Value>,
    outputs: Vec<OutputTensorJson>,
}

#[derive(Serialize)]
struct OutputTensorJson {
    name: String,
    datatype: &'static str,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// Writes an answer: its JSON, and the tensors whose bytes follow it, in order.
pub fn write(answer: Answer<'_>) -> Result<(Vec<u8>, Vec<Bytes>), RestError> {
    let mut tail = Vec::new();
    let outputs = answer.outputs.into_iter().map(|((name, content), binary)| {
        let wrong =
            |reason: &str| ContentsError::Tensor { name: clip(&name), reason: reason.to_owned() };
        let Content::Tensor(tensor) = content else {
            return Err(RestError::Contents(wrong("it is a file, which no model answers")));
        };
        let (parameters, data) = match binary {
            true => {
                tail.push(tensor.data().clone());
                (Some(BinarySize { binary_data_size: tensor.data().len() }), None)
            }
            false => {
                let elements = elements(&tensor)?
                    .ok_or_else(|| wrong("its type has no form in JSON; ask for `binary_data`"))?;
                (None, Some(elements))
            }
        };
        let (datatype, shape) = (tensor.dtype().oip(), tensor.shape().0.clone());
        Ok(OutputTensorJson { name, datatype, shape, parameters, data })
    });
    let json = AnswerJson {
        outputs: outputs.collect::<Result<_, RestError>>()?,
        model_name: answer.model_name,
        model_version: answer.model_version,
        id: answer.id,
        parameters: answer.parameters,
    };
    Ok((serde_json::to_vec(&json)?, tail))
}

/// A tensor's elements as a flat list; what is no number becomes `null`.
fn elements(tensor: &Tensor) -> Result<Option<Box<RawValue>>, serde_json::Error> {
    macro_rules! list {
        ($type:ty) => {{
            let (chunks, _) = tensor.data().as_chunks::<{ size_of::<$type>() }>();
            to_raw_value(
                &chunks.iter().map(|&bytes| <$type>::from_le_bytes(bytes)).collect::<Vec<_>>(),
            )?
        }};
    }
    Ok(Some(match tensor.dtype() {
        DType::F32 => list!(f32),
        DType::F64 => list!(f64),
        DType::I8 => list!(i8),
        DType::I16 => list!(i16),
        DType::I32 => list!(i32),
        DType::I64 => list!(i64),
        DType::U8 => list!(u8),
        DType::U16 => list!(u16),
        DType::U32 => list!(u32),
        DType::U64 => list!(u64),
        DType::Bool => {
            to_raw_value(&tensor.data().iter().map(|&byte| byte != 0).collect::<Vec<_>>())?
        }
        DType::F16 | DType::BF16 | DType::String => return Ok(None),
    }))
}
