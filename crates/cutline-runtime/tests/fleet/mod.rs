//! Agents in this process, and tiny models to deploy on them.
#![allow(dead_code, clippy::unwrap_used)]

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use cutline_core::{
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    tensor::{DType, Shape},
};
use cutline_runtime::{
    agent::{Agent, AgentConfig},
    client::{AgentClient, ClientOptions},
    engine::{SharedEngine, rten::Rten},
    runner::{Deployment, Frame, Part, PartModel, PlanParts, RunOptions},
    stage::{FileSpec, MemoryEstimate, TensorSpec},
    tensor::Tensor,
};
use prost::Message;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) mod gate;

/// Length of the vectors that the tiny models compute on.
pub(crate) const LENGTH: u64 = 4;

/// An agent in a runtime of its own, so that it can be killed like a process.
pub(crate) struct Device {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
    _store: TempDir,
}

impl Device {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut AgentConfig)) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = tempfile::tempdir().unwrap();
        let rten: SharedEngine = Arc::new(Rten);
        let mut config = AgentConfig::new("127.0.0.1:0", store.path().to_owned(), vec![rten]);
        adjust(&mut config);
        let agent = {
            let _inside = runtime.enter();
            Agent::bind(config).unwrap()
        };
        let address = agent.local_addr();
        runtime.spawn(agent.serve(std::future::pending()));
        Self { address, runtime: Some(runtime), _store: store }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends everything at once, as SIGKILL would: its sockets close, nobody says goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub(crate) async fn client(&self) -> AgentClient {
        let options = ClientOptions::default();
        AgentClient::connect("pi", &self.address(), options).await.unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn options() -> RunOptions {
    RunOptions { frame_timeout: Duration::from_secs(20), ..RunOptions::default() }
}

/// Runs a test's asynchronous part.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

/// `out = op(in...)` on float vectors of [`LENGTH`]: one node per entry, in order.
pub(crate) fn model(nodes: &[(&str, &[&str], &str)], inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    model_of(&[LENGTH as i64], nodes, inputs, outputs)
}

/// The same on float tensors of any shape.
pub(crate) fn model_of(
    shape: &[i64],
    nodes: &[(&str, &[&str], &str)],
    inputs: &[&str],
    outputs: &[&str],
) -> Vec<u8> {
    let dim = |&size: &i64| Dimension {
        value: Some(dimension::Value::DimValue(size)),
        ..Default::default()
    };
    let vector = || TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let declare = |name: &&str| ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(DType::F32.onnx()),
                shape: Some(vector()),
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let node = |&(op, reads, makes): &(&str, &[&str], &str)| NodeProto {
        name: Some(format!("make_{makes}")),
        op_type: Some(op.to_owned()),
        input: reads.iter().map(|name| name.to_string()).collect(),
        output: vec![makes.to_owned()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("tiny".to_owned()),
        node: nodes.iter().map(node).collect(),
        input: inputs.iter().map(declare).collect(),
        output: outputs.iter().map(declare).collect(),
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(13), ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    };
    model.encode_to_vec()
}

pub(crate) fn vector_spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: Some(Shape(vec![LENGTH])) }
}

pub(crate) fn vector(values: [f32; LENGTH as usize]) -> Tensor {
    Tensor::from_f32(Shape(vec![LENGTH]), values.to_vec()).unwrap()
}

pub(crate) fn frame(values: [f32; LENGTH as usize]) -> Frame {
    Frame::Tensors(vec![("x".to_owned(), vector(values))])
}

/// Writes a file and names it by its content.
pub(crate) fn store(folder: &TempDir, name: &str, data: &[u8]) -> (FileSpec, PathBuf) {
    let path = folder.path().join(name);
    std::fs::write(&path, data).unwrap();
    let sha256 = cutline_core::hex::hex(&Sha256::digest(data));
    (FileSpec { name: "model.onnx".to_owned(), sha256, bytes: data.len() as u64 }, path)
}

/// One part of a plan: `nodes` as a model on `device`.
pub(crate) fn part(
    folder: &TempDir,
    device: &str,
    address: Option<String>,
    nodes: &[(&str, &[&str], &str)],
    inputs: &[&str],
    outputs: &[&str],
) -> Part {
    let file = store(folder, &format!("{device}.onnx"), &model(nodes, inputs, outputs));
    let model = PartModel {
        files: vec![file],
        engine: Some("rten".to_owned()),
        threads: Some(1),
        inputs: inputs.iter().map(|name| vector_spec(name)).collect(),
        outputs: outputs.iter().map(|name| vector_spec(name)).collect(),
        memory: MemoryEstimate::default(),
    };
    Part {
        device: device.to_owned(),
        address,
        replicas: Vec::new(),
        via: None,
        model: Some(model),
        branch: false,
        foreign: None,
    }
}

pub(crate) fn plan(parts: Vec<Part>, outputs: &[&str]) -> PlanParts {
    PlanParts {
        plan: "tiny".to_owned(),
        inputs: vec![vector_spec("x")],
        outputs: outputs.iter().map(|name| vector_spec(name)).collect(),
        picture: None,
        parts,
    }
}

/// A plan for the first so many of pi, hub and cloud: `early = x + x` is made and answered by the
/// first device, `late = early * early + -x` by the last, which reads `-x` of the first.
pub(crate) fn chain(folder: &TempDir, addresses: &[String]) -> Deployment {
    let address = |index: usize| addresses.get(index).cloned();
    let first: [(&str, &[&str], &str); 2] =
        [("Add", &["x", "x"], "early"), ("Neg", &["x"], "skip")];
    let square: [(&str, &[&str], &str); 1] = [("Mul", &["early", "early"], "square")];
    let last: [(&str, &[&str], &str); 1] = [("Add", &["square", "skip"], "late")];
    let both = [square[0], last[0]];
    let pi = part(folder, "pi", address(0), &first, &["x"], &["early", "skip"]);
    let rest = match addresses.len() {
        2 => vec![part(folder, "cloud", address(1), &both, &["early", "skip"], &["late"])],
        _ => vec![
            part(folder, "hub", address(1), &square, &["early"], &["square"]),
            part(folder, "cloud", address(2), &last, &["square", "skip"], &["late"]),
        ],
    };
    let parts = std::iter::once(pi).chain(rest).collect();
    Deployment::new(plan(parts, &["late", "early"])).unwrap()
}

/// What [`chain`] answers.
pub(crate) fn expected(x: [f32; LENGTH as usize]) -> Vec<(String, Tensor)> {
    let late = x.map(|x| (x + x) * (x + x) - x);
    vec![("late".to_owned(), vector(late)), ("early".to_owned(), vector(x.map(|x| x + x)))]
}

/// One model on one agent, `y = x + x`, deployed as `double`.
pub(crate) async fn deploy_double(client: &AgentClient) {
    let folder = tempfile::tempdir().unwrap();
    let node: [(&str, &[&str], &str); 1] = [("Add", &["x", "x"], "y")];
    let part = part(&folder, "pi", None, &node, &["x"], &["y"]);
    let deployment = Deployment::new(plan(vec![part], &["y"])).unwrap();
    let files: BTreeMap<_, _> = deployment.files.clone();
    client.deploy("double", &deployment.stages[0].spec, &files, "").await.unwrap();
}
