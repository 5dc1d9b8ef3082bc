//! What a command prints: tables or one JSON document on stdout, progress and errors on stderr.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    /// It is with who reads stdout, or on its way.
    Whole,
    /// Whoever read stdout has gone.
    ToNobody,
}

impl Output {
    /// `json`: stdout carries one JSON document; `quiet`: no progress on stderr.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether stdout carries JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether progress is unwanted.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints `document` as JSON under `--json`, else what `text` writes.
    pub(crate) fn print(
        self,
        document: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = if self.json {
            serde_json::to_writer_pretty(&mut stdout, document)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(stdout))
        } else {
            text(&mut stdout)
        };
        ignore_closed_pipe(written.and_then(|()| stdout.flush()))
    }

    /// Prints one line of JSON, for commands that stream a result per frame.
    pub(crate) fn line(self, document: &impl Serialize) -> anyhow::Result<Printed> {
        let mut stdout = io::stdout().lock();
        let written = serde_json::to_writer(&mut stdout, document)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(stdout))
            .and_then(|()| stdout.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::ToNobody),
            written => Ok(written.map(|()| Printed::Whole)?),
        }
    }

    /// What a person has to know, on stderr, even where no progress is to be shown.
    pub(crate) fn warning(self, text: impl AsRef<str>) {
        eprintln!("{}", text.as_ref());
    }

    /// A remark for people, on stderr.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// The error and its causes, outermost first; under `--json` as a document on stdout too, so
    /// that a program reading stdout learns why it got nothing.
    pub(crate) fn error(self, error: &anyhow::Error) {
        eprintln!("error: {error}");
        for cause in error.chain().skip(1) {
            eprintln!("  because: {cause}");
        }
        if self.json {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            let document = serde_json::json!({ "error": causes[0], "causes": causes[1..] });
            // The error has been told on stderr; a closed stdout changes nothing.
            let _ = writeln!(io::stdout(), "{document}");
        }
    }

    /// A progress bar of `total` steps on a terminal; plain lines elsewhere are left to notes.
    pub(crate) fn progress(self, what: impl Into<String>, total: u64) -> ProgressBar {
        let bar = ProgressBar::new(total);
        if self.quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = "{msg:32} [{bar:30}] {pos}/{len} {elapsed} (left {eta})";
        bar.set_style(
            ProgressStyle::with_template(style).expect("a constant template").progress_chars("=> "),
        );
        bar.set_message(what.into());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A line that changes while work goes on, on a terminal.
    pub(crate) fn live(self) -> ProgressBar {
        let bar = ProgressBar::new_spinner();
        if self.quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("a constant template"));
        bar
    }
}

/// A reader such as `head` may close the pipe early: that is its right, not an error.
fn ignore_closed_pipe(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A borderless table: first column left, the others right aligned.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    table_of(&header, rows)
}

/// The same of as many columns as there turn out to be.
pub(crate) fn table_of<R: IntoIterator<Item = String>>(
    header: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
