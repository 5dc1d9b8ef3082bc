//! `plan.json`: a decision, what follows from it, what it was predicted to cost, and later what it
//! did cost.
//!
//! The decision is the mapping of layers to devices, with the engine of each device, the encodings
//! and the picture; [`PlannedChoice::id`] is a hash of exactly that. People may edit the file:
//! [`Plan::open`] trusts nothing but the decision, derives the rest anew, and drops predictions that
//! belong to another decision.
//!
//! ```json
//! { "version": 1, "model": { "name": "net.onnx", "sha256": "..." }, "reason": "...",
//!   "best": { "id": "3f2a...", "mapping": { "conv1": "pi", "fc": "cloud" }, "latency_ns": 9000000 } }
//! ```

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    agreement::Share,
    codec::{CutCodecs, Quantizations, UnknownCutEncoding},
    cost::{Costs, EnergyOrigin, Origin, TENSOR},
    dag::{Dag, FlowId, GroupId},
    evaluate::{Evaluation, PartKind},
    hex::hex,
    partition::{Helper, Mapping, Misplaced, Partition, ScatterFault, Stage, derive_with_helpers},
    picture::PictureSpec,
    planner::{Answer, Baseline, Choice, Infeasible, Objective, Proof, Request},
    platform::{DeviceId, Platform},
    routing::{Table, TableError},
    units::{Bytes, Money, Nanojoules, Nanos},
};

mod by_hand;
mod in_flight;
mod layers;
mod refinement;
mod routes;

pub use by_hand::Engines;
pub use in_flight::MOST_IN_FLIGHT;
pub use layers::LayerMap;
pub use refinement::{Correction, Refinement, Trial};
pub use routes::{
    HERE, PlannedFallback, PlannedLink, PlannedRange, PlannedRoute, PlannedRoutes, PlannedSpeed,
};

/// The model that a plan was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// File name, for people.
    pub name: String,
    /// SHA-256 of the file, in hex; empty for a table of published costs.
    pub sha256: String,
}

/// A planner's answer as a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Format version: 1.
    pub version: u32,
    /// What is run.
    pub model: ModelRef,
    /// What it runs on.
    pub platform: Platform,
    /// What was minimised.
    pub objective: Objective,
    /// What was asked.
    pub request: Request,
    /// How a picture becomes the input, where the input is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<PictureSpec>,
    /// The plain alternatives.
    pub baselines: Vec<PlannedBaseline>,
    /// The best of everything allowed.
    pub best: Option<PlannedChoice>,
    /// The best with work on both devices.
    pub best_split: Option<PlannedChoice>,
    /// Why, in words.
    pub reason: String,
    /// From one frame of a source to its next, where idle power is part of energy and money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_interval_ns: Option<Nanos>,
    /// What was measured and corrected on the way, where the plan was refined on its agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<Refinement>,
    /// The best plans over the speed of a link, where they were searched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<PlannedRoutes>,
}

/// A plain alternative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBaseline {
    /// `edge-only`, `cloud-jpeg`, `cloud-uint8` or `cloud-fp32`.
    pub name: String,
    /// Whether it may change the answer.
    pub lossy: bool,
    /// Whether the request allows it.
    pub allowed: bool,
    /// Why it cannot be run; then it has no costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infeasible: Option<String>,
    /// The plan.
    #[serde(flatten)]
    pub choice: Option<PlannedChoice>,
}

