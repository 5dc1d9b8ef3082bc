//! Networks on devices that were not seen: `cargo bench -p cutline-core --bench unseen`.
//!
//! The public table of ncnn in `../shared/data`: each device predicted from three of its networks by
//! a fit to the others.

use std::{collections::BTreeMap, path::Path, time::Instant};

use cutline_core::unseen::{LeftOut, Model, Processor, Row, parse};

fn main() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/ncnn_bench.csv");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: there is no ../shared/data/ncnn_bench.csv");
        return;
    };
    let rows = parse(&text).expect("the table of ncnn");
    println!(
        "| | devices | settings | from | predictions | median error | mean | 90 % within | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    let mut worst = Vec::new();
    for processor in [Processor::Cpu, Processor::Gpu] {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.processor == processor).collect();
        let start = Instant::now();
        let (model, left) = Model::cross_validated(&rows).expect("enough devices");
        let time = start.elapsed();
        let (devices, settings) = model.fitted_to();
        let best: Vec<&str> = model.best().collect();
        let what = format!("{processor:?} | {devices} | {settings} | {}", best.join(", "));
        print(&what, &left, &format!("{:.1} s", time.as_secs_f64()));
        worst.extend(by_device(&left).into_iter().map(|(name, errors)| (errors, name, processor)));
        all.extend(left);
    }
    print("all | | | ", &all, "");
    worst.sort_by_key(|(errors, ..)| std::cmp::Reverse(errors[errors.len() / 2]));
    println!("\n| worst devices | | predictions | median error |\n|---|---|---|---|");
    for (errors, name, processor) in worst.iter().take(10) {
        let median = percent(errors[errors.len() / 2]);
        println!("| {name} | {processor:?} | {} | {median} |", errors.len());
    }
}

fn print(what: &str, left: &[LeftOut], time: &str) {
    let mut errors: Vec<u64> = left.iter().map(LeftOut::error_ppm).collect();
    errors.sort_unstable();
    let mean = errors.iter().sum::<u64>() / errors.len() as u64;
    let [median, most] = [errors.len() / 2, errors.len() * 9 / 10].map(|at| percent(errors[at]));
    println!("| {what} | {} | {median} | {} | {most} | {time} |", errors.len(), percent(mean));
}

/// Sorted errors of each device.
fn by_device(left: &[LeftOut]) -> BTreeMap<String, Vec<u64>> {
    let mut devices: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in left {
        devices.entry(one.device.clone()).or_default().push(one.error_ppm());
    }
    devices.values_mut().for_each(|errors| errors.sort_unstable());
    devices
}

fn percent(ppm: u64) -> String {
    format!("{:.1} %", ppm as f64 / 1e4)
}
