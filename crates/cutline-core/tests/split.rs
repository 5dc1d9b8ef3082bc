//! Splitting of real and random networks: every layer has one place, and the parts fit together.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use bytes::Bytes;
use cutline_core::{
    cut::{candidate_cuts, stages_of_cut},
    graph::{Graph, Role, Value},
    group::group,
    onnx::{
        self, ImportOptions,
        proto::{
            GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
            ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
    package,
    split::{Piece, Port, StageLabel, SubModel, split},
    zoo::{self, ZooOptions},
};
use proptest::prelude::*;

/// The real models; empty, with a line that says so, where the shared folder is absent.
fn real_models() -> Vec<(String, ModelProto)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/onnx");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: no real models beside the project");
        return Vec::new();
    };
    let mut models = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".onnx") && name != "candy.onnx" {
            models.push((name, onnx::decode(Bytes::from(fs::read(path).unwrap())).unwrap()));
        }
    }
    models.sort_by(|a, b| a.0.cmp(&b.0));
    models
}

fn labels(count: usize) -> Vec<StageLabel> {
    (0..count).map(|index| StageLabel::new(format!("part{index}"))).collect()
}

fn import(model: &ModelProto) -> Graph {
    onnx::import(model, &ImportOptions::default()).unwrap()
}

/// Every compute layer is in exactly the part it was given to; whatever a part reads, the network
/// or an earlier part gives; every answer of the network is given exactly once.
fn check_parts(graph: &Graph, stage_of: &[Option<u32>], parts: &[SubModel]) {
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); graph.layers().len()];
    let mut available: BTreeSet<&str> =
        graph.inputs().iter().map(|&id| graph.value(id).name.as_str()).collect();
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        part.layers.iter().for_each(|id| places[id.index()].push(index));
        for id in part.inputs.iter().map(|port| port.value) {
            assert!(available.contains(graph.value(id).name.as_str()), "part {index} reads ahead");
        }
        for id in part.outputs.iter().map(|port| port.value) {
            available.insert(&graph.value(id).name);
            *answers.entry(&graph.value(id).name).or_default() += 1;
        }
        assert!(!part.outputs.is_empty());
    }
    for (index, layer) in graph.layers().iter().enumerate() {
        if layer.role == Role::Compute {
            let expected = stage_of[index].unwrap() as usize;
            assert_eq!(places[index], [expected], "layer `{}`", layer.name);
        }
    }
    for &id in graph.outputs() {
        assert_eq!(answers.get(graph.value(id).name.as_str()), Some(&1));
    }
    // Nothing is sent that nobody reads.
    let read: BTreeSet<_> = parts.iter().flat_map(|part| &part.inputs).collect();
    for port in parts.iter().flat_map(|part| &part.outputs) {
        assert!(read.contains(port) || graph.outputs().contains(&port.value));
    }
}

/// The part's file is a model of its own, in which every value is what it was in the whole.
fn check_file(whole: &Graph, part: &SubModel) {
    let again = import(&part.model);
    let typed: BTreeMap<&str, &Value> =
        whole.values().iter().map(|value| (value.name.as_str(), value)).collect();
    for value in again.values() {
        let original = typed[value.name.as_str()];
        assert_eq!(value.dtype, original.dtype, "`{}`", value.name);
        assert_eq!(value.shape, original.shape, "`{}`", value.name);
    }
    let names = |graph: &Graph, ids: &[_]| -> Vec<String> {
        ids.iter().map(|&id| graph.value(id).name.clone()).collect()
    };
    let ports = |ports: &[Port]| -> Vec<String> { ports.iter().map(|p| p.name.clone()).collect() };
    assert_eq!(names(&again, again.inputs()), ports(&part.inputs));
    assert_eq!(names(&again, again.outputs()), ports(&part.outputs));
}

fn check_all_cuts(name: &str, model: &ModelProto) {
    let graph = import(model);
    let grouping = group(&graph);
    let cuts = candidate_cuts(&grouping.dag);
    assert!(cuts.len() > 2, "{name} has {} cuts", cuts.len());
    for cut in &cuts {
        let stage_of = stages_of_cut(&graph, &grouping, cut);
        let parts = split(model, &graph, &stage_of, &labels(2)).unwrap();
        check_parts(&graph, &stage_of, &parts);
        parts.iter().for_each(|part| check_file(&graph, part));
        let sent: BTreeSet<&str> =
            cut.flows.iter().map(|&id| grouping.dag.flow(id).name.as_str()).collect();
        let read: BTreeSet<&str> = parts[1].inputs.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(sent, read, "{name}: the cut's price is not what crosses");
        package::packages(&parts).unwrap();
    }
    eprintln!("{name}: {} cuts", cuts.len());
}

#[test]
fn real_models_split_at_every_candidate_cut() {
    for (name, model) in real_models() {
        check_all_cuts(&name, &model);
    }
}

#[test]
fn zoo_models_split_at_every_candidate_cut() {
    for name in ["lenet5", "squeezenet", "mobilenetv3-small"] {
        let Ok(model) = zoo::outline(name, None) else {
            panic!("the zoo has no {name}: {:?}", zoo::names());
        };
        check_all_cuts(name, &model);
    }
}

