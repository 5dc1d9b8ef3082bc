//! A recording of another instrument, played back: a CSV file of times and powers.
//!
//! ```text
//! time_s,power_w
//! 0.0,2.31
//! 0.1,2.35
//! ```
//!
//! Its first row is the moment at which it is opened, and it plays at the speed of the clock. Between
//! two rows power changes linearly. The file is read row by row, so that it may be of any length.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{LONGEST_GAP, Meter, MeterError, Reading};

/// What the file begins with.
pub const HEADER: &str = "time_s,power_w";

/// Longest row, in bytes.
const MOST_ROW: u64 = 256;

/// Latest time and largest power, in seconds and watts: of a century, and of a power station.
const MOST_SECONDS: f64 = 4e9;
const MOST_WATTS: f64 = 1e9;

/// A row: nanoseconds and microwatts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    time: u64,
    power: u64,
}

/// The energy of a recording up to a time that advances.
#[derive(Debug)]
pub struct Playback<R> {
    reader: R,
    line: u64,
    /// Time of the first row.
    start: u64,
    from: Row,
    to: Option<Row>,
    /// Where it is, between the two.
    at: u64,
}

impl<R: BufRead> Playback<R> {
    /// Reads the header and the first two rows.
    pub fn new(reader: R) -> Result<Self, MeterError> {
        let zero = Row { time: 0, power: 0 };
        let mut playback = Self { reader, line: 0, start: 0, from: zero, to: None, at: 0 };
        let header = playback.text()?;
        if header.as_deref() != Some(HEADER) {
            return Err(playback.wrong(format!("the first line must be `{HEADER}`")));
        }
        playback.from = match playback.row()? {
            Some(first) => first,
            None => return Err(playback.wrong("there are no rows".to_owned())),
        };
        (playback.start, playback.at) = (playback.from.time, playback.from.time);
        playback.to = playback.next_row(playback.from)?;
        Ok(playback)
    }

    /// Goes on to a time since its first row, which is not before the one that it was at; the energy
    /// in between in microwatt times nanoseconds, twice. An error where it ends before.
    pub fn advance(&mut self, to: Duration) -> Result<u128, MeterError> {
        let to = u64::try_from(to.as_nanos()).unwrap_or(u64::MAX).saturating_add(self.start);
        let mut twice = 0;
        while self.at < to {
            let Some(next) = self.to else {
                return Err(MeterError::Ended(Duration::from_nanos(self.from.time - self.start)));
            };
            let end = next.time.min(to);
            let sum = self.power_at(self.at, next) + self.power_at(end, next);
            twice += sum * u128::from(end - self.at);
            self.at = end;
            if end == next.time {
                self.from = next;
                self.to = self.next_row(next)?;
            }
        }
        Ok(twice)
    }

    /// Power at a time between two rows.
    fn power_at(&self, time: u64, next: Row) -> u128 {
        let Row { time: start, power } = self.from;
        let (span, passed) = (next.time - start, time - start);
        let share = |power: u64, part: u64| u128::from(power) * u128::from(part);
        (share(power, span - passed) + share(next.power, passed)) / u128::from(span.max(1))
    }

    fn next_row(&mut self, before: Row) -> Result<Option<Row>, MeterError> {
        let Some(row) = self.row()? else { return Ok(None) };
        if row.time <= before.time {
            return Err(self.wrong("its time is not after the one before".to_owned()));
        }
        let gap = Duration::from_nanos(row.time - before.time);
        if gap > LONGEST_GAP {
            return Err(self.wrong(format!(
                "there is no row for {gap:?} before it; at most {LONGEST_GAP:?} are bridged"
            )));
        }
        Ok(Some(row))
    }

    fn row(&mut self) -> Result<Option<Row>, MeterError> {
        let Some(text) = self.text()? else { return Ok(None) };
        let number = |text: &str, most: f64| {
            let number: f64 = text.trim().parse().ok()?;
            (0.0..=most).contains(&number).then_some(number)
        };
        let row = text.split_once(',').and_then(|(time, power)| {
            let seconds = number(time, MOST_SECONDS)?;
            let watts = number(power, MOST_WATTS)?;
            Some(Row { time: (seconds * 1e9) as u64, power: (watts * 1e6).round() as u64 })
        });
        match row {
            Some(row) => Ok(Some(row)),
            None => Err(self.wrong("expected a time in seconds and a power in watts".to_owned())),
        }
    }