/// One decision and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChoice {
    /// Hash of the decision, 16 hex digits.
    pub id: String,
    /// Device of each layer, in topological order.
    pub mapping: LayerMap,
    /// What each device runs, in the order of a frame's way.
    pub stages: Vec<PlannedStage>,
    /// How the network's input travels.
    pub input_encoding: String,
    /// What the bytes of values stand for that travel as `uint8`, by the value's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quantizations: Quantizations,
    /// What crosses on the way out, each value once.
    pub cut: Vec<CutValue>,
    /// How well its answers agree with the whole network's, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<MeasuredAgreement>,
    /// Predicted costs; absent once the decision was edited.
    #[serde(flatten)]
    pub predicted: Option<Figures>,
    /// Everything that happens to a frame, as predicted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PlannedPart>,
    /// Predicted memory by device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub memory: BTreeMap<String, Bytes>,
    /// Energy of a frame by device, in nanojoule; absent where a power is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub energy_nj: BTreeMap<String, Nanojoules>,
    /// Where the energy of each device's computing comes from; that of messages is modelled always.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub energy_origin: BTreeMap<String, EnergyOrigin>,
    /// How much of that each device takes for waiting; absent where idle power does not count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub idle_nj: BTreeMap<String, Nanojoules>,
    /// Cost for a month, in millionths of the currency unit; absent without a workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money_per_month: Option<Money>,
    /// How good it is among its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Where the predicted times come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What a run measured, under the names of the prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Figures>,
    /// Frames under way at a time, where a person decided it; what else it is says
    /// [`frames_in_flight`](Self::frames_in_flight).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<NonZeroU32>,
}

/// To how many pictures a plan gives the same best class as the whole network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredAgreement {
    /// So many of so many.
    #[serde(flatten)]
    pub share: Share,
    /// Ends of Wilson's interval of 95 %, in millionths.
    pub low_ppm: u64,
    /// The upper one.
    pub high_ppm: u64,
    /// Which pictures: SHA-256 over the names and contents of their folder's files, in hex.
    pub images_sha256: String,
}

impl MeasuredAgreement {
    /// A share with its interval.
    pub fn new(share: Share, images_sha256: String) -> Self {
        let interval = share.interval();
        let [low_ppm, high_ppm] = [interval.low, interval.high].map(|end| (end * 1e6) as u64);
        Self { share, low_ppm, high_ppm, images_sha256 }
    }
}

/// Costs of a plan, predicted or measured; the four parts add up to the latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// One frame in an empty system.
    pub latency_ns: Nanos,
    /// Time per frame of the busiest resource.
    pub period_ns: Nanos,
    /// Stages on the source.
    pub edge_compute_ns: Nanos,
    /// Messages on their way to the next stage.
    pub upload_ns: Nanos,
    /// Stages on other devices.
    pub cloud_compute_ns: Nanos,
    /// Preparation, codecs, answers.
    pub rest_ns: Nanos,
}

/// What one device runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// Device name.
    pub device: String,
    /// Engine name; empty: the device's own choice.
    #[serde(default)]
    pub engine: String,
    /// Threads; 0: the device's own choice.
    #[serde(default)]
    pub threads: u32,
    /// The device that gives it its part and joins the results, where both run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_by: Option<String>,
    /// Layers, in topological order.
    pub layers: Vec<String>,
    /// Values that it receives.
    pub inputs: Vec<String>,
    /// Values that it sends on, then answers that it makes.
    pub outputs: Vec<String>,
    /// How the values that it sends on travel, the network's input apart.
    #[serde(default = "as_declared")]
    pub cut_encoding: String,
    /// Where its predicted time comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Where that time was predicted from kernels: the median of the relative error of such
    /// predictions, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_permille: Option<u64>,
    /// The same of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_error_permille: Option<u64>,
}

fn as_declared() -> String {
    TENSOR.to_owned()
}

/// A value that crosses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutValue {
    /// Name of the value.
    pub name: String,
    /// Declared size; absent where unknown.
    pub bytes: Option<Bytes>,
}

/// One part of a frame's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPart {
    /// What happens.
    pub kind: PartKind,
    /// Where, or who sends.
    pub device: String,
    /// Who receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How long it takes.
    pub time_ns: Nanos,
    /// Bytes that travel.
    pub bytes: Bytes,
    /// Whether it happens beside something slower, so that the frame does not wait for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
}

/// A decision in the planner's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// One device per group.
    pub mapping: Mapping,
    /// Stages and hops.
    pub partition: Partition,
}

