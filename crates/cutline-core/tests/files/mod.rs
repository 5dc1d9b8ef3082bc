//! Files that several tests read.

use std::{fs, path::Path};

use bytes::Bytes;

/// TensorFlow Lite files of the shared folder that LiteRT takes, by name; none where it is absent.
pub(crate) fn tflite() -> Vec<(String, Bytes)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tflite");
    let Ok(entries) = fs::read_dir(folder) else {
        eprintln!("skipped: the shared folder is absent");
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "tflite"))
        .filter(|path| !path.ends_with("person_detect.tflite"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap().into())
        })
        .collect()
}
