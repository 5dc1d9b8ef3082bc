//! Sub-models in this process: the ranges of the values between them, and how often they answer as
//! the whole network does.

use std::{collections::BTreeMap, io, path::Path};

use bytes::{Bytes, BytesMut};
use cutline_core::{
    codec::{CutEncoding, Quantised, Quantization, Quantizations, Range},
    onnx::proto::{ModelProto, TypeProto, ValueInfoProto, type_proto},
    split::{self, DATA_FILE, Piece, SubModel},
};
use tempfile::TempDir;
use thiserror::Error;

use crate::{
    engine::{Engine, EngineError, LoadOptions, ModelSource},
    files,
    labels::{self, Labels},
    stage::code_of,
    tensor::Tensor,
    verify::Part,
};

/// Why parts cannot be run here.
#[derive(Debug, Error)]
pub enum PartsError {
    /// A part could not be written to a temporary file.
    #[error("cannot write part `{part}` to a temporary file")]
    Write {
        /// Its name.
        part: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The engine cannot load a part.
    #[error("part `{part}` does not run")]
    Load {
        /// Its name.
        part: String,
        /// Cause.
        #[source]
        source: EngineError,
    },
}

/// A sub-model as the engine takes it: from memory where all its weights are in its file; from a
/// temporary folder where they are not, because only a file can refer to others. The folder may go
/// once the engine has loaded it.
pub fn source(part: &SubModel, folder: &Path) -> io::Result<(ModelSource, Option<TempDir>)> {
    let sub_files = part.files();
    if sub_files.data.is_none()
        && let Some(bytes) = joined(&sub_files.model)
    {
        return Ok((ModelSource::Memory(bytes), None));
    }
    let own = tempfile::tempdir()?;
    let write = |path: &Path, pieces: &[Piece]| {
        files::write_atomic(path, pieces, folder).map_err(io::Error::other)
    };
    let path = own.path().join(sub_files.format.file_name());
    write(&path, &sub_files.model)?;
    if let Some(pieces) = &sub_files.data {
        write(&own.path().join(DATA_FILE), pieces)?;
    }
    Ok((ModelSource::File(path), Some(own)))
}

/// The pieces in one buffer; `None` if one of them is in another file.
fn joined(pieces: &[Piece]) -> Option<Bytes> {
    let mut all = BytesMut::new();
    for piece in pieces {
        match piece {
            Piece::Inline(bytes) => all.extend_from_slice(bytes),
            Piece::External { .. } => return None,
        }
    }
    Some(all.freeze())
}

/// Loads sub-models, in their order; `folder` is the whole model's, which their weights may be in.
pub fn load(
    engine: &dyn Engine,
    options: LoadOptions,
    sub_models: &[SubModel],
    folder: &Path,
) -> Result<Vec<Part>, PartsError> {
    let load = |sub_model: &SubModel| {
        let part = || sub_model.name.clone();
        let (source, _own) = source(sub_model, folder)
            .map_err(|source| PartsError::Write { part: part(), source })?;
        let session = engine
            .load(&source, options)
            .map_err(|source| PartsError::Load { part: part(), source })?;
        Ok(Part {
            name: part(),
            inputs: sub_model.inputs.iter().map(|port| port.name.clone()).collect(),
            outputs: sub_model.outputs.iter().map(|port| port.name.clone()).collect(),
            cut_encoding: sub_model.cut_encoding.map(|encoding| encoding.name().to_owned()),
            session,
        })
    };
    sub_models.iter().map(load).collect()
}

/// The ranges of values of a whole network whose weights are in the model, over the inputs that come:
/// any of its values, as if they were its outputs.
pub fn ranges(
    engine: &dyn Engine,
    options: LoadOptions,
    model: &ModelProto,
    values: &[&str],
    inputs: impl IntoIterator<Item = BTreeMap<String, Tensor>>,
) -> Result<Ranges, PartsError> {
    let mut open = model.clone();
    if let Some(graph) = &mut open.graph {
        let is_input = |name: &str| graph.input.iter().any(|input| input.name() == name);
        let made = values.iter().filter(|value| !is_input(value));
        let output = |value: &&str| ValueInfoProto {
            name: Some((*value).to_owned()),
            r#type: graph.output.first().and_then(|output| any_shape(output.r#type.clone()?)),
            ..ValueInfoProto::default()
        };
        graph.output = made.map(output).collect();
    }
    let failed = |source| PartsError::Load { part: "the whole network".to_owned(), source };
    let outputs: Vec<String> =
        open.graph.iter().flat_map(|graph| &graph.output).map(|o| o.name().to_owned()).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let bytes = joined(&split::encode(&open)).unwrap_or_default();
    drop(open);
    let mut session = engine.load(&ModelSource::Memory(bytes), options).map_err(failed)?;
    let mut ranges = Ranges::default();
    for inputs in inputs {
        let given: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let made = session.run(&given, &outputs).map_err(failed)?;
        ranges.note(&outputs.iter().map(|name| (*name).to_owned()).zip(made).collect());
        ranges.note(&inputs);
    }
    Ok(ranges)
}

/// The type of a value without its shape.
fn any_shape(r#type: TypeProto) -> Option<TypeProto> {
    let type_proto::Value::TensorType(tensor) = r#type.value? else { return None };
    let value = type_proto::Value::TensorType(type_proto::Tensor { shape: None, ..tensor });
    Some(TypeProto { value: Some(value), ..TypeProto::default() })
}

/// Least and largest element of values, over the inputs that they were shown.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<String, Range>);

impl Ranges {
    /// Takes notes of values, by name.
    pub fn note(&mut self, values: &BTreeMap<String, Tensor>) {
        for (name, tensor) in values {
            let Some(range) = tensor.as_f32().and_then(|elements| Range::of(&elements)) else {
                continue;
            };
            let known = self.0.entry(name.clone()).or_insert(range);
            *known = known.union(range);
        }
    }

