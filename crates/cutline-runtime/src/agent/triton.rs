//! What Triton's extensions of the protocol ask about models, and the list of models itself.
//!
//! A model is a deployed stage. Unloading one frees its memory and keeps its description and files,
//! so that loading it brings it back; removing it is an order of the control service.

use std::collections::HashMap;

use tonic::Status;

use super::{
    State,
    batching::Batching,
    deployed::Deployed,
    inference::{VERSION, check_version},
    meter::{Batch, Meter, Span},
    repository::{Entry, RepositoryError},
};
use crate::{
    stage::{Stage, TensorSpec},
    wire::{
        contents::wire_shape,
        inference::{
            DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelInput, ModelOutput,
            ModelParameter, ModelStatistics, StatisticDuration,
            repository_index_response::ModelIndex,
        },
    },
};

/// The extensions of the protocol that an agent speaks, by Triton's names.
pub(super) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// What stands for the engine in answers about a model.
pub(super) const PLATFORM: &str = "cutline_onnx";

impl State {
    /// A model's configuration: its tensors, and what it was found to compute at once. Triton's own
    /// words for that promise that a request may bring several frames, which it may not.
    pub(super) fn config_of(&self, name: &str, version: &str) -> Result<ModelConfig, Status> {
        check_version(version)?;
        let stage = self.ready(name)?;
        let spec = stage.stage().spec();
        let input = |tensor: &TensorSpec| ModelInput {
            name: tensor.name.clone(),
            data_type: data_type(tensor).into(),
            dims: dims(tensor),
        };
        let output = |tensor: &TensorSpec| ModelOutput {
            name: tensor.name.clone(),
            data_type: data_type(tensor).into(),
            dims: dims(tensor),
        };
        Ok(ModelConfig {
            name: name.to_owned(),
            platform: PLATFORM.to_owned(),
            max_batch_size: 0,
            input: spec.inputs.iter().map(input).collect(),
            output: spec.answers.iter().map(output).collect(),
            backend: String::new(),
            parameters: parameters(stage.batching()),
        })
    }

    /// What a model did so far; every model where no name is given.
    pub(super) fn statistics_of(
        &self,
        name: &str,
        version: &str,
    ) -> Result<Vec<ModelStatistics>, Status> {
        check_version(version)?;
        if !name.is_empty() {
            return Ok(vec![statistics(name, self.ready(name)?.meter())]);
        }
        let all = self.stages.list();
        let ready = all.iter().filter_map(|(name, entry)| match entry {
            Entry::Ready(stage) => Some(statistics(name, stage.meter())),
            Entry::Unloaded(..) => None,
        });
        Ok(ready.collect())
    }

    /// Every model that is here, or every one that answers.
    pub(super) fn index(&self, only_ready: bool) -> Vec<ModelIndex> {
        let index = |(name, entry)| {
            let (state, reason) = match entry {
                Entry::Ready(_) => ("READY", String::new()),
                Entry::Unloaded(..) if only_ready => return None,
                Entry::Unloaded(_, reason) => ("UNAVAILABLE", reason),
            };
            let (version, state) = (VERSION.to_owned(), state.to_owned());
            Some(ModelIndex { name, version, state, reason })
        };
        self.stages.list().into_iter().filter_map(index).collect()
    }

    /// Loads a model that is here but does not answer; one that answers is left as it is.
    pub(super) async fn load_model(&self, name: &str, has_parameters: bool) -> Result<(), Status> {
        if has_parameters {
            return Err(Status::invalid_argument(
                "a model is loaded as it was deployed; parameters cannot replace its files or \
                 configuration",
            ));
        }
        let Entry::Unloaded(stage, _) = self.stages.find(name)? else { return Ok(()) };
        match Deployed::load(self, Stage::clone(&stage)).await {
            Ok(deployed) => Ok(self.stages.put(name, deployed)?),
            Err(status) => {
                self.stages.unload(name, status.message().to_owned())?;
                Err(status)
            }
        }
    }

    /// Frees the memory of a model, which stays here without answering.
    pub(super) fn unload_model(&self, name: &str) -> Result<(), Status> {
        Ok(self.stages.unload(name, "it was unloaded".to_owned())?)
    }
}

impl From<RepositoryError> for Status {
    fn from(error: RepositoryError) -> Self {
        let message = error.to_string();
        match error {
            RepositoryError::Full | RepositoryError::Crowded | RepositoryError::Store(_) => {
                Status::resource_exhausted(message)
            }
            RepositoryError::Holder(_) => Status::invalid_argument(message),
            RepositoryError::Unknown(_) => Status::not_found(message),
        }
    }
}

/// How a model's frames are computed.
fn parameters(batching: &Batching) -> HashMap<String, ModelParameter> {
    let entry = |key: &str, string_value: String| (key.to_owned(), ModelParameter { string_value });
    HashMap::from([
        entry("cutline.at_once", batching.at_once.to_string()),
        entry("cutline.batching", batching.finding.clone()),
    ])
}

fn statistics(name: &str, meter: &Meter) -> ModelStatistics {
    let span = |span: &Span| StatisticDuration { count: span.count(), ns: span.nanos() };
    // An agent writes an answer where it has it: what follows the engine takes no time of its own.
    let output = |count| StatisticDuration { count, ns: 0 };
    let of_batch = |(frames, batch): (usize, &Batch)| InferBatchStatistics {
        batch_size: frames as u64,
        compute_input: Some(span(&batch.prepare)),
        compute_infer: Some(span(&batch.compute)),
        compute_output: Some(output(batch.compute.count())),
    };
    let inferences = meter.compute.count();
    ModelStatistics {
        name: name.to_owned(),
        version: VERSION.to_owned(),
        last_inference: meter.last_unix_ms(),
        inference_count: inferences,
        execution_count: meter.executions(),
        inference_stats: Some(InferStatistics {
            success: Some(span(&meter.answered)),
            fail: Some(span(&meter.failed)),
            queue: Some(span(&meter.queue)),
            compute_input: Some(span(&meter.prepare)),
            compute_infer: Some(span(&meter.compute)),
            compute_output: Some(output(inferences)),
        }),
        batch_stats: meter.batches().map(of_batch).collect(),
    }
}

fn dims(tensor: &TensorSpec) -> Vec<i64> {
    tensor.shape.as_ref().map_or_else(|| vec![-1], wire_shape)
}

/// Triton's word for an element type: `TYPE_` and the protocol's.
fn data_type(tensor: &TensorSpec) -> DataType {
    let name = match tensor.dtype.oip() {
        "BYTES" => "STRING",
        name => name,
    };
    DataType::from_str_name(&format!("TYPE_{name}")).unwrap_or(DataType::TypeInvalid)
}

#[cfg(test)]
mod tests {
    use cutline_core::tensor::DType;

    use super::*;

    #[test]
    fn every_element_type_has_a_word() {
        let words =
            "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16";
        for dtype in words.split(' ').map(|word| DType::from_oip(word).unwrap()) {
            let tensor = TensorSpec { name: "x".to_owned(), dtype, shape: None };
            assert_ne!(data_type(&tensor), DataType::TypeInvalid, "{dtype}");
        }
    }
}
