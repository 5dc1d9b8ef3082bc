//! Damage to bytes, to JSON and to models, from a seed.

use cutline_core::onnx::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use cutline_core::onnx::proto::{tensor_shape_proto::dimension, type_proto};
use serde_json::Value;

/// SplitMix64 (Steele et al., 2014): the same damage on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    fn pick_mut<'a, T>(&mut self, items: &'a mut [T]) -> Option<&'a mut T> {
        let at = self.below(items.len());
        items.get_mut(at)
    }
}

/// Integers at which arithmetic goes wrong.
const EDGES: [i64; 14] = [
    0,
    1,
    -1,
    2,
    7,
    255,
    65_536,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
];

/// Overwrites offsets, lengths and fields of a flatbuffer, whose tables stand before its data; now and
/// then anything else. The identifier stays, since nothing reads a file without it.
pub(crate) fn tables(data: &mut Vec<u8>, random: &mut Random) {
    const TABLES: usize = 8 << 10;
    for _ in 0..=random.below(8) {
        let at = 2 * random.below(data.len().min(TABLES) / 2);
        let number = match random.below(3) {
            0 => EDGES[random.below(EDGES.len())] as u32,
            1 => random.below(64) as u32,
            _ => random.next() as u32,
        };
        let length = [1, 2, 4][random.below(3)];
        let target = &mut data[at..];
        let length = length.min(target.len());
        target[..length].copy_from_slice(&number.to_le_bytes()[..length]);
    }
    if random.below(4) == 0 {
        bytes(data, random);
    }
    if let Some(identifier) = data.get_mut(4..8) {
        identifier.copy_from_slice(b"TFL3");
    }
}

/// Flips, cuts out, repeats, overwrites or shortens, one to eight times.
pub(crate) fn bytes(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(data.len());
        let length = random.below(1 + random.0 as usize % 64).min(data.len() - at);
        match random.below(6) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = random.next() as u8,
            2 => drop(data.drain(at..at + length)),
            3 => {
                let piece = data[at..at + length].to_vec();
                let to = random.below(data.len());
                data.splice(to..to, piece);
            }
            4 => {
                // A varint, as lengths and sizes are written in protobuf.
                let number = EDGES[random.below(EDGES.len())] as u64;
                let shift = random.below(64);
                data.splice(at..at, varint(number >> shift));
            }
            _ => data.truncate(at),
        }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Replaces, removes or repeats entries anywhere in a document, one to four times.
pub(crate) fn json(document: &mut Value, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let depth = random.below(7);
        descend(document, depth, random);
    }
}

fn descend(here: &mut Value, depth: usize, random: &mut Random) {
    match here {
        Value::Array(items) if depth > 0 && !items.is_empty() => {
            let at = random.below(items.len());
            descend(&mut items[at], depth - 1, random);
        }
        Value::Object(fields) if depth > 0 && !fields.is_empty() => {
            let at = random.below(fields.len());
            let field = fields.iter_mut().nth(at).expect("the index is below the length");
            descend(field.1, depth - 1, random);
        }
        here => damage_json(here, random),
    }
}

fn damage_json(here: &mut Value, random: &mut Random) {
    match (random.below(3), &mut *here) {
        (0, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (1, Value::Array(items)) if !items.is_empty() => {
            let again = items[random.below(items.len())].clone();
            items.push(again);
        }
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let at = random.below(fields.len());
            let name = fields.keys().nth(at).expect("the index is below the length").clone();
            fields.remove(&name);
        }
        (1, Value::String(text)) => {
            let mut raw = std::mem::take(text).into_bytes();
            bytes(&mut raw, random);
            *text = String::from_utf8_lossy(&raw).into_owned();
        }
        _ => *here = strange_value(random),
    }
}

fn strange_value(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Array(Vec::new()),
        2 => Value::Object(serde_json::Map::new()),
        3 => Value::from(u64::MAX),
        4 => Value::from(1e308),
        5 => Value::from(["", "pi", "-1", "9".repeat(40).as_str()][random.below(4)]),
        _ => Value::from(EDGES[random.below(EDGES.len())]),
    }
}

