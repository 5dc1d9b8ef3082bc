//! The power chip of a Raspberry Pi 5, as `vcgencmd pmic_read_adc` tells it.
//!
//! ```text
//!      VDD_CORE_A current(7)=1.28400000A
//!      VDD_CORE_V volt(15)=0.72088700V
//!       EXT5V_V volt(24)=5.14966100V
//! ```
//!
//! The power of a rail is its current times its voltage; rails without a current (the input, the
//! battery) say nothing. What is fed by 5 V directly, USB devices above all, passes no rail of the
//! chip and is left out, and so are the chip's own losses.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    MOST_TEXT, MeterError,
    account::{Look, Sensor},
    nonsense,
};

/// Most volts or amperes of a rail.
const MOST: f64 = 100.0;

/// Power of all rails by the program's output, in microwatt; `Err` is the line that makes no sense.
/// Lines that name neither a current nor a voltage are passed over. Linear in the text, quadratic in
/// its rails, of which there are at most [`MOST_RAILS`].
pub fn power(output: &str) -> Result<u64, String> {
    let mut currents: Vec<(&str, f64)> = Vec::new();
    let mut voltages: Vec<(&str, f64)> = Vec::new();
    for line in output.lines() {
        let mut words = line.split_whitespace();
        let (Some(rail), Some(value)) = (words.next(), words.next()) else { continue };
        let (values, rail, unit) = match (rail.strip_suffix("_A"), rail.strip_suffix("_V")) {
            (Some(rail), _) if value.starts_with("current(") => (&mut currents, rail, 'A'),
            (_, Some(rail)) if value.starts_with("volt(") => (&mut voltages, rail, 'V'),
            _ => continue,
        };
        let number = value.split_once('=').and_then(|(_, number)| number.strip_suffix(unit));
        let number = number.and_then(|number| number.parse::<f64>().ok());
        let number = number.filter(|number| number.abs() <= MOST);
        values.push((rail, number.ok_or_else(|| line.trim().to_owned())?));
        if values.len() > MOST_RAILS {
            return Err(line.trim().to_owned());
        }
    }
    let pair = |(rail, current): &(&str, f64)| {
        let (_, voltage) = voltages.iter().find(|(name, _)| name == rail)?;
        // Noise around nothing is nothing.
        Some((current * voltage).max(0.0))
    };
    let watts: Vec<f64> = currents.iter().filter_map(pair).collect();
    match watts.is_empty() {
        true => Err(output.lines().next().unwrap_or_default().trim().to_owned()),
        false => Ok((watts.iter().sum::<f64>() * 1e6).round() as u64),
    }
}

/// Most rails that are read.
pub const MOST_RAILS: usize = 64;

/// The chip, asked through a program.
pub(super) struct Pmic {
    program: PathBuf,
}

impl Pmic {
    /// Asks it once.
    pub(super) fn open(program: &Path) -> Result<Self, MeterError> {
        let pmic = Self { program: program.to_owned() };
        pmic.ask()?;
        Ok(pmic)
    }

    fn ask(&self) -> Result<u64, MeterError> {
        let failed = |cause: String| MeterError::Unreadable { path: self.program.clone(), cause };
        let mut command = Command::new(&self.program);
        command.arg("pmic_read_adc").stdin(Stdio::null()).stderr(Stdio::null());
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => MeterError::Absent {
                    what: "power chip of a Raspberry Pi 5",
                    place: self.program.display().to_string(),
                },
                _ => failed(error.to_string()),
            })?;
        let mut output = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            // A program that says more is ended by the closed pipe.
            pipe.take(MOST_TEXT).read_to_end(&mut output).map_err(|e| failed(e.to_string()))?;
        }
        child.wait().map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&output);
        power(&text).map_err(|line| {
            nonsense(
                &self.program,
                &line,
                "a current or a voltage of a rail (a Raspberry Pi 5 tells them)",
            )
        })
    }
}

impl Sensor for Pmic {
    const NAME: &'static str = "pmic";

    // Starting the program takes some milliseconds of one core.
    const PERIOD: Duration = Duration::from_millis(200);

    fn covers(&self) -> String {
        "rails of the board, without USB and 5 V".to_owned()
    }

    fn look(&mut self) -> Result<Look, MeterError> {
        self.ask().map(Look::Power)
    }
}
