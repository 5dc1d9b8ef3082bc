//! What a collector is told: one trace per frame over its holder and every agent, whoever began it;
//! and that nothing waits for a collector.
#![allow(clippy::unwrap_used)]

#[allow(unused_imports)]
mod fleet;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use cutline_runtime::{
    client::Asking,
    pki::{Authority, Role},
    runner::{Deployment, Outcome, Part, Pipeline, RunOptions, Runner},
    stage::Content,
    telemetry::{Collector, Exporter, Kind, Service, Telemetry, Told, TraceContext},
    wire::otlp::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse, Span,
        any_value::Value,
        span::SpanKind,
        status::StatusCode,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use fleet::{Device, chain, deploy_double, expected, frame, options, part, plan, vector, wait};
use tokio::runtime::Runtime;
use tonic::{
    Code, Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];
const PATIENCE: Duration = Duration::from_secs(20);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector in this process.
struct Sink {
    runtime: Runtime,
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// A span with the name of the service that told it.
#[derive(Clone, Debug)]
struct Taken {
    service: String,
    span: Span,
}

/// What a collector answers.
#[derive(Clone, Copy)]
enum Answers {
    Thanks,
    Rejects(i64),
    Refuses(Code),
}

struct Taking {
    taken: Arc<Mutex<Vec<Taken>>>,
    answers: Answers,
}

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = text(&resource.resource.unwrap().attributes, "service.name").unwrap();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let taken = spans.map(|span| Taken { service: service.clone(), span });
            self.taken.lock().unwrap().extend(taken);
        }
        let partial = |rejected_spans| ExportTracePartialSuccess {
            rejected_spans,
            error_message: "too many".to_owned(),
        };
        match self.answers {
            Answers::Thanks => Ok(Response::new(ExportTraceServiceResponse::default())),
            Answers::Rejects(spans) => Ok(Response::new(ExportTraceServiceResponse {
                partial_success: Some(partial(spans)),
            })),
            Answers::Refuses(code) => Err(Status::new(code, "not like this")),
        }
    }
}

impl Sink {
    fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), Answers::Thanks, None)
    }

    fn at(address: SocketAddr, answers: Answers, identity: Option<Identity>) -> Self {
        let runtime = Runtime::new().unwrap();
        let taken = Arc::default();
        let service = TraceServiceServer::new(Taking { taken: Arc::clone(&taken), answers });
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut server = Server::builder();
            if let Some(identity) = identity {
                server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
            }
            let server = server.add_service(service);
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
            address
        });
        Self { runtime, address, taken }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn tell(&self, name: &'static str) -> (Telemetry, Exporter) {
        let _within = self.runtime.enter();
        tell(&self.url(), name, None).0
    }

    /// An agent that tells this collector.
    fn device(&self) -> (Device, Exporter) {
        let (telemetry, exporter) = self.tell("cutline-agent");
        (Device::with(|config| config.telemetry = telemetry), exporter)
    }

    /// Everything that was told, once `exporters` have brought the last of it.
    fn taken(&self, exporters: impl IntoIterator<Item = Exporter>) -> Vec<Taken> {
        for exporter in exporters {
            assert_eq!(self.runtime.block_on(exporter.finish(PATIENCE)).dropped, 0);
        }
        self.taken.lock().unwrap().clone()
    }
}

/// A way to the collector at `url`, and what it has to say to people. Within a runtime.
fn tell(
    url: &str,
    name: &'static str,
    authorities: Option<&Path>,
) -> ((Telemetry, Exporter), mpsc::Receiver<String>) {
    let (said, heard) = mpsc::channel();
    let said = Mutex::new(said);
    let remark = Arc::new(move |text: &str| drop(said.lock().unwrap().send(text.to_owned())));
    let collector = Collector::new(url, authorities).unwrap();
    let service = Service { name, version: "1" };
    (Exporter::start(collector, &service, remark).unwrap(), heard)
}

