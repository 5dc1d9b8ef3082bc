//! From the parts of a plan to the stages that agents serve; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::RunError;
use crate::stage::{
    Branch, FileSpec, MemoryEstimate, ModelSpec, NextStage, PictureInput, Stage, StageSpec,
    TensorSpec,
};

/// A plan as the runtime carries it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Stages in the order of a frame's way; the first is on the source.
    pub stages: Vec<Placement>,
    /// Where each file is, by SHA-256.
    pub files: BTreeMap<String, PathBuf>,
}

/// A stage with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// What it does.
    pub spec: StageSpec,
    /// Name under which it is deployed; the first one answers for the whole plan.
    pub model_name: String,
    /// Where its agent listens; absent: it can only be run locally.
    pub address: Option<String>,
    /// Where further agents listen that serve it, too.
    pub replicas: Vec<String>,
    /// Whether another program than an agent listens there, which has the stage already.
    pub foreign: bool,
}

impl Placement {
    /// Where its agents listen.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.address.iter().chain(&self.replicas).map(String::as_str)
    }
}

/// The parts of a plan, in the order of a frame's way.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanParts {
    /// Name of the plan, e.g. the model's name and the plan's hash.
    pub plan: String,
    /// What the network reads.
    pub inputs: Vec<TensorSpec>,
    /// What the network answers, in declared order.
    pub outputs: Vec<TensorSpec>,
    /// How one of the inputs is made from a picture and travels, where it is.
    pub picture: Option<PictureInput>,
    /// The first part is on the source, with or without a model.
    pub parts: Vec<Part>,
}

/// What one device does in a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Device name.
    pub device: String,
    /// Where its agent listens.
    pub address: Option<String>,
    /// Where further agents listen that are this device, too; each frame goes to one of them all.
    pub replicas: Vec<String>,
    /// What the part before dials in place of the first address.
    pub via: Option<String>,
    /// What it computes; absent where it only prepares and forwards.
    pub model: Option<PartModel>,
    /// Whether it is a branch: called by the last part before it that is none, at the same time as the
    /// branches beside it, for the next part that is none.
    pub branch: bool,
    /// Where another program than an agent listens there: the name under which it serves the model.
    pub foreign: Option<String>,
}

/// A part's model.
#[derive(Clone, Debug, PartialEq)]
pub struct PartModel {
    /// Its files with their places, the model first.
    pub files: Vec<(FileSpec, PathBuf)>,
    /// Engine; absent: the device's own choice.
    pub engine: Option<String>,
    /// Threads; absent: the device's own choice.
    pub threads: Option<u32>,
    /// What it reads.
    pub inputs: Vec<TensorSpec>,
    /// What it makes: values that later parts read, and outputs of the network.
    pub outputs: Vec<TensorSpec>,
    /// Memory that it takes.
    pub memory: MemoryEstimate,
}

impl Deployment {
    /// Derives the stages: what each receives, passes on and answers. A value travels every hop
    /// from where it is made to the last part that reads it, and what a branch makes to the part that
    /// called it; an output of the network returns over every hop to the source. O(parts^2 x values).
    pub fn new(plan: PlanParts) -> Result<Self, RunError> {
        match [plan.parts.first(), plan.parts.last()] {
            [Some(first), Some(last)] if !first.branch && !last.branch => {}
            [None, _] | [_, None] => return Err(RunError::Plan("it has no stage".to_owned())),
            _ => {
                let reason = "it begins or ends with branches that nothing calls or joins";
                return Err(RunError::Plan(reason.to_owned()));
            }
        }
        let before_last = &plan.parts[..plan.parts.len() - 1];
        let calls = |part: &&Part| part.foreign.is_some() && !part.branch;
        if let Some(part) = before_last.iter().find(calls) {
            return Err(RunError::ForeignCaller { device: part.device.clone() });
        }
        let received = received(&plan)?;
        let mut files = BTreeMap::new();
        let mut stages: Vec<Placement> = Vec::with_capacity(plan.parts.len());
        for (index, part) in plan.parts.iter().enumerate() {
            if let Some(model) = &part.model {
                let places = model.files.iter();
                files.extend(places.map(|(file, path)| (file.sha256.clone(), path.clone())));
            }
            let call = |into: usize| call(&plan, &received, index, into);
            let behind = index + 1..plan.parts.len();
            let branches = behind.clone().take_while(|&at| !part.branch && plan.parts[at].branch);
            let next = behind.clone().find(|&at| !part.branch && !plan.parts[at].branch);
            let brings = |at: usize| made(&plan.parts[at]).cloned().collect();
            let spec = StageSpec {
                plan: plan.plan.clone(),
                name: format!("{index}-{}", part.device),
                device: part.device.clone(),
                inputs: received[index].clone(),
                picture: picture(&plan, &received[index]),
                model: part.model.as_ref().map(model_spec),
                answers: answers(&plan, index),
                branches: branches
                    .map(|at| Branch { stage: call(at), brings: brings(at) })
                    .collect(),
                next: next.map(call),
            };
            let spec = Stage::new(spec)?.spec().clone();
            let (model_name, address) = (model_name(&plan, index), part.address.clone());
            let (replicas, foreign) = (part.replicas.clone(), part.foreign.is_some());
            stages.push(Placement { spec, model_name, address, replicas, foreign });
        }
        Ok(Self { stages, files })
    }