impl Resolved {
    /// Position of the stage that runs each group.
    pub fn stage_of_group(&self) -> Vec<u32> {
        let mut stage_of = vec![0; self.mapping.0.len()];
        for (position, stage) in (0u32..).zip(&self.partition.stages) {
            for group in &stage.groups {
                stage_of[group.index()] = position;
            }
        }
        stage_of
    }
}

/// Why a plan file cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum PlanError {
    #[error("this is not a plan: line {line}, column {column}: {cause}")]
    Syntax { line: usize, column: usize, cause: String },
    #[error(
        "this is a list of parts, not a plan: it names no devices, so it cannot be run; name them \
         with `cutline split MODEL {at} --platform T.toml -o DIR`, or let `cutline plan` choose"
    )]
    PartsOnly { at: String },
    #[error("plan version {0} is not known; this program reads version 1")]
    Version(u32),
    #[error(
        "the plan was made for another model: it names sha256 {plan}, this model has {model}; plan again"
    )]
    OtherModel { plan: String, model: String },
    #[error("the plan's mapping has no device for layer `{0}`")]
    MissingLayer(String),
    #[error(
        "the plan maps layer `{0}`, which this model does not have or which is not placed by itself"
    )]
    UnknownLayer(String),
    #[error(
        "the plan maps layer `{layer}` to device `{device}`, which its platform does not declare"
    )]
    UnknownDevice { layer: String, device: String },
    #[error(
        "the plan maps `{first}` to `{first_device}` and `{second}` to `{second_device}`, but the \
         engines run both as one; map them to the same device"
    )]
    TornGroup { first: String, first_device: String, second: String, second_device: String },
    #[error(
        "the plan passes from `{from}` to `{to}`, but its platform declares no link between them"
    )]
    NoLink { from: String, to: String },
    #[error("the plan lets `{helper}` run a part of what `{joiner}` joins, but {why}")]
    Helper { helper: String, joiner: String, why: ScatterFault },
    #[error("a stage on `{helper}` is joined by `{joiner}`, which its platform does not declare")]
    UnknownJoiner { helper: String, joiner: String },
    #[error("a link of the plan's routes ends at `{0}`, which its platform does not declare")]
    UnknownEnd(String),
    #[error(
        "a plan among the plan's routes was changed by hand, so that nothing is known of its times; \
         plan again with --sweep"
    )]
    ChangedRoute,
    #[error("the plan's routes cannot be used")]
    Routes(#[from] TableError),
}

impl Plan {
    /// A plan file of an answer.
    pub fn new(
        model: ModelRef,
        dag: &Dag,
        costs: &Costs,
        platform: &Platform,
        request: &Request,
        answer: &Answer,
        picture: Option<PictureSpec>,
    ) -> Self {
        let planned = |choice: &Choice| {
            let decision = PlannedChoice::new(dag, costs, choice);
            PlannedChoice { id: decision.content_id(&model, picture.as_ref()), ..decision }
        };
        let baseline = |baseline: &Baseline| PlannedBaseline {
            name: baseline.name.clone(),
            lossy: baseline.lossy,
            allowed: baseline.allowed,
            infeasible: baseline.outcome.as_ref().err().map(Infeasible::to_string),
            choice: baseline.outcome.as_ref().ok().map(planned),
        };
        Plan {
            version: 1,
            platform: platform.clone(),
            objective: request.objective,
            request: request.clone(),
            baselines: answer.baselines.iter().map(baseline).collect(),
            best: answer.best.as_ref().ok().map(planned),
            best_split: answer.best_split.as_ref().ok().map(planned),
            reason: answer.reason.clone(),
            frame_interval_ns: costs.frame_interval(),
            refinement: None,
            routes: None,
            picture: picture.clone(),
            model: model.clone(),
        }
    }

    /// Adds the routes of a sweep: a table with the choice behind each of its routes.
    pub fn add_routes(&mut self, dag: &Dag, costs: &Costs, table: &Table, choices: &[Choice]) {
        let planned = |choice: &Choice| {
            let decision = PlannedChoice::new(dag, costs, choice);
            let id = decision.content_id(&self.model, self.picture.as_ref());
            PlannedChoice { id, ..decision }
        };
        let name = |device: DeviceId| costs.device(device).name.clone();
        self.routes = Some(PlannedRoutes::new(table, choices, planned, name));
    }

