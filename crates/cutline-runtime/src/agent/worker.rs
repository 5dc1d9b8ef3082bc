//! The thread that owns a stage's loaded model.
//!
//! Engines block, so they never run on the threads that serve sockets. A request queues its inputs
//! at its stage's thread, which takes the device's slot for one request at a time and gives it back
//! as soon as the stage has computed, before anything is sent on. Requests that wait are there when
//! the slot is free, so a device goes from one frame to the next without waking anybody; stages that
//! share a device take turns, and so do callers that share a stage. The queue is bounded by the
//! requests that the agent admits.
//!
//! Where a stage computes several frames at once ([`batching`](super::batching)), the thread takes as
//! many as wait when it has the slot, in the order of their turns. It never waits for more to come.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};

use super::{admission::Caller, meter::Meter, turns::Turns};
use crate::{
    engine::EngineError,
    pace::timer,
    stage::{Executed, Named, Sending, Stage, StageError, StageSession},
};

/// Gives the device to its holder until it is dropped; `None` when there is no device any more.
pub(super) type TakeSlot = dyn Fn() -> Option<OwnedSemaphorePermit>;

/// A handle to the thread, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Arc<Turns<Caller, Job>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

/// Refuses jobs from when the thread ends, whatever ends it.
struct Open(Arc<Turns<Caller, Job>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
        // Who waits is told by the end of the job.
        while self.0.pop().is_some() {}
    }
}

#[derive(Debug)]
struct Job {
    inputs: Vec<Named>,
    sending: Sending,
    asked: Instant,
    reply: oneshot::Sender<Done>,
}

/// What came of a request, and how long it waited for the device.
type Done = (Result<Executed, StageError>, Duration);

/// A stage's thread has ended although the stage is still deployed.
#[derive(Debug)]
pub(super) struct Gone;

