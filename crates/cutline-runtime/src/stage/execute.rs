//! Computing one stage: picture, model, and what goes on from there; for one frame, or for several
//! of which the model is computed at once.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use cutline_core::tensor::DType;

use super::{
    Coded, Content, ModelSpec, Named, NextStage, PICTURE_INPUT, Stage, StageError, batch, content,
    prepare,
};
use crate::{
    engine::{Engine, EngineError, LoadOptions, ModelSource, Session},
    pace::{Pacer, Slowdown},
    tensor::Tensor,
};

/// A stage's loaded model with the pace of its device; what one thread owns.
pub struct StageSession {
    session: Option<Box<dyn Session>>,
    /// Most frames that the session takes at once.
    at_once: usize,
    pacer: Pacer,
    /// What each call of the engine takes, where that does not depend on this machine.
    call_time: Option<Duration>,
}

/// What a stage made of a frame.
#[derive(Debug)]
pub struct Executed {
    /// What is there to be sent on.
    pub made: Made,
    /// Values that the stage answers and that exist here.
    pub answers: Vec<(String, Tensor)>,
    /// Time of picture preparation, pacing included.
    pub prepare: Duration,
    /// Time of the engine's call, pacing included; of frames that were computed together, of all
    /// that was done for any of them but this one's preparation.
    pub compute: Duration,
    /// How many frames were computed together.
    pub frames: usize,
}

/// What was done for frames together: one of an engine's calls, with what came before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How many frames.
    pub frames: usize,
    /// Time of picture preparation, pacing included.
    pub prepare: Duration,
    /// Time of everything else.
    pub compute: Duration,
}

/// Values that a stage has once it has computed, by name.
#[derive(Debug, Default)]
pub struct Made {
    values: Values,
    /// The network's input in the form in which it travels, where that is another one.
    encoded: Option<Named>,
}

impl Made {
    /// Adds what branches made.
    pub fn add(&mut self, values: impl IntoIterator<Item = (String, Tensor)>) {
        let values = values.into_iter();
        self.values.extend(values.map(|(name, tensor)| (name, Content::Tensor(tensor))));
    }

    /// What a stage is called with, in the order of [`NextStage::sends`].
    pub fn of(&self, stage: &Stage, call: &NextStage) -> Result<Vec<Named>, StageError> {
        let missing = |name: &&String| self.get(name, call.here).is_none();
        match call.sends.iter().find(missing) {
            Some(name) => Err(stage.result_error(format!("`{name}` was not made"))),
            None => Ok(self.known(call)),
        }
    }

    /// As much of that as is there.
    pub fn known(&self, call: &NextStage) -> Vec<Named> {
        let known = |name: &String| Some((name.clone(), self.get(name, call.here)?.clone()));
        call.sends.iter().filter_map(known).collect()
    }

    fn get(&self, name: &String, here: bool) -> Option<&Content> {
        let encoded = self.encoded.as_ref().filter(|(encoded, _)| encoded == name && !here);
        encoded.map(|(_, content)| content).or_else(|| self.values.get(name))
    }
}

/// How values go to the next stage that are meant to be sent in the entropy code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// As they are: the next stage's agent does not say that it reads the code.
    Plain,
    /// In the code.
    EntropyCoded,
}

/// The values that a stage has, by name.
type Values = BTreeMap<String, Content>;

/// What a stage made of a frame, and what it answers.
type Sent = (Made, Vec<(String, Tensor)>);

/// A frame whose inputs are as the model reads them.
struct Ready {
    values: Values,
    sending: Sending,
    /// Values that arrived in the code in which they go on.
    arrived: BTreeMap<String, Coded>,
    /// The input in the form in which it goes on, where that differs.
    encoded: Option<Named>,
    prepare: Duration,
    /// Time in the entropy code.
    coding: Duration,
}

impl StageSession {
    /// Loads the stage's model, if it has one, at `source`.
    pub fn load(
        engine: &dyn Engine,
        source: &ModelSource,
        options: LoadOptions,
        slowdown: Slowdown,
    ) -> Result<Self, EngineError> {
        let session = Some(engine.load(source, options)?);
        Ok(Self { session, at_once: 1, pacer: Pacer::new(slowdown), call_time: None })
    }

    /// For a stage that only prepares and forwards.
    pub fn without_model(slowdown: Slowdown) -> Self {
        Self { session: None, at_once: 1, pacer: Pacer::new(slowdown), call_time: None }
    }