    /// Reads a plan for a model: checks that it is this model's, and derives anew whatever follows
    /// from its decisions.
    pub fn open(text: &str, dag: &Dag, model_sha256: &str) -> Result<Self, PlanError> {
        let mut plan: Plan =
            serde_json::from_str(text).map_err(|error| unreadable(text, &error))?;
        if plan.version != 1 {
            return Err(PlanError::Version(plan.version));
        }
        if plan.model.sha256 != model_sha256 {
            let (plan, model) = (plan.model.sha256, model_sha256.to_owned());
            return Err(PlanError::OtherModel { plan, model });
        }
        let Plan { model, platform, picture, baselines, best, best_split, routes, .. } = &mut plan;
        let baselines = baselines.iter_mut().filter_map(|baseline| baseline.choice.as_mut());
        for choice in baselines.chain(best).chain(best_split) {
            choice.rederive(dag, platform, model, picture.as_ref())?;
        }
        for route in routes.iter_mut().flat_map(|routes| &mut routes.routes) {
            route.plan.rederive(dag, platform, model, picture.as_ref())?;
            if route.plan.predicted.is_none() {
                return Err(PlanError::ChangedRoute);
            }
        }
        Ok(plan)
    }
}

/// What `cutline split --at` writes where it is given no platform; known here, so that whoever takes
/// it for a plan learns what it lacks.
#[derive(Deserialize)]
struct PartsList {
    cuts: Vec<Vec<String>>,
    #[serde(rename = "parts")]
    _parts: Vec<IgnoredAny>,
}

fn unreadable(text: &str, error: &serde_json::Error) -> PlanError {
    match serde_json::from_str::<PartsList>(text) {
        Ok(list) => {
            let cuts = list.cuts.iter().map(|cut| format!("--at {}", cut.join(",")));
            PlanError::PartsOnly { at: cuts.collect::<Vec<_>>().join(" ") }
        }
        Err(_) => PlanError::Syntax {
            line: error.line(),
            column: error.column(),
            cause: error.to_string(),
        },
    }
}

impl PlannedChoice {
    /// A planner's choice in the words of a file, without its id.
    pub fn new(dag: &Dag, costs: &Costs, choice: &Choice) -> Self {
        let Choice { mapping, setting, evaluation, proof } = choice;
        let name = |device: DeviceId| costs.device(device).name.clone();
        let layers = dag.group_ids().flat_map(|id| {
            let device = name(mapping.device(id));
            dag.group(id).layers.iter().map(move |layer| (layer.clone(), device.clone()))
        });
        let partition = setting
            .partition(dag, mapping)
            .expect("a choice was evaluated, so that its helpers can be such");
        let stages = partition.stages.iter().enumerate().map(|(position, stage)| {
            let at = stage.device.index();
            let option = &costs.device(stage.device).options[setting.engines[at]];
            let how = How {
                engine: option.engine.clone(),
                threads: option.threads,
                cut_encoding: costs.codecs()[setting.codecs[at]].name.clone(),
                origin: Some(option.origin),
                errors: [option.error_permille, option.memory_error_permille],
            };
            let joined_by = partition.helps(position).map(name);
            planned_stage(dag, stage, name(stage.device), joined_by, how)
        });
        let source = &costs.device(DeviceId::SOURCE).options;
        let part = |part: &crate::evaluate::Part| PlannedPart {
            kind: part.kind,
            device: name(part.device),
            to: part.to.map(name),
            time_ns: part.nanos,
            bytes: part.bytes,
            beside: part.beside,
        };
        PlannedChoice {
            id: String::new(),
            mapping: LayerMap(layers.collect()),
            stages: stages.collect(),
            input_encoding: costs.inputs()[setting.input].name.clone(),
            quantizations: Quantizations::new(),
            agreement: None,
            cut: cut_values(dag, &partition),
            predicted: Some(Figures::from(evaluation)),
            parts: evaluation.parts.iter().map(part).collect(),
            memory: evaluation.memory.iter().map(|used| (name(used.device), used.bytes)).collect(),
            energy_nj: evaluation
                .energy
                .iter()
                .flatten()
                .map(|used| (name(used.device), used.energy))
                .collect(),
            energy_origin: evaluation
                .energy
                .iter()
                .flatten()
                .map(|used| (name(used.device), costs.device(used.device).energy_origin))
                .collect(),
            idle_nj: evaluation
                .energy
                .iter()
                .flatten()
                .filter(|_| costs.frame_interval().is_some())
                .map(|used| (name(used.device), used.idle))
                .collect(),
            money_per_month: evaluation.money,
            proof: Some(*proof),
            origin: Some(source[setting.engines[DeviceId::SOURCE.index()]].origin),
            measured: None,
            in_flight: None,
        }
    }

