//! Model files: mapped, decoded, checked, imported and grouped. A TensorFlow Lite file is converted to
//! ONNX as it is opened, so that whoever takes a model takes either.
//!
//! The file is mapped, not read, and weights stay slices of the map: opening a model costs its
//! structure, and a weight is first touched when it is written or hashed.
//!
//! Whoever changes the file while it is open is seen: a file that is rewritten in place changes the
//! weights underneath, and one that shrinks ends the process when the missing part is touched.
//! Nothing of Cutline writes in place (see [`files`](crate::files)); against others
//! [`Model::check_unchanged`] tells after the use whether it was sound.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

use bytes::Bytes;
use cutline_core::{
    codec::{CutCodecs, CutEncoding},
    graph::Graph,
    group::{Grouping, group_operators},
    hex::hex,
    onnx::{
        self, ImportError, ImportOptions,
        proto::{
            ModelProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
    split::{
        CUT_ENCODING, Format, Piece, SplitError, StageLabel, SubModel, TfliteFile,
        external_tensors, split_encoded, split_tflite,
    },
    tflite::{self, Converted, TfliteError},
    units,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::Source;

/// Why a model file cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// There is no such file.
    #[error(
        "there is no model file `{path}`; check the path, or write one with `cutline zoo write`"
    )]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file ends too early.
    #[error(
        "model file `{path}` is cut short: it has {actual} and says it needs {needed}; download or export it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size.
        actual: units::Bytes,
        /// The size it should at least have.
        needed: units::Bytes,
    },
    /// The model was not understood.
    #[error("cannot import `{path}`")]
    Import {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: ImportError,
    },
    /// A TensorFlow Lite model was not understood.
    #[error("cannot import `{path}`")]
    Convert {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: TfliteError,
    },
    /// External data is said to be somewhere that Cutline does not look.
    #[error(
        "weight `{tensor}` of `{path}` has its data in `{location}`, which is not inside the model's folder; such a file is not to be trusted"
    )]
    ExternalOutside {
        /// The model file.
        path: PathBuf,
        /// Name of the weight.
        tensor: String,
        /// The place as the file says it.
        location: String,
    },
    /// External data is announced without a place.
    #[error(
        "weight `{tensor}` of `{path}` has its data in another file, but the model does not say where; export it again"
    )]
    ExternalUnknown {
        /// The model file.
        path: PathBuf,
        /// Name of the weight.
        tensor: String,
    },
    /// An external data file is missing.
    #[error(
        "weight `{tensor}` has its data in `{data}`, which does not exist; copy that file beside the model, under the very name"
    )]
    ExternalMissing {
        /// Name of the weight.
        tensor: String,
        /// The file that is missing.
        data: PathBuf,
    },
    /// An external data file is too short.
    #[error(
        "weight `{tensor}` has its data in `{data}` up to byte {needed}, but that file ends at {actual}; it is cut short or of another model"
    )]
    ExternalShort {
        /// Name of the weight.
        tensor: String,
        /// The file.
        data: PathBuf,
        /// Bytes that it must have.
        needed: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The file changed while it was in use.
    #[error(
        "`{path}` changed while it was in use; what was made of it is unsound, run the command again"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// A model file that was understood.
#[derive(Debug)]
pub struct Model {
    /// The file.
    pub path: PathBuf,
    /// Its message; weights are slices of the mapped file.
    pub proto: ModelProto,
    /// The network.
    pub graph: Graph,
    /// The network as fusion groups.
    pub grouping: Grouping,
    /// The TensorFlow Lite file that it was made of, where it was.
    pub tflite: Option<TfliteFile>,
    bytes: Bytes,
    file: File,
    data_files: BTreeMap<PathBuf, Stamp>,
    stamp: Stamp,
    sha256: OnceLock<String>,
}

/// What a file looked like when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Model {
    /// Opens a model file; its external data files must be there, but are not read.
    pub fn open(path: &Path, options: &ImportOptions) -> Result<Self, ModelError> {
        let (bytes, file, stamp) = map(path)?;
        let (proto, tflite) = understood(path, &bytes)?;
        let data_files = check_external(path, &proto)?;
        let graph = onnx::import(&proto, options)
            .map_err(|source| ModelError::Import { path: path.to_owned(), source })?;
        let whole = BTreeMap::new();
        let operator_of = tflite.as_ref().map_or(&whole, |file| &file.operator_of);
        let grouping = group_operators(&graph, operator_of);
        let path = path.to_owned();
        let sha256 = OnceLock::new();
        Ok(Self { path, proto, graph, grouping, tflite, bytes, file, data_files, stamp, sha256 })
    }

    /// Splits the network into files of a format, as
    /// [`split_encoded`](cutline_core::split::split_encoded) does.
    pub fn split(
        &self,
        format: Format,
        stage_of: &[Option<u32>],
        labels: &[StageLabel],
        codecs: &CutCodecs,
    ) -> Result<Vec<SubModel>, SplitError> {
        match self.tflite_for(format, codecs)? {
            None => split_encoded(&self.proto, &self.graph, stage_of, labels, codecs),
            Some(file) => split_tflite(file, &self.graph, stage_of, labels),
        }
    }

    /// Whether there can be parts of a format whose values travel so; what else
    /// [`split`](Self::split) needs, such as ranges of values, may be found out afterwards.
    pub fn check_format(&self, format: Format, codecs: &CutCodecs) -> Result<(), SplitError> {
        self.tflite_for(format, codecs).map(|_| ())
    }

    /// The file that parts of a format are copied from; none for those in ONNX.
    fn tflite_for(
        &self,
        format: Format,
        codecs: &CutCodecs,
    ) -> Result<Option<&TfliteFile>, SplitError> {
        if format == Format::Onnx {
            return Ok(None);
        }
        let file = self.tflite.as_ref().ok_or(SplitError::NotTflite)?;
        match codecs.stages.iter().find(|each| **each != CutEncoding::Fp32) {
            Some(&encoding) => Err(SplitError::TfliteEncoding { encoding }),
            None => Ok(Some(file)),
        }
    }

    /// The folder in which external data is looked for.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Its external data files, in order of their names.
    pub fn data_files(&self) -> impl Iterator<Item = &Path> {
        self.data_files.keys().map(PathBuf::as_path)
    }

    /// SHA-256 of the model in hexadecimal: of the file, or of the file followed by its external
    /// data files in order of their names. Computed when first asked for, at the speed of the
    /// processor over the whole model.
    pub fn sha256(&self) -> Result<&str, ModelError> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let mut hasher = Sha256::new();
        hasher.update(&self.bytes);
        for path in self.data_files.keys() {
            hasher.update(map(path)?.0);
        }
        Ok(self.sha256.get_or_init(|| hex(&hasher.finalize())))
    }

    /// Fails if the file or its external data changed since it was opened.
    pub fn check_unchanged(&self) -> Result<(), ModelError> {
        let files = [(&self.path, &self.stamp)].into_iter().chain(&self.data_files);
        for (path, stamp) in files {
            if fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata)) != Some(*stamp) {
                return Err(ModelError::Changed { path: path.clone() });
            }
        }
        Ok(())
    }
}

