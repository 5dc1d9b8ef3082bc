//! A link's rate over time, from a file, for the simulator.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use anyhow::{Context, bail};
use cutline_core::{
    simulate::Rates,
    size::Replay,
    units::{BytesPerSec, Nanos},
};

use super::workload::{Link, quantity};

/// Most rows of a file.
const MOST_ROWS: usize = 1_000_000;
/// What is read of it.
const MOST_BYTES: u64 = 256 << 20;
/// Longest file in time, a day: the simulator goes through all of it.
const LONGEST: Nanos = Nanos(86_400 * 1_000_000_000);
/// Nanoseconds of work that a link as fast as declared does in a second.
const DECLARED: u128 = 1_000_000_000;

/// What a row says.
type Row = (Nanos, BytesPerSec);

/// Reads what a link replays, if it does: CSV with the columns `time`, `up` and perhaps `down`, in
/// rising order of time. A rate holds until the next row, and the time of the last row is the end.
pub(super) fn read(link: &Link, folder: &Path) -> anyhow::Result<Option<Arc<Replay>>> {
    let Some(file) = &link.replay else { return Ok(None) };
    let path = folder.join(file);
    let replay = parse(link, &path);
    replay
        .map(|replay| Some(Arc::new(replay)))
        .with_context(|| format!("[[link]] `{}`: cannot replay `{}`", link.name, path.display()))
}

fn parse(link: &Link, path: &Path) -> anyhow::Result<Replay> {
    let mut reader = csv::Reader::from_reader(File::open(path)?.take(MOST_BYTES));
    let columns: Vec<String> =
        reader.headers()?.iter().map(|name| name.trim().to_owned()).collect();
    let column = |name: &str| columns.iter().position(|column| column == name);
    let time = column("time").context("there is no column `time`")?;
    if column("up").or(column("down")).is_none() {
        bail!("there is neither a column `up` nor `down`, the rates");
    }
    let mut rows: [Vec<Row>; 2] = [Vec::new(), Vec::new()];
    let (mut start, mut last, mut end) = (None, None, Nanos::ZERO);
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        if rows.iter().any(|rows| rows.len() == MOST_ROWS) {
            bail!("it has more than {MOST_ROWS} rows; give a part of it");
        }
        let field = |at: usize| record.get(at).unwrap_or_default().trim();
        let at: Nanos = quantity("time", field(time)).with_context(|| format!("line {line}"))?;
        let start = *start.get_or_insert(at);
        if last.replace(at).is_some_and(|last| at <= last) {
            bail!("line {line}: times have to rise");
        }
        end = Nanos(at.0 - start.0);
        for (name, rows) in ["up", "down"].into_iter().zip(&mut rows) {
            let Some(place) = column(name) else { continue };
            let rate = quantity(name, field(place)).with_context(|| format!("line {line}"))?;
            rows.push((end, rate));
        }
    }
    if end == Nanos::ZERO {
        bail!("it needs two rows or more: the time of the last one is the end");
    }
    if end > LONGEST {
        bail!("it is longer than a day; give a part of it");
    }
    let [up, down] = rows;
    Ok(Replay {
        up: speed(link, "up", up, end)?,
        down: speed(link, "down", down, end)?,
        cycle: end,
    })
}

/// Rates against the declared one.
fn speed(link: &Link, name: &str, mut rows: Vec<Row>, end: Nanos) -> anyhow::Result<Option<Rates>> {
    // The last row is the end.
    if rows.pop().is_none() {
        return Ok(None);
    }
    let declared = link.table[name].as_str().with_context(|| {
        format!("give `{name}` of the link too, its usual rate: formulas count with that")
    })?;
    let declared: BytesPerSec = quantity(name, declared)?;
    for (_, rate) in &mut rows {
        let speed = (u128::from(rate.0) * DECLARED).checked_div(u128::from(declared.0));
        let speed = speed.with_context(|| format!("`{name}` of the link is no rate"))?;
        *rate = BytesPerSec(u64::try_from(speed).unwrap_or(u64::MAX));
    }
    Ok(Some(Rates::steps(&rows, Some(end))?))
}
