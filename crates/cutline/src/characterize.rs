//! Measuring a grid of cells: network, size, batch, threads, engine, precision, preparation, link and
//! device.
//!
//! ```text
//! GRID.toml ─► cells ─► rounds of turns, shuffled ─► until each median is known ─► F.db
//! ```
//!
//! [`schedule`] decides, as pure functions, whose turn it is and when enough is known; [`measure`]
//! takes a turn; [`database`] keeps each turn as it is done, so that a sweep can be killed at any
//! moment and goes on where it was. Cells are named by their content: a grid may grow or shrink
//! between two runs into one file.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cutline_core::units::Nanos;
use cutline_runtime::client::{AgentClient, ClientOptions};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::runtime::Runtime;

mod cells;
pub(crate) mod curves;
mod database;
mod environment;
pub(crate) mod export;
pub(crate) mod grid;
mod interval;
mod measure;
pub(crate) mod networks;
pub(crate) mod results;
mod schedule;

pub(crate) use cells::Cell;
pub(crate) use database::{Database, Finished};
pub(crate) use grid::Grid;
pub(crate) use networks::shapes_at;

use self::{
    cells::{Job, Place},
    database::Known,
    environment::{Conditions, Environment},
    grid::{Agent, Measure},
    measure::{Ready, Waiting},
    schedule::Verdict,
};
use crate::{output::Output, process};

/// Time that a killed sweep may take to be gone: its gigabytes are given back first, its lock last.
const GRACE: Duration = Duration::from_secs(5);

/// How often its lock is tried meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// What the end of a sweep says.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) database: PathBuf,
    /// Orders the turns.
    pub(crate) seed: u64,
    /// Cells of the grid whose result was there before.
    pub(crate) kept: usize,
    pub(crate) cells: Vec<Line>,
    /// Combinations that cannot be, with their reasons.
    pub(crate) skipped: Vec<String>,
}

/// A cell of the grid with its result.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    #[serde(flatten)]
    pub(crate) result: Finished,
}

/// Measures every cell of the grid in a file that has no result in `database` yet.
pub(crate) fn sweep(
    grid_file: &Path,
    database: &Path,
    seed: Option<u64>,
    client: &ClientOptions,
    output: &Output,
) -> anyhow::Result<Report> {
    let text = fs::read_to_string(grid_file)
        .with_context(|| format!("cannot read grid `{}`", grid_file.display()))?;
    let folder = grid_file.parent().unwrap_or(Path::new(""));
    let grid = Grid::parse(&text, folder)
        .with_context(|| format!("cannot use grid `{}`", grid_file.display()))?;
    let runtime = process::runtime()?;
    let places = runtime.block_on(places(&grid, client))?;
    let (jobs, skipped) = cells::cells(&grid, &places)
        .with_context(|| format!("cannot use grid `{}`", grid_file.display()))?;
    for reason in &skipped {
        output.note(format!("left out: {reason}"));
    }
    let workspace = Workspace::open(database)?;
    let unusable = || format!("cannot use `{}`", database.display());
    let mut file = Database::open(database).with_context(unusable)?;
    let seed = seed.unwrap_or(grid.measure.seed);
    let session =
        file.begin(&Environment::read(), &grid.measure, seed, &text).with_context(unusable)?;
    file.add_cells(jobs.iter().map(|job| (job.id.as_str(), &job.cell)))?;
    let known: Vec<Known> = jobs.iter().map(|job| file.known(&job.id)).collect::<Result<_, _>>()?;
    let kept = known.iter().filter(|known| known.is_finished).count();
    output.note(format!(
        "{} cells, {kept} of them finished before; the order of the turns has seed {seed}",
        jobs.len()
    ));
    let mut sweep = Sweep {
        measure: &grid.measure,
        jobs: &jobs,
        known,
        walls: BTreeMap::new(),
        waiting: Waiting::default(),
        file,
        session,
        folder: workspace.folder.clone(),
        runtime: &runtime,
        client,
        output,
        bar: output.live(),
    };
    let outcome = sweep.run(seed);
    sweep.bar.finish_and_clear();
    for ready in sweep.waiting.drain() {
        ready.unload(&runtime);
    }
    outcome?;
    let cells = jobs.iter().map(|job| {
        let result = sweep.file.finished(&job.id)?.context("a cell has no result")?;
        Ok(Line { cell: job.cell.clone(), result })
    });
    let cells = cells.collect::<anyhow::Result<_>>()?;
    workspace.remove();
    Ok(Report { database: database.to_owned(), seed, kept, cells, skipped })
}

