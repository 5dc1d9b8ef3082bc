//! Whatever comes from a file or a network is read without a panic and in bounded memory and time.
//!
//! Each target takes valid seeds, damages them, and reads the result; errors are fine. Without
//! further ado this runs a fixed number of rounds from a fixed seed, the same everywhere:
//!
//! ```text
//! CUTLINE_FUZZ_SECONDS=60 CUTLINE_FUZZ_SEED=7 cargo test -p cutline --test fuzz
//! ```
//!
//! runs each target for a minute, from another seed. A failure leaves its input in a file.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cutline::{journal::Opened, readers};
use cutline_core::{
    autodice::{self, MappingFile},
    cost::{Costs, table},
    cut, entropy, group, onnx,
    onnx::proto::ModelProto,
    picture::{InputEncoding, PictureSpec},
    plan::Plan,
    planner::{self, Request},
    platform::Platform,
    predict::{self, MemoryModel, Sweep},
    preset::{self, Presets},
    profile::{LinkTable, Profile},
    split::{self, StageLabel},
    tflite,
};
use cutline_runtime::{
    link::schedule::{parse_command, parse_schedule},
    meter::{pmic, replay::Playback},
    mjpeg, picture,
    stage::{Content, Stage},
    telemetry::TraceContext,
    verify::parse_npy,
    wire::{contents::request_values, inference::ModelInferRequest, rest},
};
use mutate::Random;
use peak_alloc::PeakAlloc;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Rounds per target where no time is given.
const ROUNDS: u64 = 400;

/// Longest time of one round; generous, since other work may share the machine.
const LONGEST: Duration = Duration::from_secs(20);

/// Memory that reading may take besides a multiple of the input's size.
const MEMORY_FLOOR: usize = 64 << 20;

/// Memory per byte of input: a JSON document or a protobuf message unpacks to many times its size.
const MEMORY_FACTOR: usize = 256;

/// One target at a time, so that the memory counted is its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Damages and reads until rounds or time are over.
fn fuzz(target: &str, mut damage: impl FnMut(&mut Random) -> Vec<u8>, read: impl Fn(&[u8])) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let end = number("CUTLINE_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let seed = number("CUTLINE_FUZZ_SEED").unwrap_or(1);
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}.bin"));
    let mut rounds = 0;
    while end.map_or(rounds < ROUNDS, |end| Instant::now() < end) {
        let input = damage(&mut Random(seed.wrapping_mul(0x1_0000_0000).wrapping_add(rounds)));
        // Written beforehand, because running out of memory ends the process at once.
        fs::write(&file, &input).unwrap();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let (time, peak) = (start.elapsed(), MEMORY.peak_usage().saturating_sub(before));
        let place = file.display();
        assert!(outcome.is_ok(), "{target}: panicked on {place} (seed {seed}, round {rounds})");
        let allowed = MEMORY_FLOOR + MEMORY_FACTOR * input.len();
        assert!(peak <= allowed, "{target}: {peak} bytes of memory for {place}");
        assert!(time <= LONGEST, "{target}: {time:?} for {place}");
        rounds += 1;
    }
    fs::remove_file(&file).unwrap();
    println!("{target}: {rounds} rounds from seed {seed}");
}

/// A damaged copy of one of the seeds.
fn damaged_bytes(seeds: &[Vec<u8>]) -> impl FnMut(&mut Random) -> Vec<u8> + '_ {
    |random| {
        let mut input = random.pick(seeds).unwrap().clone();
        mutate::bytes(&mut input, random);
        input
    }
}

/// A damaged copy of one of the seeds: mostly still JSON, sometimes not even that.
fn damaged_json(seeds: Vec<Value>) -> impl FnMut(&mut Random) -> Vec<u8> {
    move |random| {
        let mut document = random.pick(&seeds).unwrap().clone();
        mutate::json(&mut document, random);
        let mut input = serde_json::to_vec(&document).unwrap();
        if random.below(10) == 0 {
            mutate::bytes(&mut input, random);
        }
        input
    }
}