    /// The decision in the planner's terms; an error where it does not fit model and platform.
    pub fn resolve(&self, dag: &Dag, platform: &Platform) -> Result<Resolved, PlanError> {
        let mapping = self.mapping.resolve(dag, platform)?;
        let (mut order, mut helpers): (Vec<DeviceId>, Vec<Helper>) = Default::default();
        for stage in &self.stages {
            let Some(device) = platform.find_device(&stage.device) else { continue };
            let Some(name) = &stage.joined_by else {
                order.push(device);
                continue;
            };
            let joiner = platform.find_device(name).ok_or_else(|| {
                let (helper, joiner) = (stage.device.clone(), name.clone());
                PlanError::UnknownJoiner { helper, joiner }
            })?;
            helpers.push((device, joiner));
        }
        let name = |id| platform.device(id).name.clone();
        let partition = derive_with_helpers(dag, &mapping, &order, &helpers);
        let partition = partition.map_err(|Misplaced { helper, joiner, why }| {
            PlanError::Helper { helper: name(helper), joiner: name(joiner), why }
        })?;
        for hop in &partition.hops {
            if platform.find_link(hop.from, hop.to).is_none() {
                return Err(PlanError::NoLink { from: name(hop.from), to: name(hop.to) });
            }
        }
        Ok(Resolved { mapping, partition })
    }

    fn rederive(
        &mut self,
        dag: &Dag,
        platform: &Platform,
        model: &ModelRef,
        picture: Option<&PictureSpec>,
    ) -> Result<(), PlanError> {
        let partition = self.resolve(dag, platform)?.partition;
        let how: BTreeMap<String, How> = std::mem::take(&mut self.stages)
            .into_iter()
            .map(|stage| {
                let errors = [stage.error_permille, stage.memory_error_permille];
                let PlannedStage { engine, threads, cut_encoding, origin, .. } = stage;
                (stage.device, How { engine, threads, cut_encoding, origin, errors })
            })
            .collect();
        let stages = partition.stages.iter().enumerate().map(|(position, stage)| {
            let device = platform.device(stage.device).name.clone();
            let how = how.get(&device).cloned().unwrap_or_default();
            let joiner = partition.helps(position).map(|id| platform.device(id).name.clone());
            planned_stage(dag, stage, device, joiner, how)
        });
        self.stages = stages.collect();
        self.cut = cut_values(dag, &partition);
        let id = self.content_id(model, picture);
        if self.id != id {
            self.id = id;
            self.agreement = None;
            self.predicted = None;
            self.parts = Vec::new();
            self.memory = BTreeMap::new();
            self.energy_nj = BTreeMap::new();
            self.energy_origin = BTreeMap::new();
            self.idle_nj = BTreeMap::new();
            self.money_per_month = None;
            self.proof = None;
            self.origin = None;
            for stage in &mut self.stages {
                (stage.origin, stage.error_permille, stage.memory_error_permille) =
                    (None, None, None);
            }
            self.measured = None;
        }
        Ok(())
    }

