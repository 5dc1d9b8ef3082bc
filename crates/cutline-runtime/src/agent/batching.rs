//! Whether a stage's model computes several frames at once, and whether that pays: found out when the
//! stage is loaded, where the agent is told to try.
//!
//! ```text
//! model ─▶ first axes open? ─▶ same answers? ─▶ more frames per second? ─▶ so many at once
//!              no ───────────────── no ──────────────── no ──────────────▶ one by one, and why
//! ```
//!
//! Nothing of it is taken for granted: shapes say only which models could, and on a processor most
//! convolutions gain nothing, whereas a layer that reads many weights for little work reads them once
//! for all frames.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use cutline_core::{
    onnx::{BatchError, ImportOptions, open_batch},
    split::{Format, encode_beside},
    tensor::DType,
};
use thiserror::Error;

use super::memory::{Budget, MemoryError, Reservation};
use crate::{
    engine::{self, Engine, EngineError, LoadOptions, ModelSource, Session},
    files::{self, FileError},
    model::{Model, ModelError},
    stage::{ModelSpec, StageSession, batch, chain},
    tensor::{Tensor, TensorError},
    verify::{self, VerifyError},
};

/// Most frames that an agent may be told to compute at once.
pub const MOST_AT_ONCE: usize = 64;

/// Longest time that runs for the comparison of speeds may take, but for what one of them exceeds it.
const PATIENCE: Duration = Duration::from_secs(6);

/// Rounds of runs of every number of frames, of which the first counts for nothing and the fastest run
/// of the others counts: never fewer than the first number, usually the second, more where they are
/// over in no time.
const ROUNDS: [u32; 3] = [3, 6, 100];

/// Time in which there may be more rounds than usual.
const NO_TIME: Duration = Duration::from_millis(500);

/// By how much more frames per second must come of twice the frames at once.
const GAIN: f64 = 1.05;

/// How much slower a single frame may be by the session that takes several.
const LOSS: f64 = 1.05;

/// How frames are computed, and what was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    /// Most frames at once; 1: one by one.
    pub(super) at_once: usize,
    /// Why so, in words for people.
    pub(super) finding: String,
}

impl Batching {
    /// One by one, for this reason.
    pub(super) fn none(why: impl ToString) -> Self {
        Self { at_once: 1, finding: why.to_string() }
    }
}

