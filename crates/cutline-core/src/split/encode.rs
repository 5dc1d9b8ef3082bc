//! ONNX files as pieces: protobuf structure around weights that stay where they are.
//!
//! Protobuf leaves the order of fields free, and the length of a message does not depend on it. So
//! a message that holds a large tensor is written as its other fields, then tag and length of the
//! nested message, then the nested message in the same way, down to the raw data, which becomes a
//! piece of its own: a slice of the input, or a range of a file that was never read.
//!
//! ```text
//! model │ fields but graph │ tag+len │ graph │ fields │ tag+len │ tensor │ fields │ tag+len │ raw
//!         inline                       inline                     inline                      piece
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::rest::{attribute_rest, graph_rest, model_rest, node_rest, tensor_rest};
use crate::{
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
        tensor_proto::DataLocation,
    },
    tensor::{DType, Shape, byte_size},
};

/// A tensor whose data is in another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalTensor {
    /// Name of the tensor, possibly empty.
    pub name: String,
    /// Where its data is: always [`Piece::External`]; `None` where the file does not say it well.
    pub data: Option<Piece>,
}

/// All tensors of a model whose data is in another file, those in attributes and subgraphs
/// included.
pub fn external_tensors(model: &ModelProto) -> Vec<ExternalTensor> {
    let mut found = Vec::new();
    model.graph.iter().for_each(|graph| find_external(graph, &mut found));
    found
}

fn find_external(graph: &GraphProto, found: &mut Vec<ExternalTensor>) {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let constants =
        attributes.clone().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    let tensors = graph.initializer.iter().chain(constants).filter(|tensor| is_external(tensor));
    found.extend(
        tensors.map(|tensor| ExternalTensor {
            name: tensor.name().to_owned(),
            data: external(tensor),
        }),
    );
    for inner in attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
        find_external(inner, found);
    }
}

/// Part of a file to write: bytes at hand, or bytes of another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes; usually a slice of the model that was read.
    Inline(Bytes),
    /// Bytes of a file beside the model that was read.
    External {
        /// The file, relative to the model's folder.
        location: String,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

impl Piece {
    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Inline(bytes) => bytes.len() as u64,
            Piece::External { length, .. } => *length,
        }
    }
}

/// The file of a whole model, in order. Weights are not copied: raw data is shared with `model`,
/// and external data is drawn into the file. O(nodes + initializers).
pub fn encode(model: &ModelProto) -> Vec<Piece> {
    let mut out = Pieces::default();
    put_model(&mut out, model);
    out.finish()
}

/// The same for a file that will lie beside the model's own: external data stays where it is.
pub fn encode_beside(model: &ModelProto) -> Vec<Piece> {
    let mut out = Pieces { draw_in: false, ..Pieces::default() };
    put_model(&mut out, model);
    out.finish()
}

/// The file of a model whose initializers' data lie in the data file `location`, and that file.
pub(super) fn encode_with_data(model: &ModelProto, location: &str) -> (Vec<Piece>, Vec<Piece>) {
    let mut data = Vec::new();
    let mut offset = 0;
    let graph = model.graph.as_ref().map(|graph| {
        let initializer = graph.initializer.iter();
        let initializer =
            initializer.map(|tensor| move_out(tensor, location, &mut data, &mut offset)).collect();
        GraphProto { initializer, ..graph_rest(graph, graph.node.clone()) }
    });
    let model = ModelProto { graph, ..model_rest(model) };
    let mut out = Pieces { draw_in: false, ..Pieces::default() };
    put_model(&mut out, &model);
    (out.finish(), data)
}

/// Bytes of raw and external data in the initializers of a model.
pub(super) fn payload_bytes(model: &ModelProto) -> u64 {
    let initializers = model.graph.iter().flat_map(|graph| &graph.initializer);
    initializers.filter_map(payload).map(|piece| piece.bytes()).fold(0, u64::saturating_add)
}

