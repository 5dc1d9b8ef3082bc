//! Old operators in new words, for an engine that knows only their present meaning.
//!
//! Before opset 13, `Softmax` and `LogSoftmax` flattened their operand to a matrix at `axis`
//! (default 1) and normalised its rows; since then they normalise along one axis (default the
//! last). Where an engine takes the new meaning for granted, an old layer is written out:
//!
//! ```text
//! x ─┬─ Flatten(axis) ─ Softmax(axis 1) ─ Reshape ─ y
//!    └─ Shape ───────────────────────────────┘
//! ```

use cutline_core::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType,
};

/// First opset in which the operators normalise along a single axis.
const SINGLE_AXIS_OPSET: i64 = 13;

/// Writes out the old layers, also those of subgraphs; whether there were any.
pub(super) fn write_out_old_softmax(model: &mut ModelProto) -> bool {
    let is_default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let version = model.opset_import.iter().find(|opset| is_default(opset.domain()));
    match (version.map(|opset| opset.version()), &mut model.graph) {
        (Some(version), Some(graph)) if version < SINGLE_AXIS_OPSET => in_graph(graph, 0),
        _ => false,
    }
}

fn in_graph(graph: &mut GraphProto, depth: usize) -> bool {
    let mut changed = false;
    // Deeper nesting than any compiler of control flow makes is left as it is.
    if depth < 16 {
        let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
        for subgraph in attributes.filter_map(|attribute| attribute.g.as_mut()) {
            changed |= in_graph(subgraph, depth + 1);
        }
    }
    if !graph.node.iter().any(is_old_softmax) {
        return changed;
    }
    let nodes = std::mem::take(&mut graph.node);
    graph.node = nodes
        .into_iter()
        .flat_map(|node| if is_old_softmax(&node) { written_out(node) } else { vec![node] })
        .collect();
    true
}

fn is_old_softmax(node: &NodeProto) -> bool {
    ["Softmax", "LogSoftmax"].contains(&node.op_type())
        && ["", "ai.onnx"].contains(&node.domain())
        && node.input.len() == 1
        && node.output.len() == 1
}

fn written_out(mut node: NodeProto) -> Vec<NodeProto> {
    let (x, y) = (node.input[0].clone(), node.output[0].clone());
    let axis = node.attribute.iter().find(|attribute| attribute.name() == "axis");
    let axis = axis.map_or(1, |attribute| attribute.i());
    // Names that no exporter gives, so that they cannot meet another value's.
    let named = |what: &str| format!("{y}\u{1}{what}");
    let layer = |op: &str, inputs: [&str; 1], output: String| NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(output.clone()),
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output],
        ..NodeProto::default()
    };
    let mut flatten = layer("Flatten", [&x], named("flat"));
    flatten.attribute = vec![integer("axis", axis)];
    let shape = layer("Shape", [&x], named("shape"));
    let mut reshape = layer("Reshape", [&named("scores")], y.clone());
    reshape.name = Some(named("reshape"));
    reshape.input.push(named("shape"));
    node.input = vec![named("flat")];
    node.output = vec![named("scores")];
    node.attribute = vec![integer("axis", 1)];
    vec![flatten, node, shape, reshape]
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use cutline_core::onnx::proto::OperatorSetIdProto;

    use super::*;

    fn model(version: i64) -> ModelProto {
        let node = NodeProto {
            op_type: Some("Softmax".to_owned()),
            input: vec!["x".to_owned()],
            output: vec!["y".to_owned()],
            attribute: vec![integer("axis", 2)],
            ..NodeProto::default()
        };
        ModelProto {
            opset_import: vec![OperatorSetIdProto { version: Some(version), domain: None }],
            graph: Some(GraphProto { node: vec![node], ..GraphProto::default() }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn old_layers_are_written_out_and_new_ones_left_alone() {
        let mut new = model(13);
        assert!(!write_out_old_softmax(&mut new));
        assert_eq!(new, model(13));

        let mut old = model(12);
        assert!(write_out_old_softmax(&mut old));
        let nodes = old.graph.unwrap().node;
        let ops: Vec<&str> = nodes.iter().map(|node| node.op_type()).collect();
        assert_eq!(ops, ["Flatten", "Softmax", "Shape", "Reshape"]);
        assert_eq!(nodes[0].attribute[0].i(), 2);
        assert_eq!(nodes[3].output, ["y"]);
        let made: Vec<&String> = nodes.iter().flat_map(|node| &node.output).collect();
        let read = nodes.iter().flat_map(|node| &node.input).filter(|name| *name != "x");
        assert!(read.clone().count() == 3 && read.clone().all(|name| made.contains(&name)));
    }
}
