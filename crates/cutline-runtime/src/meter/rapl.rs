//! Energy counters of Intel and AMD processors (RAPL), as the kernel's powercap shows them.
//!
//! ```text
//! /sys/class/powercap/intel-rapl:0/name                  package-0
//! /sys/class/powercap/intel-rapl:0/energy_uj             262143000000, then 0 again
//! /sys/class/powercap/intel-rapl:0/max_energy_range_uj   262143328850
//! /sys/class/powercap/intel-rapl:0:0/name                dram (or core, uncore: parts of the package)
//! ```
//!
//! Packages and memory are disjoint and are added up. Cores and the rest of a package are in it; the
//! whole platform (`psys`) holds both and counts only where there is no package; `intel-rapl-mmio` is
//! another door to the same counters. AMD processors appear under `intel-rapl`, too.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    MeterError,
    account::{Look, Sensor},
    entries, number, text,
};

/// Since Linux 5.10 only root may read counters: their low digits tell what others compute.
const REMEDY: &str = "chmod a+r /sys/class/powercap/*/energy_uj (until the next start)";

/// A counter that wraps around.
struct Zone {
    name: String,
    counter: PathBuf,
    range: u64,
    last: u64,
}

/// The counters of all packages.
pub(super) struct Rapl {
    zones: Vec<Zone>,
}

impl Rapl {
    /// Finds and reads them below `sys`.
    pub(super) fn open(sys: &Path) -> Result<Self, MeterError> {
        let folder = sys.join("class/powercap");
        let folders = entries(&folder, |name| name.starts_with("intel-rapl:"));
        let named: Vec<(String, PathBuf)> = folders
            .into_iter()
            .filter_map(|zone| Some((text(&zone.join("name"), REMEDY).ok()?, zone)))
            .collect();
        let has_package = named.iter().any(|(name, _)| name.starts_with("package"));
        let counts = |name: &str| match has_package {
            true => name.starts_with("package") || name == "dram",
            false => name == "psys",
        };
        let zones = named.into_iter().filter(|(name, _)| counts(name)).map(Zone::open);
        let zones = zones.collect::<Result<Vec<_>, _>>()?;
        if zones.is_empty() {
            let (what, place) = ("energy counter of a processor (RAPL)", folder.display());
            return Err(MeterError::Absent { what, place: place.to_string() });
        }
        Ok(Self { zones })
    }
}

impl Zone {
    fn open((name, folder): (String, PathBuf)) -> Result<Self, MeterError> {
        let counter = folder.join("energy_uj");
        let range = number(&folder.join("max_energy_range_uj"), REMEDY)?;
        let last = number(&counter, REMEDY)?;
        Ok(Self { name, counter, range, last })
    }

    /// Energy since it was read before; a counter that is less than before went once over its end.
    fn advance(&mut self) -> Result<u64, MeterError> {
        let now = number(&self.counter, REMEDY)?;
        let before = std::mem::replace(&mut self.last, now);
        Ok(match now.checked_sub(before) {
            Some(energy) => energy,
            None => self.range.saturating_sub(before).saturating_add(now),
        })
    }
}

impl Sensor for Rapl {
    const NAME: &'static str = "rapl";

    // The smallest range known is 65 kJ: more than 6 kW would go over its end twice.
    const PERIOD: Duration = Duration::from_secs(10);

    fn covers(&self) -> String {
        self.zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>().join(" + ")
    }

    fn look(&mut self) -> Result<Look, MeterError> {
        let mut energy: u64 = 0;
        for zone in &mut self.zones {
            energy = energy.saturating_add(zone.advance()?);
        }
        Ok(Look::Energy(energy))
    }
}