/// The model's weights as they lie on the disk, to write parts of it from.
impl<'a> From<&'a Model> for Source<'a> {
    fn from(model: &'a Model) -> Self {
        Self { folder: model.folder(), mapped: Some((&model.bytes, &model.file)) }
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// What a model file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Names of what it reads, in its order, weights excluded.
    pub inputs: Vec<String>,
    /// Names of what it answers, in its order.
    pub outputs: Vec<String>,
    /// How the values that it sends on to another part are encoded, where they are.
    pub cut_encoding: Option<String>,
}

/// What a model file reads and answers.
pub fn signature(path: &Path) -> Result<Signature, ModelError> {
    let (bytes, ..) = map(path)?;
    let model = decode(path, &bytes)?;
    let encoded = model.metadata_props.iter().find(|entry| entry.key() == CUT_ENCODING);
    let cut_encoding = encoded.map(|entry| entry.value().to_owned());
    let graph = model.graph.unwrap_or_default();
    let stored = |name: &str| graph.initializer.iter().any(|tensor| tensor.name() == name);
    let names = graph.input.iter().map(|info| info.name().to_owned());
    let inputs = names.filter(|name| !stored(name)).collect();
    let outputs = graph.output.iter().map(|info| info.name().to_owned()).collect();
    Ok(Signature { inputs, outputs, cut_encoding })
}

/// What a model file declares of an input: its name and its axes, `None` where it leaves one open.
pub type DeclaredInput = (String, Vec<Option<u64>>);

/// The inputs of a model file as it declares them, in its order, weights excluded; an input that
/// declares no shape has no axes.
pub fn declared_inputs(path: &Path) -> Result<Vec<DeclaredInput>, ModelError> {
    let (bytes, ..) = map(path)?;
    let graph = decode(path, &bytes)?.graph.unwrap_or_default();
    let stored = |name: &str| graph.initializer.iter().any(|tensor| tensor.name() == name);
    let inputs = graph.input.iter().filter(|info| !stored(info.name()));
    Ok(inputs.map(|info| (info.name().to_owned(), declared_axes(info))).collect())
}

fn declared_axes(info: &ValueInfoProto) -> Vec<Option<u64>> {
    let kind = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = kind else { return Vec::new() };
    let axes = tensor.shape.iter().flat_map(|shape| &shape.dim);
    let size = |axis: &Dimension| match axis.value {
        Some(dimension::Value::DimValue(size)) => u64::try_from(size).ok().filter(|&s| s > 0),
        _ => None,
    };
    axes.map(size).collect()
}