/// The devices of a grid, each asked what it has.
async fn places(grid: &Grid, client: &ClientOptions) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for agent in &grid.agents {
        let Agent::Remote(address) = agent else {
            places.push(Place::here());
            continue;
        };
        let connected = AgentClient::connect("agent", address, client.clone()).await;
        let description = connected.context("`agents`")?.describe().await?;
        let engines = description.engines.into_iter().map(|engine| (engine.name, engine.version));
        places.push(Place {
            agent: agent.clone(),
            hardware: description.hardware,
            engines: engines.collect(),
        });
    }
    Ok(places)
}

/// The folder beside a database that only one sweep may have: files of the zoo's networks, there
/// again when a killed sweep goes on.
struct Workspace {
    folder: PathBuf,
    _lock: File,
}

impl Workspace {
    fn open(database: &Path) -> anyhow::Result<Self> {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(".work");
        let folder = database.with_file_name(name);
        let failed = || format!("cannot make folder `{}`", folder.display());
        fs::create_dir_all(&folder).with_context(failed)?;
        let lock = File::create(folder.join("lock")).with_context(failed)?;
        let began = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder, _lock: lock }),
                Err(TryLockError::WouldBlock) if began.elapsed() < GRACE => thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => {
                    bail!("another sweep is writing `{}`; wait for its end", database.display())
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
            }
        }
    }

    fn remove(self) {
        // What stays behind does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // A folder with networks in it stays, for the sweep to go on with.
        let files = fs::read_dir(&self.folder).map_or(0, Iterator::count);
        if files == 1 {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A sweep under way.
struct Sweep<'a> {
    measure: &'a Measure,
    jobs: &'a [Job],
    /// In the order of the jobs.
    known: Vec<Known>,
    /// What the last turn of a cell took, loading included.
    walls: BTreeMap<usize, Duration>,
    waiting: Waiting,
    file: Database,
    session: i64,
    folder: PathBuf,
    runtime: &'a Runtime,
    client: &'a ClientOptions,
    output: &'a Output,
    bar: ProgressBar,
}

impl Sweep<'_> {
    /// Rounds until every cell is finished.
    fn run(&mut self, seed: u64) -> anyhow::Result<()> {
        // A sweep that goes on begins with another order than before.
        let first = (self.session as u64) << 32;
        for round in first.. {
            let open: Vec<usize> =
                (0..self.jobs.len()).filter(|&at| !self.known[at].is_finished).collect();
            if open.is_empty() {
                break;
            }
            for at in schedule::order(&open, seed, round) {
                self.bar.set_message(self.progress(&self.jobs[at].cell.describe()));
                self.take_turn(at)?;
            }
        }
        Ok(())
    }

    /// A turn of a cell. Only what would hit every cell ends the sweep.
    fn take_turn(&mut self, at: usize) -> anyhow::Result<()> {
        let jobs = self.jobs;
        let job = &jobs[at];
        let began = Instant::now();
        let context = (self.runtime, self.client);
        let loaded = match self.waiting.take(at) {
            Some(ready) => Ok(ready),
            None => Ready::load(job, self.measure, &self.folder, context),
        };
        let outcome = loaded.and_then(|mut ready| {
            let turn = ready.turn(self.measure, self.runtime)?;
            Ok((ready, turn))
        });
        let (ready, turn) = match outcome {
            Ok(done) => done,
            Err(error) if measure::is_of_the_connection(&error) => {
                return Err(error.context(format!(
                    "the sweep stopped at {}; the same command goes on from there",
                    job.cell.describe()
                )));
            }
            Err(error) => return self.fail(at, &error),
        };
        let conditions = match job.cell.agent == "local" {
            true => Conditions::read(),
            // This machine only sends.
            false => Conditions::default(),
        };
        let (known, verdict) =
            self.file.add_turn((&job.id, self.session), &turn, conditions, &self.measure.rule)?;
        self.known[at] = known;
        let full = match self.known[at].is_finished {
            true => Some(ready),
            false => self.waiting.keep(at, ready, self.measure.memory.0),
        };
        if let Some(ready) = full {
            ready.unload(self.runtime);
        }
        self.walls.insert(at, began.elapsed());
        if verdict != Verdict::More {
            self.tell(at, verdict);
        }
        Ok(())
    }

    fn fail(&mut self, at: usize, error: &anyhow::Error) -> anyhow::Result<()> {
        let words = format!("{error:#}");
        self.file.add_failure(&self.jobs[at].id, &words)?;
        self.known[at].is_finished = true;
        let line = self.progress(&format!("{}: {words}", self.jobs[at].cell.describe()));
        self.bar.suspend(|| self.output.note(line));
        Ok(())
    }

    fn tell(&self, at: usize, verdict: Verdict) {
        let words = match verdict {
            Verdict::Known(interval) => {
                format!("{} ± {}", interval.median, percent(interval.error_permille()))
            }
            Verdict::Limit(Some(interval)) => {
                let error = percent(interval.error_permille());
                format!("{} ± {error}, not known better within the limits", interval.median)
            }
            _ => "the limits came before an interval".to_owned(),
        };
        let line = self.progress(&format!("{}: {words}", self.jobs[at].cell.describe()));
        self.bar.suspend(|| self.output.note(line));
    }

    fn progress(&self, what: &str) -> String {
        let done = self.known.iter().filter(|known| known.is_finished).count();
        let left = match self.time_left() {
            Some(left) => format!("about {} left", rounded(left)),
            None => "time left not known yet".to_owned(),
        };
        format!("{done} of {} cells, {left}: {what}", self.jobs.len())
    }

    /// What the turns that are needed will take, if they are like those that were taken; `None`
    /// before the first one.
    fn time_left(&self) -> Option<Duration> {
        let mean =
            self.walls.values().sum::<Duration>() / u32::try_from(self.walls.len()).ok()?.max(1);
        if self.walls.is_empty() {
            return None;
        }
        let open = self.known.iter().enumerate().filter(|(_, known)| !known.is_finished);
        let left = open.map(|(at, known)| {
            let rule = &self.measure.rule;
            let turns = rule.turns_left(&known.samples);
            let wall = self.walls.get(&at).copied().unwrap_or(mean);
            let by_turns = wall.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
            // Runs are no more than the wall's time, so neither is what the limit leaves.
            match known.samples.is_empty() {
                true => by_turns,
                false => by_turns.min(rule.time_limit.saturating_sub(known.spent) * 2 + wall),
            }
        });
        Some(left.fold(Duration::ZERO, Duration::saturating_add))
    }
}

/// A share for people.
pub(crate) fn percent(permille: u64) -> String {
    format!("{:.1} %", permille as f64 / 10.0)
}

/// A duration that is not known to its last digits.
pub(crate) fn rounded(time: Duration) -> String {
    match time.as_secs() {
        0..100 => format!("{} s", time.as_secs()),
        100..6000 => format!("{} min", (time.as_secs() + 30) / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// How far the ends of a result's interval are from its median, in thousandths.
pub(crate) fn error_permille(result: &Finished) -> Option<u64> {
    let nanos = |time: Option<i64>| Some(Nanos(u64::try_from(time?).ok()?));
    let (median, low, high) =
        (nanos(result.median_ns)?, nanos(result.low_ns)?, nanos(result.high_ns)?);
    Some(interval::Interval { median, low, high }.error_permille())
}
