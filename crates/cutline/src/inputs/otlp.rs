//! Where a command tells of its frames: the options that name an OpenTelemetry collector.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cutline_runtime::telemetry::{Collector, Exporter, Service, Telemetry};

use crate::output::Output;

/// How long the end of a command waits for the collector.
const PATIENCE: Duration = Duration::from_secs(5);

/// A collector, where one is wanted.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct OtlpArgs {
    /// Send traces to the OpenTelemetry collector at this address, http://HOST:PORT or https://HOST:PORT
    /// (OTLP over gRPC, usually port 4317): where the time of each frame went.
    // The value is checked later: what is wrong with it must be said without repeating a password in it.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// PEM file of the authorities that vouch for a collector at https:// [default: the system's].
    #[arg(long, value_name = "FILE", requires = "otlp")]
    otlp_ca: Option<PathBuf>,
}

impl OtlpArgs {
    /// The collector, which is not dialled yet.
    pub(crate) fn collector(&self) -> anyhow::Result<Option<Collector>> {
        let collector = |url: &String| Collector::new(url, self.otlp_ca.as_deref());
        Ok(self.otlp.as_ref().map(collector).transpose()?)
    }
}

/// A command's way to its collector, if any.
#[derive(Default)]
pub(crate) struct Telling {
    telemetry: Telemetry,
    exporter: Option<Exporter>,
}

impl Telling {
    /// Starts to tell in the name of a service. Must be called within a runtime.
    pub(crate) fn start(
        collector: Option<Collector>,
        name: &'static str,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let Some(collector) = collector else { return Ok(Self::default()) };
        let (service, output) = (Service { name, version: env!("CARGO_PKG_VERSION") }, *output);
        let remark = Arc::new(move |text: &str| output.note(text));
        let (telemetry, exporter) = Exporter::start(collector, &service, remark)?;
        Ok(Self { telemetry, exporter: Some(exporter) })
    }

    /// Who is told.
    pub(crate) fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Tells what is left, within five seconds, and says how much was not told.
    pub(crate) async fn finish(self, output: &Output) {
        let Some(exporter) = self.exporter else { return };
        let told = exporter.finish(PATIENCE).await;
        if told.dropped > 0 {
            let all = told.sent + told.dropped;
            output.note(format!("{} of {all} spans did not reach the collector", told.dropped));
        }
    }
}
