//! What presets say of whole networks, against what others measured on those boards.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use cutline_core::{
    cost::complexity::group_time,
    dag::{Dag, OpClass},
    group::group,
    onnx::{self, ImportOptions},
    preset::{Letter, Presets},
    units::Nanos,
    zoo,
};

/// The speeds were computed from these; names in the table and in the zoo.
const CALIBRATION: [(&str, &str); 6] = [
    ("mobilenet_v2", "mobilenetv2"),
    ("shufflenet_v2", "shufflenetv2"),
    ("resnet18", "resnet18"),
    ("resnet50", "resnet50"),
    ("vgg16", "vgg16"),
    ("alexnet", "alexnet"),
];
/// And these were not seen before.
const UNSEEN: [(&str, &str); 3] = [
    ("squeezenet", "squeezenet"),
    ("mobilenet", "mobilenetv1"),
    ("efficientnet_b0", "efficientnet-b0"),
];
/// Preset, how its device's name begins in the table, GPU number there.
const BOARDS: [(&str, &str, &str); 10] = [
    ("rpi-zero-2w", "Raspberry Pi Zero 2 W", "-1"),
    ("rpi3b+", "Raspberry Pi 3 Model B+", "-1"),
    ("rpi4", "Raspberry Pi 4 Model B", "-1"),
    ("rpi5", "Raspberry Pi 5 Broadcom BCM2712, Cortex", "-1"),
    ("jetson-nano-cpu", "NVIDIA Jetson Nano", "-1"),
    ("jetson-nano-gpu", "NVIDIA Jetson Nano", "0"),
    ("tx2-nx-cpu", "NVIDIA Jetson TX2", "-1"),
    ("tx2-nx-gpu", "NVIDIA Jetson TX2", "0"),
    ("orin-nano-cpu", "NVIDIA Jetson Orin Nano", "-1"),
    ("orin-nano-gpu", "NVIDIA Jetson Orin Nano", "0"),
];
/// Largest median of |estimated - measured| / measured, in percent, and largest ninth decile.
const BOUNDS: [(f64, f64); 2] = [(15.0, 45.0), (20.0, 40.0)];

#[test]
fn estimates_are_near_published_measurements() {
    let file = "../../../shared/data/ncnn_bench.csv";
    let Ok(table) = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)) else {
        eprintln!("skipped: {file} is not here");
        return;
    };
    let presets = Presets::builtin();
    for (networks, what, (median, decile)) in [
        (CALIBRATION.as_slice(), "networks that the speeds were computed from", BOUNDS[0]),
        (UNSEEN.as_slice(), "networks not seen before", BOUNDS[1]),
    ] {
        let dags: BTreeMap<&str, Dag> =
            networks.iter().map(|&(row, name)| (row, dag(name))).collect();
        let mut errors = Vec::new();
        for (name, board, gpu) in BOARDS {
            let preset = presets.device(name).unwrap();
            for speed in &preset.speeds {
                assert_eq!(speed.conv.letter, Letter::Computed, "{name}");
                let threads = (gpu == "-1").then(|| speed.threads.to_string());
                let mut line = String::new();
                for (&network, dag) in &dags {
                    let Some(measured) = measured(&table, board, threads.as_deref(), gpu, network)
                    else {
                        continue;
                    };
                    let groups = dag.groups().iter().map(|group| group_time(dag, group, speed));
                    let error = groups.sum::<Nanos>().as_millis_f64() / measured - 1.0;
                    line += &format!(" {network} {:+.0}", error * 100.0);
                    errors.push(error.abs() * 100.0);
                }
                println!("{name} with {} threads, error in %:{line}", speed.threads);
            }
        }
        errors.sort_by(f64::total_cmp);
        let at = |part: usize| errors[(errors.len() - 1) * part / 10];
        println!(
            "{what}: {} estimates, median error {:.0} %, ninth decile {:.0} %",
            errors.len(),
            at(5),
            at(9)
        );
        assert!(errors.len() >= 25, "only {} rows of the table were found", errors.len());
        assert!(at(5) <= median && at(9) <= decile, "{what}: {:.1} %, {:.1} %", at(5), at(9));
    }
}

fn dag(name: &str) -> Dag {
    let model = zoo::outline(name, None).unwrap();
    group(&onnx::import(&model, &ImportOptions::default()).unwrap()).dag
}

/// Least time of a row, in milliseconds.
fn measured(
    table: &str,
    board: &str,
    threads: Option<&str>,
    gpu: &str,
    network: &str,
) -> Option<f64> {
    let rows = table.lines().filter(|line| line.trim_start_matches('"').starts_with(board));
    rows.filter_map(|line| {
        // A device's name may hold commas, no other column does.
        let columns: Vec<&str> = line.rsplitn(9, ',').collect();
        let [_, _, least, model, on, _, with, ..] = columns.as_slice() else { return None };
        let right = *model == network && *on == gpu && threads.is_none_or(|t| t == *with);
        (right && !line.contains("Overclock")).then(|| least.parse().ok())?
    })
    .reduce(f64::min)
}

/// Multiply-accumulates of each kind of work, in millions, as published for these networks.
#[test]
fn the_kind_of_work_of_a_group_is_known() {
    let cases = [
        ("mobilenetv1", [10.8, 539.5, 17.4, 1.0]),
        ("resnet18", [1794.3, 19.3, 0.0, 0.5]),
        ("alexnet", [655.6, 0.0, 0.0, 58.6]),
    ];
    for (name, expected) in cases {
        let dag = dag(name);
        let of = |class| {
            let groups = dag.groups().iter().filter(|group| group.class == class);
            groups.map(|group| group.macs.0).sum::<u64>() as f64 / 1e6
        };
        let classes = [OpClass::Conv, OpClass::Pointwise, OpClass::Depthwise, OpClass::Dense];
        let found = classes.map(of);
        let near =
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.06);
        assert!(near, "{name}: {found:?}, not {expected:?}");
        assert_eq!(of(OpClass::Memory), 0.0, "{name}");
    }
}
