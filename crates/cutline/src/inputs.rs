//! Arguments that several commands share: which model, which inputs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use cutline_core::{
    graph::Graph,
    onnx::ImportOptions,
    picture::{InputEncoding, PictureSpec, Recipe},
    tensor::Shape,
};
use cutline_runtime::{
    model::Model,
    picture,
    tensor::Tensor,
    verify::{random_inputs, read_npy},
};

use crate::output::Output;

mod glob;
mod identity;
mod mqtt;
mod otlp;

pub(crate) use identity::IdentityArgs;
pub(crate) use mqtt::{MqttArgs, host, random, topic_level};
pub(crate) use otlp::{OtlpArgs, Telling};

/// A model file and how to bind its symbolic dimensions.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The trained network, an ONNX or TensorFlow Lite file.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) shapes: ShapeArgs,
}

/// Bindings of symbolic dimensions.
#[derive(Debug, Args)]
pub(crate) struct ShapeArgs {
    /// Shape of an input, where the file leaves it open (repeatable; a batch is 1 by default).
    #[arg(long = "input-shape", value_name = "NAME=1x3x224x224", value_parser = parse_input_shape)]
    pub(crate) input_shapes: Vec<(String, Shape)>,
}

impl ModelArgs {
    /// Maps, decodes and imports the model.
    pub(crate) fn open(&self) -> anyhow::Result<Model> {
        self.shapes.open(&self.model)
    }
}

impl ShapeArgs {
    /// Maps, decodes and imports the model at `path`.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<Model> {
        let input_shapes: BTreeMap<_, _> = self.input_shapes.iter().cloned().collect();
        Model::open(path, &ImportOptions { input_shapes })
            .with_context(|| format!("cannot use model `{}`", path.display()))
    }
}

fn parse_input_shape(text: &str) -> Result<(String, Shape), String> {
    let expected = "expected NAME=1x3x224x224";
    let (name, dims) = text.rsplit_once('=').ok_or(expected)?;
    let dims: Result<Vec<u64>, _> = dims.split('x').map(str::parse).collect();
    match dims {
        Ok(dims) if !name.is_empty() && dims.iter().all(|&dim| dim > 0) => {
            Ok((name.to_owned(), Shape(dims)))
        }
        _ => Err(expected.to_owned()),
    }
}

/// How a picture becomes the network's input.
#[derive(Clone, Debug, Args)]
pub(crate) struct PictureArgs {
    /// imagenet, imagenet-bgr, unit (0..1), symmetric (-1..1), or a TOML file
    /// [default: imagenet for colour, unit for gray, the pixels as they are for a quantised input].
    #[arg(long, value_name = "PRESET|FILE.toml")]
    pub(crate) preprocess: Option<String>,
}