    /// The range of a value, where it was seen as numbers.
    pub fn of(&self, value: &str) -> Option<Range> {
        self.0.get(value).copied()
    }

    /// The finest bytes that reach over the whole range of these values; the first that was not seen
    /// as numbers in place of that.
    pub fn quantizations(&self, values: &[Quantised]) -> Result<Quantizations, String> {
        let quantization = |quantised: &Quantised| {
            let value = &quantised.value;
            let range = self.0.get(value).copied().ok_or_else(|| value.clone())?;
            Ok((quantised.key(), Quantization::of(range)))
        };
        values.iter().map(quantization).collect()
    }
}

/// Coarsest step of bytes that is tried: each is coarser than the one before by 2^(1/4).
const COARSEST: u32 = 31;

/// The search for the finest bytes whose entropy code is short enough, over all inputs together:
/// each round shows it every input once and halves the steps that are left.
///
/// ```text
/// while !steps.is_done() { for every input { steps.note(values) }  steps.narrow() }
/// ```
#[derive(Clone, Debug)]
pub struct Steps(Vec<Stepped>);

/// The finest step that is short enough is in `least..=most`; the middle one is being tried.
#[derive(Clone, Debug)]
struct Stepped {
    quantised: Quantised,
    finest: Quantization,
    least: u32,
    most: u32,
    coded: u64,
    elements: u64,
}

impl Stepped {
    fn tried(&self) -> u32 {
        (self.least + self.most) / 2
    }
}

impl Steps {
    /// For those of the values whose encoding asks for fewer bits than the finest bytes have, given
    /// what these stand for.
    pub fn new(values: &[Quantised], finest: &Quantizations) -> Self {
        let stepped = |quantised: &Quantised| {
            let coarse = matches!(quantised.encoding, CutEncoding::Bits4 | CutEncoding::Bits2);
            let finest = *finest.get(&quantised.key()).filter(|_| coarse)?;
            let (quantised, most) = (quantised.clone(), COARSEST);
            Some(Stepped { quantised, finest, least: 0, most, coded: 0, elements: 0 })
        };
        Self(values.iter().filter_map(stepped).collect())
    }

    /// Whether there is nothing left to find.
    pub fn is_done(&self) -> bool {
        self.0.iter().all(|stepped| stepped.least == stepped.most)
    }

    /// Notes how long the codes of values would be, by name.
    pub fn note(&mut self, values: &BTreeMap<String, Tensor>) {
        for stepped in self.0.iter_mut().filter(|stepped| stepped.least < stepped.most) {
            let Some(tensor) = values.get(&stepped.quantised.value) else { continue };
            let Some(elements) = tensor.as_f32() else { continue };
            let bytes = stepped.finest.coarser(stepped.tried()).bytes_of(&elements);
            stepped.coded += code_of(&bytes, tensor.shape()).len() as u64;
            stepped.elements += elements.len() as u64;
        }
    }

    /// Ends a round.
    pub fn narrow(&mut self) {
        for stepped in self.0.iter_mut().filter(|stepped| stepped.least < stepped.most) {
            let tried = stepped.tried();
            match stepped.coded <= stepped.elements * 4 / stepped.quantised.encoding.ratio() {
                true => stepped.most = tried,
                false => stepped.least = tried + 1,
            }
            (stepped.coded, stepped.elements) = (0, 0);
        }
    }

    /// What the bytes of the values stand for.
    pub fn quantizations(&self) -> Quantizations {
        let scale =
            |stepped: &Stepped| (stepped.quantised.key(), stepped.finest.coarser(stepped.least));
        self.0.iter().map(scale).collect()
    }
}

/// The best class of the first output that is a list of scores; `None` where no output is one, or
/// its scores are no numbers.
pub fn best_class(outputs: &[(String, Tensor)]) -> Option<Best> {
    let labels = Labels::parse("");
    let best = |(_, tensor): &(String, Tensor)| {
        let best = labels::top(tensor, &labels, 1)?.into_iter().next()?;
        let classes = usize::try_from(tensor.shape().elements()?).ok()?;
        (!best.score.is_nan()).then_some(Best { class: best.class, classes })
    };
    outputs.iter().find_map(best)
}

/// A network's answer as one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Best {
    /// Position in the output.
    pub class: usize,
    /// How many classes the output has.
    pub classes: usize,
}