/// Everything that happens to a model before an engine sees it.
fn read_model(bytes: &[u8]) {
    let Ok(model) = onnx::decode(Bytes::copy_from_slice(bytes)) else { return };
    let Some(graph) = seeds::import(&model) else { return };
    let grouping = group::group(&graph);
    let cuts = cut::candidate_cuts(&grouping.dag);
    let labels = [StageLabel::new("edge"), StageLabel::new("cloud")];
    let _ = graph.values().iter().map(|value| value.bytes()).collect::<Vec<_>>();
    for cut in cuts.iter().step_by(1 + cuts.len() / 4) {
        let stages = cut::stages_of_cut(&graph, &grouping, cut);
        if let Ok(parts) = split::split(&model, &graph, &stages, &labels) {
            let _ = parts.iter().map(|part| part.files().bytes()).sum::<u64>();
        }
    }
    let names = graph.values().iter().map(|value| value.name.clone());
    let some: Vec<Vec<String>> = names.step_by(7).map(|name| vec![name]).take(5).collect();
    for cut in &some {
        let _ = cut::stages_at(&graph, std::slice::from_ref(cut));
    }
    let _ = cut::stages_at(&graph, &some);
}

#[test]
fn model_bytes() {
    let seeds = seeds::model_files();
    fuzz("model-bytes", damaged_bytes(&seeds), read_model);
}

#[test]
fn model_structure() {
    let seeds = seeds::models();
    let damage = |random: &mut Random| {
        let mut model: ModelProto = random.pick(&seeds).unwrap().clone();
        mutate::model(&mut model, random);
        model.encode_to_vec()
    };
    fuzz("model-structure", damage, read_model);
}

#[test]
fn tflite_files() {
    let seeds = seeds::tflite_files();
    for seed in &seeds {
        assert!(tflite::convert(&Bytes::copy_from_slice(seed)).is_ok(), "a seed is refused");
    }
    let damage = |random: &mut Random| {
        let mut input = random.pick(&seeds).unwrap().clone();
        mutate::tables(&mut input, random);
        input
    };
    fuzz("tflite", damage, |bytes| {
        let file = Bytes::copy_from_slice(bytes);
        if let Ok(wiring) = tflite::split::wiring(&file) {
            let half = wiring.operators.len() / 2;
            for operators in [0..half, half..wiring.operators.len()] {
                let part = tflite::split::Part {
                    operators: operators.collect(),
                    inputs: wiring.inputs.clone(),
                    outputs: wiring.outputs.clone(),
                };
                if let Ok(bytes) = tflite::split::part(&file, &wiring.names, &part) {
                    assert!(tflite::is_tflite(&bytes));
                }
            }
        }
        if let Ok(converted) = tflite::convert(&file) {
            read_model(&converted.model.encode_to_vec());
        }
    });
}

#[test]
fn inference_requests() {
    let seeds = seeds::requests();
    fuzz("inference-request", damaged_bytes(&seeds), |bytes| {
        if let Ok(mut request) = ModelInferRequest::decode(Bytes::copy_from_slice(bytes)) {
            for (_, content) in request_values(&mut request).unwrap_or_default() {
                // Only the declared shape is ever decoded.
                if let Content::Coded(coded) = content
                    && coded.shape().0 == [1, 20, 30]
                {
                    let _ = coded.tensor();
                }
            }
        }
    });
}

#[test]
fn entropy_codes() {
    let seeds = seeds::entropy_codes();
    fuzz("entropy-code", damaged_bytes(&seeds), |bytes| {
        let Some((&[low, high, row], code)) = bytes.split_first_chunk() else { return };
        let len = usize::from(u16::from_le_bytes([low, high]));
        if let Ok(found) = entropy::decode(code, len, usize::from(row)) {
            assert_eq!(found.len(), len);
        }
    });
}

#[test]
fn rest_requests() {
    fuzz("rest-request", damaged_bytes(&seeds::rest_requests()), |bytes| {
        let Some((length, body)) = bytes.split_first_chunk::<2>() else { return };
        let (length, body) = (u16::from_le_bytes(*length).into(), Bytes::copy_from_slice(body));
        let _ = rest::read(&body, Some(length));
        let _ = rest::read(&body, None);
    });
}