/// Why frames are computed one by one although several at once are allowed.
#[derive(Debug, Error)]
enum Refusal {
    #[error("the model does not open again")]
    Model(#[from] ModelError),
    #[error("{0} runs TensorFlow Lite files, which are for one frame")]
    OneFrame(String),
    #[error("the model is for one frame")]
    Shapes(#[from] BatchError),
    #[error("there is no memory for more")]
    Memory(#[from] MemoryError),
    #[error("there is no room for the model of several")]
    File(#[from] FileError),
    #[error("the engine refuses the model of several")]
    Engine(#[from] EngineError),
    #[error("no inputs to try it with")]
    Inputs(#[from] VerifyError),
    #[error("its inputs do not lie behind each other")]
    Stack(#[from] TensorError),
    #[error(
        "{frames} at once answer otherwise than each alone: `{output}` differs by {relative:.1e} of \
         its largest value"
    )]
    Differs { output: String, frames: usize, relative: f64 },
    #[error("of {frames} at once, `{output}` has not that many answers")]
    Answers { output: String, frames: usize },
    #[error("a frame takes {0:?}, too long to try several")]
    Slow(Duration),
    #[error("several at once do not pay ({0})")]
    NoGain(String),
    #[error("for several at once each alone would be slower ({0})")]
    Loss(String),
    #[error("the agent is ending")]
    Ending,
}

/// A stage's model, and what may be done to find out.
pub(super) struct Trial<'a> {
    /// Where it lies.
    pub(super) path: &'a Path,
    /// What its stage says of it.
    pub(super) model: &'a ModelSpec,
    /// Its engine, as it loaded the model for one frame.
    pub(super) engine: &'a dyn Engine,
    pub(super) options: LoadOptions,
    /// Most frames at once; at least 1.
    pub(super) most: usize,
    /// Bytes of its files.
    pub(super) file_bytes: u64,
    /// The device's memory, of which frames that are computed together take more.
    pub(super) memory: &'a Arc<Budget>,
}

impl Trial<'_> {
    /// Finds out, and has the session take as many frames at once as pay. Every run has the device to
    /// itself by `take_slot`. Memory for them is returned.
    pub(super) fn settle<S>(
        &self,
        session: &mut StageSession,
        take_slot: impl Fn() -> Option<S>,
    ) -> (Batching, Option<Reservation>) {
        match self.find_out(session, take_slot) {
            Ok((at_once, finding, memory)) => (Batching { at_once, finding }, Some(memory)),
            Err(refusal) => (Batching::none(chain(&refusal)), None),
        }
    }

    fn find_out<S>(
        &self,
        session: &mut StageSession,
        take_slot: impl Fn() -> Option<S>,
    ) -> Result<(usize, String, Reservation), Refusal> {
        if engine::part_format(self.engine.name()) == Format::Tflite {
            return Err(Refusal::OneFrame(self.engine.name().to_owned()));
        }
        let model = Model::open(self.path, &ImportOptions::default())?;
        let opened = open_batch(&model.proto)?;
        let what = "a second copy of the model, to try several frames at once";
        let second = self.model.memory.parameter_bytes.max(self.file_bytes);
        let second = self.memory.reserve(second, what)?;
        let mut memory = self.room(self.most)?;
        let file = files::write_model_beside(self.path, &encode_beside(&opened), &model)?;
        let source = ModelSource::File(file.to_path_buf());
        let mut several = self.engine.load(&source, self.options)?;
        let mut bench = Bench::new(&model, self.model, take_slot)?;
        drop((model, opened, file));
        let Some(single) = session.session() else { return Err(Refusal::Ending) };
        let sizes = sizes(memory.1);
        let (at_once, finding) = bench.race(single, several.as_mut(), &sizes)?;
        memory.0.shrink(self.activations(at_once));
        session.take_at_once(at_once, several);
        drop(second);
        Ok((at_once, finding, memory.0))
    }

    /// Memory of as many frames at once as there is room for, beside that of one.
    fn room(&self, most: usize) -> Result<(Reservation, usize), MemoryError> {
        let what = format!("the activations of {most} frames at once");
        match self.memory.reserve(self.activations(most), &what) {
            Err(_) if most > 3 => self.room(most / 2),
            reserved => Ok((reserved?, most)),
        }
    }

    /// What so many frames take beside one.
    fn activations(&self, frames: usize) -> u64 {
        let more = frames.saturating_sub(1) as u64;
        self.model.memory.activation_bytes.saturating_mul(more)
    }
}

/// Numbers of frames to try, each twice the one before, up to the most.
fn sizes(most: usize) -> Vec<usize> {
    let doubled = std::iter::successors(Some(2), |&frames: &usize| frames.checked_mul(2));
    let mut sizes: Vec<usize> = doubled.take_while(|&frames| frames < most).collect();
    sizes.extend((most > 1).then_some(most));
    sizes
}

/// Two frames that are not alike, and what to run on them.
struct Bench<'a, F> {
    frames: [Vec<(String, Tensor)>; 2],
    outputs: Vec<&'a str>,
    take_slot: F,
}

impl<'a, S, F: Fn() -> Option<S>> Bench<'a, F> {
    fn new(model: &Model, spec: &'a ModelSpec, take_slot: F) -> Result<Self, VerifyError> {
        let random = |seed| Ok(verify::random_inputs(&model.graph, seed)?.into_iter().collect());
        let frames = [random(1)?, random(2)?];
        let outputs = spec.outputs.iter().map(|output| output.name.as_str()).collect();
        Ok(Self { frames, outputs, take_slot })
    }

    /// The largest of these numbers of frames that pays, with the speeds that say so.
    fn race(
        &mut self,
        single: &mut dyn Session,
        several: &mut dyn Session,
        sizes: &[usize],
    ) -> Result<(usize, String), Refusal> {
        let mut alone = Vec::new();
        let mut fastest = Duration::MAX;
        for at in [0, 1] {
            let (tensors, took) = self.run(single, 1, at)?;
            alone.push(tensors);
            fastest = fastest.min(took);
        }
        let mut sizes = sizes.to_vec();
        let fits = |sizes: &[usize]| {
            let frames = 2 + sizes.iter().sum::<usize>();
            fastest.saturating_mul(ROUNDS[0].saturating_mul(frames as u32)) <= PATIENCE
        };
        while !fits(&sizes) {
            sizes.pop();
        }
        if sizes.is_empty() {
            return Err(Refusal::Slow(fastest));
        }
        let mut by_single = Fastest::default();
        let mut by_size: Vec<(usize, Fastest)> =
            std::iter::once(1).chain(sizes).map(|size| (size, Fastest::default())).collect();
        let began = Instant::now();
        for round in 0..ROUNDS[2] {
            let over = |rounds, time| round >= rounds && began.elapsed() > time;
            if over(ROUNDS[0], PATIENCE) || over(ROUNDS[1], NO_TIME) {
                break;
            }
            by_single.take(round, self.run(single, 1, 0)?.1);
            for (frames, fastest) in &mut by_size {
                let (tensors, took) = self.run(several, *frames, 0)?;
                fastest.take(round, took);
                if round == 0 {
                    self.compare(&alone, &tensors, *frames)?;
                }
            }
        }
        judge(by_single.0, &by_size.into_iter().map(|(n, time)| (n, time.0)).collect::<Vec<_>>())
    }

    /// Runs a session on so many frames, which take turns from number `first` on.
    fn run(
        &self,
        session: &mut dyn Session,
        frames: usize,
        first: usize,
    ) -> Result<(Vec<Tensor>, Duration), Refusal> {
        let _slot = (self.take_slot)().ok_or(Refusal::Ending)?;
        let began = Instant::now();
        let mut inputs = Vec::with_capacity(self.frames[0].len());
        for (at, (name, _)) in self.frames[0].iter().enumerate() {
            let of_frame = |frame: usize| &self.frames[(first + frame) % 2][at].1;
            let tensors: Vec<&Tensor> = (0..frames).map(of_frame).collect();
            inputs.push((name.as_str(), batch::stack(&tensors)?));
        }
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, t)| (*name, t)).collect();
        let tensors = session.run(&inputs, &self.outputs)?;
        Ok((tensors, began.elapsed()))
    }

