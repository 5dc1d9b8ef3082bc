//! Energy meters: what a device takes, by its own sensors or by a recording.
//!
//! | meter | asks | covers |
//! |---|---|---|
//! | `rapl` | the energy counters of Intel and AMD processors, through powercap | processor packages, and memory where it has a counter |
//! | `ina3221` | the power monitor of a Jetson, through hwmon or the driver of older JetPacks | the module, or the rails that are named |
//! | `pmic` | the power chip of a Raspberry Pi 5, through `vcgencmd` | the board's own rails, without what hangs on USB and 5 V |
//! | `csv:FILE` | a recording of another instrument, played back | whatever was recorded |
//!
//! A [`Meter`] answers with the energy since a mark. Counters are exact; of a sensor that tells power a
//! thread takes samples at a fixed rate, between which power is taken to change linearly (trapezoids).
//! All files are looked for below [`Places`], so that a test can have a machine of its own.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use cutline_core::units::Microwatts;
use thiserror::Error;

mod account;
mod ina3221;
pub mod pmic;
mod rapl;
pub mod replay;

/// Longest time between two samples of power: nothing is known of what happens in a longer one.
pub const LONGEST_GAP: Duration = Duration::from_secs(2);

/// Something that counts energy.
pub trait Meter: Send {
    /// Its name, as [`Choice`] takes it; of a recording `csv`.
    fn name(&self) -> &'static str;

    /// What its energy is the energy of, for people.
    fn covers(&self) -> String;

    /// Begins anew: energy before this moment does not count.
    fn mark(&mut self) -> Result<(), MeterError>;

    /// The energy since the mark, or since the meter was opened.
    fn read(&mut self) -> Result<Reading, MeterError>;
}

/// Energy over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// In microjoule.
    pub energy_uj: u64,
    /// From the mark to now.
    pub time: Duration,
}

impl Reading {
    /// Mean power.
    pub fn power(self) -> Microwatts {
        let nanos = self.time.as_nanos().max(1);
        let power = u128::from(self.energy_uj) * 1_000_000_000 / nanos;
        Microwatts(u64::try_from(power).unwrap_or(u64::MAX))
    }
}

/// Why energy cannot be measured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MeterError {
    /// There is no such sensor.
    #[error("there is no {what} here (looked in `{place}`)")]
    Absent {
        /// Which sensor.
        what: &'static str,
        /// Where it would be.
        place: String,
    },
    /// There is one, but it is not for everybody.
    #[error("`{path}` is there, but this user may not read it; as root: {remedy}")]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// What helps.
        remedy: &'static str,
    },
    /// A sensor cannot be read.
    #[error("cannot read `{path}`: {cause}")]
    Unreadable {
        /// The file or program.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// A sensor says something that is no reading.
    #[error("`{path}` says {text:?}, which is not {expected}")]
    Nonsense {
        /// The file or program.
        path: PathBuf,
        /// What it says, shortened.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Samples are missing.
    #[error(
        "the meter gave no sample for {0:?}, so that the energy of that time is not known; measure on a machine that does nothing else"
    )]
    Gap(Duration),
    /// A recording is malformed.
    #[error("line {line} of the recording: {cause}")]
    Recording {
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        cause: String,
    },
    /// A recording is shorter than what is measured.
    #[error("the recording is {0:?} long, and what it is to measure takes longer; record more")]
    Ended(Duration),
    /// No meter at all.
    #[error(
        "no energy meter was found: {0}; leave out --meter, and energy is modelled from the device's power"
    )]
    None(String),
    /// No meter is called so.
    #[error("`{0}` is no meter; expected auto, rapl, ina3221, pmic or csv:FILE")]
    Unknown(String),
}

/// Which meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first that can be read.
    Auto,
    /// Energy counters of the processor.
    Rapl,
    /// Power monitor of a Jetson.
    Ina3221,
    /// Power chip of a Raspberry Pi 5.
    Pmic,
    /// A recording.
    Csv(PathBuf),
}