/// Data up to this size is copied into the structure around it, which is cheaper than a piece.
const COPIED: usize = 4096;
/// Each tensor of a data file starts on a page, so that engines can map it.
const ALIGNMENT: u64 = 4096;

static ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];

/// The data of a tensor that is not among its typed fields.
pub(super) fn payload(tensor: &TensorProto) -> Option<Piece> {
    if is_external(tensor) {
        return external(tensor);
    }
    tensor.raw_data.clone().map(Piece::Inline)
}

/// Whether the tensor says that its data is in another file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

/// Where external data lies; `None` where the tensor does not say it well.
fn external(tensor: &TensorProto) -> Option<Piece> {
    let entry = |key: &str| {
        let entry = tensor.external_data.iter().find(|entry| entry.key() == key)?;
        Some(entry.value().trim())
    };
    let location = entry("location").filter(|location| !location.is_empty())?.to_owned();
    let offset = entry("offset").map_or(Ok(0), str::parse).ok()?;
    let length = match entry("length") {
        Some(length) => length.parse().ok()?,
        None => dense_bytes(tensor)?,
    };
    Some(Piece::External { location, offset, length })
}

fn dense_bytes(tensor: &TensorProto) -> Option<u64> {
    let dims: Result<Vec<u64>, _> = tensor.dims.iter().map(|&dim| u64::try_from(dim)).collect();
    byte_size(DType::from_onnx(tensor.data_type())?, &Shape(dims.ok()?)).map(|bytes| bytes.0)
}

/// The tensor with its data appended to the data file instead.
fn move_out(
    tensor: &TensorProto,
    location: &str,
    data: &mut Vec<Piece>,
    offset: &mut u64,
) -> TensorProto {
    let Some(piece) = payload(tensor).filter(|piece| piece.bytes() > COPIED as u64) else {
        return tensor.clone();
    };
    let padding = offset.next_multiple_of(ALIGNMENT) - *offset;
    if padding > 0 {
        data.push(Piece::Inline(Bytes::from_static(&ZEROS[..padding as usize])));
    }
    let start = *offset + padding;
    let length = piece.bytes();
    data.push(piece);
    *offset = start + length;
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    TensorProto {
        external_data: vec![
            entry("location", location.to_owned()),
            entry("offset", start.to_string()),
            entry("length", length.to_string()),
        ],
        data_location: Some(DataLocation::External as i32),
        ..tensor_rest(tensor)
    }
}

/// Grows a list of pieces; small bytes gather in a buffer.
struct Pieces {
    done: Vec<Piece>,
    buffer: BytesMut,
    /// Whether external data becomes part of this file; else the tensors keep pointing to it.
    draw_in: bool,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { done: Vec::new(), buffer: BytesMut::new(), draw_in: true }
    }
}

impl Pieces {
    fn message(&mut self, message: &impl Message) {
        self.buffer.reserve(message.encoded_len());
        message.encode_raw(&mut self.buffer);
    }

    fn header(&mut self, tag: u32, length: u64) {
        encode_key(tag, WireType::LengthDelimited, &mut self.buffer);
        encode_varint(length, &mut self.buffer);
    }