#[test]
fn stage_descriptions() {
    fuzz("stage", damaged_json(seeds::stages()), |bytes| {
        let _ = Stage::from_json(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn platforms() {
    let text = toml::to_string(&seeds::platform()).unwrap();
    let seeds = [text.into_bytes()];
    let mut bytes = damaged_bytes(&seeds);
    let mut documents = damaged_json(vec![seeds::platform()]);
    let damage = |random: &mut Random| match random.below(2) {
        0 => bytes(random),
        _ => serde_json::from_slice::<Value>(&documents(random))
            .ok()
            .and_then(|document| toml::to_string(&document).ok())
            .unwrap_or_default()
            .into_bytes(),
    };
    let presets = Presets::builtin();
    fuzz("platform", damage, |bytes| {
        if let Ok(platform) = toml::from_str::<Platform>(&String::from_utf8_lossy(bytes)) {
            let _ = preset::apply(&presets, platform);
        }
    });
}

#[test]
fn autodice_files() {
    let graph = seeds::import(&seeds::network()).unwrap();
    let grouping = group::group(&graph);
    let nodes: Vec<String> =
        graph.layers().iter().map(|layer| autodice::node_name(&graph, layer)).collect();
    let (front, back) = nodes.split_at(2);
    let hosts = "nx01, arm, slots=0-5, gpu=NVIDIAVolta (CUDA)\nnx02\n";
    let seed = serde_json::json!([{ "nx01_arm0123": front, "nx02_gpu": back }, hosts]);
    fuzz("autodice", damaged_json(vec![seed]), |bytes| {
        let Ok((mapping, hosts)) = serde_json::from_slice::<(Value, String)>(bytes) else { return };
        let Ok(file) = MappingFile::parse(&mapping.to_string()) else { return };
        if let Ok(hosts) = autodice::parse_hosts(&hosts) {
            let _ = autodice::check_hosts(&file, &hosts);
        }
        let Ok(imported) = autodice::import(&graph, &grouping, &file) else { return };
        if let Ok(platform) = imported.platform() {
            let _ = imported.onto(&platform);
        }
    });
}

#[test]
fn cost_tables_up_to_the_plan() {
    let seed = serde_json::json!([seeds::platform(), seeds::costs(), [seeds::link_table()]]);
    fuzz("costs", damaged_json(vec![seed]), |bytes| {
        let parts: Option<(Value, Value, Vec<Value>)> = serde_json::from_slice(bytes).ok();
        let Some((platform, costs, tables)) = parts else { return };
        let (Some(platform), Some(file)) = (read::<Platform>(platform), read(costs)) else {
            return;
        };
        let tables: Vec<Option<LinkTable>> = tables.into_iter().map(read).collect();
        if let Ok((dag, costs)) = table::read(&file, &platform, &tables) {
            let _ = planner::solve(&dag, &costs, &Request::default());
        }
    });
}

#[test]
fn profiles_up_to_the_plan() {
    let graph = seeds::import(&seeds::network()).unwrap();
    let dag = group::group(&graph).dag;
    let names: Vec<String> = dag.groups().iter().map(|group| group.name.clone()).collect();
    let profile = || seeds::profile(&names);
    let seed = serde_json::json!([profile(), profile()]);
    let platform: Platform = read(seeds::platform()).unwrap();
    let hash = "ab".repeat(32);
    fuzz("profiles", damaged_json(vec![seed]), |bytes| {
        let Ok(pair) = serde_json::from_slice::<[Value; 2]>(bytes) else { return };
        let profiles = pair.map(|value| read::<Profile>(value).into_iter().collect::<Vec<_>>());
        if let Ok(costs) = Costs::from_profiles(&dag, &hash, &platform, &profiles, &[None]) {
            let _ = planner::solve(&dag, &costs, &Request::default());
        }
    });
}

#[test]
fn plans() {
    let graph = seeds::import(&seeds::network()).unwrap();
    let dag = group::group(&graph).dag;
    let hash = "ab".repeat(32);
    let plan = plan_of(&dag, &hash);
    fuzz("plan", damaged_json(vec![plan]), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(plan) = Plan::open(&text, &dag, &hash) {
            let choices = plan.best.iter().chain(&plan.best_split);
            for choice in choices {
                let _ = choice.resolve(&dag, &plan.platform);
            }
        }
    });
}

#[test]
fn link_control_lines_and_schedules() {
    let seeds = [seeds::SCHEDULE.as_bytes().to_vec(), b"up=5mbit delay=10ms jitter=1ms".to_vec()];
    fuzz("link-control", damaged_bytes(&seeds), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = parse_schedule(&text);
        let _ = parse_command(&text);
    });
}

#[test]
fn pictures() {
    let seeds = seeds::pictures();
    let spec = serde_json::json!({
        "width": 16, "height": 16, "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0]
    });
    let spec: PictureSpec = read(spec).unwrap();
    fuzz("picture", damaged_bytes(&seeds), |bytes| {
        let _ = picture::prepare(bytes, &spec, InputEncoding::Fp32);
    });
}

#[test]
fn videos() {
    let seeds = seeds::videos();
    fuzz("mjpeg", damaged_bytes(&seeds), |bytes| {
        let found: usize = mjpeg::Pictures::new(bytes, 1000).flatten().map(|p| p.len()).sum();
        assert!(found <= bytes.len());
    });
}

#[test]
fn tensor_files() {
    let seeds = seeds::tensor_files();
    fuzz("npy", damaged_bytes(&seeds), |bytes| {
        if let Ok(tensor) = parse_npy(Bytes::copy_from_slice(bytes)) {
            let _ = tensor.to_f64();
        }
    });
}

#[test]
fn recordings_and_power_chips() {
    let seeds = [seeds::RECORDING.as_bytes().to_vec(), seeds::RAILS.as_bytes().to_vec()];
    fuzz("meter", damaged_bytes(&seeds), |bytes| {
        let _ = pmic::power(&String::from_utf8_lossy(bytes));
        let Ok(mut playback) = Playback::new(bytes) else { return };
        for milliseconds in [0, 1, 70, 70, 5_000, u64::MAX] {
            if playback.advance(Duration::from_millis(milliseconds)).is_err() {
                break;
            }
        }
    });
}

#[test]
fn trace_headers() {
    let seeds = [seeds::TRACE.as_bytes().to_vec()];
    fuzz("trace", damaged_bytes(&seeds), |bytes| {
        let mut headers = http::HeaderMap::new();
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some(at) = line.iter().position(|&byte| byte == b':') else { continue };
            let value = http::HeaderValue::from_bytes(&line[at + 1..]);
            if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(&line[..at]), value) {
                headers.append(name, value);
            }
        }
        if let Some(context) = TraceContext::read(&headers) {
            assert_eq!(context.traceparent().len(), 55);
        }
    });
}

