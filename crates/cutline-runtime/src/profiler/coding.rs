//! What encoding and decoding the values of a cut takes.
//!
//! A small network is split as the real one would be, with and without a codec, and the parts of
//! both are run in turn: what a codec adds to a stage is the difference. Two sizes give the part
//! that grows with the size and the part that does not. Values as they are travel through the same
//! stages, so that what the engine saves by handing over fewer bytes counts too. What the entropy
//! code takes besides is measured on its own.
//!
//! ```text
//! x ─ Relu ─ a ─ Cast ─ a.fp16 ──► a.fp16 ─ Cast ─ a ─ Relu ─ b     against   x ─ Relu ─ a ──► a ─ Relu ─ b
//! ```

use std::{collections::BTreeMap, hint::black_box, path::Path, time::Instant};

use cutline_core::{
    codec::{CutCodecs, CutEncoding, Quantization, Range},
    cut::stages_at,
    entropy,
    onnx::{
        self, ImportOptions,
        proto::{
            GraphProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
    profile::{CodecTime, CodingTime},
    split::{StageLabel, SubModel, split_encoded},
    tensor::{DType, Shape},
    units::Nanos,
};

use super::{
    Run,
    inputs::Random,
    machine::slowed,
    parts::{Ready, stage},
};
use crate::{engine::Engine, parts::source, stats, tensor::Tensor};

/// Elements of the values that are sent: 100 kB and 1 MB as declared.
const SIZES: [u64; 2] = [25_000, 250_000];

/// Counted runs of each part; one more warms up.
const RUNS: u32 = 7;

/// Runs in all: two parts of each size and encoding.
const ALL_RUNS: u32 = 2 * 2 * 3 * (RUNS + 1);

/// Size of the last axis where bytes are coded: what stands above what.
const ROW: usize = 28;

/// The runs are spent only if they are at most this share of those allowed.
const SHARE: u32 = 3;

/// Times of every codec that the engine can run, by its name; of none where there are few
/// inferences to spend.
pub(super) fn times(
    run: &mut Run,
    model: &ModelProto,
    engine: &dyn Engine,
) -> BTreeMap<String, CodecTime> {
    if run.job.max_inferences / SHARE < ALL_RUNS {
        return BTreeMap::new();
    }
    let mut medians: BTreeMap<(CutEncoding, u64), [Nanos; 2]> = BTreeMap::new();
    for elements in SIZES {
        let mut lanes: Vec<Lane> = CutEncoding::ALL
            .into_iter()
            .filter(|encoding| !encoding.is_entropy_coded())
            .filter_map(|encoding| Lane::load(run, model, engine, encoding, elements))
            .collect();
        for counted in (0..=RUNS).map(|round| round > 0) {
            lanes.retain_mut(|lane| lane.turn(run, counted));
        }
        for mut lane in lanes {
            let median = |times: &mut Vec<Nanos>| stats::median(times).unwrap_or_default();
            let both = [median(&mut lane.times[0]), median(&mut lane.times[1])];
            medians.insert((lane.encoding, elements), both);
        }
    }
    let slow = run.job.slowdown_permille;
    let time = |encoding: CutEncoding| {
        let over = |elements: u64, half: usize| {
            let plain = medians.get(&(CutEncoding::Fp32, elements))?[half];
            Some(slowed(medians.get(&(encoding, elements))?[half] - plain, slow))
        };
        let half = |half: usize| Some(affine([over(SIZES[0], half)?, over(SIZES[1], half)?]));
        let time = CodecTime { encode: half(0)?, decode: half(1)? };
        Some((encoding.name().to_owned(), time))
    };
    let mut times: BTreeMap<String, CodecTime> =
        CutEncoding::LOSSY.into_iter().filter_map(time).collect();
    // What the engine does for bytes is the same however coarse they are.
    if let Some(&bytes) = times.get(CutEncoding::Uint8.name()) {
        for encoding in CutEncoding::ENTROPY_CODED {
            let [encode, decode] = entropy_times(run, encoding);
            let sum = |a: CodingTime, b: CodingTime| CodingTime {
                fixed_ns: a.fixed_ns + b.fixed_ns,
                per_kb_ns: a.per_kb_ns + b.per_kb_ns,
            };
            let (encode, decode) = (sum(bytes.encode, encode), sum(bytes.decode, decode));
            times.insert(encoding.name().to_owned(), CodecTime { encode, decode });
        }
    }
    times
}

/// What the entropy code takes to write and to read, for bytes as coarse as the encoding makes them.
fn entropy_times(run: &Run, encoding: CutEncoding) -> [CodingTime; 2] {
    let quarters = match encoding {
        CutEncoding::Bits4 => 8,
        CutEncoding::Bits2 => 16,
        _ => 0,
    };
    let quantization = Quantization::of(Range { least: 0.0, largest: 4.0 }).coarser(quarters);
    let times = SIZES.map(|elements| {
        let mut random = Random::new(run.job.seed);
        let values: Vec<f32> = (0..elements).map(|_| random.float().max(0.0)).collect();
        let bytes = quantization.bytes_of(&values);
        let mut times: [Vec<Nanos>; 2] = Default::default();
        for _ in 0..RUNS {
            let start = Instant::now();
            let code = black_box(entropy::encode(&bytes, ROW));
            let encoded = Instant::now();
            let decoded = black_box(entropy::decode(&code, bytes.len(), ROW));
            times[0].push(stats::nanos(encoded - start));
            times[1].push(stats::nanos(encoded.elapsed()));
            debug_assert!(decoded.is_ok_and(|decoded| decoded == bytes));
        }
        times.map(|mut times| {
            slowed(stats::median(&mut times).unwrap_or_default(), run.job.slowdown_permille)
        })
    });
    [0, 1].map(|half| affine([times[0][half], times[1][half]]))
}

/// The line through both points, neither part of it negative.
fn affine([small, large]: [Nanos; 2]) -> CodingTime {
    let [x, y] = SIZES.map(|elements| elements * 4);
    let slope = |time: Nanos, bytes: u64| Nanos(time.0.saturating_mul(1000).div_ceil(bytes));
    let per_kb_ns = slope(large - small, y - x);
    let grown = Nanos(per_kb_ns.0.saturating_mul(x) / 1000);
    match small >= grown {
        true => CodingTime { fixed_ns: small - grown, per_kb_ns },
        // Below nothing at no size: through nothing, as the larger message has it.
        false => CodingTime { fixed_ns: Nanos::ZERO, per_kb_ns: slope(large, y) },
    }
}

/// Both parts of the small network under one encoding.
struct Lane {
    encoding: CutEncoding,
    parts: [Ready; 2],
    times: [Vec<Nanos>; 2],
}

impl Lane {
    /// `None` where the engine lacks an operator of the codec.
    fn load(
        run: &Run,
        model: &ModelProto,
        engine: &dyn Engine,
        encoding: CutEncoding,
        elements: u64,
    ) -> Option<Self> {
        let [first, second] = split(model, encoding, elements)?;
        let load = |part: &SubModel| {
            let (source, _folder) = source(part, Path::new(".")).ok()?;
            let session = stage(engine, &source, run.job.threads).ok()?;
            let names = |ports: &[cutline_core::split::Port]| -> Vec<String> {
                ports.iter().map(|port| port.name.clone()).collect()
            };
            let outputs = names(&part.outputs);
            Some(Ready { session, feeds: Vec::new(), outputs })
        };
        let (mut sender, mut receiver) = (load(&first)?, load(&second)?);
        let bytes = Random::new(run.job.seed).data(DType::F32, elements as usize * 4);
        let input = Tensor::new(DType::F32, Shape(vec![1, elements]), bytes).ok()?;
        sender.feeds = vec![(first.inputs.first()?.name.clone(), input)];
        let sent = sender.time().ok()?.1.into_iter().next()?;
        receiver.feeds = vec![(second.inputs.first()?.name.clone(), sent)];
        Some(Self { encoding, parts: [sender, receiver], times: Default::default() })
    }

    /// Runs both parts once; false where the engine fails.
    fn turn(&mut self, run: &mut Run, counted: bool) -> bool {
        for (part, times) in self.parts.iter_mut().zip(&mut self.times) {
            let Ok(time) = run.time_without_rest(part) else { return false };
            if counted {
                times.push(time);
            }
        }
        true
    }
}

/// The parts of `x ─ Relu ─ a ─ Relu ─ b`, cut at `a`, in the operators of the real network.
fn split(model: &ModelProto, encoding: CutEncoding, elements: u64) -> Option<[SubModel; 2]> {
    let whole = network(model, elements);
    let graph = onnx::import(&whole, &ImportOptions::default()).ok()?;
    let stages = stages_at(&graph, &[vec!["a".to_owned()]]).ok()?;
    let labels = [StageLabel::new("sender"), StageLabel::new("receiver")];
    let scale = Quantization::of(Range { least: -4.0, largest: 4.0 });
    let quantizations = [("a".to_owned(), scale)].into();
    let codecs = CutCodecs { stages: vec![encoding], quantizations };
    split_encoded(&whole, &graph, &stages, &labels, &codecs).ok()?.try_into().ok()
}

fn network(model: &ModelProto, elements: u64) -> ModelProto {
    let dimension = |size: u64| Dimension {
        value: Some(dimension::Value::DimValue(size as i64)),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: vec![dimension(1), dimension(elements)] };
    let info = |name: &str| {
        let tensor =
            type_proto::Tensor { elem_type: Some(DType::F32.onnx()), shape: Some(shape.clone()) };
        let value = Some(type_proto::Value::TensorType(tensor));
        let r#type = Some(TypeProto { value, ..TypeProto::default() });
        ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
    };
    let relu = |from: &str, to: &str| NodeProto {
        op_type: Some("Relu".to_owned()),
        name: Some(format!("{to}.relu")),
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        ..NodeProto::default()
    };
    let is_default = |domain: &str| matches!(domain, "" | "ai.onnx");
    let sets = model.opset_import.iter().filter(|set| is_default(set.domain()));
    ModelProto {
        ir_version: model.ir_version,
        opset_import: sets.cloned().collect(),
        graph: Some(GraphProto {
            name: Some("coding".to_owned()),
            node: vec![relu("x", "a"), relu("a", "b")],
            input: vec![info("x")],
            output: vec![info("b")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_goes_through_both_sizes_and_never_below_nothing() {
        // Times at 100 kB and 1 MB; fixed part, per 1000 bytes.
        let cases = [
            ([12_000, 102_000], 2_000, 100),
            ([0, 0], 0, 0),
            ([7_000, 7_000], 7_000, 0),
            ([9_000, 3_000], 9_000, 0),
            ([1_000, 100_000], 0, 100),
        ];
        for (times, fixed, per_kb) in cases {
            let found = affine(times.map(Nanos));
            let expected = CodingTime { fixed_ns: Nanos(fixed), per_kb_ns: Nanos(per_kb) };
            assert_eq!(found, expected, "{times:?}");
        }
    }
}
