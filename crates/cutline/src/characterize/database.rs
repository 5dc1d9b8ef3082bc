//! The file of a sweep: SQLite, written turn by turn.
//!
//! A turn is one transaction, and the turn that finishes a cell writes its result in the same one:
//! whenever the process dies, the file holds whole turns, and a cell has a result once or not at
//! all. The log is written ahead (WAL), so that others can read meanwhile; what a killed process
//! had committed is in the log and comes back when the file is next opened.

use std::{path::Path, time::Duration};

use cutline_core::units::Nanos;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter, types::Value,
};
use serde::Serialize;
use thiserror::Error;

use super::{
    cells::Cell,
    environment::{Conditions, Environment, now_unix_ns},
    grid::Measure,
    measure::{PARTS, Turn},
    schedule::{Rule, Verdict},
};

/// Marks the file as one of a sweep: `cutl`.
const APPLICATION: i32 = 0x6375_746c;

/// Version of the tables.
const FORMAT: i32 = 1;

/// The tables.
const SCHEMA: &str = include_str!("schema.sql");

/// Why a sweep's file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DatabaseError {
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
    #[error("it is a database, but none of `cutline characterize`; choose another file")]
    Foreign,
    #[error("its tables have version {0}, this build writes version {FORMAT}; choose another file")]
    Format(i32),
    #[error(
        "it was measured with `{key}` {then}, and the grid says {now}: medians of two kinds do not \
         belong in one file; give the grid the value of the file, or choose another file"
    )]
    Setting { key: String, then: String, now: String },
}

/// An open file.
pub(crate) struct Database {
    connection: Connection,
}

/// What a file holds of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The middle run of each turn.
    pub(crate) samples: Vec<Nanos>,
    /// Time in all runs.
    pub(crate) spent: Duration,
    /// Whether its result is there, and none of a failure.
    pub(crate) is_finished: bool,
}

/// A table as it is exported: columns, and rows of as many values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// A column of an exported table; every value in it may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Text; else 64-bit integers.
    pub(crate) is_text: bool,
}

/// What is said of a finished cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finished {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) median_ns: Option<i64>,
    pub(crate) low_ns: Option<i64>,
    pub(crate) high_ns: Option<i64>,
    pub(crate) p90_ns: Option<i64>,
    pub(crate) runs: i64,
    pub(crate) turns: i64,
    pub(crate) decode_ns: Option<i64>,
    pub(crate) resize_ns: Option<i64>,
    pub(crate) encode_ns: Option<i64>,
    pub(crate) transfer_ns: Option<i64>,
    pub(crate) finish_ns: Option<i64>,
    pub(crate) inference_ns: Option<i64>,
    pub(crate) upload_bytes: Option<i64>,
    pub(crate) download_bytes: Option<i64>,
    pub(crate) error: Option<String>,
}