    /// From now on each call of the engine on one frame takes this long, in place of so many times as
    /// long as here.
    pub(crate) fn fix_call_time(&mut self, call_time: Option<Duration>) {
        self.call_time = call_time;
    }

    /// From now on the same model is run by this session, which takes so many frames at once.
    pub(crate) fn take_at_once(&mut self, frames: usize, session: Box<dyn Session>) {
        self.session = Some(session);
        self.at_once = frames.max(1);
    }

    /// The loaded model.
    pub(crate) fn session(&mut self) -> Option<&mut dyn Session> {
        match &mut self.session {
            Some(session) => Some(session.as_mut()),
            None => None,
        }
    }

    /// Most frames that are worth computing at once; 1 if they are computed one by one.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Runs the model alone, as [`execute`](Self::execute) does, and says how long it took: what a
    /// profile measures, so that profile and service cannot differ.
    pub fn time(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<(Vec<Tensor>, Duration), EngineError> {
        let Some(session) = &mut self.session else { return Ok(Default::default()) };
        let (result, took) =
            run((&mut self.pacer, self.call_time), session.as_mut(), inputs, outputs);
        Ok((result?, took))
    }

    /// Runs the stage on inputs that [`Stage::bind`] accepted.
    pub fn execute(
        &mut self,
        stage: &Stage,
        inputs: Vec<Named>,
        sending: Sending,
    ) -> Result<Executed, StageError> {
        let (mut results, _) = self.execute_all(stage, vec![(inputs, sending)]);
        results.pop().unwrap_or_else(|| Err(stage.result_error("nothing was computed")))
    }

    /// Runs the stage on several frames, as many of them at once as its session takes. What is wrong
    /// with one of them fails that one only. Also says what was done together.
    pub fn execute_all(
        &mut self,
        stage: &Stage,
        frames: Vec<(Vec<Named>, Sending)>,
    ) -> (Vec<Result<Executed, StageError>>, Vec<Ran>) {
        let mut results = BTreeMap::new();
        let mut ran = Vec::new();
        let mut waiting = VecDeque::with_capacity(frames.len());
        for (at, (inputs, sending)) in frames.into_iter().enumerate() {
            match self.make_ready(stage, inputs, sending) {
                Ok(frame) => waiting.push_back((at, frame)),
                Err(error) => drop(results.insert(at, Err(error))),
            }
        }
        while let Some((at, first)) = waiting.pop_front() {
            let (mut places, mut together, mut later) = (vec![at], vec![first], VecDeque::new());
            for (at, frame) in waiting {
                if together.len() < self.at_once && are_alike(stage, &together[0], &frame) {
                    places.push(at);
                    together.push(frame);
                } else {
                    later.push_back((at, frame));
                }
            }
            waiting = later;
            results.extend(places.into_iter().zip(self.run_alike(stage, together, &mut ran)));
        }
        (results.into_values().collect(), ran)
    }

    /// Decodes what came in and makes the input of a picture.
    fn make_ready(
        &mut self,
        stage: &Stage,
        inputs: Vec<Named>,
        sending: Sending,
    ) -> Result<Ready, StageError> {
        let mut values: Values = inputs.into_iter().collect();
        let (arrived, coding) = self.pacer.pace(|| decode(stage, &mut values, sending));
        let arrived = arrived?;
        let mut prepare = Duration::ZERO;
        let mut encoded = None;
        if let Some(picture) = &stage.spec().picture {
            let (result, took) = self.pacer.pace(|| prepare::prepare(stage, picture, &mut values));
            encoded = result?;
            prepare = took;
        }
        Ok(Ready { values, sending, arrived, encoded, prepare, coding })
    }

    /// Runs frames that are alike, together if they are several.
    fn run_alike(
        &mut self,
        stage: &Stage,
        mut frames: Vec<Ready>,
        ran: &mut Vec<Ran>,
    ) -> Vec<Result<Executed, StageError>> {
        let computed = match frames.as_mut_slice() {
            [alone] => self.compute(stage, &mut alone.values),
            all => self.compute_together(stage, all),
        };
        let several = frames.len() > 1;
        let took = match computed {
            Ok(took) => took,
            Err(_) if several => {
                // Whose fault it is shows when each is computed alone.
                let alone = |frame| self.run_alike(stage, vec![frame], ran);
                let results: Vec<_> = frames.into_iter().flat_map(alone).collect();
                if results.iter().all(Result::is_ok) {
                    self.at_once = 1;
                }
                return results;
            }
            Err(error) => return vec![Err(error)],
        };
        let sent: Vec<_> = frames.iter_mut().map(|frame| self.finish(stage, frame)).collect();
        let prepare: Duration = frames.iter().map(|frame| frame.prepare).sum();
        let compute = took + frames.iter().map(|frame| frame.coding).sum::<Duration>();
        let count = frames.len();
        ran.push(Ran { frames: count, prepare, compute });
        let results = frames.into_iter().zip(sent).map(|(frame, (made, answers))| {
            let others = prepare - frame.prepare;
            Ok(Executed {
                made,
                answers,
                prepare: frame.prepare,
                compute: compute + others,
                frames: count,
            })
        });
        results.collect()
    }

    /// What goes on from a frame whose values are all there.
    fn finish(&mut self, stage: &Stage, frame: &mut Ready) -> Sent {
        let values = &mut frame.values;
        let answers =
            stage.spec().answers.iter().filter_map(|answer| match values.get(&answer.name)? {
                Content::Tensor(tensor) => Some((answer.name.clone(), tensor.clone())),
                Content::Bytes(_) | Content::Coded(_) => None,
            });
        let answers = answers.collect();
        if frame.sending == Sending::EntropyCoded && codes_any(stage) {
            let arrived = std::mem::take(&mut frame.arrived);
            let ((), took) = self.pacer.pace(|| encode(stage, values, arrived));
            frame.coding += took;
        }
        values.retain(|name, _| stage.calls().any(|call| call.sends.contains(name)));
        let made = Made { values: std::mem::take(values), encoded: frame.encoded.take() };
        (made, answers)
    }

    /// Runs the model on the values of one frame and adds what it made.
    fn compute(&mut self, stage: &Stage, values: &mut Values) -> Result<Duration, StageError> {
        let (Some(model), Some(session)) = (&stage.spec().model, &mut self.session) else {
            return Ok(Duration::ZERO);
        };
        let mut inputs = Vec::with_capacity(model.inputs.len());
        for name in &model.inputs {
            inputs.push((name.as_str(), input_tensor(stage, values, name)?));
        }
        let names = output_names(model);
        let (result, took) =
            run((&mut self.pacer, self.call_time), session.as_mut(), &inputs, &names);
        let tensors = checked(stage, result, names.len())?;
        add_made(stage, model, values, tensors)?;
        Ok(took)
    }

    /// Runs the model on the values of several frames at once and adds what it made of each.
    fn compute_together(
        &mut self,
        stage: &Stage,
        frames: &mut [Ready],
    ) -> Result<Duration, StageError> {
        let (Some(model), Some(session)) = (&stage.spec().model, &mut self.session) else {
            return Ok(Duration::ZERO);
        };
        let names = output_names(model);
        let (result, took) = self.pacer.pace(|| {
            let mut inputs = Vec::with_capacity(model.inputs.len());
            for name in &model.inputs {
                let tensors = frames.iter().map(|frame| input_tensor(stage, &frame.values, name));
                let tensors: Vec<&Tensor> = tensors.collect::<Result<_, _>>()?;
                let stacked = batch::stack(&tensors);
                inputs.push((name, stacked.map_err(|e| stage.input_error(e.to_string()))?));
            }
            let inputs: Vec<(&str, &Tensor)> =
                inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            checked(stage, session.run(&inputs, &names), names.len())
        });
        let mut made: Vec<Vec<Tensor>> = frames.iter().map(|_| Vec::new()).collect();
        for (tensor, name) in result?.iter().zip(&names) {
            let apart = batch::unstack(tensor, frames.len()).ok_or_else(|| {
                let shape = tensor.shape();
                stage.result_error(format!("`{name}` of {} frames is {shape}", frames.len()))
            })?;
            made.iter_mut().zip(apart).for_each(|(of_frame, tensor)| of_frame.push(tensor));
        }
        for (frame, tensors) in frames.iter_mut().zip(made) {
            add_made(stage, model, &mut frame.values, tensors)?;
        }
        Ok(took)
    }
}

/// Whether the models of two frames can be run as one: they read tensors of the same kinds.
fn are_alike(stage: &Stage, one: &Ready, other: &Ready) -> bool {
    let kind = |frame: &'_ Ready, name: &str| match frame.values.get(name) {
        Some(Content::Tensor(tensor)) => {
            batch::kind(tensor).map(|(dtype, shape)| (dtype, shape.clone()))
        }
        _ => None,
    };
    stage.spec().model.as_ref().is_some_and(|model| {
        let mut names = model.inputs.iter();
        names.all(|name| kind(one, name).is_some_and(|kinds| Some(kinds) == kind(other, name)))
    })
}

