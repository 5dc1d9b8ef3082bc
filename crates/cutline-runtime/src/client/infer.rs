//! One inference call.

use std::{collections::HashMap, time::Duration};

use tonic::{Status, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    AgentClient, ClientError, Coding,
    coding::{Collected, Timed},
};
use crate::{
    stage::{
        Content, Named, clip,
        trace::{TRACE_PARAMETER, Trace},
    },
    telemetry::TraceContext,
    tensor::Tensor,
    wire::{
        contents,
        inference::{
            InferParameter, ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice,
        },
    },
};

/// The call's path.
static MODEL_INFER: PathAndQuery =
    PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");

/// What an agent answered.
#[derive(Clone, Debug, PartialEq)]
pub struct InferAnswer {
    /// Outputs in the order in which the model declares them.
    pub outputs: Vec<(String, Tensor)>,
    /// Where the time went, if it was asked for and the server knows.
    pub trace: Option<Trace>,
    /// What writing the request and reading the answer took here.
    pub coding: Coding,
}

/// How a model is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Name of the request, which may get zeros behind it on its way; an answer to another one is
    /// refused. Empty: it has none.
    pub id: &'a str,
    /// Whether every agent on the way reports its times.
    pub trace: bool,
    /// When to give up.
    pub timeout: Duration,
    /// Which trace the call is part of.
    pub within: Option<&'a TraceContext>,
}

impl AgentClient {
    /// Runs a model on named values. With `trace`, every agent on the way reports its times.
    pub async fn infer(
        &self,
        model_name: &str,
        values: Vec<Named>,
        trace: bool,
        timeout: Duration,
    ) -> Result<InferAnswer, ClientError> {
        let asking = Asking { id: "", trace, timeout, within: None };
        self.infer_as(model_name, values, asking).await
    }

    /// The same as it is asked for in full.
    pub async fn infer_as(
        &self,
        model_name: &str,
        values: Vec<Named>,
        asking: Asking<'_>,
    ) -> Result<InferAnswer, ClientError> {
        let Asking { id, trace, timeout, within } = asking;
        let mut message = ModelInferRequest {
            model_name: model_name.to_owned(),
            id: id.to_owned(),
            ..Default::default()
        };
        if trace {
            message.parameters = trace_parameter(ParameterChoice::BoolParam(true));
        }
        let collected = Collected::default();
        collected.encoding(|| contents::fill_request(&mut message, values));
        let sent = message.id.clone();
        let mut response = self.send(message, timeout, within, &collected).await?;
        let call = || format!("ModelInfer of `{model_name}`");
        if !id.is_empty() && response.id != sent {
            let cause = format!("it is the answer to `{}`, not to `{sent}`", clip(&response.id));
            return Err(self.nonsense(&call(), cause));
        }
        let trace = match response.parameters.remove(TRACE_PARAMETER) {
            Some(InferParameter { parameter_choice: Some(ParameterChoice::StringParam(json)) }) => {
                Some(serde_json::from_str(&json).map_err(|e| self.nonsense(&call(), e))?)
            }
            _ => None,
        };
        let values = collected
            .decoding(|| contents::response_values(&mut response))
            .map_err(|error| self.nonsense(&call(), error))?;
        let outputs = values.into_iter().map(|(name, content)| match content {
            Content::Tensor(tensor) => Ok((name, tensor)),
            Content::Bytes(_) => Err(self.nonsense(&call(), format!("`{name}` is BYTES"))),
            Content::Coded(_) => Err(self.nonsense(&call(), format!("`{name}` is coded"))),
        });
        let outputs = outputs.collect::<Result<_, _>>()?;
        Ok(InferAnswer { outputs, trace, coding: collected.coding() })
    }

    /// Sends a request as it is.
    pub async fn model_infer(
        &self,
        message: ModelInferRequest,
        timeout: Duration,
    ) -> Result<ModelInferResponse, ClientError> {
        self.send(message, timeout, None, &Collected::default()).await
    }

    async fn send(
        &self,
        message: ModelInferRequest,
        timeout: Duration,
        within: Option<&TraceContext>,
        collected: &Collected,
    ) -> Result<ModelInferResponse, ClientError> {
        let call = format!("ModelInfer of `{}`", message.model_name);
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        if let Some(within) = within {
            within.write(request.metadata_mut());
        }
        // As the generated client calls it, with another codec.
        let limit = self.options.max_message;
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX);
        let answer = match grpc.ready().await {
            Ok(()) => grpc.unary(request, MODEL_INFER.clone(), Timed::new(collected.clone())).await,
            Err(error) => Err(Status::from_error(error.into())),
        };
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&call, &status))
    }
}

/// Parameters that ask for, or carry, a trace.
pub(crate) fn trace_parameter(choice: ParameterChoice) -> HashMap<String, InferParameter> {
    let parameter = InferParameter { parameter_choice: Some(choice) };
    HashMap::from([(TRACE_PARAMETER.to_owned(), parameter)])
}