    /// First 16 hex digits of the SHA-256 of the decision as canonical JSON: model, mapping, engines,
    /// encodings, picture, and who joins what helpers do.
    pub fn content_id(&self, model: &ModelRef, picture: Option<&PictureSpec>) -> String {
        let how = |stage: &PlannedStage| {
            (stage.device.clone(), stage.engine.clone(), stage.threads, stage.cut_encoding.clone())
        };
        let stages: Vec<_> = self.stages.iter().map(how).collect();
        let helpers: Vec<_> = self
            .stages
            .iter()
            .filter_map(|stage| Some((&stage.device, stage.joined_by.as_ref()?)))
            .collect();
        let mut decision = serde_json::json!({
            "model": model.sha256,
            "mapping": self.mapping.0,
            "stages": stages,
            "input_encoding": self.input_encoding,
            "picture": picture,
        });
        if !helpers.is_empty() {
            decision["joined_by"] = serde_json::json!(helpers);
        }
        if !self.quantizations.is_empty() {
            decision["quantizations"] = serde_json::json!(self.quantizations);
        }
        hex(&Sha256::digest(decision.to_string().as_bytes())[..8])
    }

    /// How the values between its stages travel; an error where a codec is one of a table of costs.
    pub fn codecs(&self) -> Result<CutCodecs, UnknownCutEncoding> {
        let stages = self.stages.iter().map(|stage| stage.cut_encoding.parse());
        let quantizations = self.quantizations.clone();
        Ok(CutCodecs { stages: stages.collect::<Result<_, _>>()?, quantizations })
    }

    /// Says what the bytes of its quantised values stand for; that is part of the decision.
    pub fn quantise(
        &mut self,
        quantizations: Quantizations,
        model: &ModelRef,
        picture: Option<&PictureSpec>,
    ) {
        self.quantizations = quantizations;
        self.id = self.content_id(model, picture);
    }
}

impl From<&Evaluation> for Figures {
    fn from(evaluation: &Evaluation) -> Self {
        Figures {
            latency_ns: evaluation.latency,
            period_ns: evaluation.period,
            edge_compute_ns: evaluation.edge_compute(),
            upload_ns: evaluation.upload(),
            cloud_compute_ns: evaluation.cloud_compute(),
            rest_ns: evaluation.rest(),
        }
    }
}

/// What a stage chooses besides its layers.
#[derive(Clone)]
struct How {
    engine: String,
    threads: u32,
    cut_encoding: String,
    origin: Option<Origin>,
    /// Of predicted times, of predicted memory.
    errors: [Option<u64>; 2],
}

impl Default for How {
    /// The device's own engine, values as they are.
    fn default() -> Self {
        How {
            engine: String::new(),
            threads: 0,
            cut_encoding: as_declared(),
            origin: None,
            errors: [None; 2],
        }
    }
}

fn planned_stage(
    dag: &Dag,
    stage: &Stage,
    device: String,
    joined_by: Option<String>,
    how: How,
) -> PlannedStage {
    let names = |flows: &[FlowId]| -> Vec<String> {
        flows.iter().map(|&flow| dag.flow(flow).name.clone()).collect()
    };
    let layers = |&group: &GroupId| dag.group(group).layers.clone();
    let mut outputs = names(&stage.sends);
    outputs.extend(
        names(&stage.answers).into_iter().filter(|answer| !names(&stage.sends).contains(answer)),
    );
    PlannedStage {
        device,
        engine: how.engine,
        threads: how.threads,
        joined_by,
        layers: stage.groups.iter().flat_map(layers).collect(),
        inputs: names(&stage.receives),
        outputs,
        cut_encoding: how.cut_encoding,
        origin: how.origin,
        error_permille: how.errors[0],
        memory_error_permille: how.errors[1],
    }
}

fn cut_values(dag: &Dag, partition: &Partition) -> Vec<CutValue> {
    let mut flows: Vec<FlowId> =
        partition.hops.iter().flat_map(|hop| hop.message.iter().copied()).collect();
    flows.sort_unstable();
    flows.dedup();
    let value = |flow: FlowId| {
        let flow = dag.flow(flow);
        CutValue { name: flow.name.clone(), bytes: flow.bytes }
    };
    flows.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests;