    /// Has these values sent in the entropy code wherever they cross between agents that read it.
    pub fn send_entropy_coded(&mut self, names: &BTreeSet<String>) {
        for call in self.stages.iter_mut().flat_map(|stage| stage.spec.calls_mut()) {
            let coded = call.sends.iter().filter(|name| names.contains(*name));
            call.entropy_coded = coded.cloned().collect();
        }
    }

    /// Name that clients of the first agent call to run the whole plan.
    pub fn model_name(&self) -> &str {
        self.stages.first().map_or("", |stage| &stage.model_name)
    }
}

/// What each part receives: what it or a later part reads and no part from it on makes; a branch, what
/// it reads itself.
fn received(plan: &PlanParts) -> Result<Vec<Vec<TensorSpec>>, RunError> {
    let mut known: BTreeMap<&str, &TensorSpec> =
        plan.inputs.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut received = Vec::with_capacity(plan.parts.len());
    // What branches make is there for the part that joins them.
    let mut beside: Vec<&TensorSpec> = Vec::new();
    for (index, part) in plan.parts.iter().enumerate() {
        if !part.branch {
            known.extend(beside.drain(..).map(|tensor| (tensor.name.as_str(), tensor)));
        }
        let behind = if part.branch { index + 1 } else { plan.parts.len() };
        // The source takes every input of the network, whoever reads it.
        let needed: Vec<TensorSpec> = match index {
            0 => plan.inputs.clone(),
            _ => {
                let names = reads(&plan.parts[index..behind]).into_iter();
                names.filter_map(|name| known.get(name)).map(|&tensor| tensor.clone()).collect()
            }
        };
        for name in part.model.iter().flat_map(|model| &model.inputs).map(|input| &input.name) {
            if !needed.iter().any(|tensor| tensor.name == *name) {
                return Err(RunError::Plan(format!(
                    "device `{}` needs `{name}`, which no earlier device makes",
                    part.device
                )));
            }
        }
        received.push(needed);
        match part.branch {
            true => beside.extend(made(part)),
            false => known.extend(made(part).map(|tensor| (tensor.name.as_str(), tensor))),
        }
    }
    Ok(received)
}

fn made(part: &Part) -> impl Iterator<Item = &TensorSpec> {
    part.model.iter().flat_map(|model| &model.outputs)
}

/// Names that these parts read, each once, in order of the first reading.
fn reads(parts: &[Part]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let inputs = parts.iter().flat_map(|part| &part.model).flat_map(|model| &model.inputs);
    inputs.map(|input| input.name.as_str()).filter(|&name| seen.insert(name)).collect()
}

/// Outputs of the network that a part answers: those made here or later, and at the source those
/// that are inputs at the same time. A branch answers all that it makes.
fn answers(plan: &PlanParts, index: usize) -> Vec<TensorSpec> {
    if plan.parts[index].branch {
        return made(&plan.parts[index]).cloned().collect();
    }
    let made_here_or_later = |name: &str| {
        plan.parts[index..].iter().flat_map(made).any(|output| output.name == name)
            || index == 0 && plan.inputs.iter().any(|input| input.name == name)
    };
    plan.outputs.iter().filter(|output| made_here_or_later(&output.name)).cloned().collect()
}

/// The picture, as far as this part has to do with it.
fn picture(plan: &PlanParts, received: &[TensorSpec]) -> Option<PictureInput> {
    let picture = plan.picture.clone()?;
    received.iter().any(|tensor| tensor.name == picture.input).then_some(picture)
}

/// How one part calls another.
fn call(plan: &PlanParts, received: &[Vec<TensorSpec>], from: usize, into: usize) -> NextStage {
    let part = &plan.parts[into];
    // A plan without addresses runs locally; an agent would refuse to dial this one.
    let address = part.via.clone().or_else(|| part.address.clone()).unwrap_or_default();
    NextStage {
        stage: format!("{into}-{}", part.device),
        device: part.device.clone(),
        address,
        replicas: part.replicas.clone(),
        here: part.device == plan.parts[from].device,
        model_name: model_name(plan, into),
        sends: received[into].iter().map(|tensor| tensor.name.clone()).collect(),
        entropy_coded: Vec::new(),
        foreign: part.foreign.is_some(),
    }
}

