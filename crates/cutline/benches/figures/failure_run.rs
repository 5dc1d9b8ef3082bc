//! What the death of the holder itself costs: its frames, each of them told by the next run.
//!
//! A camera shows pictures as fast as `cutline run` takes them, which is killed at a random moment
//! and started again at once with the same journal, on the same agents. The camera then shows again
//! what the journal tells, and goes on with what was not taken. Every line is checked against the
//! whole network's answer, and every frame that a run took is looked for among its lines and among
//! what the next run tells.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Cursor, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use cutline::journal::Opened;
use cutline_core::{picture::Recipe, tensor::DType};
use cutline_runtime::{
    engine,
    runner::{Frame, LocalRunner},
};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

use super::{
    Verdict,
    camera::TOLERANCE,
    held::{Rig, middle_and_most},
    measure::{BINARY, millis},
};

/// Pictures that differ.
const PICTURES: u32 = 6;

/// Frames under way at a time.
const IN_FLIGHT: &str = "4";

/// A run is killed so long after its first answer, at most.
const LIVES: Duration = Duration::from_millis(1500);

/// Frames that pass through the journal whose cost is measured.
const NOTED: u64 = 20_000;

/// What came of all runs.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    answered: u64,
    lost: u64,
    /// Answered, and told lost all the same: killed between the two.
    both: u64,
    wrong: u64,
    doubled: u64,
    untold: u64,
}

/// What the camera shows to one run: again what the run before lost, then what it had not taken.
#[derive(Clone, Debug, Default)]
struct Film {
    again: Vec<u64>,
    next: u64,
}

impl Film {
    /// Which picture a run's frame of this number is.
    fn at(&self, frame: u64) -> u64 {
        let again = self.again.len() as u64;
        match self.again.get(frame as usize) {
            Some(&picture) => picture,
            None => self.next + frame - again,
        }
    }
}

/// The pictures as files, and what the whole network answers to them.
struct Reel {
    files: Vec<Vec<u8>>,
    answers: Vec<Vec<Vec<f64>>>,
}

/// A run under way, and what it answered so far.
struct Run {
    child: Child,
    lines: BufReader<ChildStdout>,
    camera: Option<JoinHandle<()>>,
    film: Film,
    answered: Vec<u64>,
    /// What it says on standard error.
    words: PathBuf,
}

/// Where runs take place.
struct Stage {
    folder: PathBuf,
    model: PathBuf,
    reel: Arc<Reel>,
}

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let repeats = std::env::var("CUTLINE_BENCH_REPEATS").ok().and_then(|text| text.parse().ok());
    let repeats: u32 = repeats.unwrap_or(10);
    let rig = Rig::start()?;
    let stage = Stage::of(&rig)?;
    let cost = cost(&stage.folder.join("cost"))?;
    println!(
        "MobileNetV2, {}, edge {} times slower; the best split over 50 Mbit/s and 5 ms, {IN_FLIGHT} frames under way.\nThe run is killed {repeats} times, up to {} s after its first answer, and started again at once; the journal costs {cost:.1} us a frame.\n",
        rig.engine,
        rig.slowdown,
        LIVES.as_secs_f64()
    );
    let mut tally = Tally::default();
    let mut waits = Vec::new();
    let mut run = stage.start(None, &mut tally)?;
    run.answer(&stage.reel, &mut tally)?;
    for _ in 0..repeats {
        let until = Instant::now() + LIVES.mul_f64(random()?);
        while Instant::now() < until {
            run.answer(&stage.reel, &mut tally)?;
        }
        // At no fixed place between two answers.
        thread::sleep(Duration::from_millis(300).mul_f64(random()?));
        let killed = Instant::now();
        let before = run.kill(&stage.reel, &mut tally)?;
        run = stage.start(Some(&before), &mut tally)?;
        run.answer(&stage.reel, &mut tally)?;
        waits.push(millis(killed.elapsed()));
    }
    run.kill(&stage.reel, &mut tally)?;
    let (middle, most) = middle_and_most(&waits);
    println!(
        "| kills | answered | told lost | of them answered | wrong | doubled | untold | next answer after, ms: median | most |\n|---|---|---|---|---|---|---|---|---|"
    );
    let Tally { answered, lost, both, wrong, doubled, untold } = tally;
    println!(
        "| {repeats} | {answered} | {lost} | {both} | {wrong} | {doubled} | {untold} | {middle:.0} | {most:.0} |"
    );
    Ok(Verdict::of(wrong + doubled + untold == 0 && both <= u64::from(repeats)))
}

/// What a journal costs, in microseconds a frame.
fn cost(path: &Path) -> anyhow::Result<f64> {
    let mut journal = Opened::open(path)?.begin()?;
    let began = Instant::now();
    for frame in 0..NOTED {
        journal.taken(frame, "-")?;
        journal.answered(frame)?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / NOTED as f64)
}

impl Stage {
    /// The plan of a rig, for pictures.
    fn of(rig: &Rig) -> anyhow::Result<Self> {
        let graph = &rig.model.graph;
        let input = graph.value(*graph.inputs().first().context("the network has an input")?);
        let shape = input.shape.clone().context("its shape is known")?;
        let mut plan = rig.plan.clone();
        plan.picture = Some(Recipe::default().for_input(DType::F32, &shape)?);
        // They were predicted for tensors.
        plan.routes = None;
        let folder = rig.folder.path().to_owned();
        fs::write(folder.join("plan.json"), serde_json::to_vec(&plan)?)?;
        let whole = rig.whole_of(&plan)?;
        let open = |name: Option<&str>| engine::open(name.unwrap_or(rig.engine));
        let mut runner = LocalRunner::load(&whole.deployment, open, 1)?;
        let (mut files, mut answers) = (Vec::new(), Vec::new());
        for seed in 0..PICTURES {
            let file = jpeg(seed)?;
            let answer = runner.infer(Frame::Picture(file.clone().into()))?;
            answers.push(answer.outputs.iter().map(|(_, tensor)| tensor.to_f64()).collect());
            files.push(file);
        }
        let model = rig.model.path.clone();
        Ok(Self { folder, model, reel: Arc::new(Reel { files, answers }) })
    }

