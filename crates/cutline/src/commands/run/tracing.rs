//! `--trace`: the run's timeline in a file that Perfetto opens.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use cutline_runtime::{files, runner::Timeline, stage::trace::Trace};
use tempfile::NamedTempFile;

/// A timeline on its way into a file, which is there only when it is whole.
pub(super) struct Tracing {
    timeline: Timeline,
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    is_empty: bool,
}

impl Tracing {
    /// Begins beside `path`, so that a folder that cannot be written is known before the first frame.
    pub(super) fn start(path: &Path) -> anyhow::Result<Self> {
        let file = files::beside(path)
            .with_context(|| format!("cannot write the trace `{}`", path.display()))?;
        let (file, path) = (BufWriter::new(file), path.to_owned());
        Ok(Self { timeline: Timeline::new(), file, path, is_empty: true })
    }

    /// Adds a frame that was answered.
    pub(super) fn frame(
        &mut self,
        index: u64,
        name: &str,
        route: Option<&str>,
        trace: &Trace,
    ) -> anyhow::Result<()> {
        for event in self.timeline.frame(index, name, route, trace) {
            let before = if std::mem::take(&mut self.is_empty) { "[\n" } else { ",\n" };
            write!(self.file, "{before}{event}").with_context(|| self.failed())?;
        }
        Ok(())
    }

    /// Ends the file and puts it in its place.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let end = if self.is_empty { "[]\n" } else { "\n]\n" };
        self.file.write_all(end.as_bytes()).with_context(|| self.failed())?;
        let failed = self.failed();
        let file = self.file.into_inner().map_err(|error| error.into_error()).context(failed)?;
        let failed = format!("cannot write the trace `{}`", self.path.display());
        file.persist(&self.path).context(failed)?;
        Ok(())
    }

    fn failed(&self) -> String {
        format!("cannot write the trace `{}`; is the disk full", self.path.display())
    }
}
