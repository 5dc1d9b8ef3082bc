//! Splitting, from hand-built networks.

use prost::Message;

use super::*;
use crate::codec::{Quantization, Range};
use crate::{
    cut,
    onnx::{
        self, ImportOptions,
        proto::{
            AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
            TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
};

fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        value: Some(match size {
            -1 => dimension::Value::DimParam("batch".to_owned()),
            size => dimension::Value::DimValue(size),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

fn tensor(name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A node from `Op inputs -> outputs`; it is called as its first output in capitals.
fn node(line: &str) -> NodeProto {
    let (left, outputs) = line.split_once("->").unwrap();
    let (op, inputs) = left.trim().split_once(' ').unwrap_or((left.trim(), ""));
    let output = words(outputs);
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(output[0].to_uppercase()),
        input: words(inputs),
        output,
        ..NodeProto::default()
    }
}

fn model(ir: i64, graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { version: Some(13), ..OperatorSetIdProto::default() };
    ModelProto {
        ir_version: Some(ir),
        producer_name: Some("tests".to_owned()),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// `x` (1x2x50x50) through the nodes to the outputs, all 1x2x50x50.
fn network(nodes: &[&str], outputs: &[&str], weights: Vec<TensorProto>) -> ModelProto {
    model(
        8,
        GraphProto {
            name: Some("net".to_owned()),
            node: nodes.iter().map(|line| node(line)).collect(),
            input: vec![info("x", &[-1, 2, 50, 50])],
            output: outputs.iter().map(|name| info(name, &[-1, 2, 50, 50])).collect(),
            initializer: weights,
            ..GraphProto::default()
        },
    )
}

fn import(model: &ModelProto) -> Graph {
    onnx::import(model, &ImportOptions::default()).unwrap()
}

/// Splits at lists of values, separated by spaces.
fn split_at(model: &ModelProto, cuts: &[&str]) -> Result<Vec<SubModel>, SplitError> {
    let graph = import(model);
    let cuts: Vec<Vec<String>> = cuts.iter().map(|cut| words(cut)).collect();
    let stages = cut::stages_at(&graph, &cuts).unwrap();
    let labels: Vec<StageLabel> =
        (0..=cuts.len()).map(|index| StageLabel::new(format!("p{index}"))).collect();
    split(model, &graph, &stages, &labels)
}

/// `inputs -> outputs` of the part's file.
fn signature(part: &SubModel) -> String {
    let graph = part.model.graph.as_ref().unwrap();
    let names = |list: &[ValueInfoProto]| {
        list.iter().map(|info| info.name().to_owned()).collect::<Vec<_>>().join(" ")
    };
    format!("{} -> {}", names(&graph.input), names(&graph.output))
}

fn node_names(part: &SubModel) -> Vec<&str> {
    part.model.graph.as_ref().unwrap().node.iter().map(|node| node.name()).collect()
}

fn weight_names(part: &SubModel) -> Vec<&str> {
    part.model.graph.as_ref().unwrap().initializer.iter().map(|tensor| tensor.name()).collect()
}

fn joined(pieces: &[Piece]) -> Vec<u8> {
    let bytes = pieces.iter().map(|piece| match piece {
        Piece::Inline(bytes) => bytes.to_vec(),
        Piece::External { length, .. } => vec![7; *length as usize],
    });
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn values_cross_under_their_names_once_each() {
    /// Nodes, answers, cuts, signatures of the parts.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let cases: [Case; 6] = [
        // A chain.
        (&["Relu x -> a", "Sigmoid a -> b"], &["b"], &["a"], &["x -> a", "a -> b"]),
        // Two readers of one value.
        (
            &["Relu x -> a", "Sigmoid a -> b", "Tanh a -> c", "Add b c -> d"],
            &["d"],
            &["a"],
            &["x -> a", "a -> d"],
        ),
        // Through branches, and the input read again.
        (
            &["Relu x -> a", "Tanh a -> b", "Sigmoid a -> c", "Add b c -> d", "Add d x -> e"],
            &["e"],
            &["b c"],
            &["x -> b c", "x b c -> e"],
        ),
        // A value that is an answer and crosses.
        (&["Relu x -> a", "Sigmoid a -> b"], &["b", "a"], &["a"], &["x -> a", "a -> b"]),
        // A value that skips a part.
        (
            &["Relu x -> a", "Tanh a -> b", "Sigmoid b -> c", "Add a c -> d"],
            &["d"],
            &["a", "a c"],
            &["x -> a", "a -> c", "a c -> d"],
        ),
        // Answers of several parts.
        (
            &["Relu x -> a", "Tanh x -> b", "Sigmoid a -> c", "Exp b -> d"],
            &["d", "c", "b"],
            &["a b"],
            &["x -> a b", "a b -> d c"],
        ),
    ];
    for (nodes, outputs, cuts, expected) in cases {
        let parts = split_at(&network(nodes, outputs, vec![]), cuts).unwrap();
        let signatures: Vec<String> = parts.iter().map(signature).collect();
        assert_eq!(signatures, expected, "{nodes:?} at {cuts:?}");
    }
}

#[test]
fn parts_have_concrete_shapes_and_keep_what_the_file_says() {
    let parts =
        split_at(&network(&["Relu x -> a", "Sigmoid a -> b"], &["b"], vec![]), &["a"]).unwrap();
    for part in &parts {
        let graph = import(&part.model);
        let file = part.model.graph.as_ref().unwrap();
        for declared in file.input.iter().chain(&file.output) {
            assert_eq!(declared.r#type, info("", &[1, 2, 50, 50]).r#type);
        }
        assert_eq!(part.model.ir_version, Some(8));
        assert_eq!(part.model.opset_import[0].version, Some(13));
        assert_eq!(graph.name(), format!("net.{}", part.name));
    }
    assert_eq!(node_names(&parts[0]), ["A"]);
    assert_eq!(node_names(&parts[1]), ["B"]);
}

#[test]
fn metadata_says_which_part_this_is() {
    let mut whole = network(&["Relu x -> a", "Sigmoid a -> b"], &["b"], vec![]);
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    whole.metadata_props = vec![entry("author", "me"), entry("cutline.part", "9")];
    let graph = import(&whole);
    let stages = cut::stages_at(&graph, &[vec!["a".to_owned()]]).unwrap();
    let mut labels = [StageLabel::new("edge"), StageLabel::new("cloud")];
    labels[1].metadata.insert("plan".to_owned(), "abc".to_owned());
    let parts = split(&whole, &graph, &stages, &labels).unwrap();
    let expected = [
        entry("author", "me"),
        entry("cutline.label", "cloud"),
        entry("cutline.part", "1"),
        entry("cutline.parts", "2"),
        entry("cutline.plan", "abc"),
    ];
    assert_eq!(parts[1].model.metadata_props, expected);
}

#[test]
fn the_shape_of_a_value_does_not_drag_the_value_along() {
    let axes = tensor("axes", 7, &[1], (-1i64).to_le_bytes().to_vec());
    let nodes =
        ["Relu x -> a", "Sigmoid a -> b", "Shape a -> s", "Reshape b s -> c", "Tanh c -> d"];
    let parts = split_at(&network(&nodes, &["d"], vec![axes]), &["b"]).unwrap();
    assert_eq!(signature(&parts[1]), "b -> d");
    assert_eq!(node_names(&parts[1]), ["C", "D"]);
    let file = parts[1].model.graph.as_ref().unwrap();
    let expected: Vec<u8> = [1i64, 2, 50, 50].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    assert_eq!(file.initializer, [tensor("s", 7, &[4], expected)]);
}

#[test]
fn weights_go_to_every_part_that_uses_them_and_so_do_computations_on_weights() {
    let weights = || vec![tensor("w", 1, &[1], vec![0; 4]), tensor("unused", 1, &[1], vec![0; 4])];
    let nodes = ["Exp w -> v", "Mul x v -> a", "Mul a v -> b", "Add b w -> c"];
    let parts = split_at(&network(&nodes, &["c"], weights()), &["a"]).unwrap();
    assert_eq!(node_names(&parts[0]), ["V", "A"]);
    assert_eq!(node_names(&parts[1]), ["V", "B", "C"]);
    for part in &parts {
        assert_eq!(weight_names(part), ["w"]);
    }
}

#[test]
fn old_files_list_their_weights_among_the_inputs() {
    for (ir, expected) in [(3, "a w -> b"), (4, "a -> b")] {
        let mut whole = network(
            &["Relu x -> a", "Mul a w -> b"],
            &["b"],
            vec![tensor("w", 1, &[1], vec![0; 4])],
        );
        whole.ir_version = Some(ir);
        whole.graph.as_mut().unwrap().input.push(info("w", &[1]));
        let parts = split_at(&whole, &["a"]).unwrap();
        assert_eq!(signature(&parts[1]), expected, "IR version {ir}");
        assert_eq!(parts[1].inputs.len(), 1);
    }
}

#[test]
fn constant_nodes_follow_their_readers() {
    let mut whole = network(&["Relu x -> a", "Constant -> k", "Mul a k -> b"], &["b"], vec![]);
    whole.graph.as_mut().unwrap().node[1].attribute = vec![AttributeProto {
        name: Some("value".to_owned()),
        r#type: Some(4),
        t: Some(tensor("", 1, &[1], vec![0; 4])),
        ..AttributeProto::default()
    }];
    let parts = split_at(&whole, &["a"]).unwrap();
    assert_eq!(node_names(&parts[0]), ["A"]);
    assert_eq!(node_names(&parts[1]), ["K", "B"]);
}

/// `If c: Add a w, else: Sub a k`, where `a` is a value, `w` a weight, `k` of the branch itself.
fn branches() -> ModelProto {
    let mut whole = network(
        &["Relu x -> a", "If c -> b", "Tanh b -> d"],
        &["d"],
        vec![tensor("w", 1, &[1], vec![0; 4]), tensor("c", 9, &[], vec![1])],
    );
    let branch = |line: &str, result: &str, own: Vec<TensorProto>| GraphProto {
        name: Some("branch".to_owned()),
        node: vec![node(line)],
        output: vec![info(result, &[-1, 2, 50, 50])],
        value_info: vec![info("stale", &[-1])],
        initializer: own,
        ..GraphProto::default()
    };
    let attribute = |name: &str, graph: GraphProto| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(5),
        g: Some(graph),
        ..AttributeProto::default()
    };
    let own = vec![tensor("k", 1, &[50, 50], vec![3; 10_000])];
    whole.graph.as_mut().unwrap().node[1].attribute = vec![
        attribute("then_branch", branch("Add a w -> t", "t", vec![])),
        attribute("else_branch", branch("Sub a k -> f", "f", own)),
    ];
    whole.graph.as_mut().unwrap().value_info = vec![info("b", &[-1, 2, 50, 50])];
    whole
}

#[test]
fn what_a_subgraph_captures_comes_with_it() {
    let parts = split_at(&branches(), &["a"]).unwrap();
    assert_eq!(signature(&parts[0]), "x -> a");
    assert_eq!(signature(&parts[1]), "a -> d");
    assert_eq!(weight_names(&parts[1]), ["w", "c"]);
    let file = parts[1].model.graph.as_ref().unwrap();
    let inner = file.node[0].attribute[0].g.as_ref().unwrap();
    assert!(inner.value_info.is_empty(), "a stale type stays: {:?}", inner.value_info);
}

#[test]
fn encoding_gives_the_model_back() {
    let mut whole = branches();
    let graph = whole.graph.as_mut().unwrap();
    graph.initializer.push(tensor("large", 1, &[2, 50, 50], vec![1; 20_000]));
    graph.initializer.push(TensorProto {
        float_data: vec![1.0, 2.0],
        raw_data: None,
        ..tensor("typed", 1, &[2], vec![])
    });
    let expected = whole.encode_to_vec();
    let pieces = encode(&whole);
    let bytes = joined(&pieces);
    assert_eq!(bytes.len(), expected.len());
    assert_eq!(pieces.iter().map(Piece::bytes).sum::<u64>(), bytes.len() as u64);
    assert_eq!(ModelProto::decode(bytes.as_slice()).unwrap(), whole);
}

#[test]
fn weights_are_never_copied() {
    let mut whole = branches();
    let large = tensor("large", 1, &[2, 50, 50], vec![1; 20_000]);
    whole.graph.as_mut().unwrap().initializer.push(large);
    whole.graph.as_mut().unwrap().node.push(node("Add d large -> z"));
    whole.graph.as_mut().unwrap().output = vec![info("z", &[])];
    let file = bytes::Bytes::from(whole.encode_to_vec());
    let within = |slice: &[u8]| file.as_ptr_range().contains(&slice.as_ptr());
    let whole = onnx::decode(file.clone()).unwrap();
    let graph = import(&whole);
    let stages: Vec<_> = graph.layers().iter().map(|_| Some(0)).collect();
    let parts = split(&whole, &graph, &stages, &[StageLabel::new("all")]).unwrap();
    for pieces in [encode(&whole), parts[0].files().model] {
        let large = pieces.iter().filter(|piece| match piece {
            Piece::Inline(bytes) => within(bytes),
            Piece::External { .. } => false,
        });
        // The initializer, and the one inside the branch.
        assert_eq!(large.map(Piece::bytes).collect::<Vec<_>>().len(), 2);
    }
}

#[test]
fn large_models_keep_their_weights_in_an_aligned_data_file() {
    let weights = vec![
        tensor("u", 1, &[2, 50, 50], vec![1; 20_000]),
        tensor("small", 1, &[1], vec![2; 4]),
        tensor("v", 1, &[50, 50], vec![3; 10_000]),
    ];
    let nodes = ["Add x u -> a", "Add a v -> b", "Mul b small -> c"];
    let whole = network(&nodes, &["c"], weights);
    let graph = import(&whole);
    let stages: Vec<_> = graph.layers().iter().map(|_| Some(0)).collect();
    let parts = split(&whole, &graph, &stages, &[StageLabel::new("all")]).unwrap();
    let files = parts[0].files_within(20_000);
    assert_eq!(parts[0].files_within(30_004).data, None);

    let data = joined(&files.data.unwrap());
    let written = ModelProto::decode(joined(&files.model).as_slice()).unwrap();
    let tensors = external_tensors(&written);
    let places: Vec<_> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.data)).collect();
    let place =
        |offset, length| Some(Piece::External { location: DATA_FILE.to_owned(), offset, length });
    assert_eq!(places, [("u", &place(0, 20_000)), ("v", &place(20_480, 10_000))]);
    assert_eq!(data.len(), 30_480);
    assert!(data[..20_000].iter().all(|&byte| byte == 1));
    assert!(data[20_480..].iter().all(|&byte| byte == 3));
}

fn external(name: &str, entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    TensorProto {
        raw_data: None,
        data_location: Some(1),
        external_data: entries.iter().map(entry).collect(),
        ..tensor(name, 1, &[2, 50, 50], vec![])
    }
}

#[test]
fn external_weights_are_copied_from_file_to_file() {
    let weights = vec![external("w", &[("location", "w.bin"), ("offset", "64")])];
    let whole = network(&["Add x w -> a", "Relu a -> b"], &["b"], weights);
    let parts = split_at(&whole, &["a"]).unwrap();
    let piece = Piece::External { location: "w.bin".to_owned(), offset: 64, length: 20_000 };

    let files = parts[0].files();
    assert!(files.model.contains(&piece) && files.data.is_none());
    let drawn_in = ModelProto::decode(joined(&files.model).as_slice()).unwrap();
    assert_eq!(
        drawn_in.graph.unwrap().initializer,
        [tensor("w", 1, &[2, 50, 50], vec![7; 20_000])]
    );

    let files = parts[0].files_within(0);
    assert_eq!(files.data, Some(vec![piece]));
    assert!(parts[1].files_within(0).data.is_none(), "a part without weights needs no data file");
}

#[test]
fn what_cannot_be_split_says_why() {
    let whole = network(&["Relu x -> a", "Sigmoid a -> b"], &["b"], vec![]);
    let graph = import(&whole);
    let labels = [StageLabel::new("edge"), StageLabel::new("cloud")];
    let cases: [(&[Option<u32>], &[&str]); 5] = [
        (&[Some(1), Some(0)], &["layer `B` in part 0 reads `a`", "`A`", "later part 1"]),
        (&[Some(0), Some(2)], &["`B`", "part 2", "2 parts"]),
        (&[Some(0), None], &["`B`", "no part"]),
        (&[Some(0)], &["1 layers", "has 2"]),
        (&[Some(0), Some(0)], &["part 1 `cloud` has no layer"]),
    ];
    for (stages, expected) in cases {
        let error = split(&whole, &graph, stages, &labels).unwrap_err().to_string();
        for words in expected {
            assert!(error.contains(words), "{error} lacks {words}");
        }
    }
}

#[test]
fn a_value_of_unknown_type_does_not_cross() {
    let mut whole = network(&["Mystery x -> a", "Relu a -> b"], &["b"], vec![]);
    whole.graph.as_mut().unwrap().node[0].domain = Some("example.com".to_owned());
    whole
        .opset_import
        .push(OperatorSetIdProto { domain: Some("example.com".to_owned()), version: Some(1) });
    let graph = import(&whole);
    let labels = [StageLabel::new("edge"), StageLabel::new("cloud")];
    let error = split(&whole, &graph, &[Some(0), Some(1)], &labels).unwrap_err();
    let unknown = "element type";
    assert_eq!(error, SplitError::UnknownType { value: "a".to_owned(), from: 0, to: 1, unknown });
}

#[test]
fn a_part_that_nobody_reads_is_refused() {
    let whole = network(&["Relu x -> a", "Sigmoid x -> b"], &["b"], vec![]);
    let graph = import(&whole);
    let labels = [StageLabel::new("edge"), StageLabel::new("cloud")];
    let error = split(&whole, &graph, &[Some(0), Some(1)], &labels).unwrap_err().to_string();
    assert!(error.contains("part 0 `edge` computes nothing"), "{error}");
}

#[test]
fn a_graph_of_another_model_is_refused() {
    let whole = network(&["Relu x -> a", "Sigmoid a -> b"], &["b"], vec![]);
    let graph = import(&whole);
    let labels = [StageLabel::new("all")];
    let weighted = network(
        &["Add x w -> a", "Sigmoid a -> b"],
        &["b"],
        vec![tensor("w", 1, &[1], vec![0; 4])],
    );
    let cases: [(ModelProto, Graph); 4] = [
        (network(&["Relu x -> a"], &["a"], vec![]), graph.clone()),
        (network(&["Relu x -> c", "Sigmoid c -> b"], &["b"], vec![]), graph.clone()),
        (whole, import(&weighted)),
        (ModelProto::default(), graph),
    ];
    for (model, graph) in cases {
        let error = split(&model, &graph, &[Some(0), Some(0)], &labels).unwrap_err();
        assert!(matches!(error, SplitError::OtherModel { .. }), "{error}");
    }
}

#[test]
fn damaged_external_data_is_refused() {
    let with = |entries: &[(&str, &str)]| {
        network(&["Add x w -> a", "Relu a -> b"], &["b"], vec![external("w", entries)])
    };
    let graph = import(&with(&[("location", "w.bin")]));
    let labels = [StageLabel::new("all")];
    let damaged: [&[(&str, &str)]; 3] =
        [&[("offset", "0")], &[("location", "w"), ("length", "-3")], &[("location", "")]];
    for entries in damaged {
        let error = split(&with(entries), &graph, &[Some(0), Some(0)], &labels).unwrap_err();
        assert_eq!(error, SplitError::ExternalData { tensor: "w".to_owned() }, "{entries:?}");
    }
}

/// Splits at one value a cut, with an encoding for each part.
fn split_as(model: &ModelProto, cuts: &[&str], stages: &[CutEncoding]) -> Vec<SubModel> {
    let graph = import(model);
    let cuts: Vec<Vec<String>> = cuts.iter().map(|cut| words(cut)).collect();
    let placed = cut::stages_at(&graph, &cuts).unwrap();
    let labels: Vec<StageLabel> =
        (0..=cuts.len()).map(|index| StageLabel::new(format!("p{index}"))).collect();
    let mut codecs = CutCodecs { stages: stages.to_vec(), ..CutCodecs::default() };
    let range = Range { least: -1.0, largest: 4.0 };
    let values = quantised_values(&graph, &placed, &labels, &codecs).unwrap();
    for value in &values {
        let bare = split_encoded(model, &graph, &placed, &labels, &codecs).unwrap_err();
        assert!(matches!(bare, SplitError::NoScale { .. }), "{bare}");
        codecs.quantizations.insert(value.key(), Quantization::of(range));
    }
    split_encoded(model, &graph, &placed, &labels, &codecs).unwrap()
}

/// Operators of a part, its own and those at its borders.
fn operators(part: &SubModel) -> String {
    let nodes = &part.model.graph.as_ref().unwrap().node;
    nodes.iter().map(|node| node.op_type()).collect::<Vec<_>>().join(" ")
}

#[test]
fn encoded_values_cross_under_names_of_their_own() {
    use CutEncoding::{Fp16, Fp32, Uint8};
    let skip = ["Relu x -> a", "Tanh a -> b", "Sigmoid b -> c", "Add a c -> d"];
    let early = ["Relu x -> a", "Tanh a -> b"];
    /// Nodes, answers, cuts, encodings, then signature and operators of each part.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [CutEncoding], &'a [&'a str]);
    let cases: [Case; 7] = [
        (&early, &["b"], &["a"], &[Fp32], &["x -> a: Relu", "a -> b: Tanh"]),
        (&early, &["b"], &["a"], &[Fp16], &["x -> a.fp16: Relu Cast", "a.fp16 -> b: Cast Tanh"]),
        (
            &early,
            &["b"],
            &["a"],
            &[Uint8],
            &["x -> a.uint8: Relu QuantizeLinear", "a.uint8 -> b: DequantizeLinear Tanh"],
        ),
        // An answer goes back as it is, and on encoded; the last part sends nothing on.
        (
            &early,
            &["a", "b"],
            &["a"],
            &[Fp16, Fp16],
            &["x -> a a.fp16: Relu Cast", "a.fp16 -> b: Cast Tanh"],
        ),
        // What is passed on in the encoding in which it came is left alone.
        (
            &skip,
            &["d"],
            &["a", "a c"],
            &[Fp16, Fp16],
            &[
                "x -> a.fp16: Relu Cast",
                "a.fp16 -> c.fp16: Cast Tanh Sigmoid Cast",
                "a.fp16 c.fp16 -> d: Cast Cast Add",
            ],
        ),
        // Every hop has the encoding of its sender.
        (
            &skip,
            &["d"],
            &["a", "a c"],
            &[Fp16, Uint8],
            &[
                "x -> a.fp16: Relu Cast",
                "a.fp16 -> a.uint8 c.uint8: Cast Tanh Sigmoid QuantizeLinear QuantizeLinear",
                "a.uint8 c.uint8 -> d: DequantizeLinear DequantizeLinear Add",
            ],
        ),
        (
            &skip,
            &["d"],
            &["a", "a c"],
            &[Fp16, Fp32],
            &[
                "x -> a.fp16: Relu Cast",
                "a.fp16 -> a.fp32 c: Cast Tanh Sigmoid Identity",
                "a.fp32 c -> d: Identity Add",
            ],
        ),
    ];
    for (nodes, outputs, cuts, encodings, expected) in cases {
        let parts = split_as(&network(nodes, outputs, vec![]), cuts, encodings);
        let found: Vec<String> =
            parts.iter().map(|part| format!("{}: {}", signature(part), operators(part))).collect();
        assert_eq!(found, expected, "{nodes:?} at {cuts:?} as {encodings:?}");
    }
}

#[test]
fn encoded_values_are_declared_in_their_type_with_their_scales() {
    let whole = network(&["Relu x -> a", "Tanh a -> b"], &["b"], vec![]);
    let [first, second] = &split_as(&whole, &["a"], &[CutEncoding::Uint8])[..] else {
        panic!("two parts")
    };
    assert_eq!(first.outputs[0].dtype, Some(DType::U8));
    assert_eq!(first.outputs, second.inputs);
    let graphs = [first, second].map(|part| part.model.graph.as_ref().unwrap());
    assert_eq!(graphs[0].output, graphs[1].input);
    assert_eq!(graphs[0].initializer, graphs[1].initializer);
    assert_eq!(weight_names(first), ["a.uint8.scale", "a.uint8.zero_point"]);
    let metadata = |part: &SubModel| {
        let entry = part.model.metadata_props.iter().find(|entry| entry.key() == CUT_ENCODING);
        entry.map(|entry| entry.value().to_owned())
    };
    assert_eq!([first, second].map(metadata), [Some("uint8".to_owned()), None]);
    // Whoever reads the part finds types and shapes in it.
    assert_eq!(
        import(&second.model).value(import(&second.model).inputs()[0]).dtype,
        Some(DType::U8)
    );
}

#[test]
fn names_of_encoded_values_meet_no_other() {
    let nodes = ["Relu x -> a", "Tanh a -> a.fp16", "Sigmoid a.fp16 -> c"];
    let parts = split_as(&network(&nodes, &["c"], vec![]), &["a"], &[CutEncoding::Fp16]);
    assert_eq!(signature(&parts[0]), "x -> a.fp16_");
    assert_eq!(signature(&parts[1]), "a.fp16_ -> c");
}

#[test]
fn only_floats_are_encoded() {
    let mut whole = network(&["Relu x -> a", "Mul a a -> b"], &["b"], vec![]);
    let graph = whole.graph.as_mut().unwrap();
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        let Some(type_proto::Value::TensorType(tensor)) = &mut info.r#type.as_mut().unwrap().value
        else {
            panic!("a tensor")
        };
        tensor.elem_type = Some(DType::I32.onnx());
    }
    let parts = split_as(&whole, &["a"], &[CutEncoding::Uint8]);
    assert_eq!(signature(&parts[0]), "x -> a");
}

#[test]
fn old_operators_quantise_by_their_own_arithmetic() {
    let mut whole = network(&["Relu x -> a", "Tanh a -> b"], &["b"], vec![]);
    whole.opset_import[0].version = Some(9);
    let parts = split_as(&whole, &["a"], &[CutEncoding::Uint8]);
    assert_eq!(operators(&parts[0]), "Relu Div Add Clip Cast");
    assert_eq!(operators(&parts[1]), "Cast Sub Mul Tanh");
    let scales = ["a.uint8.scale", "a.uint8.zero_point", "a.uint8.offset"];
    assert_eq!(parts.iter().map(weight_names).collect::<Vec<_>>(), [scales, scales]);
}
