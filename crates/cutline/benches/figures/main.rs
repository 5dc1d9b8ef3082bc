//! The figures of the README, measured: `cargo bench -p cutline --bench figures [-- SECTION...]`.
//!
//! Every timing is a median of runs taken in turn with what it is compared to, and is quoted as a
//! ratio. Sections that need the shared models or a Python with onnxruntime say so and are skipped.

mod adaptation;
mod agent;
mod answers;
mod camera;
mod compression;
mod cut_cost;
mod equality;
mod failure;
mod failure_run;
mod fleet;
mod held;
mod hierarchy;
mod inputs;
mod int8;
mod iot;
mod measure;
mod mqtt;
mod namespace;
mod parts;
mod pipeline;
mod predict;
mod profile;
mod queueing;
mod scatter;
mod sharing;
mod soak;
mod splitting;
mod tls;
mod truth;
mod watch;

use std::process::ExitCode;

/// A section: prints its figures, and tells whether every target was met.
type Section = fn() -> anyhow::Result<Verdict>;

/// Whether a section met its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    Skipped,
}

impl Verdict {
    fn all(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        let mut result = Verdict::Skipped;
        for verdict in verdicts {
            match verdict {
                Verdict::Missed => return Verdict::Missed,
                Verdict::Met => result = Verdict::Met,
                Verdict::Skipped => {}
            }
        }
        result
    }

    fn of(met: bool) -> Verdict {
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

const SECTIONS: [(&str, Section); 25] = [
    ("equality", equality::run),
    ("answers", answers::run),
    ("compression", compression::run),
    ("splitting", splitting::run),
    ("cut-cost", cut_cost::run),
    ("agent", agent::run),
    ("tls", tls::run),
    ("profile", profile::run),
    ("predict", predict::run),
    ("hierarchy", hierarchy::run),
    ("scatter", scatter::run),
    ("truth", truth::run),
    ("truth-tbf", truth::run_tbf),
    ("pipeline", pipeline::run),
    ("pipeline-fleet", pipeline::run_fleet),
    ("overlap", pipeline::run_overlap),
    ("sharing", sharing::run),
    ("queueing", queueing::run),
    ("adaptation", adaptation::run),
    ("failure", failure::run),
    ("failure-run", failure_run::run),
    ("int8", int8::run),
    ("iot", iot::run),
    ("mqtt", mqtt::run),
    ("soak", soak::run),
];

fn main() -> ExitCode {
    // `cargo bench` passes `--bench`; every other word names a section.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("no section `{unknown}`; there are: {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let mut failed = false;
    let mut summary = Vec::new();
    for (name, section) in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        println!("\n## {name}\n");
        let verdict = section().unwrap_or_else(|error| {
            println!("failed: {error:#}");
            Verdict::Missed
        });
        failed |= verdict == Verdict::Missed;
        summary.push((name, verdict));
    }
    println!("\n## summary\n");
    for (name, verdict) in summary {
        println!("{name}: {}", format!("{verdict:?}").to_lowercase());
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
