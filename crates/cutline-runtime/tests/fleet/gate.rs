//! Devices whose engine computes only when it is told, so that a test decides what happens when.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use cutline_runtime::{
    engine::{Engine, EngineError, LoadOptions, ModelSource, Session, fake::Fake},
    runner::Deployment,
    tensor::Tensor,
};
use tempfile::TempDir;

use super::{Device, chain};

const TIMEOUT: Duration = Duration::from_secs(20);

/// An engine that says when it begins to compute, and ends when it is let go.
struct Gated {
    begun: mpsc::Sender<()>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

/// What the test holds of a [`Gated`] engine.
pub(crate) struct Gate {
    begun: mpsc::Receiver<()>,
    pub(crate) open: mpsc::Sender<()>,
}

impl Gate {
    /// Waits until a frame is being computed, then lets it go on.
    pub(crate) fn pass(&self) {
        self.wait_until_begun();
        self.open.send(()).unwrap();
    }

    pub(crate) fn wait_until_begun(&self) {
        self.begun.recv_timeout(TIMEOUT).unwrap();
    }
}

/// An agent whose engine waits at a gate.
pub(crate) fn gated() -> (Device, Gate) {
    let (sender, begun) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let engine = Arc::new(Gated { begun: sender, gate: Arc::new(Mutex::new(gate)) });
    let device = Device::with(|config| config.engines = vec![engine]);
    (device, Gate { begun, open })
}

struct GatedSession {
    begun: mpsc::Sender<()>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
    inner: Box<dyn Session>,
}

impl Engine for Gated {
    fn name(&self) -> &str {
        "gated"
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
        let (begun, gate) = (self.begun.clone(), Arc::clone(&self.gate));
        Ok(Box::new(GatedSession { begun, gate, inner }))
    }
}

impl Session for GatedSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        let _ = self.begun.send(());
        let _ = self.gate.lock().unwrap().recv();
        self.inner.run(inputs, outputs)
    }
}

/// [`chain`] over devices with whatever engines they have.
pub(crate) fn chain_of(folder: &TempDir, devices: &[&Device]) -> Deployment {
    let addresses: Vec<String> = devices.iter().map(|device| device.address()).collect();
    let mut deployment = chain(folder, &addresses);
    for placement in &mut deployment.stages {
        placement.spec.model.as_mut().unwrap().engine = None;
    }
    deployment
}