    /// Starts a run after another, which is looked at in the light of what this one tells.
    fn start(&self, before: Option<&Run>, tally: &mut Tally) -> anyhow::Result<Run> {
        let mut command = Command::new(BINARY);
        command.arg("run").arg(&self.model).args(["--plan", "plan.json", "--best-split"]);
        command.args(["--input", "-", "--journal", "journal", "--in-flight", IN_FLIGHT]);
        command.args(["--json", "--quiet"]).current_dir(&self.folder);
        let words = self.folder.join("errors");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&words)?);
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has an output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line).with_context(|| {
            format!("the run did not begin: {}", fs::read_to_string(&words).unwrap_or_default())
        })?;
        let film = before.map(|before| before.judge(&told, tally)).transpose()?.unwrap_or_default();
        let mut stdin = child.stdin.take().context("it has an input")?;
        let (reel, shown) = (Arc::clone(&self.reel), film.clone());
        // Ends with the run.
        let camera = thread::spawn(move || {
            let picture = |frame| &reel.files[(shown.at(frame) % u64::from(PICTURES)) as usize];
            let _ = (0..).try_for_each(|frame| stdin.write_all(picture(frame)));
        });
        Ok(Run { child, lines, camera: Some(camera), film, answered: Vec::new(), words })
    }
}

impl Run {
    /// Waits for an answer.
    fn answer(&mut self, reel: &Reel, tally: &mut Tally) -> anyhow::Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if !line.ends_with('\n') {
            bail!("the run ended by itself: {}", fs::read_to_string(&self.words)?);
        }
        self.count(&line, reel, tally)
    }

    fn count(&mut self, line: &str, reel: &Reel, tally: &mut Tally) -> anyhow::Result<()> {
        let line: Value = serde_json::from_str(line)?;
        let Some(frame) = line["frame"].as_u64() else { bail!("the run said {line}") };
        tally.doubled += u64::from(self.answered.contains(&frame));
        let expected = &reel.answers[(self.film.at(frame) % u64::from(PICTURES)) as usize];
        tally.wrong += u64::from(!alike(&line["outputs"], expected));
        tally.answered += 1;
        self.answered.push(frame);
        Ok(())
    }

    /// Kills the run, and reads what it had written by then.
    fn kill(mut self, reel: &Reel, tally: &mut Tally) -> anyhow::Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest)?;
        for line in rest.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            self.count(line, reel, tally)?;
        }
        let camera = self.camera.take().context("it has a camera")?;
        camera.join().map_err(|_| anyhow!("the camera panicked"))?;
        Ok(self)
    }

    /// What is to be shown after this run, of which the next one told what it lost.
    fn judge(&self, told: &Value, tally: &mut Tally) -> anyhow::Result<Film> {
        let lost = told["lost"].as_array().context("a list of lost frames")?;
        let lost: Vec<u64> = lost.iter().filter_map(|frame| frame["frame"].as_u64()).collect();
        let next = told["next"].as_u64().context("a next frame")?;
        let is_told = |frame: &u64| self.answered.contains(frame) || lost.contains(frame);
        let beyond = self.answered.iter().chain(&lost).filter(|frame| **frame >= next).count();
        tally.untold += (0..next).filter(|frame| !is_told(frame)).count() as u64 + beyond as u64;
        tally.lost += lost.len() as u64;
        tally.both += lost.iter().filter(|frame| self.answered.contains(frame)).count() as u64;
        // What this run was to be shown again and did not come to stands before what is new.
        let later = (next..self.film.again.len() as u64).map(|frame| self.film.at(frame));
        let again = lost.iter().map(|&frame| self.film.at(frame)).chain(later).collect();
        let next = self.film.at(next.max(self.film.again.len() as u64));
        Ok(Film { again, next })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the outputs of a line are the whole network's.
fn alike(outputs: &Value, wanted: &[Vec<f64>]) -> bool {
    let Some(outputs) = outputs.as_array().filter(|outputs| outputs.len() == wanted.len()) else {
        return false;
    };
    outputs.iter().zip(wanted).all(|(output, wanted)| {
        let values = output["values"].as_array().map_or(&[][..], Vec::as_slice);
        let largest = wanted.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let near = |(value, wanted): (&Value, &f64)| {
            value.as_f64().is_some_and(|value| (value - wanted).abs() <= TOLERANCE * largest)
        };
        values.len() == wanted.len() && values.iter().zip(wanted).all(near)
    })
}

fn jpeg(seed: u32) -> anyhow::Result<Vec<u8>> {
    let noise = |x: u32, y: u32| {
        let wave = |step: u32| (x * (seed + step) / 3 + y * step / 2 + x * y / (31 + seed)) as u8;
        Rgb([wave(1), wave(4), wave(7)])
    };
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_fn(224, 224, noise).write_to(&mut file, ImageFormat::Jpeg)?;
    Ok(file.into_inner())
}

/// From 0 to 1.
fn random() -> anyhow::Result<f64> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
