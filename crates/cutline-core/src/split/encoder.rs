//! What encodes at the end of a part, as a model of its own.
//!
//! A part that encodes is the plain part with a few layers behind it. Whoever has what the plain part
//! makes needs only these, once for each codec:
//!
//! ```text
//! plain part:    data ─ conv1 ─ x
//! encoded part:  data ─ conv1 ─ x ─ Cast ─ x.fp16
//! encoder:                      x ─ Cast ─ x.fp16
//! ```

use std::collections::HashSet;

use super::SubModel;
use crate::onnx::proto::{GraphProto, ModelProto};

/// The model from the values that a part makes to the forms in which it sends them on; `None` where
/// it sends all of them as they are. `plain` and `encoded` are the same part by
/// [`split`](super::split) and by [`split_encoded`](super::split_encoded). O(nodes + initializers).
pub fn encoder(plain: &SubModel, encoded: &SubModel) -> Option<SubModel> {
    let (before, after) = (plain.model.graph.as_ref()?, encoded.model.graph.as_ref()?);
    let outputs: Vec<_> =
        encoded.outputs.iter().filter(|port| port.encoding.is_lossy()).cloned().collect();
    if outputs.is_empty() {
        return None;
    }
    let made: HashSet<&str> =
        before.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let stored: HashSet<&str> = before.initializer.iter().map(|tensor| tensor.name()).collect();
    let is_new = |name: &String| !made.contains(name.as_str());
    let node: Vec<_> =
        after.node.iter().filter(|node| node.output.iter().all(is_new)).cloned().collect();
    let initializer: Vec<_> = after
        .initializer
        .iter()
        .filter(|tensor| !stored.contains(tensor.name()))
        .cloned()
        .collect();
    let read: HashSet<&str> =
        node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
    let sent: HashSet<&str> = outputs.iter().map(|port| port.name.as_str()).collect();
    // Old files list what they store among the inputs.
    let listed = after
        .input
        .iter()
        .filter(|info| initializer.iter().any(|tensor| tensor.name() == info.name()));
    let input = before.output.iter().filter(|info| read.contains(info.name())).chain(listed);
    let input = input.cloned().collect();
    let inputs =
        plain.outputs.iter().filter(|port| read.contains(port.name.as_str())).cloned().collect();
    let output = after.output.iter().filter(|info| sent.contains(info.name())).cloned().collect();
    let file = GraphProto {
        name: after.name.clone(),
        input,
        output,
        node,
        initializer,
        ..GraphProto::default()
    };
    Some(SubModel {
        name: encoded.name.clone(),
        inputs,
        outputs,
        cut_encoding: encoded.cut_encoding,
        layers: Vec::new(),
        model: ModelProto { graph: Some(file), ..encoded.model.clone() },
        tflite: None,
    })
}
