//! Messages of any size to an agent and back, with the time of each way.

use std::time::Duration;

use bytes::Bytes;
use cutline_core::{
    tensor::{DType, Shape},
    units::Nanos,
};

use super::{
    AgentClient, ClientError,
    clock::{Offset, unix_nanos},
    trace_parameter,
};
use crate::{
    stage::{
        Content, Named,
        trace::{TRACE_PARAMETER, Trace},
    },
    tensor::Tensor,
    wire::{
        contents,
        inference::{InferParameter, ModelInferRequest, infer_parameter::ParameterChoice},
    },
};

/// Name of the model that answers with as many bytes as asked.
pub(crate) const ECHO: &str = "cutline.echo";

/// Request parameter that says how many.
pub(crate) const ANSWER_BYTES: &str = "cutline.answer_bytes";

impl AgentClient {
    /// Sends so many bytes and asks for so many; returns the times of the two ways, by the offset of
    /// the agent's clock.
    pub async fn exchange(
        &self,
        offset: Offset,
        up: u64,
        down: u64,
        timeout: Duration,
    ) -> Result<(Nanos, Nanos), ClientError> {
        let mut message = ModelInferRequest { model_name: ECHO.to_owned(), ..Default::default() };
        message.parameters = trace_parameter(ParameterChoice::BoolParam(true));
        let wanted = ParameterChoice::Int64Param(i64::try_from(down).unwrap_or(i64::MAX));
        let wanted = InferParameter { parameter_choice: Some(wanted) };
        message.parameters.insert(ANSWER_BYTES.to_owned(), wanted);
        contents::fill_request(&mut message, vec![zeros(up)]);
        let began = unix_nanos();
        let mut response = self.model_infer(message, timeout).await?;
        let ended = unix_nanos();
        let trace = response.parameters.remove(TRACE_PARAMETER).and_then(|p| p.parameter_choice);
        let trace = match trace {
            Some(ParameterChoice::StringParam(json)) => serde_json::from_str::<Trace>(&json).ok(),
            _ => None,
        };
        let far = trace.and_then(|trace| trace.stages.into_iter().next());
        let Some(far) = far else { return Err(self.nonsense(ECHO, "it carries no times")) };
        let up = offset.to_own(far.received_unix_ns).saturating_sub(began);
        let down = ended.saturating_sub(offset.to_own(far.sent_unix_ns));
        Ok((Nanos(up), Nanos(down)))
    }
}

/// A tensor of so many zero bytes.
pub(crate) fn zeros(bytes: u64) -> Named {
    let data = Bytes::from(vec![0; bytes as usize]);
    let tensor = Tensor::new(DType::U8, Shape(vec![bytes]), data);
    ("data".to_owned(), Content::Tensor(tensor.expect("its length is its shape")))
}