/// Sensors that a machine may have, in the order in which they are looked for.
const SENSORS: [Choice; 3] = [Choice::Rapl, Choice::Ina3221, Choice::Pmic];

impl FromStr for Choice {
    type Err = MeterError;
    fn from_str(text: &str) -> Result<Self, MeterError> {
        Ok(match (text, text.strip_prefix("csv:")) {
            ("auto", _) => Self::Auto,
            ("rapl", _) => Self::Rapl,
            ("ina3221", _) => Self::Ina3221,
            ("pmic", _) => Self::Pmic,
            (_, Some(file)) if !file.is_empty() => Self::Csv(file.into()),
            _ => return Err(MeterError::Unknown(text.chars().take(64).collect())),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Rapl => f.write_str("rapl"),
            Self::Ina3221 => f.write_str("ina3221"),
            Self::Pmic => f.write_str("pmic"),
            Self::Csv(file) => write!(f, "csv:{}", file.display()),
        }
    }
}

/// Where sensors are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The kernel's tree of devices.
    pub sys: PathBuf,
    /// The program that asks a Raspberry Pi's firmware.
    pub vcgencmd: PathBuf,
}

impl Default for Places {
    /// Those of this machine: `/sys`, and `vcgencmd` on the search path.
    fn default() -> Self {
        Self { sys: "/sys".into(), vcgencmd: "vcgencmd".into() }
    }
}

/// A sensor that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The meter's name.
    pub name: String,
    /// What it covers; or why it cannot be read.
    pub outcome: Result<String, MeterError>,
}

/// Opens a meter; `auto` is the first sensor that can be read.
pub fn open(choice: &Choice, places: &Places) -> Result<Box<dyn Meter>, MeterError> {
    Ok(match choice {
        Choice::Rapl => Box::new(account::Watched::start(rapl::Rapl::open(&places.sys)?)?),
        Choice::Ina3221 => Box::new(account::Watched::start(ina3221::Rails::open(&places.sys)?)?),
        Choice::Pmic => Box::new(account::Watched::start(pmic::Pmic::open(&places.vcgencmd)?)?),
        Choice::Csv(file) => Box::new(replay::Replay::open(file)?),
        Choice::Auto => {
            let mut reasons = Vec::new();
            for sensor in &SENSORS {
                match open(sensor, places) {
                    Ok(meter) => return Ok(meter),
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            return Err(MeterError::None(reasons.join("; ")));
        }
    })
}

/// Looks for every sensor. Reads each once.
pub fn found(places: &Places) -> Vec<Found> {
    let look = |sensor: &Choice| Found {
        name: sensor.to_string(),
        outcome: open(sensor, places).map(|meter| meter.covers()),
    };
    SENSORS.iter().map(look).collect()
}

/// Longest file of a sensor that is read.
const MOST_TEXT: u64 = 16 << 10;

/// The trimmed text of a sensor's file.
fn text(path: &Path, remedy: &'static str) -> Result<String, MeterError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, MOST_TEXT), &mut text)?;
        Ok(text)
    };
    read().map(|text| text.trim().to_owned()).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => MeterError::Forbidden { path: path.to_owned(), remedy },
        _ => MeterError::Unreadable { path: path.to_owned(), cause: error.to_string() },
    })
}

/// A whole number, none negative, in a sensor's file.
fn number(path: &Path, remedy: &'static str) -> Result<u64, MeterError> {
    let text = text(path, remedy)?;
    text.parse().map_err(|_| nonsense(path, &text, "a whole number"))
}

fn nonsense(path: &Path, text: &str, expected: &'static str) -> MeterError {
    let text = text.chars().take(80).collect();
    MeterError::Nonsense { path: path.to_owned(), text, expected }
}

/// Entries of a folder whose names satisfy a condition, in order of their names; none where there is
/// no such folder.
fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .take(MOST_ENTRIES)
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// Most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 4096;

#[cfg(test)]
mod tests;