#[test]
fn a_weight_is_written_once_per_part_that_reads_it() {
    let model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    let graph = import(&model);
    let grouping = group(&graph);
    let weights = |model: &ModelProto| -> u64 {
        let tensors = &model.graph.as_ref().unwrap().initializer;
        tensors
            .iter()
            .filter_map(|tensor| tensor.raw_data.as_ref())
            .map(|raw| raw.len() as u64)
            .sum()
    };
    for cut in candidate_cuts(&grouping.dag) {
        let stage_of = stages_of_cut(&graph, &grouping, &cut);
        let parts = split(&model, &graph, &stage_of, &labels(2)).unwrap();
        let files: u64 = parts.iter().map(|part| part.files().bytes()).sum();
        let whole: u64 = cutline_core::split::encode(&model).iter().map(Piece::bytes).sum();
        assert!(files < whole + 4096, "{files} bytes in parts, {whole} in the whole");
        assert!(files > weights(&model));
    }
}

/// One random layer: how many operands, and which earlier values they are (modulo their number).
type Draw = (bool, u16, u16, u8);

/// Nodes over values `x`, `v0`, `v1`, ...; the answers are what nothing reads.
fn random_model(draws: &[Draw]) -> ModelProto {
    let mut names = vec!["x".to_owned()];
    let mut read = BTreeSet::new();
    let mut node = Vec::new();
    for (at, &(binary, a, b, _)) in draws.iter().enumerate() {
        let pick =
            |draw: u16| names[names.len() - 1 - usize::from(draw) % names.len().min(5)].clone();
        let input = if binary { vec![pick(a), pick(b)] } else { vec![pick(a)] };
        read.extend(input.iter().cloned());
        let output = format!("v{at}");
        node.push(NodeProto {
            op_type: Some(if binary { "Add" } else { "Relu" }.to_owned()),
            name: Some(format!("l{at}")),
            input,
            output: vec![output.clone()],
            ..NodeProto::default()
        });
        names.push(output);
    }
    let answers = names.iter().skip(1).filter(|name| !read.contains(*name));
    let graph = GraphProto {
        name: Some("random".to_owned()),
        output: answers.map(|name| declared(name)).collect(),
        input: vec![declared("x")],
        node,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(13), ..OperatorSetIdProto::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn declared(name: &str) -> ValueInfoProto {
    let dim = Dimension { value: Some(dimension::Value::DimValue(3)), ..Dimension::default() };
    let shape = Some(TensorShapeProto { dim: vec![dim] });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Places each layer no earlier than what it reads, sometimes later; empty stages are closed up.
fn forward_placement(graph: &Graph, draws: &[Draw]) -> Vec<Option<u32>> {
    let mut stage_of: Vec<u32> = Vec::new();
    let mut made_in: BTreeMap<usize, u32> = BTreeMap::new();
    for layer in graph.layers() {
        let jump = u32::from(draws[layer.node].3.is_multiple_of(4));
        let earliest = layer.reads().filter_map(|id| made_in.get(&id.index())).max();
        let stage = earliest.copied().unwrap_or(0) + jump;
        layer.makes().for_each(|id| {
            made_in.insert(id.index(), stage);
        });
        stage_of.push(stage);
    }
    let used: BTreeSet<u32> = stage_of.iter().copied().collect();
    let closed = |stage: u32| used.iter().position(|&other| other == stage).unwrap() as u32;
    stage_of.into_iter().map(|stage| Some(closed(stage))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn parts_of_random_networks_are_complete_and_acyclic(
        draws in prop::collection::vec(any::<Draw>(), 1..30)
    ) {
        let model = random_model(&draws);
        let graph = import(&model);
        let stage_of = forward_placement(&graph, &draws);
        let count = stage_of.iter().flatten().max().map_or(1, |&last| last as usize + 1);
        let parts = split(&model, &graph, &stage_of, &labels(count)).unwrap();
        check_parts(&graph, &stage_of, &parts);
        for part in &parts {
            check_file(&graph, part);
        }
    }

    #[test]
    fn a_random_placement_splits_or_names_what_would_flow_back(
        draws in prop::collection::vec(any::<Draw>(), 1..20),
        places in prop::collection::vec(0u32..3, 20)
    ) {
        use cutline_core::split::SplitError;
        let model = random_model(&draws);
        let graph = import(&model);
        let stage_of: Vec<Option<u32>> =
            graph.layers().iter().map(|layer| Some(places[layer.node])).collect();
        let flows_back = graph.layers().iter().enumerate().any(|(at, layer)| {
            let made = |id| graph.layers().iter().position(|maker| maker.makes().any(|v| v == id));
            layer.reads().filter_map(made).any(|maker| stage_of[maker] > stage_of[at])
        });
        match split(&model, &graph, &stage_of, &labels(3)) {
            Ok(parts) => {
                prop_assert!(!flows_back);
                check_parts(&graph, &stage_of, &parts);
            }
            Err(SplitError::Backward { .. }) => prop_assert!(flows_back),
            Err(error) => prop_assert!(matches!(error, SplitError::Empty { .. }), "{}", error),
        }
    }
}
