//! The thread that owns a stage's loaded model.
//!
//! Engines block, so they never run on the threads that serve sockets. A request queues its inputs
//! at its stage's thread, which takes the device's slot for one request at a time and gives it back
//! as soon as the stage has computed, before anything is sent on. Requests that wait are there when
//! the slot is free, so a device goes from one frame to the next without waking anybody; stages that
//! share a device take turns, and so do callers that share a stage. The queue is bounded by the
//! requests that the agent admits.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};

use super::{admission::Caller, turns::Turns};
use crate::{
    engine::EngineError,
    pace::timer,
    stage::{Executed, Named, Sending, Stage, StageError, StageSession},
};

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
    /// processors that it is bound to.
    pub(super) async fn start(
        stage: Arc<Stage>,
        slot: Arc<Semaphore>,
        cores: Vec<usize>,
        load: impl FnOnce() -> Result<StageSession, EngineError> + Send + 'static,
    ) -> Result<Self, EngineError> {
        let jobs = Arc::new(Turns::new());
        let queue = Open(Arc::clone(&jobs));
        let (loaded, outcome) = oneshot::channel();
        let name = format!("stage {}", stage.spec().name);
        let runtime = Handle::current();
        let main = move || {
            timer::usual_turns();
            timer::precise_sleeps();
            timer::pin(&cores);
            match load() {
                Ok(session) => {
                    let _ = loaded.send(Ok(()));
                    work(&stage, session, &queue.0, || runtime.block_on(slot.acquire()).ok());
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let failed = |reason: String| EngineError::Load { engine: "any".to_owned(), reason };
        thread::Builder::new().name(name).spawn(main).map_err(|e| failed(e.to_string()))?;
        match outcome.await {
            Ok(outcome) => outcome.map(|()| Self { jobs }),
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
    take_slot: impl Fn() -> Option<S>,
) {
    while let Some(Job { inputs, sending, asked, reply }) = queue.pop() {
        let Some(slot) = take_slot() else { return };
        // A caller that has gone away needs no answer, and the device is free for the next.
        if reply.is_closed() {
            continue;
        }
        let waited = asked.elapsed();
        let result = session.execute(stage, inputs, sending);
        drop(slot);
        let _ = reply.send((result, waited));
    }
}