fn text(attributes: &[cutline_runtime::wire::otlp::KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    cutline_core::hex::hex(bytes)
}

/// Where each span hangs: its name, kind and service under those of its parent, sorted. Checks that
/// spans have ids of their own and lie within their parents.
fn tree(taken: &[&Taken]) -> Vec<String> {
    let by_id: BTreeMap<&[u8], &Taken> =
        taken.iter().map(|taken| (&taken.span.span_id[..], *taken)).collect();
    assert_eq!(by_id.len(), taken.len(), "two spans have one id");
    let name = |taken: &Taken| {
        let kind = SpanKind::try_from(taken.span.kind).unwrap();
        format!("{} {kind:?} {}", taken.service.trim_start_matches("cutline-"), taken.span.name)
    };
    let mut lines = Vec::new();
    for taken in taken {
        let span = &taken.span;
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        let parent = match &span.parent_span_id[..] {
            [] => "-".to_owned(),
            id => by_id.get(id).map_or_else(|| hex(id), |parent| name(parent)),
        };
        if let Some(parent) = by_id.get(&span.parent_span_id[..]) {
            let (inner, outer) = (span, &parent.span);
            let nested = outer.start_time_unix_nano <= inner.start_time_unix_nano
                && inner.end_time_unix_nano <= outer.end_time_unix_nano;
            assert!(nested, "{inner:?} is not within {outer:?}");
        }
        lines.push(format!("{parent} > {}", name(taken)));
    }
    lines.sort();
    lines
}

/// The spans of each trace.
fn traces(taken: &[Taken]) -> BTreeMap<String, Vec<&Taken>> {
    let mut traces: BTreeMap<String, Vec<&Taken>> = BTreeMap::new();
    for taken in taken {
        traces.entry(hex(&taken.span.trace_id)).or_default().push(taken);
    }
    traces
}

fn addresses(devices: &[&Device]) -> Vec<String> {
    devices.iter().map(|device| device.address()).collect()
}

#[test]
fn a_frame_is_one_trace_over_its_holder_and_its_agents() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start();
    let ((pi, of_pi), (cloud, of_cloud)) = (sink.device(), sink.device());
    let (telemetry, of_run) = sink.tell("cutline-run");
    let deployment = chain(&folder, &addresses(&[&pi, &cloud]));
    wait(async {
        let options = RunOptions { telemetry, ..options() };
        let runner = Runner::deploy(deployment, options, |_| {}).await.unwrap();
        let mut pipeline = Pipeline::new(runner.clone(), 3.try_into().unwrap());
        (0..3).for_each(|n| pipeline.send(n, frame(X)).unwrap());
        while let Some(Outcome { result, .. }) = pipeline.next().await {
            assert_eq!(result.unwrap().outputs, expected(X));
        }
    });
    let taken = sink.taken([of_pi, of_cloud, of_run]);
    let traces = traces(&taken);
    assert_eq!(traces.len(), 3);
    for spans in traces.values() {
        let of_stages = |line: &String| !line.contains("queue") && !line.contains("prepare");
        let lines: Vec<String> = tree(spans).into_iter().filter(of_stages).collect();
        assert_eq!(
            lines,
            [
                "- > run Internal frame",
                "agent Client call 1-cloud > agent Server infer 1-cloud",
                "agent Server infer 0-pi > agent Client call 1-cloud",
                "agent Server infer 0-pi > agent Internal compute 0-pi",
                "agent Server infer 1-cloud > agent Internal compute 1-cloud",
                "run Client call 0-pi > agent Server infer 0-pi",
                "run Internal frame > run Client call 0-pi",
                "run Internal frame > run Internal answer cloud to pi",
                "run Internal frame > run Internal compute 0-pi",
                "run Internal frame > run Internal compute 1-cloud",
                "run Internal frame > run Internal send pi to cloud",
            ]
        );
        let call = spans.iter().find(|taken| taken.span.name == "call 1-cloud").unwrap();
        let port = text(&call.span.attributes, "server.port");
        assert_eq!(port, Some(cloud.address.port().to_string()));
        let failed = |taken: &&&Taken| taken.span.status.is_some();
        assert_eq!(spans.iter().filter(failed).count(), 0);
    }
}