    /// The next line that is not empty.
    fn text(&mut self) -> Result<Option<String>, MeterError> {
        loop {
            let mut bytes = Vec::new();
            self.line += 1;
            let mut limited = (&mut self.reader).take(MOST_ROW);
            let read = limited.read_until(b'\n', &mut bytes);
            read.map_err(|error| self.wrong(error.to_string()))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if bytes.len() as u64 == MOST_ROW {
                return Err(self.wrong(format!("it has more than {MOST_ROW} bytes")));
            }
            match std::str::from_utf8(&bytes) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Ok(Some(text.trim().to_owned())),
                Err(_) => return Err(self.wrong("it is not text".to_owned())),
            }
        }
    }

    fn wrong(&self, cause: String) -> MeterError {
        MeterError::Recording { line: self.line, cause }
    }
}

/// A recording as a meter.
pub(super) struct Replay {
    path: PathBuf,
    playback: Playback<BufReader<File>>,
    opened: Instant,
    marked: Duration,
    twice: u128,
    at: Duration,
}

impl Replay {
    /// Opens a recording and begins to play it.
    pub(super) fn open(path: &Path) -> Result<Self, MeterError> {
        let file = File::open(path).map_err(|error| MeterError::Unreadable {
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            playback: Playback::new(BufReader::new(file))?,
            opened: Instant::now(),
            marked: Duration::ZERO,
            twice: 0,
            at: Duration::ZERO,
        })
    }

    fn go_on(&mut self) -> Result<(), MeterError> {
        self.at = self.opened.elapsed();
        self.twice += self.playback.advance(self.at)?;
        Ok(())
    }
}

impl Meter for Replay {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn covers(&self) -> String {
        format!("what `{}` recorded", self.path.display())
    }

    fn mark(&mut self) -> Result<(), MeterError> {
        self.go_on()?;
        (self.twice, self.marked) = (0, self.at);
        Ok(())
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.go_on()?;
        let energy = self.twice / 2_000_000_000;
        Ok(Reading {
            energy_uj: u64::try_from(energy).unwrap_or(u64::MAX),
            time: self.at.saturating_sub(self.marked),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(text: &str) -> Result<Playback<&[u8]>, MeterError> {
        Playback::new(text.as_bytes())
    }

    /// Joules up to a time, in steps.
    fn joules(text: &str, steps: &[f64]) -> Result<Vec<f64>, String> {
        let mut playback = play(text).map_err(|error| error.to_string())?;
        let step = |&seconds: &f64| {
            let twice = playback.advance(Duration::from_secs_f64(seconds));
            twice.map(|twice| twice as f64 / 2e15).map_err(|error| error.to_string())
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn power_is_linear_between_rows_and_any_step_gives_its_share() {
        let ramp = "time_s,power_w\n100,0\n101,2\n102,2\n";
        assert_eq!(joules(ramp, &[0.5, 1.0, 2.0]), Ok(vec![0.25, 0.75, 2.0]));
        assert_eq!(joules(ramp, &[2.0, 2.0]), Ok(vec![3.0, 0.0]));
        assert_eq!(joules("time_s,power_w\r\n\r\n0,1\r\n 1e0 , 3\r\n", &[1.0]), Ok(vec![2.0]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let long = format!("time_s,power_w\n0,1\n1,{}\n", "1".repeat(400));
        let cases = [
            ("", &[][..], "line 1"),
            ("seconds,watts\n0,1\n", &[], "time_s,power_w"),
            ("time_s,power_w\n", &[], "no rows"),
            ("time_s,power_w\n0,1\n0,1\n", &[], "line 3 of the recording: its time"),
            ("time_s,power_w\n0,1\n1,-1\n", &[], "line 3"),
            ("time_s,power_w\n0,1\n1,nan\n", &[], "line 3"),
            ("time_s,power_w\n0,1\n1,inf\n", &[], "line 3"),
            ("time_s,power_w\n0;1\n", &[], "line 2"),
            ("time_s,power_w\n0,1\n1,1\n4,1\n", &[1.5], "no row for 3s before it"),
            ("time_s,power_w\n0,1\n1,1\n", &[1.5], "is 1s long"),
            (&long, &[], "256 bytes"),
        ];
        for (text, steps, expected) in cases {
            let error = joules(text, steps).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