    /// Whether every frame was answered as it is alone.
    fn compare(
        &self,
        alone: &[Vec<Tensor>],
        together: &[Tensor],
        frames: usize,
    ) -> Result<(), Refusal> {
        for (at, (output, tensor)) in self.outputs.iter().zip(together).enumerate() {
            let wrong = || Refusal::Answers { output: (*output).to_owned(), frames };
            let apart = batch::unstack(tensor, frames).ok_or_else(wrong)?;
            for (frame, tensor) in apart.iter().enumerate() {
                let expected = alone[frame % 2].get(at).ok_or_else(wrong)?;
                let diff = verify::compare(output, expected, tensor).map_err(|_| wrong())?;
                let relative = diff.relative();
                if diff.max_abs_diff > tolerance(expected.dtype(), diff.max_abs) {
                    let output = (*output).to_owned();
                    return Err(Refusal::Differs { output, frames, relative });
                }
            }
        }
        Ok(())
    }
}

/// How far an answer may be from that of a frame alone, whose largest value is given: what comes of
/// another order of summation, rounded to the type; one step of quantised values, none of numbers
/// that count.
fn tolerance(dtype: DType, largest: f64) -> f64 {
    match dtype {
        DType::F32 | DType::F64 => largest * 1e-4,
        DType::F16 => largest * 1e-3,
        DType::BF16 => largest * 1e-2,
        DType::U8 | DType::I8 => 1.0,
        _ => 0.0,
    }
}

/// The shortest time of all rounds but the first.
#[derive(Debug)]
struct Fastest(Duration);

impl Default for Fastest {
    fn default() -> Self {
        Self(Duration::MAX)
    }
}

impl Fastest {
    fn take(&mut self, round: u32, took: Duration) {
        if round > 0 {
            self.0 = self.0.min(took);
        }
    }
}

