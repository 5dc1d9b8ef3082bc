//! Proof by running: the parts of a split network answer as the whole does.
//!
//! Whole and parts run in the same engine on the same inputs. The parts run in their order, and
//! values pass between them by name, as they would over a network.

mod npy;
mod random;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cutline_core::{
    graph::Graph,
    split::Format,
    tensor::{DType, Shape},
};
use thiserror::Error;

pub use npy::{NpyError, parse_npy, read_npy};
pub use random::random_inputs;

use crate::{
    engine::{Engine, EngineError, LoadOptions, ModelSource, Session},
    model::Signature,
    tensor::{Tensor, number},
};

/// How far an output of the parts is from the same output of the whole.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OutputDiff {
    /// Name of the output.
    pub name: String,
    /// Largest difference of two elements; infinite where only one of them is a number.
    pub max_abs_diff: f64,
    /// Largest magnitude in the whole network's output, to relate the difference to.
    pub max_abs: f64,
    /// Whether every bit is the same.
    pub bit_equal: bool,
}

impl OutputDiff {
    /// The difference relative to the largest output; 0 where both are equal.
    pub fn relative(&self) -> f64 {
        if self.max_abs_diff == 0.0 { 0.0 } else { self.max_abs_diff / self.max_abs }
    }
}

/// Why two computations could not be compared.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// An input was not given, or the given ones do not fit the network.
    #[error("input `{name}` {problem}")]
    Input {
        /// Name of the input.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Whole and parts do not even agree on what an output is.
    #[error(
        "output `{name}` is {whole} of the whole and {parts} of the parts; these parts are not of this network"
    )]
    Unlike {
        /// Name of the output.
        name: String,
        /// Type and shape from the whole.
        whole: String,
        /// Type and shape from the parts.
        parts: String,
    },
    /// No part makes an output.
    #[error("no part makes `{name}`; these parts are not of this network, or one is missing")]
    Missing {
        /// Name of the value.
        name: String,
    },
    /// A folder without packages in it.
    #[error(
        "`{folder}` holds no packages; `cutline split` writes folders `0-...`, `1-...` with `1/model.onnx` or `1/model.tflite` in each"
    )]
    NoPackages {
        /// The folder.
        folder: PathBuf,
    },
    /// A file where a folder of packages belongs.
    #[error("`{path}` is a file; give the folder of packages that `cutline split` wrote")]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A part's file could not be read.
    #[error("cannot read `{path}`: {reason}")]
    Part {
        /// The file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The engine could not load or run a model.
    #[error("{model} does not run")]
    Engine {
        /// `the whole network`, or the part's name.
        model: String,
        /// Cause.
        source: EngineError,
    },
}

/// A part that is loaded: its session and the names of what it reads and answers.
pub struct Part {
    /// Name for messages.
    pub name: String,
    /// Values that it reads.
    pub inputs: Vec<String>,
    /// Values that it answers.
    pub outputs: Vec<String>,
    /// How the values that it sends on are encoded, where they are; then parts and whole differ.
    pub cut_encoding: Option<String>,
    /// The loaded model.
    pub session: Box<dyn Session>,
}