impl Worker {
    /// Starts the thread, which loads the model itself: an engine's own threads then inherit the
    /// processors that it is bound to. Also returns what `load` found out.
    pub(super) async fn start<T: Send + 'static>(
        stage: Arc<Stage>,
        slot: Arc<Semaphore>,
        cores: Vec<usize>,
        meter: Arc<Meter>,
        load: impl FnOnce(&TakeSlot) -> Result<(StageSession, T), EngineError> + Send + 'static,
    ) -> Result<(Self, T), EngineError> {
        let jobs = Arc::new(Turns::new());
        let queue = Open(Arc::clone(&jobs));
        // Whoever wanted the stage may give up while it is loaded, as when another stage of its plan
        // failed: then this handle goes, and with it the thread and what it has loaded.
        let worker = Self { jobs };
        let (loaded, outcome) = oneshot::channel();
        let name = format!("stage {}", stage.spec().name);
        let runtime = Handle::current();
        let main = move || {
            timer::usual_turns();
            timer::precise_sleeps();
            timer::pin(&cores);
            let take_slot = move || runtime.block_on(Arc::clone(&slot).acquire_owned()).ok();
            match load(&take_slot) {
                Ok((session, found)) => {
                    let _ = loaded.send(Ok(found));
                    work(&stage, session, &queue.0, &meter, take_slot);
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let failed = |reason: String| EngineError::Load { engine: "any".to_owned(), reason };
        thread::Builder::new().name(name).spawn(main).map_err(|e| failed(e.to_string()))?;
        match outcome.await {
            Ok(outcome) => outcome.map(|found| (worker, found)),
            Err(_) => Err(failed("it crashed while it loaded the model".to_owned())),
        }
    }

    /// Waits for the device, runs the stage, and says how long it waited.
    pub(super) async fn run(
        &self,
        inputs: Vec<Named>,
        sending: Sending,
        caller: Caller,
    ) -> Result<Done, Gone> {
        let (reply, done) = oneshot::channel();
        let job = Job { inputs, sending, asked: Instant::now(), reply };
        self.jobs.push(caller, job).map_err(|_| Gone)?;
        done.await.map_err(|_| Gone)
    }
}

/// Runs jobs until no more can come, each while it holds what `take_slot` gives.
fn work<S>(
    stage: &Stage,
    mut session: StageSession,
    queue: &Turns<Caller, Job>,
    meter: &Meter,
    take_slot: impl Fn() -> Option<S>,
) {
    while let Some(first) = queue.pop() {
        let Some(slot) = take_slot() else { return };
        // A caller that has gone away needs no answer, and the device is free for the next.
        let is_open = |job: &Job| !job.reply.is_closed();
        let waiting = std::iter::from_fn(|| queue.next());
        let jobs = std::iter::once(first).chain(waiting).filter(is_open).take(session.at_once());
        let now = Instant::now();
        let (mut frames, mut replies) = (Vec::new(), Vec::new());
        for Job { inputs, sending, asked, reply } in jobs {
            frames.push((inputs, sending));
            replies.push((reply, now.saturating_duration_since(asked)));
        }
        let (results, ran) = session.execute_all(stage, frames);
        drop(slot);
        ran.iter().for_each(|ran| meter.ran(ran));
        for ((reply, waited), result) in replies.into_iter().zip(results) {
            let _ = reply.send((result, waited));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::{runtime::Runtime, time};

    use super::{
        super::batching::tests::{frames, lenet, several, stage_of},
        *,
    };
    use crate::{engine::fake::Fake, pace::Slowdown, stage::StageSpec};

    #[test]
    fn who_waits_when_the_device_is_free_goes_together_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = stage_of(folder.path(), &lenet(), 0);
        let (stage, slot) = (Arc::new(stage), Arc::new(Semaphore::new(1)));
        let meter = Arc::new(Meter::default());
        Runtime::new().unwrap().block_on(async {
            let load = move |_: &TakeSlot| Ok((several(&Fake::default(), &path, 2), ()));
            let held = slot.acquire().await.unwrap();
            let (stage, slot) = (Arc::clone(&stage), Arc::clone(&slot));
            let frames = frames(&stage, 6);
            let worker = Worker::start(stage, slot, Vec::new(), Arc::clone(&meter), load).await;
            let worker = Arc::new(worker.unwrap().0);
            let caller = |port: u16| Some(([127, 0, 0, 1], port).into());
            // The first is taken at once and waits for the device, the others wait in their lines:
            // three of one caller, then one of another, then one whose caller goes away.
            let mut replies = Vec::new();
            for (frame, port) in frames.into_iter().zip([1, 1, 1, 1, 2, 3]) {
                let (reply, done) = oneshot::channel();
                let asked = Instant::now();
                let job = Job { inputs: frame, sending: Sending::Plain, asked, reply };
                worker.jobs.push(caller(port), job).unwrap();
                replies.push(done);
                while replies.len() == 1 && worker.jobs.waiting() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            drop(replies.pop());
            drop(held);
            let mut together = Vec::new();
            for reply in replies {
                let (result, _) = reply.await.unwrap();
                together.push(result.unwrap().frames);
            }
            // 1 with 2 of the first caller, then 1 of the second with its third, then its last.
            assert_eq!(together, [2, 2, 2, 1, 2]);
            let sizes: Vec<_> = meter.batches().map(|(n, b)| (n, b.compute.count())).collect();
            assert_eq!(sizes, [(1, 1), (2, 2)]);
        });
    }

    #[test]
    fn a_stage_that_nobody_waits_for_any_more_ends_with_its_loading() {
        let spec = StageSpec {
            plan: "net".into(),
            name: "0-pi".into(),
            device: "pi".into(),
            inputs: Vec::new(),
            picture: None,
            model: None,
            answers: Vec::new(),
            branches: Vec::new(),
            next: None,
        };
        let stage = Arc::new(Stage::new(spec).unwrap());
        let slot = Arc::new(Semaphore::new(1));
        let (loads, loaded) = mpsc::channel::<()>();
        let load = move |_: &TakeSlot| {
            let _ = loaded.recv();
            Ok((StageSession::without_model(Slowdown::NONE), ()))
        };
        let meter = Arc::new(Meter::default());
        Runtime::new().unwrap().block_on(async {
            let start =
                Worker::start(Arc::clone(&stage), Arc::clone(&slot), Vec::new(), meter, load);
            assert!(time::timeout(Duration::from_millis(50), start).await.is_err());
            drop(loads);
            for _ in 0..1000 {
                if Arc::strong_count(&slot) == 1 {
                    return;
                }
                time::sleep(Duration::from_millis(10)).await;
            }
            panic!("its thread still waits for requests");
        });
    }
}
