//! The Open Inference Protocol, as any client speaks it.

use std::time::{Duration, Instant};

use cutline_core::units::Nanos;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    State,
    arrival::Arrival,
    deployed::{Call, Came, Deployed},
    measure,
    triton::{EXTENSIONS, PLATFORM},
};
use crate::{
    client::{clock::unix_nanos, echo::ECHO, trace_parameter},
    stage::{
        Content, Named, TensorSpec, clip,
        content::total_bytes,
        trace::{TRACE_PARAMETER, Trace},
    },
    telemetry::{Kind, Span, TraceContext},
    tensor::Tensor,
    wire::{
        contents,
        inference::{
            ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
            ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
            ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest,
            RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
            RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
            ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
            ServerReadyResponse, grpc_inference_service_server::GrpcInferenceService,
            infer_parameter::ParameterChoice, model_metadata_response::TensorMetadata,
        },
    },
};

/// The only version of every model.
pub(super) const VERSION: &str = "1";

#[tonic::async_trait]
impl GrpcInferenceService for State {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = check_version(&version).is_ok() && self.stages.ready(&name).is_some();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "cutline".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS
                .into_iter()
                .chain([contents::ENTROPY_CODE])
                .map(str::to_owned)
                .collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(self.metadata(name, &version)?))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let unix_ns = unix_nanos();
        let decode_ns =
            Arrival::of(&request).map_or(Nanos::ZERO, |at| Nanos(unix_ns.saturating_sub(at)));
        let came = Came { unix_ns, decode_ns, from: request.remote_addr() };
        let deadline = timeout(request.metadata()).map(|timeout| Instant::now() + timeout);
        let within = TraceContext::read(request.metadata().as_ref());
        let mut message = request.into_inner();
        if message.model_name == ECHO {
            let limit = self.config.max_message;
            return measure::echo(message, came.unix_ns, limit).map(Response::new);
        }
        let model = (message.model_name.clone(), message.model_version.clone());
        let asked = || {
            let values = contents::request_values(&mut message)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let outputs = message.outputs.iter().map(|output| output.name.clone()).collect();
            Ok(Asked { values, outputs, deadline, trace: wants_trace(&message) })
        };
        let (outputs, trace) = self.infer((&model.0, &model.1), came, within, asked).await?;
        Ok(Response::new(respond(message, outputs, trace)?))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let config = Some(self.config_of(&name, &version)?);
        Ok(Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let model_stats = self.statistics_of(&name, &version)?;
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.index(request.into_inner().ready);
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.orders_from(&request)?;
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        self.load_model(&model_name, !parameters.is_empty()).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.orders_from(&request)?;
        self.unload_model(&request.into_inner().model_name)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

/// A request in the agent's own terms, whichever protocol it came over.
pub(super) struct Asked {
    /// Inputs.
    pub(super) values: Vec<Named>,
    /// Names of the outputs that are wanted, in that order; empty: all.
    pub(super) outputs: Vec<String>,
    /// When its caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Whether its caller wants to know where the time went.
    pub(super) trace: bool,
}

impl State {
    /// Answers a request to a model, by name and version, within the trace that it came with. What was
    /// asked is read only once the agent admits another request.
    pub(super) async fn infer(
        &self,
        (name, version): (&str, &str),
        came: Came,
        within: Option<TraceContext>,
        asked: impl FnOnce() -> Result<Asked, Status>,
    ) -> Result<(Vec<Named>, Option<Trace>), Status> {
        check_version(version)?;
        let stage = self.ready(name)?;
        let spec = stage.stage().spec();
        let telemetry = &self.config.telemetry;
        let mut span = telemetry.begin(Kind::Server, ("infer", &spec.name), within.as_ref());
        span.began(came.unix_ns);
        span.set("cutline.model", name);
        span.set("cutline.device", spec.device.as_str());
        let result = self.answer(&stage, came, &mut span, asked).await;
        span.end(result.as_ref().err().map(Status::message));
        result
    }

    async fn answer(
        &self,
        stage: &Deployed,
        came: Came,
        span: &mut Span,
        asked: impl FnOnce() -> Result<Asked, Status>,
    ) -> Result<(Vec<Named>, Option<Trace>), Status> {
        let _admitted = self.requests.admit(came.from)?;
        let Asked { values, outputs, deadline, trace } = asked()?;
        let bytes = total_bytes(&values);
        span.set("cutline.bytes_in", bytes);
        let _memory = self.reserve(bytes, "a request")?;
        let call = Call { came, deadline, trace, span, depth: 0 };
        let (answers, trace) = stage.infer(self, values, call).await?;
        let answers = select(answers, &outputs)?;
        span.set("cutline.bytes_out", total_bytes(&answers));
        Ok((answers, trace))
    }

    /// A model's tensors.
    pub(super) fn metadata(
        &self,
        name: String,
        version: &str,
    ) -> Result<ModelMetadataResponse, Status> {
        check_version(version)?;
        let stage = self.ready(&name)?;
        let spec = stage.stage().spec();
        Ok(ModelMetadataResponse {
            name,
            versions: vec![VERSION.to_owned()],
            platform: PLATFORM.to_owned(),
            inputs: spec.inputs.iter().map(metadata).collect(),
            outputs: spec.answers.iter().map(metadata).collect(),
        })
    }
}

/// The answer to a request, with its trace where one was asked for.
pub(super) fn respond(
    request: ModelInferRequest,
    outputs: Vec<Named>,
    trace: Option<Trace>,
) -> Result<ModelInferResponse, Status> {
    let mut response = ModelInferResponse {
        model_name: request.model_name,
        model_version: VERSION.to_owned(),
        id: request.id,
        ..Default::default()
    };
    if let Some(trace) = trace {
        let json = serde_json::to_string(&trace).map_err(|e| Status::internal(e.to_string()))?;
        response.parameters = trace_parameter(ParameterChoice::StringParam(json));
    }
    contents::fill_response(&mut response, outputs);
    Ok(response)
}

/// The outputs that were asked for, in the order of the asking; all of them where none was named.
fn select(mut answers: Vec<(String, Tensor)>, requested: &[String]) -> Result<Vec<Named>, Status> {
    if requested.is_empty() {
        return Ok(answers.into_iter().map(|(name, t)| (name, Content::Tensor(t))).collect());
    }
    let picked = requested.iter().map(|wanted| {
        let position = answers.iter().position(|(name, _)| name == wanted);
        let position = position.ok_or_else(|| {
            let names: Vec<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
            Status::invalid_argument(format!(
                "output `{}` is none of this model, or asked for twice; there are: {}",
                clip(wanted),
                names.join(", ")
            ))
        })?;
        let (name, tensor) = answers.swap_remove(position);
        Ok((name, Content::Tensor(tensor)))
    });
    picked.collect()
}

pub(super) fn check_version(version: &str) -> Result<(), Status> {
    match version {
        "" | VERSION => Ok(()),
        other => Err(Status::not_found(format!(
            "version `{}` does not exist; every model has version {VERSION} only",
            clip(other)
        ))),
    }
}

fn metadata(tensor: &TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.dtype.oip().to_owned(),
        shape: tensor.shape.as_ref().map_or_else(|| vec![-1], contents::wire_shape),
    }
}

fn wants_trace(request: &ModelInferRequest) -> bool {
    let parameter = request.parameters.get(TRACE_PARAMETER);
    let choice = parameter.and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(choice, Some(ParameterChoice::BoolParam(true)))
}

/// The caller's deadline: `grpc-timeout`, up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_parse_and_rubbish_is_none() {
        let parse = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "5", "999999999S", "-1S", "5x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
