//! `--journal`: which frames are held, noted for the run that comes after a kill.

use std::path::Path;

use crate::{
    journal::{Journal, Opened},
    output::{Output, Printed},
};

/// The journal of a run, where it keeps one.
pub(super) struct Notes(Option<Journal>);

impl Notes {
    /// Tells what the run before lost, and only then forgets it.
    pub(super) fn begin(path: Option<&Path>, output: &Output) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let opened = Opened::open(path)?;
        if let Some(text) = opened.left().describe(path) {
            output.warning(text);
        }
        if output.is_json() {
            output.line(opened.left())?;
        }
        Ok(Self(Some(opened.begin()?)))
    }

    /// A frame is taken.
    pub(super) fn taken(&mut self, frame: u64, name: &str) -> anyhow::Result<()> {
        self.0.as_mut().map_or(Ok(()), |journal| journal.taken(frame, name))
    }

    /// What became of a frame's line. False where nothing more should be sent: a line that nobody
    /// reads is no answer, so its frame is left to the next run.
    pub(super) fn printed(&mut self, frame: u64, printed: Printed) -> anyhow::Result<bool> {
        match (&mut self.0, printed) {
            (Some(journal), Printed::Whole) => journal.answered(frame).map(|()| true),
            (Some(_), Printed::ToNobody) => Ok(false),
            (None, _) => Ok(true),
        }
    }

    /// The run has ended by itself.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.0.take().map_or(Ok(()), Journal::finish)
    }
}