    fn payload(&mut self, piece: Piece) {
        match piece {
            Piece::Inline(bytes) if bytes.len() <= COPIED => self.buffer.put(bytes),
            piece => {
                self.flush();
                self.done.push(piece);
            }
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.done.push(Piece::Inline(self.buffer.split().freeze()));
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        self.flush();
        self.done
    }

    /// The data of this tensor that is to be written behind its other fields.
    fn spliced(&self, tensor: &TensorProto) -> Option<Piece> {
        if is_external(tensor) && !self.draw_in {
            return None;
        }
        payload(tensor)
    }
}

/// Size of a field of length-delimited type.
fn field_len(tag: u32, length: u64) -> u64 {
    (key_len(tag) + encoded_len_varint(length)) as u64 + length
}

fn put_model(out: &mut Pieces, model: &ModelProto) {
    const GRAPH: u32 = 7;
    out.message(&model_rest(model));
    if let Some(graph) = &model.graph {
        out.header(GRAPH, graph_len(out, graph));
        put_graph(out, graph);
    }
}

const NODE: u32 = 1;
const INITIALIZER: u32 = 5;

fn graph_len(out: &Pieces, graph: &GraphProto) -> u64 {
    let nodes = graph.node.iter().map(|node| field_len(NODE, node_len(out, node)));
    let tensors = graph.initializer.iter();
    let tensors = tensors.map(|tensor| field_len(INITIALIZER, tensor_len(out, tensor)));
    graph_rest(graph, Vec::new()).encoded_len() as u64 + nodes.chain(tensors).sum::<u64>()
}

fn put_graph(out: &mut Pieces, graph: &GraphProto) {
    for node in &graph.node {
        out.header(NODE, node_len(out, node));
        put_node(out, node);
    }
    out.message(&graph_rest(graph, Vec::new()));
    for tensor in &graph.initializer {
        out.header(INITIALIZER, tensor_len(out, tensor));
        put_tensor(out, tensor);
    }
}

const ATTRIBUTE: u32 = 5;

/// Whether data beneath this attribute is worth a piece of its own.
fn holds_tensor(attribute: &AttributeProto) -> bool {
    attribute.t.is_some() || attribute.g.is_some()
}

fn node_len(out: &Pieces, node: &NodeProto) -> u64 {
    if !node.attribute.iter().any(holds_tensor) {
        return node.encoded_len() as u64;
    }
    let attributes = node.attribute.iter();
    let attributes =
        attributes.map(|attribute| field_len(ATTRIBUTE, attribute_len(out, attribute)));
    node_rest(node).encoded_len() as u64 + attributes.sum::<u64>()
}

fn put_node(out: &mut Pieces, node: &NodeProto) {
    if !node.attribute.iter().any(holds_tensor) {
        return out.message(node);
    }
    out.message(&node_rest(node));
    for attribute in &node.attribute {
        out.header(ATTRIBUTE, attribute_len(out, attribute));
        put_attribute(out, attribute);
    }
}

const TENSOR_OF_ATTRIBUTE: u32 = 5;
const GRAPH_OF_ATTRIBUTE: u32 = 6;

fn attribute_len(out: &Pieces, attribute: &AttributeProto) -> u64 {
    if !holds_tensor(attribute) {
        return attribute.encoded_len() as u64;
    }
    let tensor = attribute.t.iter();
    let tensor = tensor.map(|tensor| field_len(TENSOR_OF_ATTRIBUTE, tensor_len(out, tensor)));
    let graph = attribute.g.iter();
    let graph = graph.map(|graph| field_len(GRAPH_OF_ATTRIBUTE, graph_len(out, graph)));
    attribute_rest(attribute).encoded_len() as u64 + tensor.chain(graph).sum::<u64>()
}

fn put_attribute(out: &mut Pieces, attribute: &AttributeProto) {
    if !holds_tensor(attribute) {
        return out.message(attribute);
    }
    out.message(&attribute_rest(attribute));
    if let Some(tensor) = &attribute.t {
        out.header(TENSOR_OF_ATTRIBUTE, tensor_len(out, tensor));
        put_tensor(out, tensor);
    }
    if let Some(graph) = &attribute.g {
        out.header(GRAPH_OF_ATTRIBUTE, graph_len(out, graph));
        put_graph(out, graph);
    }
}

const RAW_DATA: u32 = 9;

fn tensor_len(out: &Pieces, tensor: &TensorProto) -> u64 {
    match out.spliced(tensor) {
        None => tensor.encoded_len() as u64,
        Some(piece) => {
            tensor_rest(tensor).encoded_len() as u64 + field_len(RAW_DATA, piece.bytes())
        }
    }
}

fn put_tensor(out: &mut Pieces, tensor: &TensorProto) {
    match out.spliced(tensor) {
        None => out.message(tensor),
        Some(piece) => {
            out.message(&tensor_rest(tensor));
            out.header(RAW_DATA, piece.bytes());
            out.payload(piece);
        }
    }
}
