//! Every command that takes a model takes a TensorFlow Lite file, in floats and in integers.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use cutline_core::{
    tflite::author::Network,
    zoo::{self, ZooOptions},
};
use serde_json::Value;
use tempfile::TempDir;

const PLATFORM: &str = "version = 1\n[[device]]\nname = \"pi\"\nprofiles = [\"p.json\"]\n\
                        [[device]]\nname = \"cloud\"\npreset = \"c5.large\"\n\
                        [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\ndelay = \"9ms\"\n";

/// A folder with LeNet-5 as `net.tflite`, and a picture.
fn folder(in_integers: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    let mut network = Network::lower(&model).unwrap();
    if in_integers {
        let range = |name: &str| (name.to_owned(), [-4.0, 4.0]);
        let ranges = network.values().into_iter().map(range).collect();
        network = network.quantise(&ranges).unwrap();
    }
    fs::write(folder.path().join("net.tflite"), network.encode().unwrap()).unwrap();
    fs::write(folder.path().join("platform.toml"), PLATFORM).unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for at in 0..3u8 {
        let picture = image::GrayImage::from_fn(40, 40, |x, y| {
            image::Luma([(x * 7 + y * 5 * u32::from(at)) as u8])
        });
        picture.save(photos.join(format!("{at}.png"))).unwrap();
    }
    let grid = "version = 1\npictures = \"photos\"\nnetworks = [\"net.tflite\"]\n\
                uploads = [\"uint8\"]\ncuts = [\"whole\", \"50%\"]\nimpossible = \"skip\"\n\
                precisions = [\"fp32\", \"int8\"]\n";
    fs::write(folder.path().join("grid.toml"), grid).unwrap();
    folder
}

/// Standard output of a command that must succeed.
fn cutline(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    let output = command.current_dir(folder).args(arguments).arg("--json").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{words}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&cutline(folder, arguments)).unwrap()
}

#[test]
fn every_command_takes_a_file_of_tensorflow_lite() {
    for in_integers in [false, true] {
        let folder = folder(in_integers);
        let folder = folder.path();
        let network = json(folder, &["inspect", "net.tflite"]);
        let expected = if in_integers { "INT8" } else { "FP32" };
        assert_eq!(network["inputs"][0]["dtype"], expected);
        assert_eq!(network["inputs"][0]["shape"].as_array().unwrap().last().unwrap(), 1);
        let cuts = network["cuts"].as_array().unwrap();
        let cut = &cuts[cuts.len() / 2];
        let values: Vec<&str> =
            cut["values"].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
        let at = values.join(",");

        cutline(folder, &["split", "net.tflite", "--at", &at, "-o", "parts"]);
        let verified = json(folder, &["verify", "net.tflite", "parts", "--images", "photos"]);
        assert_eq!(verified["equal"], true, "{verified:#}");

        cutline(folder, &["profile", "net.tflite", "-o", "p.json", "--engine", "rten"]);
        cutline(folder, &["plan", "net.tflite", "--platform", "platform.toml", "-o", "plan.json"]);
        cutline(folder, &["explore", "net.tflite", "--platform", "platform.toml", "-o", "report"]);
        cutline(folder, &["split", "net.tflite", "--plan", "plan.json", "-o", "planned"]);
        fs::write(folder.join("labels.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n").unwrap();
        let lines = cutline(
            folder,
            &[
                "run",
                "net.tflite",
                "--plan",
                "plan.json",
                "--local",
                "--labels",
                "labels.txt",
                "--input",
                "photos",
            ],
        );
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let score = first["labels"][0]["score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&score), "{first:#}");
        cutline(folder, &["accuracy", "grid.toml"]);
    }
}
