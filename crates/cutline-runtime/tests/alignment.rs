//! A tensor that crosses the network arrives where an engine can compute on it without a copy.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cutline_core::tensor::{DType, Shape};
use cutline_runtime::{
    engine::{Engine, EngineError, LoadOptions, ModelSource, Session, fake::Fake},
    runner::{Deployment, Part, PartModel, PlanParts},
    stage::{Content, MemoryEstimate, TensorSpec},
    tensor::Tensor,
};
use fleet::{Device, model_of, store, wait};

/// Keeps how far from a multiple of eight the first input of each run began.
#[derive(Clone, Default)]
struct Watching(Arc<Mutex<Vec<usize>>>);

struct WatchingSession(Watching, Box<dyn Session>);

impl Engine for Watching {
    fn name(&self) -> &str {
        "watching"
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
        Ok(Box::new(WatchingSession(self.clone(), inner)))
    }
}

impl Session for WatchingSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        let address = inputs[0].1.data().as_ptr().addr();
        self.0.0.lock().unwrap().push(address % 8);
        self.1.run(inputs, outputs)
    }
}

#[test]
fn tensors_of_every_size_arrive_aligned() {
    let watching = Watching::default();
    let engine = Arc::new(watching.clone());
    let device = Device::with(|config| config.engines = vec![engine]);
    let sizes = [1, 2, 50, 1_999, 2_048, 5_000, 70_001, 400_000];
    wait(async {
        let client = device.client().await;
        for size in sizes {
            let folder = tempfile::tempdir().unwrap();
            let node: [(&str, &[&str], &str); 1] = [("Add", &["x", "x"], "y")];
            let model = model_of(&[size as i64], &node, &["x"], &["y"]);
            let spec = |name: &str| TensorSpec {
                name: name.to_owned(),
                dtype: DType::F32,
                shape: Some(Shape(vec![size])),
            };
            let part = Part {
                device: "pi".to_owned(),
                address: None,
                replicas: Vec::new(),
                via: None,
                branch: false,
                model: Some(PartModel {
                    files: vec![store(&folder, "model.onnx", &model)],
                    engine: None,
                    threads: None,
                    inputs: vec![spec("x")],
                    outputs: vec![spec("y")],
                    memory: MemoryEstimate::default(),
                }),
                foreign: None,
            };
            let plan = PlanParts {
                plan: "tiny".to_owned(),
                inputs: vec![spec("x")],
                outputs: vec![spec("y")],
                picture: None,
                parts: vec![part],
            };
            let deployment = Deployment::new(plan).unwrap();
            // Names of different lengths, so that the tensors stand at different places.
            let name = "n".repeat(1 + size as usize % 7);
            client.deploy(&name, &deployment.stages[0].spec, &deployment.files, "").await.unwrap();
            let data = Tensor::from_f32(Shape(vec![size]), vec![0.5; size as usize]).unwrap();
            let values = vec![("x".to_owned(), Content::Tensor(data))];
            client.infer(&name, values, false, Duration::from_secs(20)).await.unwrap();
        }
    });
    assert_eq!(*watching.0.lock().unwrap(), [0; 8], "sizes {sizes:?}");
}