fn model_spec(model: &PartModel) -> ModelSpec {
    ModelSpec {
        files: model.files.iter().map(|(file, _)| file.clone()).collect(),
        engine: model.engine.clone(),
        threads: model.threads,
        inputs: model.inputs.iter().map(|input| input.name.clone()).collect(),
        outputs: model.outputs.clone(),
        memory: model.memory,
    }
}

/// The plan's name for the first stage, since it answers for the whole; on a foreign server, the
/// name that it has there.
fn model_name(plan: &PlanParts, index: usize) -> String {
    if let Some(name) = &plan.parts[index].foreign {
        return name.clone();
    }
    match index {
        0 => plan.plan.clone(),
        _ => format!("{}.{index}", plan.plan),
    }
}

#[cfg(test)]
mod tests {
    use cutline_core::tensor::{DType, Shape};

    use super::*;

    fn tensor(name: &str) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: Some(Shape(vec![1])) }
    }

    fn part(device: &str, inputs: &[&str], outputs: &[&str]) -> Part {
        let file = FileSpec { name: "model.onnx".into(), sha256: "a".repeat(64), bytes: 1 };
        let model = PartModel {
            files: vec![(file, PathBuf::from(device))],
            engine: None,
            threads: None,
            inputs: inputs.iter().map(|name| tensor(name)).collect(),
            outputs: outputs.iter().map(|name| tensor(name)).collect(),
            memory: MemoryEstimate::default(),
        };
        let model = (!outputs.is_empty()).then_some(model);
        let (device, replicas) = (device.into(), Vec::new());
        Part { device, address: None, replicas, via: None, model, branch: false, foreign: None }
    }

    fn plan(parts: Vec<Part>, outputs: &[&str]) -> PlanParts {
        PlanParts {
            plan: "net".into(),
            inputs: vec![tensor("x")],
            outputs: outputs.iter().map(|name| tensor(name)).collect(),
            picture: None,
            parts,
        }
    }

    fn names(tensors: &[TensorSpec]) -> Vec<&str> {
        tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    fn sends(placement: &Placement) -> Vec<&str> {
        placement.spec.next.iter().flat_map(|next| &next.sends).map(String::as_str).collect()
    }

    #[test]
    fn values_travel_until_their_last_reader() {
        let parts = vec![
            part("pi", &["x"], &["a", "skip", "early"]),
            part("hub", &["a"], &["b"]),
            part("cloud", &["b", "skip", "x"], &["late"]),
        ];
        let deployment = Deployment::new(plan(parts, &["late", "early"])).unwrap();
        let [pi, hub, cloud] = &deployment.stages[..] else { panic!("three stages") };
        assert_eq!(sends(pi), ["a", "skip", "x"]);
        assert_eq!(names(&hub.spec.inputs), ["a", "skip", "x"]);
        assert_eq!(sends(hub), ["b", "skip", "x"]);
        assert_eq!(names(&pi.spec.answers), ["late", "early"]);
        assert_eq!(names(&hub.spec.answers), ["late"]);
        assert_eq!(names(&cloud.spec.answers), ["late"]);
        assert_eq!(deployment.model_name(), "net");
        assert_eq!(pi.spec.next.as_ref().unwrap().model_name, hub.model_name);
    }

    #[test]
    fn a_source_without_work_forwards_the_input() {
        let parts = vec![part("pi", &[], &[]), part("cloud", &["x"], &["y"])];
        let deployment = Deployment::new(plan(parts, &["y"])).unwrap();
        assert_eq!(sends(&deployment.stages[0]), ["x"]);
        assert!(deployment.stages[0].spec.model.is_none());
    }

    #[test]
    fn a_foreign_server_is_called_by_its_own_name_and_only_at_the_end() {
        let parts = |foreign: [Option<&str>; 3]| {
            let mut parts = vec![
                part("pi", &["x"], &["a"]),
                part("hub", &["a"], &["b"]),
                part("cloud", &["b"], &["y"]),
            ];
            for (part, name) in parts.iter_mut().zip(foreign) {
                part.foreign = name.map(str::to_owned);
            }
            plan(parts, &["y"])
        };
        let deployment = Deployment::new(parts([None, None, Some("2-cloud")])).unwrap();
        let next = deployment.stages[1].spec.next.as_ref().unwrap();
        assert_eq!((next.model_name.as_str(), next.foreign), ("2-cloud", true));
        let foreign: Vec<bool> = deployment.stages.iter().map(|stage| stage.foreign).collect();
        assert_eq!(foreign, [false, false, true]);
        let error = Deployment::new(parts([None, Some("1-hub"), None])).unwrap_err().to_string();
        assert!(error.contains("device `hub`") && error.contains("the last stage"), "{error}");
    }

    #[test]
    fn a_part_that_lacks_a_value_is_named() {
        let parts = vec![part("pi", &["x"], &["a"]), part("cloud", &["b"], &["y"])];
        let error = Deployment::new(plan(parts, &["y"])).unwrap_err().to_string();
        assert!(error.contains("device `cloud` needs `b`"), "{error}");
    }
}