#[test]
fn branches_hang_under_the_stage_that_called_them() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start();
    let ((pi, of_pi), (hub, of_hub)) = (sink.device(), sink.device());
    let mut parts = 0;
    let mut on = |device: &str, address: &Device, nodes: &[_], reads: &[&str], makes: &[&str]| {
        parts += 1;
        let name = format!("{device}{parts}");
        let address = Some(address.address());
        Part { device: device.to_owned(), ..part(&folder, &name, address, nodes, reads, makes) }
    };
    let source = Part { model: None, ..on("pi", &pi, &[("Neg", &["x"], "own")], &["x"], &["own"]) };
    let own = on("pi", &pi, &[("Neg", &["x"], "own")], &["x"], &["own"]);
    let far = on("hub", &hub, &[("Mul", &["x", "x"], "far")], &["x"], &["far"]);
    let join = on("pi", &pi, &[("Add", &["own", "far"], "y")], &["own", "far"], &["y"]);
    let branch = |part: Part| Part { branch: true, ..part };
    let parts = vec![source, branch(own), branch(far), join];
    let deployment = Deployment::new(plan(parts, &["y"])).unwrap();
    wait(async {
        let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        let answer = runner.infer(frame(X)).await.unwrap();
        assert_eq!(answer.outputs, [("y".to_owned(), vector(X.map(|x| x * x - x)))]);
    });
    let taken = sink.taken([of_pi, of_hub]);
    let traces = traces(&taken);
    assert_eq!(traces.len(), 1, "the holder tells nobody, and yet began the trace");
    let calls = |line: &String| line.contains("> agent Client") || line.contains("infer");
    let mut lines: Vec<String> = tree(traces.values().next().unwrap())
        .into_iter()
        .filter(|line| calls(line) && !line.contains("queue") && !line.contains("compute"))
        .map(|line| line.replace(&holder(&taken), "holder"))
        .collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "agent Client call 2-hub > agent Server infer 2-hub",
            "agent Server infer 0-pi > agent Client call 2-hub",
            "agent Server infer 0-pi > agent Internal infer 1-pi",
            "agent Server infer 0-pi > agent Internal infer 3-pi",
            "holder > agent Server infer 0-pi",
        ]
    );
}

/// The span that was not told, under which the first agent's hangs.
fn holder(taken: &[Taken]) -> String {
    let first = taken.iter().find(|taken| taken.span.name == "infer 0-pi").unwrap();
    hex(&first.span.parent_span_id)
}

fn context(parent: &str, state: &str) -> Option<TraceContext> {
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("traceparent", parent.parse().unwrap());
    headers.insert("tracestate", state.parse().unwrap());
    TraceContext::read(&headers)
}

#[test]
fn an_agent_that_tells_nobody_passes_on_what_a_client_brought() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start();
    let (pi, (cloud, of_cloud)) = (Device::start(), sink.device());
    let deployment = chain(&folder, &addresses(&[&pi, &cloud]));
    wait(async {
        let model = deployment.stages[0].model_name.clone();
        let _runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        let client = pi.client().await;
        for flags in ["01", "00"] {
            let within = context(&format!("00-{TRACE}-{SPAN}-{flags}"), "vendor=opaque");
            let asking =
                Asking { id: "", trace: false, timeout: PATIENCE, within: within.as_ref() };
            let values = vec![("x".to_owned(), Content::Tensor(vector(X)))];
            let answer = client.infer_as(&model, values, asking).await.unwrap();
            assert_eq!(answer.outputs, expected(X), "{flags}");
        }
    });
    let taken = sink.taken([of_cloud]);
    let servers: Vec<&Taken> =
        taken.iter().filter(|taken| taken.span.kind == i32::from(SpanKind::Server)).collect();
    let [Taken { span, .. }] = servers[..] else { panic!("one was sampled: {servers:?}") };
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), SPAN.into()));
    assert_eq!(span.trace_state, "vendor=opaque");
}

