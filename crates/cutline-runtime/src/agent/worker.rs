//! The thread that owns a stage's loaded model.
//!
//! Engines block, so they never run on the threads that serve sockets. A request first takes the
//! device's slot, in the order of arrival, and hands it to the thread with its inputs; the thread
//! gives it back as soon as the stage has computed, before anything is sent on.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    engine::EngineError,
    pace::timer,
    stage::{Executed, Named, Stage, StageError, StageSession},
};

/// A handle to the thread, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    inputs: Vec<Named>,
    slot: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Executed, StageError>>,
}

/// A stage's thread has ended although the stage is still deployed.
#[derive(Debug)]
pub(super) struct Gone;

impl Worker {
    /// Starts the thread, which loads the model itself: an engine's own threads then inherit the
    /// processors that it is bound to.
    pub(super) async fn start(
        stage: Arc<Stage>,
        cores: Vec<usize>,
        load: impl FnOnce() -> Result<StageSession, EngineError> + Send + 'static,
    ) -> Result<Self, EngineError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (loaded, outcome) = oneshot::channel();
        let name = format!("stage {}", stage.spec().name);
        let main = move || {
            timer::precise_sleeps();
            timer::pin(&cores);
            match load() {
                Ok(session) => {
                    let _ = loaded.send(Ok(()));
                    work(&stage, session, &queue);
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
        slot: &Arc<Semaphore>,
        inputs: Vec<Named>,
    ) -> Result<(Result<Executed, StageError>, Duration), Gone> {
        let asked = Instant::now();
        let slot = Arc::clone(slot).acquire_owned().await.map_err(|_| Gone)?;
        let waited = asked.elapsed();
        let (reply, result) = oneshot::channel();
        self.jobs.send(Job { inputs, slot, reply }).map_err(|_| Gone)?;
        Ok((result.await.map_err(|_| Gone)?, waited))
    }
}

fn work(stage: &Stage, mut session: StageSession, queue: &mpsc::Receiver<Job>) {
    while let Ok(Job { inputs, slot, reply }) = queue.recv() {
        // A caller that has gone away needs no answer, and the device is free for the next.
        if reply.is_closed() {
            continue;
        }
        let result = session.execute(stage, inputs);
        drop(slot);
        let _ = reply.send(result);
    }
}
