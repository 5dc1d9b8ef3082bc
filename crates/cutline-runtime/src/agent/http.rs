//! The same models over HTTP: the Open Inference Protocol as JSON, Triton's extensions, metrics.
//!
//! Served on the agent's one port, beside gRPC: a connection begins with what it speaks. Limits,
//! roles and answers are those of gRPC, because the same functions give them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State as Shared},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cutline_core::units::Nanos;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::{
    State,
    deployed::Came,
    inference::{Asked, VERSION, check_version},
    metrics,
    triton::EXTENSIONS,
};
use crate::{
    client::clock::unix_nanos,
    stage::trace::TRACE_PARAMETER,
    telemetry::TraceContext,
    wire::{
        inference::{
            DataType, InferStatistics, ModelStatistics, StatisticDuration,
            model_metadata_response::TensorMetadata,
        },
        rest,
    },
};

/// Length of the JSON in front of tensors as bytes.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Largest body of a call that carries no tensors.
const MAX_CALL: usize = 1 << 20;

/// An answer, or why there is none.
type Answer = Result<Response, Refusal>;

/// All routes.
pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/v2", get(server))
        .route("/v2/health/live", get(|| async {}))
        .route("/v2/health/ready", get(|| async {}))
        .route("/v2/models/stats", get(statistics_of_all))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .merge(of_model("/v2/models/{model}"))
        .merge(of_model("/v2/models/{model}/versions/{version}"))
        .fallback(unknown)
        .with_state(state)
}

/// What can be asked about one model.
fn of_model(prefix: &str) -> Router<Arc<State>> {
    Router::new()
        .route(prefix, get(metadata))
        .route(&format!("{prefix}/ready"), get(ready))
        .route(&format!("{prefix}/config"), get(config))
        .route(&format!("{prefix}/stats"), get(statistics))
        .route(&format!("{prefix}/infer"), post(infer))
}

/// A model's name, and the version where the path names one.
type Model = Path<Vec<String>>;

fn named(model: &[String]) -> (&str, &str) {
    let part = |index: usize| model.get(index).map_or("", String::as_str);
    (part(0), part(1))
}

/// A refusal, in the words that gRPC has for it.
struct Refusal(Status);

impl<E: Into<Status>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code() {
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied | Code::Unauthenticated => StatusCode::FORBIDDEN,
            Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, json_body(&json!({ "error": self.0.message() }))).into_response()
    }
}

fn json_body(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn invalid(reason: impl std::fmt::Display) -> Refusal {
    Refusal(Status::invalid_argument(reason.to_string()))
}

/// What gRPC clients that call an unknown service understand, and what a browser shows.
async fn unknown(request: Request) -> Response {
    let content = request.headers().get(header::CONTENT_TYPE);
    if content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented("this agent has no such service").into_http::<Body>();
    }
    let reason = format!("there is no `{}` here; see /v2 and /metrics", request.uri().path());
    Refusal(Status::not_found(reason)).into_response()
}

async fn scrape(Shared(state): Shared<Arc<State>>) -> Answer {
    let text = metrics::scrape(&Arc::downgrade(&state));
    let text = text.map_err(|error| Status::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn server() -> Response {
    json_body(&json!({
        "name": "cutline",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": EXTENSIONS,
    }))
}

async fn ready(Shared(state): Shared<Arc<State>>, Path(model): Model) -> Answer {
    let (name, version) = named(&model);
    check_version(version)?;
    state.ready(name)?;
    Ok(StatusCode::OK.into_response())
}

async fn metadata(Shared(state): Shared<Arc<State>>, Path(model): Model) -> Answer {
    let (name, version) = named(&model);
    let metadata = state.metadata(name.to_owned(), version)?;
    let tensors = |tensors: &[TensorMetadata]| -> Vec<Value> {
        let tensor = |tensor: &TensorMetadata| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape });
        tensors.iter().map(tensor).collect()
    };
    Ok(json_body(&json!({
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": tensors(&metadata.inputs),
        "outputs": tensors(&metadata.outputs),
    })))
}

async fn config(Shared(state): Shared<Arc<State>>, Path(model): Model) -> Answer {
    let (name, version) = named(&model);
    let config = state.config_of(name, version)?;
    let tensor = |name: &str, kind: i32, dims: &[i64]| {
        let kind = DataType::try_from(kind).unwrap_or(DataType::TypeInvalid).as_str_name();
        json!({ "name": name, "data_type": kind, "dims": dims })
    };
    let input = config.input.iter().map(|i| tensor(&i.name, i.data_type, &i.dims));
    let output = config.output.iter().map(|o| tensor(&o.name, o.data_type, &o.dims));
    let parameters = config.parameters.iter();
    let parameters =
        parameters.map(|(key, value)| (key, json!({ "string_value": value.string_value })));
    Ok(json_body(&json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "input": input.collect::<Vec<_>>(),
        "output": output.collect::<Vec<_>>(),
        "parameters": parameters.collect::<BTreeMap<_, _>>(),
    })))
}

async fn statistics(Shared(state): Shared<Arc<State>>, Path(model): Model) -> Answer {
    let (name, version) = named(&model);
    Ok(statistics_body(&state.statistics_of(name, version)?))
}

async fn statistics_of_all(Shared(state): Shared<Arc<State>>) -> Answer {
    Ok(statistics_body(&state.statistics_of("", "")?))
}