impl Database {
    /// Opens a file, or makes one.
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
        let application: i32 =
            connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match (tables, application, format) {
            (0, ..) => {
                connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
                let making = connection.transaction()?;
                making.execute_batch(SCHEMA)?;
                making.pragma_update(None, "application_id", APPLICATION)?;
                making.pragma_update(None, "user_version", FORMAT)?;
                making.commit()?;
            }
            (_, APPLICATION, FORMAT) => {}
            (_, APPLICATION, format) => return Err(DatabaseError::Format(format)),
            _ => return Err(DatabaseError::Foreign),
        }
        // With the log, a process may die at any moment; only a power cut can cost the last turns.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(Self { connection })
    }

    /// Opens a file that is there, to read it only.
    pub(crate) fn existing(path: &Path) -> Result<Self, DatabaseError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        let application: i32 =
            connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match (application, format) {
            (APPLICATION, FORMAT) => Ok(Self { connection }),
            (APPLICATION, format) => Err(DatabaseError::Format(format)),
            _ => Err(DatabaseError::Foreign),
        }
    }

    /// Begins a session: the settings are kept, or have to be those that are kept.
    pub(crate) fn begin(
        &mut self,
        environment: &Environment,
        measure: &Measure,
        seed: u64,
        grid: &str,
    ) -> Result<i64, DatabaseError> {
        let making = self.connection.transaction()?;
        for (name, now) in settings(measure) {
            let then: Option<String> = making
                .query_row("SELECT value FROM setting WHERE name = ?1", [name], |row| row.get(0))
                .optional()?;
            match then {
                None => {
                    making.execute("INSERT INTO setting VALUES (?1, ?2)", [name, &now])?;
                }
                Some(then) if then == now => {}
                Some(then) => {
                    return Err(DatabaseError::Setting { key: name.to_owned(), then, now });
                }
            }
        }
        making.execute(
            "INSERT INTO session (started_unix_ns, cutline_version, hardware, cores, system, \
             governor, seed, grid) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                integer(environment.started_unix_ns),
                environment.cutline_version,
                environment.hardware,
                integer(environment.cores),
                environment.system,
                environment.governor,
                // The bits of the seed, of which the upper one is a sign here.
                seed as i64,
                grid,
            ],
        )?;
        let session = making.last_insert_rowid();
        making.commit()?;
        Ok(session)
    }

    /// Adds the cells that are not there. Cells that failed are to be tried again.
    pub(crate) fn add_cells<'a>(
        &mut self,
        cells: impl Iterator<Item = (&'a str, &'a Cell)>,
    ) -> Result<(), DatabaseError> {
        let making = self.connection.transaction()?;
        for (id, cell) in cells {
            making.execute(
                "INSERT OR IGNORE INTO cell VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
                 ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
                params![
                    id,
                    cell.network,
                    cell.network_sha256,
                    cell.precision,
                    cell.input,
                    cell.height.map(integer),
                    cell.width.map(integer),
                    integer(cell.batch),
                    cell.threads,
                    cell.engine,
                    cell.engine_version,
                    cell.picture,
                    cell.picture_sha256,
                    cell.preprocess,
                    cell.filter,
                    cell.upload,
                    cell.jpeg_quality,
                    cell.link,
                    cell.agent,
                    cell.hardware,
                ],
            )?;
            making.execute("DELETE FROM result WHERE cell = ?1 AND state = 'failed'", [id])?;
        }
        making.commit()?;
        Ok(())
    }

    /// What is known of a cell.
    pub(crate) fn known(&self, cell: &str) -> Result<Known, DatabaseError> {
        let finished: Option<i64> = self
            .connection
            .query_row("SELECT 1 FROM result WHERE cell = ?1", [cell], |row| row.get(0))
            .optional()?;
        let spent: i64 = self.connection.query_row(
            "SELECT coalesce(sum(spent_ns), 0) FROM turn WHERE cell = ?1",
            [cell],
            |row| row.get(0),
        )?;
        let mut turns = self
            .connection
            .prepare("SELECT turn, total_ns FROM run WHERE cell = ?1 ORDER BY turn, total_ns")?;
        let rows = turns.query_map([cell], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
        let samples = rows.chunk_by(|a, b| a.0 == b.0);
        Ok(Known {
            samples: samples.map(|turn| Nanos(turn[turn.len() / 2].1.max(0) as u64)).collect(),
            spent: Duration::from_nanos(spent.max(0) as u64),
            is_finished: finished.is_some(),
        })
    }

    /// Adds a turn, and the cell's result where the verdict ends it. Returns what is then known.
    pub(crate) fn add_turn(
        &mut self,
        (cell, session): (&str, i64),
        turn: &Turn,
        conditions: Conditions,
        rule: &Rule,
    ) -> Result<(Known, Verdict), DatabaseError> {
        let number: i64 = self.connection.query_row(
            "SELECT count(*) FROM turn WHERE cell = ?1",
            [cell],
            |row| row.get(0),
        )?;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let outcome = self.write_turn((cell, session), number, turn, conditions, rule);
        self.connection.execute_batch(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        outcome
    }

    fn write_turn(
        &self,
        (cell, session): (&str, i64),
        number: i64,
        turn: &Turn,
        conditions: Conditions,
        rule: &Rule,
    ) -> Result<(Known, Verdict), DatabaseError> {
        self.connection.execute(
            "INSERT INTO turn VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                cell,
                number,
                session,
                integer(now_unix_ns()),
                integer(turn.spent_ns),
                conditions.frequency_khz.map(integer),
                conditions.temperature_millicelsius,
                conditions.load_permille.map(integer),
            ],
        )?;
        let mut insert = self
            .connection
            .prepare("INSERT INTO run VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
        for (at, run) in turn.runs.iter().enumerate() {
            let mut values: Vec<Value> = vec![cell.to_owned().into(), number.into()];
            values.extend([Value::from(at as i64), integer(run.total_ns).into()]);
            values.extend(run.parts_ns.map(|part| Value::from(part.map(integer))));
            insert.execute(params_from_iter(values))?;
        }
        let known = self.known(cell)?;
        let verdict = rule.verdict(&known.samples, known.spent);
        let (state, interval) = match verdict {
            Verdict::More => return Ok((known, verdict)),
            Verdict::Known(interval) => ("known", Some(interval)),
            Verdict::Limit(interval) => ("limit", interval),
        };
        let mut samples = known.samples.clone();
        let median = cutline_runtime::stats::median(&mut samples);
        let mut values: Vec<Value> = vec![cell.to_owned().into(), state.to_owned().into()];
        values.push(median.map(|time| integer(time.0)).into());
        values.push(interval.map(|interval| integer(interval.low.0)).into());
        values.push(interval.map(|interval| integer(interval.high.0)).into());
        values.push(self.percentile(cell, "total_ns", 900)?.into());
        values.push(self.runs(cell)?.into());
        values.push((known.samples.len() as i64).into());
        for part in PARTS {
            values.push(self.percentile(cell, &format!("{part}_ns"), 500)?.into());
        }
        values.push(turn.traffic.upload_bytes.map(integer).into());
        values.push(turn.traffic.download_bytes.map(integer).into());
        values.push(integer(now_unix_ns()).into());
        values.push(Value::Null);
        self.insert_result(values)?;
        Ok((Known { is_finished: true, ..known }, verdict))
    }

    /// Ends a cell that cannot be measured.
    pub(crate) fn add_failure(&mut self, cell: &str, error: &str) -> Result<(), DatabaseError> {
        let turns = self.known(cell)?.samples.len() as i64;
        let mut values: Vec<Value> = vec![cell.to_owned().into(), "failed".to_owned().into()];
        values.extend([Value::Null, Value::Null, Value::Null, Value::Null]);
        values.extend([Value::from(self.runs(cell)?), Value::from(turns)]);
        values.extend(std::iter::repeat_n(Value::Null, PARTS.len() + 2));
        values.extend([Value::from(integer(now_unix_ns())), Value::from(error.to_owned())]);
        self.insert_result(values)
    }

    fn insert_result(&self, values: Vec<Value>) -> Result<(), DatabaseError> {
        self.connection.execute(
            "INSERT INTO result VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
             ?14, ?15, ?16, ?17, ?18)",
            params_from_iter(values),
        )?;
        Ok(())
    }

    fn runs(&self, cell: &str) -> Result<i64, DatabaseError> {
        let count = "SELECT count(*) FROM run WHERE cell = ?1";
        Ok(self.connection.query_row(count, [cell], |row| row.get(0))?)
    }

    /// A percentile over all runs of a cell, nearest rank; `None` of a part that it has not.
    fn percentile(
        &self,
        cell: &str,
        column: &str,
        permille: u32,
    ) -> Result<Option<i64>, DatabaseError> {
        let column = format!("SELECT {column} FROM run WHERE cell = ?1 AND {column} IS NOT NULL");
        let mut query = self.connection.prepare(&column)?;
        let times = query.query_map([cell], |row| row.get::<_, i64>(0))?;
        let times = times.map(|time| Ok(Nanos(time?.max(0) as u64)));
        let mut times: Vec<Nanos> = times.collect::<Result<_, rusqlite::Error>>()?;
        let found = cutline_runtime::stats::percentile(&mut times, permille);
        Ok(found.map(|time| integer(time.0)))
    }

    /// The result of a cell, if it is finished.
    pub(crate) fn finished(&self, cell: &str) -> Result<Option<Finished>, DatabaseError> {
        let found = self.connection.query_row(
            "SELECT * FROM result WHERE cell = ?1",
            [cell],
            |row: &Row<'_>| {
                Ok(Finished {
                    id: row.get("cell")?,
                    state: row.get("state")?,
                    median_ns: row.get("median_ns")?,
                    low_ns: row.get("low_ns")?,
                    high_ns: row.get("high_ns")?,
                    p90_ns: row.get("p90_ns")?,
                    runs: row.get("runs")?,
                    turns: row.get("turns")?,
                    decode_ns: row.get("decode_ns")?,
                    resize_ns: row.get("resize_ns")?,
                    encode_ns: row.get("encode_ns")?,
                    transfer_ns: row.get("transfer_ns")?,
                    finish_ns: row.get("finish_ns")?,
                    inference_ns: row.get("inference_ns")?,
                    upload_bytes: row.get("upload_bytes")?,
                    download_bytes: row.get("download_bytes")?,
                    error: row.get("error")?,
                })
            },
        );
        Ok(found.optional()?)
    }

    /// Every finished cell of the file with its result, in order of their names.
    pub(crate) fn table(&self) -> Result<Table, DatabaseError> {
        // The result's name of its cell is the cell's own.
        let mut names = self.connection.prepare(
            "SELECT name, type = 'TEXT' FROM pragma_table_info('cell') UNION ALL \
             SELECT name, type = 'TEXT' FROM pragma_table_info('result') WHERE name != 'cell'",
        )?;
        let columns =
            names.query_map([], |row| Ok(Column { name: row.get(0)?, is_text: row.get(1)? }))?;
        let columns: Vec<Column> = columns.collect::<Result<_, _>>()?;
        let list: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let mut query = self.connection.prepare(&format!(
            "SELECT {} FROM cell JOIN result ON result.cell = cell.id \
             ORDER BY network, engine, height, width, batch, threads, id",
            list.join(", ")
        ))?;
        let rows = query.query_map([], |row| {
            (0..columns.len()).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>()
        })?;
        let rows = rows.collect::<Result<_, _>>()?;
        Ok(Table { columns, rows })
    }
}

/// What must not change within a file, by the keys of the grid.
fn settings(measure: &Measure) -> Vec<(&'static str, String)> {
    let rule = &measure.rule;
    let permille = |permille: u32| format!("{}%", f64::from(permille) / 10.0);
    let time = |time: Duration| Nanos(time.as_nanos() as u64).to_string();
    vec![
        ("precision", permille(rule.precision_permille)),
        ("confidence", permille(rule.confidence_permille)),
        ("min_turns", rule.min_turns.to_string()),
        ("max_turns", rule.max_turns.to_string()),
        ("runs_per_turn", measure.runs_per_turn.to_string()),
        ("turn_time", time(measure.turn_time)),
        ("time_limit", time(rule.time_limit)),
        ("rest", time(measure.rest)),
    ]
}

/// SQLite's integers are signed.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
