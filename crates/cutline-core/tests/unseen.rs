//! Unseen devices of the public table, each predicted by a fit to the others.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use cutline_core::unseen::{LeftOut, Model, Processor, Row, parse, to_json};

/// The rows of the table; `None`, with a line that says so, where the folder is absent.
fn rows() -> Option<Vec<Row>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let path = root.join("shared/data/ncnn_bench.csv");
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("skipped: there is no ../shared/data/ncnn_bench.csv");
        return None;
    };
    Some(parse(&text).unwrap())
}

fn median(left: &[LeftOut]) -> u64 {
    let mut errors: Vec<u64> = left.iter().map(LeftOut::error_ppm).collect();
    errors.sort_unstable();
    errors[errors.len() / 2]
}

/// Of all predictions together: at most 10 % in the median, from three networks chosen without the
/// device; and the shipped coefficients are those of the table.
#[test]
fn three_networks_predict_the_others_of_an_unseen_device() {
    let Some(rows) = rows() else { return };
    let mut models = BTreeMap::new();
    let mut all = Vec::new();
    for (processor, least, most) in [(Processor::Cpu, 3500, 80_000), (Processor::Gpu, 900, 155_000)]
    {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.processor == processor).collect();
        let (model, left) = Model::cross_validated(&rows).unwrap();
        println!("{processor:?}: {} predictions, median {} ppm", left.len(), median(&left));
        assert!(left.len() > least && median(&left) <= most, "{processor:?} {}", median(&left));
        assert_eq!(model.best().count(), 3);
        // The error stated beside a prediction tells good ones from bad ones.
        let mut stated = left.clone();
        stated.sort_by_key(|one| one.predicted.error_ppm);
        let (surer, less) = stated.split_at(stated.len() / 2);
        assert!(median(surer) * 3 < median(less) * 2, "{} {}", median(surer), median(less));
        let within = |one: &&LeftOut| one.error_ppm() <= one.predicted.error_ppm;
        let share = left.iter().filter(within).count() as f64 / left.len() as f64;
        assert!((0.45..0.55).contains(&share), "{processor:?}: {share}");
        all.extend(left);
        models.insert(processor, model);
    }
    assert!(median(&all) <= 100_000, "{}", median(&all));
    let text = to_json(models);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ncnn.json");
    if std::env::var_os("CUTLINE_REGENERATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    same(&fs::read_to_string(&path).unwrap(), &text);
}

/// Logarithms differ in their last bits between machines, so numbers are compared as such.
fn same(one: &str, other: &str) {
    let [one, other]: [serde_json::Value; 2] =
        [one, other].map(|text| serde_json::from_str(text).unwrap());
    let (mut left, mut right) = (vec![one], vec![other]);
    while let (Some(one), Some(other)) = (left.pop(), right.pop()) {
        match (&one, &other) {
            (serde_json::Value::Number(a), serde_json::Value::Number(b)) => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                assert!((a - b).abs() <= 1e-3, "{a} {b}: CUTLINE_REGENERATE=1 writes it anew");
            }
            (serde_json::Value::Array(a), serde_json::Value::Array(b)) => {
                assert_eq!(a.len(), b.len(), "CUTLINE_REGENERATE=1 writes it anew");
                left.extend(a.iter().cloned());
                right.extend(b.iter().cloned());
            }
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
                left.extend(a.values().cloned());
                right.extend(b.values().cloned());
            }
            _ => assert_eq!(one, other, "CUTLINE_REGENERATE=1 writes it anew"),
        }
    }
    assert!(left.is_empty() && right.is_empty());
}
