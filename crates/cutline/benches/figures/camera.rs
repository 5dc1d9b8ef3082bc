//! A camera whose frames are held until they are answered: what `failure`, `adaptation` and `soak`
//! run, with every answer checked against the whole network's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use cutline::{routes::Prepared, staging::Staged};
use cutline_core::routing::Settings;
use cutline_runtime::{
    engine,
    model::Model,
    runner::{
        Deployment, Frame, LocalRunner, Outcome, Pipeline, Routed, Routing, RunOptions, Runner,
    },
    tensor::Tensor,
    verify::random_inputs,
};
use tokio::runtime::Runtime;

/// Pictures that differ.
const PICTURES: u64 = 4;

/// The largest difference to the whole network's answer, relative to its largest value.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// How long anything may take to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a camera that pauses looks whether it goes on.
const LOOK: Duration = Duration::from_millis(10);

/// Frames that a camera shows in turn, each with its answer.
#[derive(Clone)]
pub(crate) struct Reel {
    frames: Vec<Frame>,
    answers: Vec<Vec<(String, Tensor)>>,
}

/// Who holds the frames, and the files of the routes, which agents that come back are sent again.
pub(crate) struct Held {
    routed: Routed,
    files: Vec<Staged>,
}

/// What is held of frames while the camera goes on.
pub(crate) struct Show {
    pub(crate) routed: Routed,
    answers: mpsc::Receiver<Seen>,
    camera: Option<JoinHandle<anyhow::Result<()>>>,
    switch: Arc<Switch>,
    last: Option<Instant>,
    next: u64,
    /// What was wrong so far.
    pub(crate) tally: Tally,
    _files: Vec<Staged>,
}

/// Answers that ought not to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Other values than the whole network's.
    pub(crate) wrong: u64,
    /// Of frames that had been answered before.
    pub(crate) doubled: u64,
    /// Errors in place of answers, and frames left out.
    pub(crate) lost: u64,
}

/// A frame with its answer.
pub(crate) struct Seen {
    number: u64,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    right: bool,
    /// Name of its route; empty where it was not answered.
    pub(crate) route: String,
}

/// Tells a camera what to do, and what it did.
#[derive(Default)]
struct Switch {
    off: AtomicBool,
    pauses: AtomicBool,
    shown: AtomicU64,
}

impl Tally {
    /// All of them.
    pub(crate) fn all(self) -> u64 {
        self.wrong + self.doubled + self.lost
    }
}

impl Reel {
    /// Seeded random frames, and what the whole network answers to them in this process.
    pub(crate) fn of(model: &Model, whole: &Deployment, engine: &str) -> anyhow::Result<Self> {
        let frame = |seed| -> anyhow::Result<Frame> {
            Ok(Frame::Tensors(random_inputs(&model.graph, seed)?.into_iter().collect()))
        };
        let frames: Vec<Frame> = (0..PICTURES).map(frame).collect::<anyhow::Result<_>>()?;
        let open = |name: Option<&str>| engine::open(name.unwrap_or(engine));
        let mut runner = LocalRunner::load(whole, open, 1)?;
        let mut answers = Vec::new();
        for frame in &frames {
            answers.push(runner.infer(frame.clone())?.outputs);
        }
        Ok(Self { frames, answers })
    }

    /// The first frame.
    pub(crate) fn first(&self) -> Frame {
        self.frames[0].clone()
    }

    fn at(&self, number: u64) -> usize {
        (number % PICTURES) as usize
    }
}

impl Held {
    /// Deploys the first plan and starts to hold frames.
    pub(crate) fn start(
        runtime: &Runtime,
        first: Staged,
        prepared: Prepared,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let Prepared { routes, mut files } = prepared;
        let options = RunOptions::default();
        let (routed, _changes) = runtime.block_on(async {
            let runner = Runner::deploy(first.deployment.clone(), options.clone(), |_| {}).await?;
            Routed::start(routes, runner, settings, options).await
        })?;
        files.push(first);
        Ok(Self { routed, files })
    }
}

impl Show {
    /// Starts the camera: a frame every interval, or as fast as frames are taken.
    pub(crate) fn start(
        runtime: &Runtime,
        held: Held,
        reel: Reel,
        in_flight: usize,
        interval: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let Held { routed, files } = held;
        let limit = in_flight.try_into().context("at least one frame")?;
        let pipeline = Pipeline::new(routed.clone(), limit);
        let (sender, answers) = mpsc::channel();
        let switch = Arc::new(Switch::default());
        let (handle, switched) = (runtime.handle().clone(), Arc::clone(&switch));
        let camera = thread::spawn(move || {
            handle.block_on(film(pipeline, &reel, interval, &switched, &sender))
        });
        Ok(Self {
            routed,
            answers,
            camera: Some(camera),
            switch,
            last: None,
            next: 0,
            tally: Tally::default(),
            _files: files,
        })
    }