/// One call over HTTP, with these headers.
fn post(device: &Device, headers: &[String]) {
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[4],"data":[1,2,3,4]}]}"#;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let mut socket = TcpStream::connect(device.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /v2/models/double/infer HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n";
    let request = format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[test]
fn a_client_over_http_has_its_trace_go_on_or_a_new_one_where_it_is_malformed() {
    let sink = Sink::start();
    let (device, exporter) = sink.device();
    wait(async { deploy_double(&device.client().await).await });
    let parent = |text: &str| format!("traceparent: {text}");
    post(&device, &[parent(&format!("00-{TRACE}-{SPAN}-01"))]);
    post(&device, &[parent(&format!("00-{TRACE}-{SPAN}-00"))]);
    let long = "0".repeat(8000);
    let malformed =
        [format!("00-{TRACE}-{}-01", &long[..16]), format!("ff-{TRACE}-{SPAN}-01"), long];
    malformed.iter().for_each(|text| post(&device, &[parent(text)]));
    post(&device, &[]);
    let taken = sink.taken([exporter]);
    let servers = taken.iter().filter(|taken| taken.span.name.starts_with("infer"));
    let parents: Vec<(String, String)> =
        servers.map(|taken| (hex(&taken.span.trace_id), hex(&taken.span.parent_span_id))).collect();
    assert_eq!(parents.len(), 5, "all but the one that is not sampled");
    assert_eq!(parents[0], (TRACE.to_owned(), SPAN.to_owned()));
    let others: BTreeSet<&str> = parents[1..].iter().map(|(trace, _)| trace.as_str()).collect();
    assert_eq!(others.len(), 4, "each begins a trace of its own");
    assert!(!others.contains(TRACE) && parents[1..].iter().all(|(_, parent)| parent.is_empty()));
}

#[test]
fn what_fails_is_told_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start();
    let ((pi, of_pi), mut cloud) = (sink.device(), Device::start());
    let (telemetry, of_run) = sink.tell("cutline-run");
    let deployment = chain(&folder, &addresses(&[&pi, &cloud]));
    let options = RunOptions { telemetry, ..options() };
    let runtime = Runtime::new().unwrap();
    let runner = runtime.block_on(Runner::deploy(deployment, options, |_| {})).unwrap();
    cloud.kill();
    runtime.block_on(runner.infer(frame(X))).unwrap_err();
    let taken = sink.taken([of_pi, of_run]);
    for name in ["frame", "call 0-pi", "infer 0-pi", "call 1-cloud"] {
        let span = &taken.iter().find(|taken| taken.span.name == name).unwrap().span;
        let status = span.status.as_ref().unwrap();
        assert_eq!(status.code(), StatusCode::Error, "{name}");
        assert!(status.message.contains("1-cloud"), "{name}: {}", status.message);
    }
    let computed = taken.iter().find(|taken| taken.span.name == "compute 0-pi").unwrap();
    assert_eq!(computed.span.status, None);
}

/// Ends a span of a name.
fn record(telemetry: &Telemetry, name: &str) {
    telemetry.begin(Kind::Internal, (name, ""), None).end(None);
}

#[test]
fn spans_reach_a_collector_that_comes_later() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let runtime = Runtime::new().unwrap();
    let within = runtime.enter();
    let ((telemetry, exporter), heard) = tell(&format!("http://{free}"), "cutline-run", None);
    drop(within);
    record(&telemetry, "early");
    let said = heard.recv_timeout(PATIENCE).unwrap();
    assert!(said.contains(&free.to_string()) && said.contains("frames go on"), "{said}");
    let sink = Sink::at(free, Answers::Thanks, None);
    let began = Instant::now();
    while telemetry.told().unwrap().sent == 0 {
        assert!(began.elapsed() < PATIENCE, "it was not tried again");
        std::thread::sleep(Duration::from_millis(10));
    }
    record(&telemetry, "late");
    let told = runtime.block_on(exporter.finish(PATIENCE));
    assert_eq!(told, Told { sent: 2, dropped: 0 });
    let names: Vec<String> = sink.taken([]).into_iter().map(|taken| taken.span.name).collect();
    assert_eq!(names, ["early", "late"]);
    assert!(heard.try_recv().is_err(), "it is said once");
}