/// The message of a model file; a TensorFlow Lite file is converted.
fn decode(path: &Path, bytes: &Bytes) -> Result<ModelProto, ModelError> {
    understood(path, bytes).map(|(model, _)| model)
}

/// The same, with what the message has to do with a TensorFlow Lite file, where it is made of one.
fn understood(path: &Path, bytes: &Bytes) -> Result<(ModelProto, Option<TfliteFile>), ModelError> {
    if tflite::is_tflite(bytes) {
        let failed = |source| ModelError::Convert { path: path.to_owned(), source };
        let Converted { model, operator_of, tensor_of } = tflite::convert(bytes).map_err(failed)?;
        return Ok((model, Some(TfliteFile { bytes: bytes.clone(), operator_of, tensor_of })));
    }
    let is_named_so = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("tflite"));
    let model =
        onnx::decode(bytes.clone()).map_err(|source| match (&source, missing_length(bytes)) {
            (ImportError::Decode(_), _) if is_named_so => {
                ModelError::Convert { path: path.to_owned(), source: TfliteError::Identifier }
            }
            (ImportError::Decode(_), Some(needed)) => ModelError::Truncated {
                path: path.to_owned(),
                actual: units::Bytes(bytes.len() as u64),
                needed: units::Bytes(needed),
            },
            _ => ModelError::Import { path: path.to_owned(), source },
        })?;
    Ok((model, None))
}

/// Maps a whole file into memory.
#[allow(unsafe_code)]
fn map(path: &Path) -> Result<(Bytes, File, Stamp), ModelError> {
    let unread = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ModelError::NotFound { path: path.to_owned() },
        _ => ModelError::Read { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    if metadata.is_dir() {
        return Err(unread(io::ErrorKind::IsADirectory.into()));
    }
    // SAFETY: the map is only read, as bytes, for which every bit pattern is valid, and `Bytes`
    // keeps it alive for all its slices. Rust also asks that nobody changes the file meanwhile,
    // which no program can enforce: rewriting in place would change weights between two reads, as
    // it would for any reader of a file, and shrinking ends the process by SIGBUS. No type
    // invariant rests on the bytes staying equal: they are decoded once, and weights are only
    // copied to files, hashed or compared. `check_unchanged` detects either case afterwards.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(unread)?;
    Ok((Bytes::from_owner(map), file, Stamp::of(&metadata)))
}

/// The size that the file claims to have, where it begins as an ONNX model and ends too early.
fn missing_length(mut bytes: &[u8]) -> Option<u64> {
    const LENGTH_DELIMITED: u64 = 2;
    let total = bytes.len() as u64;
    let mut fields = 0;
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (tag, wire_type) = (key? >> 3, key? & 7);
        if !matches!(tag, 1..=8 | 14 | 20 | 25 | 26) || fields == 0 && !matches!(tag, 1 | 2 | 7 | 8)
        {
            return None;
        }
        fields += 1;
        match (wire_type, varint(&mut bytes)) {
            (0, Some(_)) => {}
            (LENGTH_DELIMITED, Some(length)) => match bytes.get(length as usize..) {
                Some(rest) => bytes = rest,
                None => return Some((total - bytes.len() as u64).saturating_add(length)),
            },
            (0 | LENGTH_DELIMITED, None) => return Some(total + 1),
            _ => return None,
        }
    }
    None
}

/// Takes a variable-length integer from the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Checks that all external data is where the model says, inside its folder.
fn check_external(path: &Path, model: &ModelProto) -> Result<BTreeMap<PathBuf, Stamp>, ModelError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = BTreeMap::new();
    for tensor in external_tensors(model) {
        let name = tensor.name;
        let Some(Piece::External { location, offset, length }) = tensor.data else {
            return Err(ModelError::ExternalUnknown { path: path.to_owned(), tensor: name });
        };
        if !stays_inside(Path::new(&location)) {
            let path = path.to_owned();
            return Err(ModelError::ExternalOutside { path, tensor: name, location });
        }
        let data = folder.join(&location);
        let stamp = match files.get(&data) {
            Some(stamp) => *stamp,
            None => match fs::metadata(&data) {
                Ok(metadata) if metadata.is_file() => Stamp::of(&metadata),
                _ => return Err(ModelError::ExternalMissing { tensor: name, data }),
            },
        };
        let needed = offset.saturating_add(length);
        if needed > stamp.length {
            let actual = stamp.length;
            return Err(ModelError::ExternalShort { tensor: name, data, needed, actual });
        }
        files.insert(data, stamp);
    }
    Ok(files)
}

