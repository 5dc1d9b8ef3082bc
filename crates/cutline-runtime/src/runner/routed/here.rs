//! The whole network in this process: what is left of a plan when every agent is gone.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

use crate::{
    engine::{EngineError, SharedEngine},
    pace::{Slowdown, timer},
    runner::{Answer, Deployment, Frame, LocalRunner, RunError},
};

/// A handle to the thread that owns the loaded network; it ends when the handle is dropped.
///
/// One frame is computed at a time. What waits is bounded by whoever sends: a router sends one at a
/// time, and what it cancels is not begun.
#[derive(Debug)]
pub struct Here {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    frame: Frame,
    reply: oneshot::Sender<Result<Answer, RunError>>,
}

impl Here {
    /// Loads every stage of a plan that is all on the source, as slow as the device that this machine
    /// stands in for. Blocks until it is loaded.
    pub fn load(
        deployment: Deployment,
        engine: impl Fn(Option<&str>) -> Result<SharedEngine, EngineError> + Send + 'static,
        threads: usize,
        slowdown: Slowdown,
    ) -> Result<Self, RunError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (loaded, outcome) = mpsc::channel();
        let main = move || {
            timer::usual_turns();
            timer::precise_sleeps();
            let runner = LocalRunner::load_paced(&deployment, engine, threads, slowdown);
            // Files of its stages are read now, or held open by the engine.
            drop(deployment);
            match runner {
                Ok(runner) => {
                    let _ = loaded.send(Ok(()));
                    work(runner, &queue);
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("fallback".to_owned()).spawn(main);
        thread.map_err(|error| RunError::Task(error.to_string()))?;
        match outcome.recv() {
            Ok(outcome) => outcome.map(|()| Self { jobs }),
            Err(_) => Err(RunError::Task("it crashed while it loaded the network".to_owned())),
        }
    }

    /// Computes a frame; one that nobody waits for any more is not begun.
    pub async fn infer(&self, frame: Frame) -> Result<Answer, RunError> {
        let gone = || RunError::Task("the thread of the fallback has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { frame, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn work(mut runner: LocalRunner, queue: &mpsc::Receiver<Job>) {
    while let Ok(Job { frame, reply }) = queue.recv() {
        if !reply.is_closed() {
            let _ = reply.send(runner.infer(frame));
        }
    }
}
