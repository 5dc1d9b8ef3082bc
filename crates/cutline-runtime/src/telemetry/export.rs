//! The task that brings spans to the collector, batch by batch.
//!
//! It waits for spans without any timer; from the first of a batch it gathers more for a second, or
//! until the batch is full. A batch that cannot be brought, as where no collector is there, is tried
//! again after a pause that doubles; meanwhile the queue fills, and what comes on top is counted. One
//! that the collector refuses is not tried again.

use std::{
    error::Error,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use cutline_core::hex::hex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Status, transport::Channel};

use super::{
    Collector, CollectorError, Counts, Outbox, Telemetry, Told, TraceContext, span::attribute,
};
use crate::{
    agent::Remark,
    wire::otlp::{
        ExportTraceServiceRequest, InstrumentationScope, Resource, ResourceSpans, ScopeSpans, Span,
        trace_service_client::TraceServiceClient,
    },
};

/// Spans that wait at most; of ordinary size they are two megabytes.
const WAITING: usize = 4096;

/// Spans in one message at most, which keeps it below the 4 MiB that collectors take.
const BATCH: usize = 512;

/// How long a batch is gathered.
const GATHERING: Duration = Duration::from_secs(1);

/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Characters of an error that are repeated to people.
const MAX_CAUSE: usize = 200;

/// Which program tells.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its kind, e.g. `cutline-agent`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// A handle to the task; without it the task brings what waits, and ends.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Exporter {
    counts: Arc<Counts>,
    finish: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to export what the returned [`Telemetry`] takes. `remark` is told of the first failure.
    /// Must run within a tokio runtime.
    pub fn start(
        collector: Collector,
        service: &Service,
        remark: Remark,
    ) -> Result<(Telemetry, Self), CollectorError> {
        let (spans, receiver) = mpsc::channel(WAITING);
        let (finish, finishing) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let version = service.version.to_owned();
        let batcher = Batcher {
            spans: receiver,
            finishing,
            ending: false,
            place: collector.place().to_owned(),
            client: TraceServiceClient::new(collector.dial()?),
            resource: resource(service),
            scope: InstrumentationScope { name: "cutline".to_owned(), version },
            counts: Arc::clone(&counts),
            remark: Some(remark),
        };
        let task = tokio::spawn(batcher.run());
        let outbox = Outbox { spans, counts: Arc::clone(&counts) };
        Ok((Telemetry(Some(Arc::new(outbox))), Self { counts, finish, task }))
    }

    /// Brings what is left, within a time, and says what became of all spans.
    pub async fn finish(self, patience: Duration) -> Told {
        let Self { counts, finish, mut task } = self;
        let _ = finish.send(());
        if timeout(patience, &mut task).await.is_err() {
            task.abort();
        }
        let sent = counts.sent.load(Relaxed);
        Told { sent, dropped: counts.recorded.load(Relaxed).saturating_sub(sent) }
    }
}

fn resource(service: &Service) -> Resource {
    let attributes = [
        ("service.name", service.name.into()),
        ("service.version", service.version.into()),
        ("service.instance.id", instance().as_str().into()),
    ];
    Resource { attributes: attributes.map(|(key, value)| attribute(key, value)).into() }
}

/// Names this start of the process: a random UUID (version 4), as the conventions have it.
fn instance() -> String {
    let mut bytes = TraceContext::root().trace_id();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// See the module.
struct Batcher {
    spans: mpsc::Receiver<Span>,
    finishing: oneshot::Receiver<()>,
    /// No more spans come than those that wait.
    ending: bool,
    client: TraceServiceClient<Channel>,
    resource: Resource,
    scope: InstrumentationScope,
    counts: Arc<Counts>,
    /// Until it was told of a failure.
    remark: Option<Remark>,
    place: String,
}

impl Batcher {
    async fn run(mut self) {
        let mut batch = Vec::new();
        let mut pause = PAUSES.0;
        loop {
            self.gather(&mut batch).await;
            let spans = batch.len() as u64;
            if spans == 0 {
                return;
            }
            match self.export(&batch).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    self.counts.sent.fetch_add(spans - rejected, Relaxed);
                    self.counts.dropped.fetch_add(rejected, Relaxed);
                    batch.clear();
                    pause = PAUSES.0;
                }
                Err(status) if !may_pass(&status) => {
                    self.tell(&status, "those that it refuses are dropped");
                    self.counts.dropped.fetch_add(spans, Relaxed);
                    batch.clear();
                }
                Err(status) => {
                    self.tell(&status, "it is tried again");
                    if self.ending {
                        return;
                    }
                    self.wait(pause).await;
                    pause = (2 * pause).min(PAUSES.1);
                }
            }
        }
    }

    /// Gathers a batch where there is none; it stays empty only where no more spans come.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        if !batch.is_empty() {
            return;
        }
        let mut until = None;
        while batch.len() < BATCH {
            let full = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = &mut self.finishing, if !self.ending => self.end(),
                span = self.spans.recv() => match span {
                    Some(span) => {
                        batch.push(span);
                        until.get_or_insert_with(|| Instant::now() + GATHERING);
                    }
                    None => return,
                },
                () = full, if !self.ending => return,
            }
        }
    }

    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            _ = &mut self.finishing, if !self.ending => self.end(),
        }
    }

    fn end(&mut self) {
        self.ending = true;
        self.spans.close();
    }

    /// Brings a batch; of how many spans the collector says that it did not take them.
    async fn export(&mut self, batch: &[Span]) -> Result<u64, Status> {
        let spans = ScopeSpans { scope: Some(self.scope.clone()), spans: batch.to_vec() };
        let spans =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans: vec![spans] };
        let request = ExportTraceServiceRequest { resource_spans: vec![spans] };
        let answer = self.client.export(request).await?.into_inner();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    /// Tells of the first failure: those that follow are mostly of the same kind.
    fn tell(&mut self, status: &Status, then: &str) {
        let Some(remark) = self.remark.take() else { return };
        let mut cause = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            cause = error.to_string();
            source = error.source();
        }
        let cause: String = cause.chars().take(MAX_CAUSE).collect();
        remark(&format!(
            "the collector at {} does not take spans: {cause}; frames go on, and {then}; is it one that \
             speaks OTLP over gRPC",
            self.place
        ));
    }
}

/// Whether another attempt may do better, by the rules of OTLP; what the transport says may always pass.
fn may_pass(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    code || status.source().is_some()
}
