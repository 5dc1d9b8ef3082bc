//! What a cut itself costs: the whole network on one agent against two agents on loopback.

use cutline_core::{
    cut::candidate_cuts, onnx::ImportOptions, partition::Mapping, platform::DeviceId,
};
use cutline_runtime::{engine, model::Model, runner::Frame, verify::random_inputs};

use super::{
    Verdict,
    fleet::{Fleet, cut_limit, mapping, networks, sample, stage},
    measure::{median, millis, quantile, timed, zoo},
};

const ROUNDS: usize = 7;
const LARGE: u64 = 500_000;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    println!(
        "| network | engine | cuts | median of two agents / one, up to 500 kB | p90 | target | larger cuts, ms per MB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for status in engine::for_onnx() {
        for name in networks(&["mobilenetv2", "squeezenet"]) {
            let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
            verdicts.push(network(&model, name, status.name)?);
        }
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &str) -> anyhow::Result<Verdict> {
    let fleet = Fleet::start(engine, 1, None)?;
    let platform = fleet.platform(None)?;
    let dag = &model.grouping.dag;
    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
    let whole = stage(model, &platform, &Mapping::uniform(dag, DeviceId::SOURCE))?;
    let whole = fleet.deploy(&whole)?;
    let cuts = sample(candidate_cuts(dag), cut_limit(usize::MAX));
    let (mut ratios, mut per_megabyte) = (Vec::new(), Vec::new());
    for cut in &cuts {
        let staged = stage(model, &platform, &mapping(model, &platform, &cut.before))?;
        let split = fleet.deploy(&staged)?;
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (time_one, _) = timed(|| fleet.infer(&whole, &frame))?;
            let (time_two, _) = timed(|| fleet.infer(&split, &frame))?;
            if round > 0 {
                one.push(millis(time_one));
                two.push(millis(time_two));
            }
        }
        fleet.runtime.block_on(split.remove());
        let bytes = cut.bytes.unwrap_or_default().0;
        match bytes <= LARGE {
            true => ratios.push(median(&two) / median(&one)),
            false => per_megabyte.push((median(&two) - median(&one)) / (bytes as f64 / 1e6)),
        }
    }
    let (middle, p90) = (median(&ratios), quantile(&ratios, 0.9));
    let large = median(&per_megabyte);
    println!("| {name} | {engine} | {} | {middle:.3} | {p90:.3} | 1.10 | {large:.2} |", cuts.len());
    Ok(Verdict::of(middle <= 1.10))
}