fn input_tensor<'a>(
    stage: &Stage,
    values: &'a Values,
    name: &str,
) -> Result<&'a Tensor, StageError> {
    match values.get(name) {
        Some(Content::Tensor(tensor)) => Ok(tensor),
        _ => Err(stage.input_error(format!("`{name}` is not a tensor"))),
    }
}

fn output_names(model: &ModelSpec) -> Vec<&str> {
    model.outputs.iter().map(|output| output.name.as_str()).collect()
}

/// The results of a run, as many as were asked for.
fn checked(
    stage: &Stage,
    result: Result<Vec<Tensor>, EngineError>,
    wanted: usize,
) -> Result<Vec<Tensor>, StageError> {
    let tensors =
        result.map_err(|source| StageError::Engine { stage: stage.spec().name.clone(), source })?;
    match tensors.len() {
        got if got != wanted => {
            Err(stage.result_error(format!("{got} tensors where {wanted} were asked for")))
        }
        _ => Ok(tensors),
    }
}

/// Adds what the model made of a frame to its values.
fn add_made(
    stage: &Stage,
    model: &ModelSpec,
    values: &mut Values,
    tensors: Vec<Tensor>,
) -> Result<(), StageError> {
    for (tensor, declared) in tensors.into_iter().zip(&model.outputs) {
        if !declared.admits(&tensor) {
            return Err(stage.result_error(format!(
                "`{}` is {}, declared is {}",
                declared.name,
                content::describe(tensor.dtype(), tensor.shape()),
                declared.describe()
            )));
        }
        values.insert(declared.name.clone(), Content::Tensor(tensor));
    }
    Ok(())
}