/// The largest number of frames that each gives more frames per second than the next smaller one
/// that does. `by_size` begins with one frame by the session that takes several.
fn judge(single: Duration, by_size: &[(usize, Duration)]) -> Result<(usize, String), Refusal> {
    let rate = |frames: usize, took: Duration| frames as f64 / took.as_secs_f64().max(1e-9);
    let mut kept = (1, rate(1, single));
    for &(frames, took) in by_size.iter().filter(|(frames, _)| *frames > 1) {
        if rate(frames, took) >= kept.1 * GAIN {
            kept = (frames, rate(frames, took));
        }
    }
    let of = |&(frames, took): &(usize, Duration)| format!("{frames}: {:.1}", rate(frames, took));
    let of_several = by_size.iter().filter(|(frames, _)| *frames > 1).map(of);
    let speeds: Vec<String> = std::iter::once(of(&(1, single))).chain(of_several).collect();
    let speeds = format!("frames/s by frames at once: {}", speeds.join(", "));
    if kept.0 == 1 {
        return Err(Refusal::NoGain(speeds));
    }
    match by_size.first() {
        Some(&(1, took)) if took.as_secs_f64() > single.as_secs_f64() * LOSS => {
            Err(Refusal::Loss(format!("{took:?} for {single:?}; {speeds}")))
        }
        _ => Ok((kept.0, speeds)),
    }
}

#[cfg(test)]
pub(in crate::agent) mod tests {
    use std::{fs, path::PathBuf};

    use cutline_core::{
        onnx::proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
            TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
        picture::{InputEncoding, Recipe},
        units::Bytes,
        zoo,
    };
    use prost::Message;

    use super::*;
    use crate::{
        engine::{SharedEngine, fake::Fake, rten::Rten},
        pace::Slowdown,
        stage::{
            Content, FileSpec, MemoryEstimate, Named, PICTURE_INPUT, PictureInput, Sending, Stage,
            StageError, StageSpec, TensorSpec,
        },
    };

    const MS: Duration = Duration::from_millis(1);

    /// A stage that is a whole network of one input and one output, and the network's file.
    pub(in crate::agent) fn stage_of(
        folder: &Path,
        model: &ModelProto,
        activation_bytes: u64,
    ) -> (Stage, PathBuf) {
        let path = folder.join("model.onnx");
        fs::write(&path, model.encode_to_vec()).unwrap();
        let graph = cutline_core::onnx::import(model, &ImportOptions::default()).unwrap();
        let tensor = |id| {
            let value = graph.value(id);
            let (name, shape) = (value.name.clone(), value.shape.clone());
            TensorSpec { name, dtype: value.dtype.unwrap(), shape }
        };
        let (input, output) = (tensor(graph.inputs()[0]), tensor(graph.outputs()[0]));
        let shape = input.shape.as_ref().unwrap();
        let spec = Recipe::default().for_input(input.dtype, shape).ok();
        let stage = StageSpec {
            plan: "net".to_owned(),
            name: "0-pi".to_owned(),
            device: "pi".to_owned(),
            picture: spec.map(|spec| PictureInput {
                input: input.name.clone(),
                spec,
                encoding: InputEncoding::Fp32,
            }),
            model: Some(ModelSpec {
                files: vec![FileSpec {
                    name: "model.onnx".to_owned(),
                    sha256: "a".repeat(64),
                    bytes: 9,
                }],
                engine: None,
                threads: Some(1),
                inputs: vec![input.name.clone()],
                outputs: vec![output.clone()],
                memory: MemoryEstimate { activation_bytes, ..MemoryEstimate::default() },
            }),
            inputs: vec![input],
            answers: vec![output],
            branches: Vec::new(),
            next: None,
        };
        (Stage::new(stage).unwrap(), path)
    }

    pub(in crate::agent) fn lenet() -> ModelProto {
        zoo::build("lenet5", &zoo::ZooOptions::default()).unwrap()
    }

