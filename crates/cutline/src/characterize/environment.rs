//! What this machine says of itself while it measures; whatever it does not say is absent.

use std::{fs, path::Path, time::SystemTime};

use cutline_runtime::profiler;

use crate::process;

/// What stays the same while a process measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) started_unix_ns: u64,
    pub(crate) cutline_version: String,
    pub(crate) hardware: String,
    /// Cores that this process may use.
    pub(crate) cores: u64,
    /// Operating system and its release.
    pub(crate) system: String,
    /// What decides the clock of the first core, e.g. `performance`.
    pub(crate) governor: Option<String>,
}

/// What changes from turn to turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Clock of the fastest core now.
    pub(crate) frequency_khz: Option<u64>,
    /// Temperature of the hottest zone.
    pub(crate) temperature_millicelsius: Option<i64>,
    /// Mean number of processes that want a core over the last minute, in thousandths.
    pub(crate) load_permille: Option<u64>,
}

/// Nanoseconds since 1970.
pub(crate) fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Environment {
    /// This process, now.
    pub(crate) fn read() -> Self {
        let release = text(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let governor = Path::new("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            started_unix_ns: now_unix_ns(),
            cutline_version: env!("CARGO_PKG_VERSION").to_owned(),
            hardware: profiler::hardware(),
            cores: process::cores() as u64,
            system: format!("{} {release}", std::env::consts::OS).trim_end().to_owned(),
            governor: text(governor),
        }
    }
}

impl Conditions {
    /// As they are now. Reads a few small files of the kernel.
    pub(crate) fn read() -> Self {
        Self {
            frequency_khz: frequency(),
            temperature_millicelsius: temperature(),
            load_permille: text(Path::new("/proc/loadavg")).as_deref().and_then(load),
        }
    }
}

fn frequency() -> Option<u64> {
    let current = numbers("/sys/devices/system/cpu", "cpu", "cpufreq/scaling_cur_freq");
    let fastest = current.into_iter().filter_map(|khz| u64::try_from(khz).ok()).max();
    fastest.or_else(|| clock(&text(Path::new("/proc/cpuinfo"))?))
}

/// The fastest clock in the kernel's table of processors.
fn clock(info: &str) -> Option<u64> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    let clocks = lines.filter(|(key, _)| key.trim() == "cpu MHz");
    let khz = clocks.filter_map(|(_, mhz)| mhz.trim().parse::<f64>().ok());
    khz.map(|mhz| (mhz * 1e3).round() as u64).max()
}

fn temperature() -> Option<i64> {
    numbers("/sys/class/thermal", "thermal_zone", "temp").into_iter().max()
}

fn load(text: &str) -> Option<u64> {
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    Some((load * 1e3).round() as u64)
}

/// The number in a file of every folder whose name begins so.
fn numbers(folder: &str, beginning: &str, file: &str) -> Vec<i64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    named.filter_map(|entry| text(&entry.path().join(file))?.parse().ok()).collect()
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_become_numbers() {
        assert_eq!(load("0.52 0.58 0.59 1/389 12345"), Some(520));
        assert_eq!(load(""), None);
        let info = "processor : 0\ncpu MHz\t\t: 2394.454\n\ncpu MHz : 3100.000\n";
        assert_eq!(clock(info), Some(3_100_000));
        assert_eq!(clock("model name : Board\n"), None);
    }

    #[test]
    fn a_process_knows_when_and_on_what_it_runs() {
        let environment = Environment::read();
        assert!(environment.started_unix_ns > 1_700_000_000_000_000_000);
        assert!(environment.cores >= 1 && !environment.hardware.is_empty());
    }
}