fn statistics_body(all: &[ModelStatistics]) -> Response {
    let span = |span: Option<StatisticDuration>| {
        let span = span.unwrap_or_default();
        json!({ "count": span.count, "ns": span.ns })
    };
    let requests = |stats: &InferStatistics| {
        json!({
            "success": span(stats.success),
            "fail": span(stats.fail),
            "queue": span(stats.queue),
            "compute_input": span(stats.compute_input),
            "compute_infer": span(stats.compute_infer),
            "compute_output": span(stats.compute_output),
        })
    };
    let model = |model: &ModelStatistics| {
        let batches = model.batch_stats.iter().map(|batch| {
            json!({
                "batch_size": batch.batch_size,
                "compute_input": span(batch.compute_input),
                "compute_infer": span(batch.compute_infer),
                "compute_output": span(batch.compute_output),
            })
        });
        json!({
            "name": model.name,
            "version": model.version,
            "last_inference": model.last_inference,
            "inference_count": model.inference_count,
            "execution_count": model.execution_count,
            "inference_stats": model.inference_stats.as_ref().map(requests),
            "batch_stats": batches.collect::<Vec<_>>(),
        })
    };
    json_body(&json!({ "model_stats": all.iter().map(model).collect::<Vec<_>>() }))
}

async fn index(Shared(state): Shared<Arc<State>>, request: Request) -> Answer {
    let asked = read_call(request.into_body()).await?;
    let only_ready = asked.get("ready").and_then(Value::as_bool).unwrap_or(false);
    let models = state.index(only_ready).into_iter().map(|model| {
        json!({
            "name": model.name,
            "version": model.version,
            "state": model.state,
            "reason": model.reason,
        })
    });
    Ok(json_body(&models.collect::<Vec<_>>()))
}

async fn load(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    request: Request,
) -> Answer {
    let request = tonic::Request::from_http(request);
    state.orders_from(&request)?;
    let asked = read_call(request.into_inner()).await?;
    let parameters = asked.get("parameters").and_then(Value::as_object);
    state.load_model(&model, parameters.is_some_and(|all| !all.is_empty())).await?;
    Ok(json_body(&json!({})))
}

async fn unload(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    request: Request,
) -> Answer {
    state.orders_from(&tonic::Request::from_http(request))?;
    state.unload_model(&model)?;
    Ok(json_body(&json!({})))
}

/// The JSON object of a call; an empty body is an empty one.
async fn read_call(body: Body) -> Result<Map<String, Value>, Refusal> {
    let body = to_bytes(body, MAX_CALL).await.map_err(invalid)?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&body).map_err(|error| invalid(format!("not a JSON object: {error}")))
}

async fn infer(Shared(state): Shared<Arc<State>>, Path(model): Model, request: Request) -> Answer {
    let request = tonic::Request::from_http(request);
    let from = request.remote_addr();
    let (metadata, _, body) = request.into_parts();
    let headers = metadata.into_headers();
    if let Some(coding) = headers.get(header::CONTENT_ENCODING) {
        let coding = coding.to_str().unwrap_or("?");
        return Err(invalid(format!("`{coding}` is not read here; send the body as it is")));
    }
    let within = TraceContext::read(&headers);
    let json = json_length(&headers)?;
    let limit = state.config.max_message;
    let body = to_bytes(body, limit).await.map_err(|error| {
        invalid(format!("{error}; this agent takes messages up to {limit} bytes"))
    })?;
    let came = Came { unix_ns: unix_nanos(), decode_ns: Nanos::ZERO, from };
    let (name, version) = named(&model);
    let mut form = None;
    let asked = || {
        let asked = rest::read(&body, json).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let micros = asked.parameters.get("timeout").and_then(Value::as_u64);
        let deadline = micros.filter(|&micros| micros > 0).map(Duration::from_micros);
        let trace = asked.parameters.get(TRACE_PARAMETER).and_then(Value::as_bool);
        let names = asked.outputs.iter().map(|(name, _)| name.clone()).collect();
        form = Some((asked.id, asked.outputs, asked.binary));
        Ok(Asked {
            values: asked.inputs,
            outputs: names,
            deadline: deadline.and_then(|timeout| Instant::now().checked_add(timeout)),
            trace: trace.unwrap_or(false),
        })
    };
    let (outputs, trace) = state.infer((name, version), came, within, asked).await?;
    let (id, wanted, binary) = form.unwrap_or_default();
    let binaries = wanted.iter().map(|(_, binary)| *binary).chain(std::iter::repeat(binary));
    let mut parameters = Map::new();
    if let Some(trace) = trace {
        let trace = serde_json::to_string(&trace);
        let trace = trace.map_err(|error| Status::internal(error.to_string()))?;
        parameters.insert(TRACE_PARAMETER.to_owned(), Value::String(trace));
    }
    let answer = rest::Answer {
        model_name: name,
        model_version: VERSION,
        id: &id,
        parameters,
        outputs: outputs.into_iter().zip(binaries).collect(),
    };
    let (json, tensors) = rest::write(answer).map_err(invalid)?;
    if tensors.is_empty() {
        return Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response());
    }
    let bytes = json.len() + tensors.iter().map(Bytes::len).sum::<usize>();
    let head = [
        (JSON_LENGTH, json.len().to_string()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    let pieces = [Bytes::from(json)].into_iter().chain(tensors).map(Ok::<_, Infallible>);
    Ok((head, Body::from_stream(tokio_stream::iter(pieces))).into_response())
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(length) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.map(Some).ok_or_else(|| invalid(format!("`{JSON_LENGTH}` is not a number of bytes")))
}