impl PictureArgs {
    /// The specification where the network's input can be a picture; an error where one was asked
    /// for and cannot be had.
    pub(crate) fn spec_if_picture(&self, graph: &Graph) -> anyhow::Result<Option<PictureSpec>> {
        match self.spec(graph) {
            Ok(spec) => Ok(Some(spec)),
            Err(error) if self.preprocess.is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The specification for a network whose only input is a picture.
    pub(crate) fn spec(&self, graph: &Graph) -> anyhow::Result<PictureSpec> {
        let [input] = graph.inputs() else {
            bail!(
                "a picture can be the input of a network of one input; this one has {}",
                graph.inputs().len()
            );
        };
        let value = graph.value(*input);
        let (Some(dtype), Some(shape)) = (value.dtype, value.shape.as_ref()) else {
            bail!("the shape of input `{}` is unknown; give it with --input-shape", value.name);
        };
        let recipe = match &self.preprocess {
            Some(file) if file.ends_with(".toml") => {
                let text =
                    fs::read_to_string(file).with_context(|| format!("cannot read `{file}`"))?;
                toml::from_str(&text).with_context(|| format!("cannot use `{file}`"))?
            }
            Some(name) => Recipe::preset(name)?,
            None if graph.scale(*input).is_some() => {
                return Ok(Recipe::default().for_input(dtype, shape)?.as_pixels());
            }
            None if shape.0.contains(&3) => Recipe::preset("imagenet")?,
            None => Recipe::preset("unit")?,
        };
        let spec = recipe.for_input(dtype, shape)?;
        Ok(match graph.scale(*input) {
            Some(scale) => spec.quantised(scale),
            None => spec,
        })
    }
}

/// What a network is run on.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// A picture (.jpg, .png) or tensor (.npy), once per input of the network
    /// [default: seeded random numbers].
    #[arg(long = "input", value_name = "[NAME=]FILE")]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) picture: PictureArgs,
    /// Seed of the random input.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

impl InputArgs {
    /// Whether a picture is given, rather than tensors or nothing.
    pub(crate) fn has_picture(&self) -> bool {
        self.files.iter().any(|text| !is_tensor_file(Path::new(text)))
    }

    /// One tensor per input of the network, by name. A picture is prepared as `planned` says,
    /// unless the user says otherwise, and has been sent in `encoding`.
    pub(crate) fn tensors(
        &self,
        graph: &Graph,
        planned: Option<&PictureSpec>,
        encoding: InputEncoding,
        output: &Output,
    ) -> anyhow::Result<BTreeMap<String, Tensor>> {
        if self.files.is_empty() {
            output.note(format!("no --input: using random numbers of seed {}", self.seed));
            return Ok(random_inputs(graph, self.seed)?);
        }
        let spec = || match planned {
            Some(spec) if self.picture.preprocess.is_none() => Ok(spec.clone()),
            _ => self.picture.spec(graph),
        };
        let mut names = graph.inputs().iter().map(|&id| graph.value(id).name.as_str());
        let mut tensors = BTreeMap::new();
        for text in &self.files {
            let (name, file) = match text.split_once('=') {
                Some((name, file)) if graph.find_value(name).is_some() => (name, file),
                _ => (
                    names.next().context("there are more files than inputs of the network")?,
                    text.as_str(),
                ),
            };
            let path = Path::new(file);
            let tensor = tensor_of(path, spec, encoding)
                .with_context(|| format!("cannot use input `{}`", path.display()))?;
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(tensors)
    }
}

/// The tensor of a file: itself (.npy), or that of a picture that has been sent in an encoding.
pub(crate) fn tensor_of(
    path: &Path,
    spec: impl FnOnce() -> anyhow::Result<PictureSpec>,
    encoding: InputEncoding,
) -> anyhow::Result<Tensor> {
    if is_tensor_file(path) {
        return Ok(read_npy(path)?);
    }
    let (file, spec) = (fs::read(path)?, spec()?);
    Ok(picture::finish(&picture::prepare(&file, &spec, encoding)?, &spec)?)
}

pub(crate) fn is_tensor_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

/// The file's own name, for people.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Expands folders to the pictures and tensors in them and patterns to what matches them, in order
/// of their names.
pub(crate) fn expand_paths(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !glob::is_pattern(path) {
            files.append(&mut expand_folder(path)?);
            continue;
        }
        let found = glob::matching(path)
            .with_context(|| format!("cannot look for files like `{}`", path.display()))?;
        if found.is_empty() {
            bail!("no file is named like `{}`", path.display());
        }
        for path in found {
            files.append(&mut expand_folder(&path)?);
        }
    }
    Ok(files)
}

/// The pictures and tensors in a folder; a file as it is.
fn expand_folder(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "npy"];
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = path.read_dir().with_context(|| format!("cannot list `{}`", path.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| EXTENSIONS.contains(&extension(path).as_str()))
        .collect();
    found.sort();
    match found.is_empty() {
        true => bail!("no picture (.jpg, .png) or tensor (.npy) in `{}`", path.display()),
        false => Ok(found),
    }
}

/// What stands behind the last dot of a path, in lower case.
pub(crate) fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_shape_names_its_input() {
        let parsed = parse_input_shape("data=1x3x4").unwrap();
        assert_eq!(parsed, ("data".to_owned(), Shape(vec![1, 3, 4])));
        for bad in ["data", "=1x3", "data=", "data=1x", "data=1x0", "data=-1"] {
            assert!(parse_input_shape(bad).is_err(), "{bad}");
        }
    }
}
