//! Splitting AlexNet (244 MB) into two files against copying the file, and the memory it takes.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::ensure;

use super::{
    Verdict,
    measure::{BINARY, median, peak_memory, timed, zoo},
};

const ROUNDS: usize = 9;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let model = zoo(dir.path(), "alexnet")?;
    let size = fs::metadata(&model)?.len();
    let value = middle_cut(&model)?;
    let split = || {
        let mut command = Command::new(BINARY);
        command.arg("split").arg(&model).args(["--at", &value]);
        command.arg("-o").arg(dir.path().join("parts")).stdout(Stdio::null());
        command
    };
    let copy = || {
        let mut command = Command::new("cp");
        command.arg(&model).arg(dir.path().join("copy.onnx"));
        command
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (command, times) in [split(), copy()].iter_mut().zip(&mut times) {
            let (time, status) = timed(|| Ok(command.status()?))?;
            ensure!(status.success(), "{command:?} failed: {status}");
            times.push(time.as_secs_f64());
        }
    }
    let [split_time, copy_time] = times.map(|times| median(&times));
    let ratio = split_time / copy_time;

    let mut child = split().spawn()?;
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        peak = peak.max(peak_memory(child.id()).unwrap_or(0));
        thread::sleep(Duration::from_millis(1));
    }
    let memory = peak as f64 / size as f64;

    println!(
        "AlexNet, {:.1} MB, cut at `{value}`, medians of {ROUNDS} runs in turn",
        size as f64 / 1e6
    );
    println!(
        "split / copy of the file: {ratio:.2} ({:.0} ms / {:.0} ms), target at most 3",
        split_time * 1e3,
        copy_time * 1e3
    );
    println!("peak memory / size of the model: {memory:.2}, target at most 1.5");
    Ok(Verdict::of(ratio <= 3.0 && memory <= 1.5))
}

/// The candidate cut after the last convolution layer: both parts then hold weights.
fn middle_cut(model: &std::path::Path) -> anyhow::Result<String> {
    let output = Command::new(BINARY).arg("inspect").arg(model).arg("--json").output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let cuts = report["cuts"].as_array().cloned().unwrap_or_default();
    let smallest = cuts
        .iter()
        .filter(|cut| cut["values"].as_array().is_some_and(|values| values.len() == 1))
        .filter(|cut| {
            cut["macs_before"].as_u64().unwrap_or(0)
                < report["macs"].as_u64().unwrap_or(0) * 97 / 100
        })
        .min_by_key(|cut| cut["bytes"].as_u64());
    let value = smallest.and_then(|cut| cut["values"][0].as_str());
    Ok(value.ok_or_else(|| anyhow::anyhow!("no cut of a single value"))?.to_owned())
}