    /// A session of the stage that was tried with up to so many frames at once.
    fn tried(
        engine: &SharedEngine,
        stage: &Stage,
        path: &Path,
        most: usize,
        memory: &Arc<Budget>,
    ) -> (StageSession, Batching, u64) {
        let options = LoadOptions { threads: 1 };
        let source = ModelSource::File(path.to_owned());
        let mut session = StageSession::load(&**engine, &source, options, Slowdown::NONE).unwrap();
        let model = stage.spec().model.as_ref().unwrap();
        let trial = Trial { path, model, engine: &**engine, options, most, file_bytes: 9, memory };
        let (batching, memory) = trial.settle(&mut session, || Some(()));
        assert_eq!(session.at_once(), batching.at_once);
        (session, batching, memory.map_or(0, |memory| memory.bytes()))
    }

    /// A session that computes up to so many frames at once, whether that pays or not.
    pub(in crate::agent) fn several(engine: &dyn Engine, path: &Path, most: usize) -> StageSession {
        let options = LoadOptions { threads: 1 };
        let source = ModelSource::File(path.to_owned());
        let mut session = StageSession::load(engine, &source, options, Slowdown::NONE).unwrap();
        let model = Model::open(path, &ImportOptions::default()).unwrap();
        let opened = open_batch(&model.proto).unwrap();
        let file = files::write_model_beside(path, &encode_beside(&opened), &model).unwrap();
        let source = ModelSource::File(file.to_path_buf());
        session.take_at_once(most, engine.load(&source, options).unwrap());
        session
    }

    /// Frames of a stage, none like another.
    pub(in crate::agent) fn frames(stage: &Stage, count: u64) -> Vec<Vec<Named>> {
        let input = &stage.spec().inputs[0];
        let shape = input.shape.as_ref().unwrap();
        let size = shape.0.iter().product::<u64>() as usize;
        let frame = |at: u64| {
            let values = (0..size).map(|i| ((i as u64 * 7 + at * 13) % 31) as f32 / 31.0).collect();
            let tensor = Tensor::from_f32(shape.clone(), values).unwrap();
            vec![(input.name.clone(), Content::Tensor(tensor))]
        };
        (0..count).map(frame).collect()
    }

    /// An engine under the name of the one that takes TensorFlow Lite files.
    struct OnFiles;

    impl Engine for OnFiles {
        fn name(&self) -> &str {
            "litert"
        }

        fn version(&self) -> &str {
            "0"
        }

        fn load(
            &self,
            model: &ModelSource,
            options: LoadOptions,
        ) -> Result<Box<dyn Session>, EngineError> {
            Rten.load(model, options)
        }
    }