/// Whether a relative path cannot leave the folder that it is relative to.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use cutline_core::{
        onnx::proto::{StringStringEntryProto, TensorProto},
        split::encode,
        zoo,
    };

    use super::*;
    use crate::files::write_atomic;

    fn options() -> ImportOptions {
        ImportOptions::default()
    }

    fn lenet() -> ModelProto {
        zoo::build("lenet5", &zoo::ZooOptions::default()).unwrap()
    }

    fn write(folder: &Path, model: &ModelProto) -> PathBuf {
        let path = folder.join("model.onnx");
        write_atomic(&path, &encode(model), folder).unwrap();
        path
    }

    /// LeNet-5 with its first weight in another file.
    fn with_external(folder: &Path, entries: &[(&str, &str)]) -> PathBuf {
        let mut model = lenet();
        let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        *tensor = TensorProto {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            data_type: tensor.data_type,
            external_data: entries.iter().map(entry).collect(),
            data_location: Some(1),
            ..TensorProto::default()
        };
        // Encoded as it stands: its data must stay outside.
        let path = folder.join("model.onnx");
        fs::write(&path, prost::Message::encode_to_vec(&model)).unwrap();
        path
    }

    #[test]
    fn a_model_opens_with_its_network_and_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &lenet());
        let model = Model::open(&path, &options()).unwrap();
        assert_eq!(model.proto, lenet());
        assert!(!model.graph.layers().is_empty() && !model.grouping.dag.groups().is_empty());
        let expected = hex(&Sha256::digest(fs::read(&path).unwrap()));
        assert_eq!(model.sha256().unwrap(), expected);
        model.check_unchanged().unwrap();
        let names = |ids: &[_]| -> Vec<String> {
            ids.iter().map(|&id| model.graph.value(id).name.clone()).collect()
        };
        let (inputs, outputs) = (names(model.graph.inputs()), names(model.graph.outputs()));
        let expected = Signature { inputs, outputs, cut_encoding: None };
        assert_eq!(signature(&path).unwrap(), expected);
    }

    #[test]
    fn a_model_cut_short_is_told_from_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &lenet());
        let whole = fs::read(&path).unwrap();
        for end in [whole.len() / 1000, whole.len() / 3, whole.len() - 1] {
            fs::write(&path, &whole[..end]).unwrap();
            let error = Model::open(&path, &options()).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ModelError::Truncated { .. }), "cut at {end}: {text}");
        }
        for text in ["", "not a model at all", "version https://git-lfs.github.com/spec/v1"] {
            fs::write(&path, text).unwrap();
            let error = Model::open(&path, &options()).unwrap_err();
            assert!(matches!(error, ModelError::Import { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn a_missing_model_and_a_folder_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Model::open(&dir.path().join("absent.onnx"), &options()).unwrap_err();
        assert!(matches!(&error, ModelError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("absent.onnx"));
        let error = Model::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, ModelError::Read { .. }), "{error}");
    }

    #[test]
    fn external_data_must_be_there_in_full() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = lenet().graph.unwrap().initializer[0].raw_data.as_ref().unwrap().len();
        let location = ("location", "weights/w.bin");
        let path = with_external(dir.path(), &[location, ("offset", "8")]);
        let error = Model::open(&path, &options()).unwrap_err();
        assert!(matches!(&error, ModelError::ExternalMissing { .. }), "{error}");
        assert!(error.to_string().contains("w.bin"), "{error}");

        let data = dir.path().join("weights/w.bin");
        fs::create_dir(dir.path().join("weights")).unwrap();
        fs::write(&data, vec![0; bytes + 7]).unwrap();
        let error = Model::open(&path, &options()).unwrap_err();
        assert!(matches!(&error, ModelError::ExternalShort { .. }), "{error}");

        fs::write(&data, vec![0; bytes + 8]).unwrap();
        let model = Model::open(&path, &options()).unwrap();
        let hash = model.sha256().unwrap().to_owned();
        model.check_unchanged().unwrap();
        fs::write(&data, vec![1; bytes + 9]).unwrap();
        let error = model.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("w.bin") && error.contains("changed"), "{error}");
        let other = Model::open(&path, &options()).unwrap();
        assert_ne!(other.sha256().unwrap(), hash);
    }

    #[test]
    fn external_data_outside_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for location in ["../secret", "a/../../secret", "/etc/passwd"] {
            let path = with_external(dir.path(), &[("location", location)]);
            let error = Model::open(&path, &options()).unwrap_err();
            assert!(matches!(&error, ModelError::ExternalOutside { .. }), "{error}");
        }
        let path = with_external(dir.path(), &[("offset", "0")]);
        let error = Model::open(&path, &options()).unwrap_err();
        assert!(matches!(&error, ModelError::ExternalUnknown { .. }), "{error}");
    }
}
