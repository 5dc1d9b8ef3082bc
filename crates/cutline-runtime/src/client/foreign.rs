//! Servers of the Open Inference Protocol that are not agents: they have their model already, and are
//! asked whether it is the one that a plan means.

use std::{fmt::Write, time::Duration};

use tonic::Code;

use super::{AgentClient, ClientError, ClientOptions};
use crate::{
    stage::{TensorSpec, clip},
    wire::{
        contents,
        inference::{
            ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest, ServerReadyRequest,
            model_metadata_response::TensorMetadata,
        },
    },
};

/// Stands for the start of a process that does not tell it. Its models come back with it, so that
/// nothing hangs on when it started.
pub(super) const BOOT: u64 = 0;

/// A stage as a foreign server has to serve it.
#[derive(Clone, Debug)]
pub struct ForeignStage<'a> {
    /// Name of its package, and of the model on the server.
    pub model_name: &'a str,
    /// What it reads.
    pub inputs: Vec<&'a TensorSpec>,
    /// What it makes.
    pub outputs: Vec<&'a TensorSpec>,
}

impl AgentClient {
    /// Connects to a server that is no agent, and checks that it serves a stage: it is ready, and so
    /// is the model, whose inputs and outputs have the names, types and shapes of the stage's.
    pub async fn foreign(
        device: &str,
        address: &str,
        options: ClientOptions,
        stage: &ForeignStage<'_>,
    ) -> Result<Self, ClientError> {
        let unprepared = |cause: String| ClientError::Unprepared {
            device: device.to_owned(),
            address: address.to_owned(),
            model: stage.model_name.to_owned(),
            cause,
        };
        let client = match Self::connect(device, address, options).await {
            Err(ClientError::Unreachable { cause, .. }) => {
                return Err(unprepared(format!("no server listens there ({cause})")));
            }
            connected => connected?,
        };
        match client.lacks(stage).await? {
            Some(cause) => Err(unprepared(cause)),
            None => Ok(client),
        }
    }

    /// Whether a server lives, by the protocol that all of them speak.
    pub(super) async fn live(&self, timeout: Duration) -> Result<(), ClientError> {
        let mut request = tonic::Request::new(ServerLiveRequest {});
        request.set_timeout(timeout);
        let answer = self.inference.clone().server_live(request).await;
        match answer.map_err(|status| self.failed("ServerLive", &status))?.into_inner().live {
            true => Ok(()),
            false => Err(self.nonsense("ServerLive", "it says that it does not live")),
        }
    }

    /// What keeps a server from answering for a stage.
    async fn lacks(&self, stage: &ForeignStage<'_>) -> Result<Option<String>, ClientError> {
        let request = self.timed(ServerReadyRequest {});
        let answer = self.inference.clone().server_ready(request).await;
        if !answer.map_err(|status| self.failed("ServerReady", &status))?.into_inner().ready {
            return Ok(Some("the server says that it is not ready".to_owned()));
        }
        let name = stage.model_name.to_owned();
        let request = self.timed(ModelReadyRequest { name, ..Default::default() });
        let absent = || format!("it has no model `{}` that is ready", stage.model_name);
        match self.inference.clone().model_ready(request).await {
            Ok(answer) if answer.get_ref().ready => {}
            Ok(_) => return Ok(Some(absent())),
            // Some servers answer for a model that they do not know, others refuse.
            Err(status) if is_of_the_model(status.code()) => {
                return Ok(Some(format!("{} ({})", absent(), clip(status.message()))));
            }
            Err(status) => return Err(self.failed("ModelReady", &status)),
        }
        let name = stage.model_name.to_owned();
        let request = self.timed(ModelMetadataRequest { name, ..Default::default() });
        let answer = self.inference.clone().model_metadata(request).await;
        let metadata = answer.map_err(|status| self.failed("ModelMetadata", &status))?.into_inner();
        let pairs = [
            ("input", &stage.inputs, &metadata.inputs),
            ("output", &stage.outputs, &metadata.outputs),
        ];
        Ok(pairs.into_iter().find_map(|(kind, wanted, served)| differs(kind, wanted, served)))
    }
}

/// Whether a refusal is about the model that was asked for, and not about the call.
fn is_of_the_model(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition | Code::Internal
    ) || code == Code::Unknown
}

/// How the tensors that a server declares differ from those of the stage.
fn differs(kind: &str, wanted: &[&TensorSpec], served: &[TensorMetadata]) -> Option<String> {
    if served.is_empty() && !wanted.is_empty() {
        return Some(format!("the server does not say which {kind}s the model has"));
    }
    for tensor in wanted {
        let name = &tensor.name;
        let Some(found) = served.iter().find(|served| served.name == *name) else {
            let names: Vec<String> = served.iter().take(8).map(|s| clip(&s.name)).collect();
            let names = names.join("`, `");
            return Some(format!("its model has no {kind} `{name}`, but `{names}`"));
        };
        let shape = tensor.shape.as_ref().map(contents::wire_shape);
        // A server may leave axes open, or the shape; so may the stage.
        let fits = |shape: Vec<i64>| {
            shape.len() == found.shape.len()
                && shape.iter().zip(&found.shape).all(|(a, b)| a == b || *b < 0)
        };
        if found.datatype != tensor.dtype.oip() || !shape.is_none_or(fits) {
            let mut text = format!("{kind} `{name}` is {} [", clip(&found.datatype));
            for (at, size) in found.shape.iter().take(8).enumerate() {
                let before = if at > 0 { ", " } else { "" };
                let _ = write!(text, "{before}{size}");
            }
            return Some(format!("{text}] there, and {} in this plan", tensor.describe()));
        }
    }
    let extra = served.iter().find(|served| wanted.iter().all(|tensor| tensor.name != served.name));
    extra.map(|extra| {
        format!("its model has the {kind} `{}`, this plan's has not", clip(&extra.name))
    })
}

#[cfg(test)]
mod tests {
    use cutline_core::tensor::{DType, Shape};

    use super::*;

    #[test]
    fn what_a_server_declares_has_to_be_what_the_stage_needs() {
        let spec = |name: &str, dtype, shape: &[u64]| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: Some(Shape(shape.to_vec())),
        };
        let served = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
        };
        let (a, b) = (spec("a", DType::F32, &[1, 6]), spec("b", DType::U8, &[2]));
        let wanted = [&a, &b];
        let fits = [served("b", "UINT8", &[2]), served("a", "FP32", &[-1, 6])];
        assert_eq!(differs("input", &wanted, &fits), None);
        for (other, words) in [
            (vec![], "does not say which inputs"),
            (vec![served("a", "FP32", &[1, 6])], "no input `b`, but `a`"),
            (vec![served("a", "FP32", &[1, 7]), fits[0].clone()], "input `a` is FP32 [1, 7] there"),
            (vec![served("a", "FP32", &[6]), fits[0].clone()], "input `a` is FP32 [6] there"),
            (vec![served("a", "FP16", &[1, 6]), fits[0].clone()], "input `a` is FP16 [1, 6]"),
            (vec![fits[0].clone(), fits[1].clone(), served("c", "FP32", &[1])], "the input `c`"),
        ] {
            let said = differs("input", &wanted, &other).unwrap();
            assert!(said.contains(words), "{said}");
        }
    }
}