/// Whether anything that a stage sends is meant to be coded.
fn codes_any(stage: &Stage) -> bool {
    stage.calls().any(|call| !call.entropy_coded.is_empty())
}

/// Decodes the values that are needed as tensors here, or that go on as they are; returns the codes
/// that came of those that go on in the code, so that they are not made again.
fn decode(
    stage: &Stage,
    values: &mut Values,
    sending: Sending,
) -> Result<BTreeMap<String, Coded>, StageError> {
    let mut arrived = BTreeMap::new();
    for (name, content) in values {
        let Content::Coded(coded) = content else { continue };
        if stage.sends_code(name, sending) {
            arrived.insert(name.clone(), coded.clone());
        }
        if stage.decodes(name, sending) {
            let tensor =
                coded.tensor().map_err(|error| stage.input_error(format!("`{name}`: {error}")))?;
            *content = Content::Tensor(tensor);
        }
    }
    Ok(arrived)
}

/// Codes what is to be sent so.
fn encode(stage: &Stage, values: &mut Values, mut arrived: BTreeMap<String, Coded>) {
    for name in stage.calls().flat_map(|call| &call.entropy_coded) {
        let Some(content) = values.get_mut(name) else { continue };
        let Content::Tensor(tensor) = &*content else { continue };
        // What is not made of bytes is sent as it is, and read as such.
        if let Some(coded) = arrived.remove(name).or_else(|| Coded::of(tensor)) {
            *content = Content::Coded(coded);
        }
    }
}

fn run(
    (pacer, call_time): (&mut Pacer, Option<Duration>),
    session: &mut dyn Session,
    inputs: &[(&str, &Tensor)],
    outputs: &[&str],
) -> (Result<Vec<Tensor>, EngineError>, Duration) {
    let work = || session.run(inputs, outputs);
    match call_time {
        Some(fixed) => pacer.pace_fixed(fixed, work),
        None => pacer.pace(work),
    }
}

impl Stage {
    /// Whether this input is needed as a tensor: the model reads it, the stage answers it as it is, or
    /// a stage on the same agent is called with it.
    pub(super) fn needs_tensor(&self, name: &str) -> bool {
        let spec = self.spec();
        let is = |known: &String| known == name;
        spec.model.iter().flat_map(|model| &model.inputs).any(is)
            || spec.answers.iter().any(|answer| answer.name == name)
            || self.calls().filter(|call| call.here).any(|call| call.sends.iter().any(is))
    }

    /// Whether this value goes on in the code.
    fn sends_code(&self, name: &String, sending: Sending) -> bool {
        sending == Sending::EntropyCoded
            && self.calls().any(|call| call.entropy_coded.contains(name))
    }

