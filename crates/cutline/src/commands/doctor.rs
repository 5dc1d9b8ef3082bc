//! `cutline doctor`: what on this machine would spoil a result.

use std::{
    fs,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use cutline_runtime::{
    engine,
    meter::{self, MeterError, Places},
};
use serde::Serialize;

use crate::{output::Output, process::cores};

/// Check this machine for what would spoil a measurement or a run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cutline doctor --json | jq '.[] | select(.verdict != \"ok\")'")]
pub(crate) struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Worth knowing; results are still right.
    Note,
    /// Measurements made now would mislead.
    Warning,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What it spoils and what to do; empty when all is well.
    advice: &'static str,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: String, advice: &'static str) -> Self {
        let advice = if verdict == Verdict::Ok { "" } else { advice };
        Self { check, verdict, found, advice }
    }
}

pub(crate) fn run(_: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let checks = [load, quota, governor, sleep_accuracy, congestion_control, idle_restart];
    let mut findings: Vec<Finding> = checks.iter().filter_map(|check| check()).collect();
    findings.extend(engines());
    findings.extend(meters());
    output.print(&findings, |out| {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Note => "note   ",
                Verdict::Warning => "warning",
            };
            writeln!(out, "{mark}  {}: {}", finding.check, finding.found)?;
            if !finding.advice.is_empty() {
                writeln!(out, "         {}", finding.advice)?;
            }
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One trimmed line of a system file; absent where the system has no such file.
fn system_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn load() -> Option<Finding> {
    let line = system_line("/proc/loadavg")?;
    let load: f64 = line.split_whitespace().next()?.parse().ok()?;
    let busy = load > 0.3 * cores() as f64;
    Some(Finding::new(
        "load",
        if busy { Verdict::Warning } else { Verdict::Ok },
        format!("{load} over the last minute on {} cores", cores()),
        "other work shares the cores: timings will be too long and scattered; stop it before profiling",
    ))
}

fn quota() -> Option<Finding> {
    let v2 = system_line("/sys/fs/cgroup/cpu.max");
    let v1 = system_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    let limited = v2.as_deref().is_some_and(|line| !line.starts_with("max"))
        || v1.as_deref().is_some_and(|line| !line.starts_with('-'));
    Some(Finding::new(
        "processor quota",
        if limited { Verdict::Warning } else { Verdict::Ok },
        v2.or(v1).unwrap_or_else(|| "none".to_owned()),
        "a quota lets short work run at full speed and stalls long work: latencies measured under it mislead",
    ))
}

fn governor() -> Option<Finding> {
    let Some(governor) = system_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    else {
        return Some(Finding::new(
            "frequency governor",
            Verdict::Note,
            "not visible".to_owned(),
            "the processor's frequency cannot be seen here (a virtual machine?): watch the spread of timings instead",
        ));
    };
    let steady = governor == "performance";
    Some(Finding::new(
        "frequency governor",
        if steady { Verdict::Ok } else { Verdict::Warning },
        governor,
        "the first runs after a pause are slow: set it to `performance` while profiling",
    ))
}

/// Pacing and the link simulator sleep: a late wake-up adds to every message.
fn sleep_accuracy() -> Option<Finding> {
    let mut late: Vec<Duration> = (0..40)
        .map(|_| {
            let asked = Duration::from_millis(1);
            let start = Instant::now();
            thread::sleep(asked);
            start.elapsed().saturating_sub(asked)
        })
        .collect();
    late.sort();
    let (median, worst) = (late[late.len() / 2], late[late.len() - 1]);
    let slack = median > Duration::from_micros(300) || worst > Duration::from_millis(5);
    Some(Finding::new(
        "sleep",
        if slack { Verdict::Warning } else { Verdict::Ok },
        format!("a 1 ms sleep wakes {median:.0?} late in the median, {worst:.0?} at worst"),
        "paced agents and simulated links will be less exact: look for other load or a coarse timer",
    ))
}

fn congestion_control() -> Option<Finding> {
    let name = system_line("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let usual = name == "cubic";
    Some(Finding::new(
        "congestion control",
        if usual { Verdict::Ok } else { Verdict::Note },
        name,
        "most boards use cubic: on a lossy real link their times differ from this machine's",
    ))
}

fn idle_restart() -> Option<Finding> {
    let restarts = system_line("/proc/sys/net/ipv4/tcp_slow_start_after_idle")? == "1";
    Some(Finding::new(
        "slow start after idle",
        if restarts { Verdict::Note } else { Verdict::Ok },
        if restarts { "on" } else { "off" }.to_owned(),
        "the first frame after a pause of a second travels slower on long links; sysctl net.ipv4.tcp_slow_start_after_idle=0 avoids it",
    ))
}

fn engines() -> Vec<Finding> {
    engine::available()
        .into_iter()
        .map(|status| {
            let verdict = if status.available { Verdict::Ok } else { Verdict::Note };
            let version = status.version.unwrap_or_default();
            let found = format!("{} {version} ({})", status.name, status.reason);
            let advice = match status.name {
                engine::litert::NAME => {
                    "it is needed for .tflite files as they are: cutline engine install litert"
                }
                _ => "a faster engine may be one command away: cutline engine install onnxruntime",
            };
            Finding::new("engine", verdict, found, advice)
        })
        .collect()
}

/// Energy meters; those that no machine of this sort has are told in one line.
fn meters() -> Vec<Finding> {
    let found = meter::found(&Places::default());
    let absent = |found: &meter::Found| matches!(found.outcome, Err(MeterError::Absent { .. }));
    if found.iter().all(absent) {
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        return vec![Finding::new(
            "energy meter",
            Verdict::Note,
            format!("none ({} looked for)", names.join(", ")),
            "energy is modelled from the devices' powers; `cutline profile --meter csv:FILE` takes a recording of another instrument",
        )];
    }
    let finding = |found: meter::Found| {
        let (verdict, said) = match &found.outcome {
            Ok(covers) => (Verdict::Ok, covers.clone()),
            Err(error) => (Verdict::Note, error.to_string()),
        };
        let found = format!("{} ({said})", found.name);
        let advice = "energy is modelled until a meter can be read";
        Finding::new("energy meter", verdict, found, advice)
    };
    found.into_iter().filter(|found| !absent(found)).map(finding).collect()
}