/// Runs a whole network and the parts in a folder of packages on the same inputs, and compares
/// every output of the network, in its order.
pub fn verify(
    engine: &dyn Engine,
    options: LoadOptions,
    whole: (&ModelSource, &Graph),
    folder: &Path,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<Vec<OutputDiff>, VerifyError> {
    let (source, graph) = whole;
    let failed = |source| VerifyError::Engine { model: "the whole network".to_owned(), source };
    let expected = {
        let mut session = engine.load(source, options).map_err(failed)?;
        run_whole(session.as_mut(), graph, inputs)?
    };
    let mut parts = load_parts(engine, options, folder)?;
    let actual = run_parts(&mut parts, graph, inputs)?;
    let pairs = expected.iter().zip(&actual);
    pairs.map(|((name, whole), (_, parts))| compare(name, whole, parts)).collect()
}

/// Runs the whole network: its outputs by name, in their order.
pub fn run_whole(
    session: &mut dyn Session,
    graph: &Graph,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<Vec<(String, Tensor)>, VerifyError> {
    let names = network_outputs(graph);
    let mut given = Vec::new();
    for &id in graph.inputs() {
        let name = graph.value(id).name.as_str();
        let Some(tensor) = inputs.get(name) else {
            return Err(input_error(name, "was not given"));
        };
        given.push((name, tensor));
    }
    let failed = |source| VerifyError::Engine { model: "the whole network".to_owned(), source };
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let tensors = session.run(&given, &asked).map_err(failed)?;
    Ok(names.into_iter().zip(tensors).collect())
}

/// Runs the parts one after another: the network's outputs by name, in their order.
pub fn run_parts(
    parts: &mut [Part],
    graph: &Graph,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<Vec<(String, Tensor)>, VerifyError> {
    let known = run_values(parts, inputs)?;
    let output = |name: String| match known.get(&name) {
        Some(tensor) => Ok((name, tensor.clone())),
        None => Err(VerifyError::Missing { name }),
    };
    network_outputs(graph).into_iter().map(output).collect()
}

/// Runs the parts one after another: all that they are given and make, by name.
pub fn run_values(
    parts: &mut [Part],
    inputs: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, VerifyError> {
    let mut known = inputs.clone();
    for part in parts {
        let mut given = Vec::new();
        for name in &part.inputs {
            let tensor =
                known.get(name).ok_or_else(|| VerifyError::Missing { name: name.clone() })?;
            given.push((name.as_str(), tensor));
        }
        let asked: Vec<&str> = part.outputs.iter().map(String::as_str).collect();
        let failed =
            |source| VerifyError::Engine { model: format!("part `{}`", part.name), source };
        let tensors = part.session.run(&given, &asked).map_err(failed)?;
        known.extend(part.outputs.iter().cloned().zip(tensors));
    }
    Ok(known)
}

/// Loads the parts in a folder of packages, in their order.
pub fn load_parts(
    engine: &dyn Engine,
    options: LoadOptions,
    folder: &Path,
) -> Result<Vec<Part>, VerifyError> {
    package_folders(folder)?
        .iter()
        .map(|(name, path)| load_part(engine, options, name, path))
        .collect()
}

/// How values travel at the cuts between the parts in a folder, where not as they are; each once.
pub fn cut_encodings(folder: &Path) -> Result<Vec<String>, VerifyError> {
    let mut encodings = BTreeSet::new();
    for (_, package) in package_folders(folder)? {
        encodings.extend(signature(&package)?.1.cut_encoding);
    }
    Ok(encodings.into_iter().collect())
}

/// Compares two results of the same output.
pub fn compare(name: &str, whole: &Tensor, parts: &Tensor) -> Result<OutputDiff, VerifyError> {
    if (whole.dtype(), whole.shape()) != (parts.dtype(), parts.shape()) {
        let words = |tensor: &Tensor| format!("{} {}", tensor.dtype(), tensor.shape());
        return Err(VerifyError::Unlike {
            name: name.to_owned(),
            whole: words(whole),
            parts: words(parts),
        });
    }
    let mut diff = OutputDiff {
        name: name.to_owned(),
        max_abs_diff: 0.0,
        max_abs: 0.0,
        bit_equal: whole.data() == parts.data(),
    };
    let size =
        whole.dtype().size().expect("a tensor with data has elements of fixed size") as usize;
    let elements = whole.data().chunks_exact(size).zip(parts.data().chunks_exact(size));
    for (a, b) in elements {
        let (x, y) = (number(whole.dtype(), a), number(whole.dtype(), b));
        if x.is_finite() {
            diff.max_abs = diff.max_abs.max(x.abs());
        }
        if a != b {
            diff.max_abs_diff = diff.max_abs_diff.max(distance(x, y));
        }
    }
    Ok(diff)
}

/// Difference of two numbers; infinite where only one is finite, 0 where neither is a number.
fn distance(x: f64, y: f64) -> f64 {
    if x == y || (x.is_nan() && y.is_nan()) {
        return 0.0;
    }
    let distance = (x - y).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

fn network_outputs(graph: &Graph) -> Vec<String> {
    graph.outputs().iter().map(|&id| graph.value(id).name.clone()).collect()
}

/// Checks that tensors are what the network's inputs ask for: all of them, and no others.
pub fn check_inputs(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<(), VerifyError> {
    for &id in graph.inputs() {
        let value = graph.value(id);
        let Some(tensor) = inputs.get(&value.name) else {
            return Err(input_error(&value.name, "was not given"));
        };
        let dtype = value.dtype.filter(|&dtype| dtype != tensor.dtype());
        let shape = value.shape.as_ref().filter(|&shape| shape != tensor.shape());
        if dtype.is_some() || shape.is_some() {
            let words = |dtype: Option<DType>, shape: Option<&Shape>| {
                let dtype = dtype.map_or("unknown type".to_owned(), |dtype| dtype.to_string());
                let shape = shape.map_or("unknown shape".to_owned(), |shape| shape.to_string());
                format!("{dtype} {shape}")
            };
            let wanted = words(value.dtype, value.shape.as_ref());
            let given = words(Some(tensor.dtype()), Some(tensor.shape()));
            return Err(input_error(
                &value.name,
                format!("is {given}; the network reads {wanted}"),
            ));
        }
    }
    let is_input = |name: &String| graph.inputs().iter().any(|&id| graph.value(id).name == *name);
    match inputs.keys().find(|name| !is_input(name)) {
        None => Ok(()),
        Some(name) => {
            let names = graph.inputs().iter().map(|&id| format!("`{}`", graph.value(id).name));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(input_error(name, format!("is not one of the network's, which are {names}")))
        }
    }
}

fn input_error(name: &str, problem: impl Into<String>) -> VerifyError {
    VerifyError::Input { name: name.to_owned(), problem: problem.into() }
}

/// Name and path of each package in a folder, in their order.
fn package_folders(folder: &Path) -> Result<Vec<(String, PathBuf)>, VerifyError> {
    let unread = |error: std::io::Error| VerifyError::Part {
        path: folder.to_owned(),
        reason: error.to_string(),
    };
    if folder.is_file() {
        return Err(VerifyError::NotAFolder { path: folder.to_owned() });
    }
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let index = name.split_once('-').and_then(|(index, _)| index.parse::<u32>().ok());
        if let Some(index) = index {
            packages.push((index, name, entry.path()));
        }
    }
    if packages.is_empty() {
        return Err(VerifyError::NoPackages { folder: folder.to_owned() });
    }
    packages.sort();
    Ok(packages.into_iter().map(|(_, name, path)| (name, path)).collect())
}

/// Loads one package. What it reads and answers stands in the model file.
fn load_part(
    engine: &dyn Engine,
    options: LoadOptions,
    name: &str,
    folder: &Path,
) -> Result<Part, VerifyError> {
    let (path, Signature { inputs, outputs, cut_encoding }) = signature(folder)?;
    let failed = |source| VerifyError::Engine { model: format!("part `{name}`"), source };
    let session = engine.load(&ModelSource::File(path), options).map_err(failed)?;
    Ok(Part { name: name.to_owned(), inputs, outputs, cut_encoding, session })
}

/// The model file of a package, and what it says about itself.
fn signature(package: &Path) -> Result<(PathBuf, Signature), VerifyError> {
    let path_of = |format: Format| package.join("1").join(format.file_name());
    let tflite = Some(path_of(Format::Tflite)).filter(|path| path.exists());
    let path = tflite.unwrap_or_else(|| path_of(Format::Onnx));
    let signature = crate::model::signature(&path)
        .map_err(|error| VerifyError::Part { path: path.clone(), reason: error.to_string() })?;
    Ok((path, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, data: &[u8]) -> Tensor {
        let count = data.len() as u64 / dtype.size().unwrap();
        Tensor::new(dtype, Shape(vec![count]), data.to_vec()).unwrap()
    }

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32(Shape(vec![values.len() as u64]), values.to_vec()).unwrap()
    }

    #[test]
    fn differences_are_the_largest_of_all_elements() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        /// Whole, parts, largest difference, largest magnitude, whether bits are equal.
        type Case<'a> = (&'a [f32], &'a [f32], f64, f64, bool);
        let cases: [Case; 6] = [
            (&[1.0, -4.0], &[1.0, -4.0], 0.0, 4.0, true),
            (&[1.0, -4.0], &[1.5, -4.25], 0.5, 4.0, false),
            (&[0.0], &[-0.0], 0.0, 0.0, false),
            (&[nan, 2.0], &[nan, 2.0], 0.0, 2.0, true),
            (&[nan], &[1.0], f64::INFINITY, 0.0, false),
            (&[infinity, 3.0], &[3.0, 3.0], f64::INFINITY, 3.0, false),
        ];
        for (whole, parts, max_abs_diff, max_abs, bit_equal) in cases {
            let diff = compare("y", &floats(whole), &floats(parts)).unwrap();
            let expected = OutputDiff { name: "y".to_owned(), max_abs_diff, max_abs, bit_equal };
            assert_eq!(diff, expected, "{whole:?} and {parts:?}");
        }
        assert_eq!(compare("y", &floats(&[4.0]), &floats(&[5.0])).unwrap().relative(), 0.25);
    }

    #[test]
    fn every_type_is_compared_as_numbers() {
        let cases: [(DType, &[u8], &[u8], f64); 7] = [
            (DType::I8, &[255], &[1], 2.0),
            (DType::U8, &[255], &[1], 254.0),
            (DType::I64, &[0xfe; 8], &[0xff; 8], 72_340_172_838_076_672.0),
            (DType::I16, &[0xff, 0xff], &[0, 0], 1.0),
            (DType::F16, &[0x00, 0x3c], &[0x00, 0x40], 1.0),
            (DType::BF16, &[0x80, 0x3f], &[0x00, 0x40], 1.0),
            (DType::Bool, &[1], &[0], 1.0),
        ];
        for (dtype, whole, parts, expected) in cases {
            let diff = compare("y", &tensor(dtype, whole), &tensor(dtype, parts)).unwrap();
            assert_eq!(diff.max_abs_diff, expected, "{dtype}");
        }
    }

    #[test]
    fn unlike_tensors_are_not_compared() {
        let others = [tensor(DType::I32, &[0; 4]), tensor(DType::F32, &[0; 8])];
        for other in others {
            let error = compare("y", &floats(&[0.0]), &other).unwrap_err().to_string();
            assert!(error.contains("`y` is FP32 1 of the whole"), "{error}");
        }
    }

    #[test]
    fn given_inputs_must_be_the_networks() {
        let mut builder = cutline_core::graph::GraphBuilder::new("net");
        builder.input("x", Some(DType::F32), Some(Shape(vec![2])));
        let graph = builder.build();
        let given = |list: &[(&str, Tensor)]| {
            let inputs = list.iter().map(|(name, tensor)| (name.to_string(), tensor.clone()));
            check_inputs(&graph, &inputs.collect()).map_err(|error| error.to_string())
        };
        let good = floats(&[1.0, 2.0]);
        assert_eq!(given(&[("x", good.clone())]), Ok(()));
        let cases: [(&[(&str, Tensor)], &str); 4] = [
            (&[], "`x` was not given"),
            (&[("x", floats(&[1.0]))], "is FP32 1; the network reads FP32 2"),
            (&[("x", tensor(DType::F16, &[0; 4]))], "is FP16 2; the network reads FP32 2"),
            (&[("x", good.clone()), ("y", good)], "`y` is not one of the network's, which are `x`"),
        ];
        for (inputs, expected) in cases {
            let error = given(inputs).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
