//! The INA3221 power monitor, as Jetson modules have it: three rails a chip, voltage and current each.
//!
//! ```text
//! /sys/class/hwmon/hwmon3/name          ina3221                        (kernel 5 and later)
//! /sys/class/hwmon/hwmon3/in1_label     VDD_IN
//! /sys/class/hwmon/hwmon3/in1_input     19072     mV
//! /sys/class/hwmon/hwmon3/curr1_input   272       mA
//! /sys/class/hwmon/hwmon3/power1_input  5187000   uW, where the driver multiplies
//!
//! /sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0        POM_5V_IN     (JetPack 4)
//! /sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input    2145          mW
//! ```
//!
//! Where a rail feeds the whole module ([`WHOLE`]) it stands alone, for the others are behind it. Else
//! all rails are added up and named, so that whoever knows the board can tell what is in the sum.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    MeterError,
    account::{Look, Sensor},
    entries, number, text,
};

const REMEDY: &str = "chmod a+r on it, or run as root";

/// Rails that feed a whole module.
const WHOLE: [&str; 3] = ["VDD_IN", "POM_5V_IN", "VIN"];

/// Rails of a chip.
const CHANNELS: usize = 3;

/// How the power of a rail is told.
enum Source {
    /// In microwatt, times so much.
    Power(PathBuf, u64),
    /// Millivolt and milliampere.
    Product(PathBuf, PathBuf),
}

struct Rail {
    name: String,
    source: Source,
}

/// Rails that are added up.
pub(super) struct Rails {
    rails: Vec<Rail>,
}

impl Rails {
    /// Finds and reads them below `sys`.
    pub(super) fn open(sys: &Path) -> Result<Self, MeterError> {
        let hwmon = sys.join("class/hwmon");
        let is_one =
            |chip: &PathBuf| text(&chip.join("name"), REMEDY).is_ok_and(|n| n == "ina3221");
        let mut chips = entries(&hwmon, |name| name.starts_with("hwmon"));
        chips.retain(is_one);
        let mut rails: Vec<Rail> = chips.iter().flat_map(|chip| of_hwmon(chip)).collect();
        if rails.is_empty() {
            let drivers = sys.join("bus/i2c/drivers/ina3221x");
            let devices = entries(&drivers, |_| true);
            let chips = devices.iter().flat_map(|at| entries(at, |n| n.starts_with("iio:device")));
            rails = chips.flat_map(|chip| of_iio(&chip)).collect();
        }
        if rails.is_empty() {
            let (what, place) = ("INA3221 power monitor", hwmon.display().to_string());
            return Err(MeterError::Absent { what, place });
        }
        if let Some(whole) = rails.iter().position(|rail| WHOLE.contains(&rail.name.as_str())) {
            rails = vec![rails.swap_remove(whole)];
        }
        // What cannot be read is told now, not in the middle of a measurement.
        for rail in &rails {
            rail.power()?;
        }
        Ok(Self { rails })
    }
}

/// The rails of a chip; those that are switched off or not connected are left out.
fn of_hwmon(chip: &Path) -> Vec<Rail> {
    let rail = |channel: usize| {
        let file = |name: String| chip.join(name);
        let is_off = number(&file(format!("in{channel}_enable")), REMEDY) == Ok(0);
        let name = text(&file(format!("in{channel}_label")), REMEDY);
        let name = name.unwrap_or_else(|_| format!("in{channel}"));
        let (power, voltage, current) = (
            file(format!("power{channel}_input")),
            file(format!("in{channel}_input")),
            file(format!("curr{channel}_input")),
        );
        let source = match (power.exists(), voltage.exists() && current.exists()) {
            (true, _) => Source::Power(power, 1),
            (_, true) => Source::Product(voltage, current),
            _ => return None,
        };
        (!is_off && name != "NC").then_some(Rail { name, source })
    };
    (1..=CHANNELS).filter_map(rail).collect()
}

fn of_iio(chip: &Path) -> Vec<Rail> {
    let rail = |channel: usize| {
        let power = chip.join(format!("in_power{channel}_input"));
        let name = text(&chip.join(format!("rail_name_{channel}")), REMEDY);
        let name = name.unwrap_or_else(|_| format!("rail {channel}"));
        (power.exists() && name != "NC")
            .then_some(Rail { name, source: Source::Power(power, 1000) })
    };
    (0..CHANNELS).filter_map(rail).collect()
}

impl Rail {
    /// In microwatt. A current that is measured below zero, by noise, is none.
    fn power(&self) -> Result<u64, MeterError> {
        Ok(match &self.source {
            Source::Power(path, factor) => level(path)?.saturating_mul(*factor),
            Source::Product(voltage, current) => level(voltage)?.saturating_mul(level(current)?),
        })
    }
}

/// A whole number of a sensor, where less than nothing is nothing.
fn level(path: &Path) -> Result<u64, MeterError> {
    let text = text(path, REMEDY)?;
    let number: i64 = text.parse().map_err(|_| super::nonsense(path, &text, "a whole number"))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

impl Sensor for Rails {
    const NAME: &'static str = "ina3221";

    // The chip itself averages over some milliseconds.
    const PERIOD: Duration = Duration::from_millis(50);

    fn covers(&self) -> String {
        self.rails.iter().map(|rail| rail.name.as_str()).collect::<Vec<_>>().join(" + ")
    }

    fn look(&mut self) -> Result<Look, MeterError> {
        let mut power: u64 = 0;
        for rail in &self.rails {
            power = power.saturating_add(rail.power()?);
        }
        Ok(Look::Power(power))
    }
}