#[test]
fn journals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.journal");
    fuzz("journal", damaged_bytes(&[seeds::JOURNAL.as_bytes().to_vec()]), |bytes| {
        fs::write(&path, bytes).unwrap();
        if let Ok(journal) = Opened::open(&path) {
            let _ = journal.left().describe(&path);
        }
    });
}

/// Damages the text of a TOML file, or its values.
fn damaged_toml(text: &'static str) -> impl FnMut(&mut Random) -> Vec<u8> {
    let seeds = [text.as_bytes().to_vec()];
    let value: Value = toml::from_str(text).unwrap();
    let mut documents = damaged_json(vec![value]);
    move |random| match random.below(2) {
        0 => damaged_bytes(&seeds)(random),
        _ => serde_json::from_slice::<Value>(&documents(random))
            .ok()
            .and_then(|document| toml::to_string(&document).ok())
            .unwrap_or_default()
            .into_bytes(),
    }
}

#[test]
fn grids() {
    fuzz("grid", damaged_toml(seeds::GRID), |bytes| {
        let _ = readers::grid(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn workloads() {
    fuzz("workload", damaged_toml(seeds::WORKLOAD), |bytes| {
        let _ = readers::workload(&String::from_utf8_lossy(bytes));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn testbeds() {
    fuzz("testbed", damaged_toml(seeds::TESTBED), |bytes| {
        let _ = readers::testbed(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn sweeps_of_kernels_up_to_the_prediction() {
    let graph = seeds::import(&seeds::network()).unwrap();
    let grouping = group::group(&graph);
    fuzz("kernels", damaged_json(vec![seeds::kernels()]), |bytes| {
        let Ok(sweep) = serde_json::from_slice::<Sweep>(bytes) else { return };
        let sweeps = [sweep];
        let Ok(law) = predict::Model::fit(&sweeps) else { return };
        let memory = MemoryModel::fit(&sweeps);
        let laws = (&law, memory.as_ref());
        let _ = predict::profile(laws, &sweeps[0], Vec::new(), (&graph, &grouping), String::new());
    });
}

#[test]
fn files_of_sweeps() {
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("seed.db");
    // An empty file becomes one with all its tables.
    readers::sweep(&seed, "cell").unwrap();
    let seeds = [fs::read(&seed).unwrap()];
    let path = folder.path().join("sweep.db");
    fuzz("sweep", damaged_bytes(&seeds), |bytes| {
        for beside in ["sweep.db-wal", "sweep.db-shm", "sweep.db-journal"] {
            let _ = fs::remove_file(folder.path().join(beside));
        }
        fs::write(&path, bytes).unwrap();
        let _ = readers::sweep(&path, "cell");
    });
}

#[test]
fn undamaged_seeds_are_accepted() {
    for model in seeds::models() {
        assert!(seeds::import(&model).is_some());
    }
    for request in seeds::requests() {
        let mut request = ModelInferRequest::decode(Bytes::from(request)).unwrap();
        request_values(&mut request).unwrap();
    }
    for request in seeds::rest_requests() {
        let (length, body) = request.split_first_chunk::<2>().unwrap();
        let length = u16::from_le_bytes(*length).into();
        assert_eq!(
            rest::read(&Bytes::copy_from_slice(body), Some(length)).unwrap().inputs.len(),
            2
        );
    }
    for code in seeds::entropy_codes() {
        let len = usize::from(u16::from_le_bytes([code[0], code[1]]));
        entropy::decode(&code[3..], len, usize::from(code[2])).unwrap();
    }
    for file in seeds::tensor_files() {
        parse_npy(file.into()).unwrap();
    }
    for video in seeds::videos() {
        assert_eq!(mjpeg::Pictures::new(&video[..], 1000).flatten().count(), 3);
    }
    for stage in seeds::stages() {
        Stage::from_json(&stage.to_string()).unwrap();
    }
    let platform: Platform = read(seeds::platform()).unwrap();
    let file: table::CostsFile = read(seeds::costs()).unwrap();
    table::read(&file, &platform, &[read(seeds::link_table())]).unwrap();
    parse_schedule(seeds::SCHEDULE).unwrap();
    let mut playback = Playback::new(seeds::RECORDING.as_bytes()).unwrap();
    assert!(playback.advance(Duration::from_millis(300)).unwrap() > 0);
    assert!(pmic::power(seeds::RAILS).unwrap() > 0);
    readers::grid(seeds::GRID).unwrap();
    readers::workload(seeds::WORKLOAD).unwrap();
    #[cfg(target_os = "linux")]
    readers::testbed(seeds::TESTBED).unwrap();
    let sweep: Sweep = read(seeds::kernels()).unwrap();
    assert!(predict::Model::fit(&[sweep]).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.journal");
    fs::write(&path, seeds::JOURNAL).unwrap();
    assert_eq!(Opened::open(&path).unwrap().left().lost.len(), 2);
}

/// What the planner answers for a network on the seed's platform, as its file.
fn plan_of(dag: &cutline_core::dag::Dag, hash: &str) -> Value {
    let names: Vec<String> = dag.groups().iter().map(|group| group.name.clone()).collect();
    let platform: Platform = read(seeds::platform()).unwrap();
    let profiles: Vec<Vec<Profile>> =
        (0..2).map(|_| vec![read(seeds::profile(&names)).unwrap()]).collect();
    let costs = Costs::from_profiles(dag, hash, &platform, &profiles, &[None]).unwrap();
    let request = Request::default();
    let answer = planner::solve(dag, &costs, &request).unwrap();
    let model = serde_json::json!({ "name": "lenet5.onnx", "sha256": hash });
    let model = read(model).unwrap();
    let plan = Plan::new(model, dag, &costs, &platform, &request, &answer, None);
    let plan = serde_json::to_value(plan).unwrap();
    Plan::open(&plan.to_string(), dag, hash).unwrap();
    plan
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}
