//! What the sections share: where things are, medians, and the order of runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The command under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_cutline");

/// A file of the shared models and pictures, where they are present.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let file = root.join(path);
    file.exists().then_some(file)
}

/// A Python that has onnxruntime: `CUTLINE_PYTHON`, else `python3`.
pub(crate) fn python() -> Option<PathBuf> {
    let python = env::var_os("CUTLINE_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let probe = std::process::Command::new(&python).args(["-c", "import onnxruntime"]).output();
    probe.ok().filter(|output| output.status.success()).map(|_| python)
}

/// A zoo network as a file of `dir`.
pub(crate) fn zoo(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    use cutline_core::{split, zoo};
    let path = dir.join(format!("{name}.onnx"));
    if !path.exists() {
        let model = zoo::build(name, &zoo::ZooOptions::default())?;
        cutline_runtime::files::write_atomic(&path, &split::encode(&model), Path::new("."))?;
    }
    Ok(path)
}

/// Wall time of one call.
pub(crate) fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Duration, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed(), result))
}

/// Middle of the sorted values; the mean of the middle two where their number is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Linear interpolation between the sorted values.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q * last as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

/// Peak resident memory of a running process so far, in bytes.
pub(crate) fn peak_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// `12 ms` as milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