    /// The next answer, and for how long before it frames were held and none was answered, counted
    /// from `since` on.
    pub(crate) fn next(&mut self, since: Instant) -> anyhow::Result<(Seen, Duration)> {
        let seen = self.answers.recv_timeout(PATIENCE).map_err(|_| {
            anyhow!("no frame was answered for {PATIENCE:?}: {:?}", self.routed.routing())
        })?;
        self.count(&seen);
        let before = self.last.replace(seen.answered).unwrap_or(seen.sent);
        let from = before.max(seen.sent).max(since);
        let quiet = seen.answered.saturating_duration_since(from);
        Ok((seen, quiet))
    }

    /// Watches frames until so many that were sent after `since` have gone over a plan's agents.
    pub(crate) fn until_planned(&mut self, frames: usize, since: Instant) -> anyhow::Result<()> {
        let (began, mut planned) = (Instant::now(), 0);
        while planned < frames {
            let Seen { sent, route, .. } = self.next(since)?.0;
            planned += usize::from(sent > since && route != "here");
            ensure!(began.elapsed() < PATIENCE, "no plan is used: {:?}", self.routed.routing());
        }
        Ok(())
    }

    /// Frames that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.next
    }

    /// Shows nothing more until [`resume`](Self::resume), and returns when every frame is answered.
    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        self.switch.pauses.store(true, Ordering::SeqCst);
        let since = Instant::now();
        // A frame that is shown at this moment is counted after the next look.
        thread::sleep(2 * LOOK);
        while self.next < self.switch.shown.load(Ordering::SeqCst) {
            self.next(since)?;
        }
        Ok(())
    }

    /// Shows frames again.
    pub(crate) fn resume(&mut self) {
        self.last = None;
        self.switch.pauses.store(false, Ordering::SeqCst);
    }

    /// Ends the camera; every frame that it showed is answered then.
    pub(crate) fn end(mut self, runtime: &Runtime) -> anyhow::Result<(Routing, Tally)> {
        self.switch.off.store(true, Ordering::SeqCst);
        while let Ok(seen) = self.answers.recv_timeout(PATIENCE) {
            self.count(&seen);
        }
        let camera = self.camera.take().context("the camera runs")?;
        camera.join().map_err(|_| anyhow!("the camera panicked"))??;
        self.tally.lost += self.switch.shown.load(Ordering::SeqCst) - self.next;
        let routing = self.routed.routing();
        runtime.block_on(self.routed.remove());
        Ok((routing, self.tally))
    }

    fn count(&mut self, seen: &Seen) {
        let Seen { number, right, ref route, .. } = *seen;
        let answered = !route.is_empty();
        self.tally.doubled += u64::from(number < self.next);
        self.tally.lost += number.saturating_sub(self.next) + u64::from(!answered);
        self.tally.wrong += u64::from(answered && !right);
        self.next = self.next.max(number + 1);
    }
}

/// Shows frames, unless as many are under way as may be, and tells of every answer.
async fn film(
    mut pipeline: Pipeline<(u64, Instant)>,
    reel: &Reel,
    interval: Option<Duration>,
    switch: &Switch,
    answers: &mpsc::Sender<Seen>,
) -> anyhow::Result<()> {
    let mut ticks = interval.map(|interval| {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    });
    let (mut number, mut open) = (0u64, true);
    while open || !pipeline.is_empty() {
        let pauses = switch.pauses.load(Ordering::SeqCst);
        let (room, waits) = (open && !pipeline.is_full(), !pipeline.is_empty());
        let tick = async {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
        };
        tokio::select! {
            biased;
            () = tick, if room && !pauses => {
                open = !switch.off.load(Ordering::SeqCst);
                if open {
                    let frame = reel.frames[reel.at(number)].clone();
                    let full = pipeline.send((number, Instant::now()), frame).is_err();
                    ensure!(!full, "the pipeline is full");
                    number += 1;
                    switch.shown.store(number, Ordering::SeqCst);
                }
            }
            outcome = pipeline.next(), if waits => {
                let Some(outcome) = outcome else { continue };
                let _ = answers.send(reel.check(outcome));
            }
            () = tokio::time::sleep(LOOK), if pauses => open &= !switch.off.load(Ordering::SeqCst),
        }
    }
    Ok(())
}

impl Reel {
    fn check(&self, outcome: Outcome<(u64, Instant)>) -> Seen {
        let Outcome { tag: (number, sent), result, .. } = outcome;
        let answered = Instant::now();
        let (right, route) = match result {
            Ok(answer) => {
                let route = answer.route.as_deref().unwrap_or_default().to_owned();
                (alike(&answer.outputs, &self.answers[self.at(number)]), route)
            }
            Err(error) => {
                println!("frame {number}: {error}");
                (false, String::new())
            }
        };
        Seen { number, sent, answered, right, route }
    }
}

fn alike(answer: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> bool {
    answer.len() == wanted.len()
        && answer.iter().zip(wanted).all(|((name, a), (other, b))| {
            let (a, b) = (a.to_f64(), b.to_f64());
            let largest = b.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * largest;
            name == other && a.len() == b.len() && a.iter().zip(&b).all(near)
        })
}