/// Changes names, sizes, attributes and wiring of a model, one to five times.
pub(crate) fn model(model: &mut ModelProto, random: &mut Random) {
    for _ in 0..=random.below(5) {
        let Some(graph) = model.graph.as_mut() else { return };
        let names: Vec<String> =
            graph.node.iter().flat_map(|node| node.output.iter().cloned()).collect();
        match random.below(8) {
            0 => drop(random.pick_mut(&mut graph.initializer).map(|it| tensor(it, random))),
            1 => drop(random.pick_mut(&mut graph.input).map(|it| value_info(it, random))),
            2 => drop(random.pick_mut(&mut graph.output).map(|it| value_info(it, random))),
            3 => {
                let copy = random.pick(&graph.node).cloned();
                graph.node.extend(copy);
            }
            4 if !graph.node.is_empty() => {
                graph.node.remove(random.below(graph.node.len()));
            }
            5 => {
                let opset = random.pick_mut(&mut model.opset_import);
                if let Some(opset) = opset {
                    opset.version = Some(EDGES[random.below(EDGES.len())]);
                }
            }
            _ => drop(random.pick_mut(&mut graph.node).map(|it| node(it, &names, random))),
        }
    }
}

fn node(node: &mut NodeProto, names: &[String], random: &mut Random) {
    const OPERATORS: [&str; 16] = [
        "Conv",
        "Reshape",
        "Gather",
        "Slice",
        "Concat",
        "Pad",
        "Resize",
        "Shape",
        "Split",
        "Gemm",
        "MaxPool",
        "Expand",
        "Tile",
        "ConstantOfShape",
        "Range",
        "Flatten",
    ];
    match random.below(6) {
        0 => node.op_type = Some(OPERATORS[random.below(OPERATORS.len())].to_owned()),
        1 => {
            let name = random.pick(names).cloned().unwrap_or_default();
            if let Some(input) = random.pick_mut(&mut node.input) {
                *input = name;
            }
        }
        2 => {
            let name = random.pick(names).cloned().unwrap_or_default();
            if let Some(output) = random.pick_mut(&mut node.output) {
                *output = name;
            }
        }
        3 => drop(node.input.pop()),
        _ => {
            if let Some(attribute) = random.pick_mut(&mut node.attribute) {
                let edge = EDGES[random.below(EDGES.len())];
                attribute.i = attribute.i.map(|_| edge);
                if let Some(number) = random.pick_mut(&mut attribute.ints) {
                    *number = edge;
                }
                if random.below(4) == 0 {
                    attribute.ints.pop();
                }
            }
        }
    }
}

fn tensor(tensor: &mut TensorProto, random: &mut Random) {
    let edge = EDGES[random.below(EDGES.len())];
    match random.below(5) {
        0 => tensor.data_type = Some(edge as i32),
        1 => tensor.dims.push(edge),
        2 => drop(tensor.dims.pop()),
        3 => tensor.raw_data = None,
        _ => {
            if let Some(dim) = random.pick_mut(&mut tensor.dims) {
                *dim = edge;
            }
        }
    }
}

fn value_info(info: &mut ValueInfoProto, random: &mut Random) {
    let Some(type_proto::Value::TensorType(kind)) =
        info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
    else {
        return;
    };
    let edge = EDGES[random.below(EDGES.len())];
    if random.below(3) == 0 {
        kind.elem_type = Some(edge as i32);
        return;
    }
    let dims = kind.shape.as_mut().map(|shape| shape.dim.as_mut_slice()).unwrap_or_default();
    if let Some(dim) = random.pick_mut(dims) {
        dim.value = match random.below(3) {
            0 => None,
            1 => Some(dimension::Value::DimParam("N".to_owned())),
            _ => Some(dimension::Value::DimValue(edge)),
        };
    }
}