    #[test]
    fn files_for_one_frame_are_not_tried_with_several() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 0);
        let engine: SharedEngine = Arc::new(OnFiles);
        let (_, batching, _) =
            tried(&engine, &stage, &path, 4, &Arc::new(Budget::new(None, false)));
        assert_eq!(batching.at_once, 1);
        assert!(batching.finding.contains("which are for one frame"), "{}", batching.finding);
    }

    #[test]
    fn frames_together_are_answered_as_each_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 0);
        let mut together = several(&Rten, &path, 4);
        let frames = frames(&stage, 7);
        let source = ModelSource::File(path);
        let options = LoadOptions { threads: 1 };
        let mut alone = StageSession::load(&Rten, &source, options, Slowdown::NONE).unwrap();
        let asked = frames.iter().map(|frame| (frame.clone(), Sending::Plain)).collect();
        let (results, ran) = together.execute_all(&stage, asked);
        let sizes: Vec<usize> = ran.iter().map(|ran| ran.frames).collect();
        assert_eq!(sizes, [4, 3]);
        for ((result, frame), of) in results.into_iter().zip(frames).zip([4, 4, 4, 4, 3, 3, 3]) {
            let (done, expected) = (result.unwrap(), alone.execute(&stage, frame, Sending::Plain));
            let expected = expected.unwrap();
            assert_eq!((done.frames, expected.frames), (of, 1));
            let (got, wanted) = (&done.answers[0].1, &expected.answers[0].1);
            let diff = verify::compare("logits", wanted, got).unwrap();
            assert!(diff.relative() < 1e-6, "{diff:?}");
            assert!(diff.max_abs > 0.0);
        }
    }

    #[test]
    fn what_is_wrong_with_a_frame_concerns_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 0);
        let mut session = several(&Rten, &path, 8);
        let mut frames = frames(&stage, 4);
        frames[1] = vec![(PICTURE_INPUT.to_owned(), Content::Bytes("no picture".into()))];
        let asked = frames.into_iter().map(|frame| (frame, Sending::Plain)).collect();
        let (results, ran) = session.execute_all(&stage, asked);
        assert_eq!(ran.iter().map(|ran| ran.frames).collect::<Vec<_>>(), [3]);
        for (at, result) in results.into_iter().enumerate() {
            match result {
                Ok(done) => assert!(at != 1 && done.frames == 3),
                Err(error) => assert!(at == 1 && matches!(error, StageError::Picture { .. })),
            }
        }
        assert_eq!(session.at_once(), 8);
    }

    /// An engine that refuses frames together, or one with a certain first byte.
    struct Picky {
        together: bool,
        byte: Option<u8>,
    }

    struct PickySession(Box<dyn Session>, bool, Option<u8>);

    impl Engine for Picky {
        fn name(&self) -> &str {
            "picky"
        }
        fn version(&self) -> &str {
            "0"
        }
        fn load(
            &self,
            model: &ModelSource,
            options: LoadOptions,
        ) -> Result<Box<dyn Session>, EngineError> {
            let inner = Fake::default().load(model, options)?;
            Ok(Box::new(PickySession(inner, self.together, self.byte)))
        }
    }

    impl Session for PickySession {
        fn run(
            &mut self,
            inputs: &[(&str, &Tensor)],
            outputs: &[&str],
        ) -> Result<Vec<Tensor>, EngineError> {
            let tensor = inputs[0].1;
            let frames = tensor.shape().0[0] as usize;
            let length = tensor.data().len() / frames;
            let mut firsts = tensor.data().chunks(length).map(|frame| Some(frame[3]));
            let refused = self.1 && frames > 1;
            if refused || self.2.is_some() && firsts.any(|first| first == self.2) {
                let reason = "it will not".to_owned();
                return Err(EngineError::Run { engine: "picky".to_owned(), reason });
            }
            self.0.run(inputs, outputs)
        }
    }

    #[test]
    fn where_frames_fail_together_each_is_computed_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 0);
        let frames = frames(&stage, 3);
        let byte = frames[2][0].1.data()[3];
        assert!(frames[..2].iter().all(|frame| frame[0].1.data()[3] != byte));
        for (together, byte, failed, at_once) in
            [(true, None, None, 1), (false, Some(byte), Some(2), 8)]
        {
            let mut session = several(&Picky { together, byte }, &path, 8);
            let asked = frames.iter().map(|frame| (frame.clone(), Sending::Plain)).collect();
            let (results, ran) = session.execute_all(&stage, asked);
            for (at, result) in results.iter().enumerate() {
                assert_eq!(result.is_err(), failed == Some(at), "{at}: {result:?}");
            }
            assert!(ran.iter().all(|ran| ran.frames == 1));
            assert_eq!(session.at_once(), at_once, "it goes on so unless a frame was at fault");
        }
    }

    #[test]
    fn as_many_frames_as_pay_are_computed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 1000);
        // A run takes the same time however many frames it is for.
        let engine: SharedEngine = Arc::new(Fake { delay: 4 * MS, unsupported: None });
        let plenty = Arc::new(Budget::new(None, false));
        let (_, batching, memory) = tried(&engine, &stage, &path, 8, &plenty);
        assert_eq!((batching.at_once, memory), (8, 7000), "{}", batching.finding);
        assert!(batching.finding.contains("frames/s by frames at once: 1: "));
        assert_eq!(plenty.taken(), Bytes(0));
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "the model of several is gone");
        // Room for three frames beside one and the second copy of nine bytes.
        let scarce = Arc::new(Budget::new(Some(Bytes(3500)), false));
        let (_, batching, memory) = tried(&engine, &stage, &path, 8, &scarce);
        assert_eq!((batching.at_once, memory), (4, 3000), "{}", batching.finding);
        let none = Arc::new(Budget::new(Some(Bytes(900)), false));
        let (_, batching, _) = tried(&engine, &stage, &path, 8, &none);
        assert_eq!(batching.at_once, 1);
        assert!(
            batching.finding.contains("activations of 2 frames at once needs 1.0 kB"),
            "{}",
            batching.finding
        );
    }

    /// `y` of `x`, both 1 x 4.
    fn small(nodes: &[(&str, &[&str], &str, Option<i64>)]) -> ModelProto {
        let dim = |size| Dimension {
            value: Some(dimension::Value::DimValue(size)),
            ..Dimension::default()
        };
        let info = |name: &str| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                    elem_type: Some(DType::F32.onnx()),
                    shape: Some(TensorShapeProto { dim: vec![dim(1), dim(4)] }),
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        };
        let node = |&(op, reads, makes, axis): &(&str, &[&str], &str, Option<i64>)| NodeProto {
            op_type: Some(op.to_owned()),
            input: reads.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![makes.to_owned()],
            attribute: axis
                .map(|axis| AttributeProto {
                    name: Some("axis".to_owned()),
                    r#type: Some(2),
                    i: Some(axis),
                    ..AttributeProto::default()
                })
                .into_iter()
                .collect(),
            ..NodeProto::default()
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { version: Some(13), ..Default::default() }],
            graph: Some(GraphProto {
                name: Some("small".to_owned()),
                node: nodes.iter().map(node).collect(),
                input: vec![info("x")],
                output: vec![info("y")],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn a_network_that_mixes_frames_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let engine: SharedEngine = Arc::new(Rten);
        let memory = Arc::new(Budget::new(None, false));
        const TIMES: &str = "whatever its times are";
        for (nodes, words) in [
            // Shapes say nothing against it: it is one over the frames, not over their values.
            (&[("Softmax", &["x"][..], "y", Some(0))][..], "`y` differs by"),
            (&[("Transpose", &["x"], "t", None), ("Transpose", &["t"], "y", None)], TIMES),
            (&[("Flatten", &["x"], "y", Some(0))], "for 2 frames its output `y` would be 1x8"),
        ] {
            let (stage, path) = stage_of(folder.path(), &small(nodes), 0);
            let (_, batching, _) = tried(&engine, &stage, &path, 4, &memory);
            let finding = &batching.finding;
            match words {
                // Its answers are right: what its times say is another matter.
                TIMES => assert!(finding.contains("frames/s by frames at once"), "{finding}"),
                words => assert!(finding.contains(words), "{finding}"),
            }
        }
        assert_eq!(memory.taken(), Bytes(0));
    }

    #[test]
    fn numbers_of_frames_double_up_to_the_most() {
        let cases: [(usize, &[usize]); 5] =
            [(1, &[]), (2, &[2]), (3, &[2, 3]), (8, &[2, 4, 8]), (12, &[2, 4, 8, 12])];
        for (most, expected) in cases {
            assert_eq!(sizes(most), expected, "{most}");
        }
    }

    #[test]
    fn more_frames_at_once_must_earn_it() {
        let times = |of: &[(usize, u32)]| -> Vec<(usize, Duration)> {
            of.iter().map(|&(frames, ms)| (frames, ms * MS)).collect()
        };
        let at_once = |of: &[(usize, u32)]| judge(100 * MS, &times(of)).map(|found| found.0);
        assert_eq!(at_once(&[(1, 100), (2, 150), (4, 250)]).unwrap(), 4);
        // Four gain too little over two, eight enough over two.
        assert_eq!(at_once(&[(1, 100), (2, 150), (4, 290), (8, 500)]).unwrap(), 8);
        assert_eq!(at_once(&[(1, 100), (2, 150), (4, 290)]).unwrap(), 2);
        assert_eq!(at_once(&[(1, 104), (2, 190), (4, 300)]).unwrap(), 4);
        for (slow, words) in [
            (
                &[(1, 100), (2, 195), (4, 385)][..],
                "do not pay (frames/s by frames at once: 1: 10.0",
            ),
            (&[(1, 106), (2, 150)], "each alone would be slower (106ms for 100ms"),
        ] {
            let error = at_once(slow).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn answers_may_differ_by_rounding_only() {
        let cases = [(DType::F32, 1e-3), (DType::F16, 1e-2), (DType::U8, 1.0), (DType::I64, 0.0)];
        for (dtype, expected) in cases {
            assert!((tolerance(dtype, 10.0) - expected).abs() < 1e-12, "{dtype}");
        }
    }
}