    /// Whether a tensor is made of this value where it came in the code.
    fn decodes(&self, name: &String, sending: Sending) -> bool {
        let goes_on = self.calls().any(|call| call.sends.contains(name));
        self.needs_tensor(name) || goes_on && !self.sends_code(name, sending)
    }

    /// Bytes of the tensors that are made of values in the code, beside the values themselves.
    pub(crate) fn decoded_bytes(&self, values: &[Named], sending: Sending) -> u64 {
        let sizes = values.iter().map(|(name, content)| match content {
            Content::Coded(coded) if self.decodes(name, sending) => coded.decoded_bytes(),
            _ => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Checks that the values are exactly the stage's inputs, or its picture in place of one.
    pub fn bind(&self, values: Vec<Named>) -> Result<Vec<Named>, StageError> {
        let spec = self.spec();
        let mut seen: BTreeMap<&str, &Content> = BTreeMap::new();
        for (name, content) in &values {
            if seen.insert(name, content).is_some() {
                return Err(self.input_error(format!("`{}` comes twice", super::clip(name))));
            }
        }
        let picture = match &spec.picture {
            Some(picture) if seen.contains_key(PICTURE_INPUT) => {
                if seen.contains_key(picture.input.as_str()) {
                    let reason = format!("`{PICTURE_INPUT}` and `{}` both came", picture.input);
                    return Err(self.input_error(reason));
                }
                self.check_picture_file(seen.remove(PICTURE_INPUT).expect("looked up above"))?;
                Some(picture.input.as_str())
            }
            _ => None,
        };
        for input in &spec.inputs {
            match seen.remove(input.name.as_str()) {
                Some(content) => self.check_input(input, content)?,
                None if picture == Some(input.name.as_str()) => {}
                None => {
                    let reason = format!("`{}` is missing: {}", input.name, self.expectation());
                    return Err(self.input_error(reason));
                }
            }
        }
        match seen.keys().next() {
            Some(name) => Err(self.input_error(format!(
                "`{}` is not an input: {}",
                super::clip(name),
                self.expectation()
            ))),
            None => Ok(values),
        }
    }

    fn check_picture_file(&self, content: &Content) -> Result<(), StageError> {
        match content {
            Content::Tensor(tensor) if tensor.dtype() != DType::U8 => {
                Err(self.input_error(format!(
                    "`{PICTURE_INPUT}` is {}, expected a JPEG or PNG file as one BYTES element or \
                     as UINT8",
                    content::describe(tensor.dtype(), tensor.shape())
                )))
            }
            Content::Coded(_) => Err(self.input_error(format!(
                "`{PICTURE_INPUT}` is in the entropy code, expected a JPEG or PNG file"
            ))),
            _ => Ok(()),
        }
    }

    fn check_input(&self, input: &super::TensorSpec, content: &Content) -> Result<(), StageError> {
        if let Content::Coded(coded) = content {
            return match input.admits_coded(coded) {
                true => Ok(()),
                false => Err(self.input_error(format!(
                    "`{}` is {} in the entropy code, expected {}",
                    input.name,
                    content::describe(DType::U8, coded.shape()),
                    input.describe()
                ))),
            };
        }
        let pictured = self.spec().picture.as_ref().filter(|picture| picture.input == input.name);
        if let Some(picture) = pictured {
            return prepare::check(picture, input, content)
                .map_err(|reason| self.input_error(reason));
        }
        let Content::Tensor(tensor) = content else {
            let reason = format!("`{}` is BYTES, expected {}", input.name, input.describe());
            return Err(self.input_error(reason));
        };
        if !input.admits(tensor) {
            return Err(self.input_error(format!(
                "`{}` is {}, expected {}",
                input.name,
                content::describe(tensor.dtype(), tensor.shape()),
                input.describe()
            )));
        }
        Ok(())
    }

    fn expectation(&self) -> String {
        let inputs = self.spec().inputs.iter().take(8);
        let mut names: Vec<String> =
            inputs.map(|input| format!("`{}` ({})", input.name, input.describe())).collect();
        if self.spec().inputs.len() > names.len() {
            names.push("…".to_owned());
        }
        if let Some(picture) = &self.spec().picture {
            names.push(format!("`{PICTURE_INPUT}` (a file) in place of `{}`", picture.input));
        }
        format!("expected {}", names.join(", "))
    }
}