#[test]
fn what_does_not_fit_the_queue_is_counted_and_an_end_is_not_waited_for() {
    // Connections are accepted and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ((telemetry, exporter), _) = tell(&url, "cutline-run", None);
        // Nothing is taken from the queue before this task waits.
        (0..5000).for_each(|_| record(&telemetry, "span"));
        assert_eq!(telemetry.told(), Some(Told { sent: 0, dropped: 5000 - 4096 }));
        let began = Instant::now();
        let told = exporter.finish(Duration::from_millis(300)).await;
        assert_eq!(told, Told { sent: 0, dropped: 5000 });
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    });
}

#[test]
fn what_a_collector_refuses_is_counted_and_not_tried_again() {
    let any = "127.0.0.1:0".parse().unwrap();
    for (answers, sent, remarks) in [
        (Answers::Thanks, 3, 0),
        (Answers::Rejects(2), 1, 0),
        (Answers::Rejects(-5), 3, 0),
        (Answers::Rejects(i64::MAX), 0, 0),
        (Answers::Refuses(Code::InvalidArgument), 0, 1),
        (Answers::Refuses(Code::Unimplemented), 0, 1),
    ] {
        let sink = Sink::at(any, answers, None);
        sink.runtime.block_on(async {
            let ((telemetry, exporter), heard) = tell(&sink.url(), "cutline-run", None);
            (0..3).for_each(|_| record(&telemetry, "span"));
            let told = exporter.finish(PATIENCE).await;
            assert_eq!(told, Told { sent, dropped: 3 - sent });
            assert_eq!(heard.try_iter().count(), remarks);
        });
        assert_eq!(sink.taken([]).len(), 3, "they came once");
    }
}

#[test]
fn a_span_that_is_dropped_under_way_was_given_up() {
    let sink = Sink::start();
    let (telemetry, exporter) = sink.tell("cutline-run");
    drop(telemetry.begin(Kind::Client, ("call", "0-pi"), None));
    let taken = sink.taken([exporter]);
    let status = taken[0].span.status.as_ref().unwrap();
    assert!(status.code() == StatusCode::Error && status.message.contains("given"), "{status:?}");
}

#[test]
fn an_encrypted_collector_is_known_by_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let authority = Authority::generate().unwrap();
    authority.issue("collector", Role::Agent, &["127.0.0.1".into()]).unwrap().write(&own).unwrap();
    Authority::generate().unwrap().write(&other).unwrap();
    let file = |name: &str| fs::read(own.join(name)).unwrap();
    let identity = Identity::from_pem(file("identity.pem"), file("identity.key"));
    let sink = Sink::at("127.0.0.1:0".parse().unwrap(), Answers::Thanks, Some(identity));
    let url = format!("https://{}", sink.address);
    for (authorities, sent) in [(&own, 1), (&other, 0)] {
        sink.runtime.block_on(async {
            let ca = authorities.join("ca.pem");
            let ((telemetry, exporter), heard) = tell(&url, "cutline-run", Some(&ca));
            record(&telemetry, "span");
            let told = exporter.finish(PATIENCE).await;
            assert_eq!(told, Told { sent, dropped: 1 - sent });
            let said: Vec<String> = heard.try_iter().collect();
            assert_eq!(said.len() as u64, 1 - sent);
            assert!(said.iter().all(|text| text.contains("certificate")), "{said:?}");
        });
    }
}
