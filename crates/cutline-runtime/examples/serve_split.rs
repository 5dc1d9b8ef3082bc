//! Serves a split network to any client of the Open Inference Protocol, until its input ends.
//!
//! ```text
//! cargo run -p cutline-runtime --example serve_split -- net.onnx VALUE[,VALUE]...
//! {"address":"127.0.0.1:40123","model":"net"}
//! ```
//!
//! Two agents in this process hold the two parts; a call to the first is answered by both.

use std::{error::Error, fs, io, path::Path, sync::Arc};

use cutline_core::{
    cut::stages_at,
    graph::{Graph, ValueId},
    onnx::ImportOptions,
    split::{StageLabel, SubModel, split},
};
use cutline_runtime::{
    agent::{Agent, AgentConfig},
    engine::rten::Rten,
    files,
    model::Model,
    runner::{Deployment, Part, PartModel, PlanParts, RunOptions, Runner},
    stage::{FileSpec, MemoryEstimate, TensorSpec},
};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(values)) = (arguments.next(), arguments.next()) else {
        return Err("give a model and the values to cut at".into());
    };
    let model = Model::open(Path::new(&path), &ImportOptions::default())?;
    let cut = values.split(',').map(str::to_owned).collect();
    let stage_of = stages_at(&model.graph, &[cut])?;
    let labels = ["edge", "cloud"].map(StageLabel::new);
    let sub_models = split(&model.proto, &model.graph, &stage_of, &labels)?;
    let folder = tempfile::tempdir()?;
    let mut parts = Vec::new();
    for sub_model in &sub_models {
        let address = start_agent(&folder.path().join("store"))?;
        parts.push(part(&model, sub_model, folder.path(), address)?);
    }
    let address = parts[0].address.clone();
    let deployment = Deployment::new(PlanParts {
        plan: "net".to_owned(),
        inputs: specs(&model.graph, model.graph.inputs())?,
        outputs: specs(&model.graph, model.graph.outputs())?,
        picture: None,
        parts,
    })?;
    let runner = Runner::deploy(deployment, RunOptions::default(), |_| {}).await?;
    let model = runner.deployment().model_name();
    println!("{}", serde_json::json!({ "address": address, "model": model }));
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}

/// Starts an agent on a free port and says which.
fn start_agent(store: &Path) -> Result<String> {
    let config = AgentConfig::new("127.0.0.1:0", store.to_owned(), vec![Arc::new(Rten)]);
    let agent = Agent::bind(config)?;
    let address = agent.local_addr().to_string();
    tokio::spawn(agent.serve(std::future::pending()));
    Ok(address)
}

/// Writes a part's file and describes the part.
fn part(model: &Model, sub_model: &SubModel, folder: &Path, address: String) -> Result<Part> {
    let path = folder.join(format!("{}.onnx", sub_model.name));
    files::write_atomic(&path, &sub_model.files().model, model.folder())?;
    let content = fs::read(&path)?;
    let file = FileSpec {
        name: files::MODEL_FILE.to_owned(),
        sha256: Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes: content.len() as u64,
    };
    let model = PartModel {
        files: vec![(file, path)],
        engine: None,
        threads: None,
        inputs: specs(&model.graph, &sub_model.inputs)?,
        outputs: specs(&model.graph, &sub_model.outputs)?,
        memory: MemoryEstimate::default(),
    };
    let (device, address) = (sub_model.name.clone(), Some(address));
    Ok(Part { device, address, via: None, model: Some(model) })
}

fn specs(graph: &Graph, values: &[ValueId]) -> Result<Vec<TensorSpec>> {
    let spec = |&id: &ValueId| {
        let value = graph.value(id);
        let dtype =
            value.dtype.ok_or_else(|| format!("the type of `{}` is unknown", value.name))?;
        Ok(TensorSpec { name: value.name.clone(), dtype, shape: value.shape.clone() })
    };
    values.iter().map(spec).collect()
}
