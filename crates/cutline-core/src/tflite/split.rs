//! A part of a TensorFlow Lite file as a file of its own.
//!
//! Nothing is converted: the operators of the part are copied as they are, with their tensors, the
//! buffers of those that hold weights, and what each needs to be known by. Numbers of tensors,
//! buffers and operator codes change, since only those that the part needs are there. Whatever
//! cannot be copied whole, because fields of it are not read, is refused by name.
//!
//! The part says its inputs and outputs twice, as the format has it: by number in its graph, and in a
//! signature by the tensors' names, which for that are made unique.

use std::collections::BTreeMap;

use bytes::Bytes;
use planus::ReadAsRoot;
use thiserror::Error;

use super::{
    TfliteError,
    reader::{Network, Tensor, read},
    schema::tflite::{
        BuiltinOperator, BuiltinOptionsRef, Metadata, Model, ModelRef, Operator, OperatorCode,
        OperatorRef, SignatureDef, SubGraph, SubGraphRef, Tensor as NewTensor, TensorMap,
        TensorRef,
    },
    write::{TooLarge, encode},
};
use crate::tensor::{DType, Shape};

/// The signature of a part.
const SIGNATURE: &str = "serving_default";

/// The only entry of a file's metadata that is true of a part, too: the least release that runs it.
const KEPT_METADATA: &str = "min_runtime_version";

/// Most axes of a tensor.
const MAX_RANK: usize = 16;

/// What a part consists of; numbers are places in the whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Operators, ascending.
    pub operators: Vec<usize>,
    /// Tensors that it is given, in the order of the file to write.
    pub inputs: Vec<usize>,
    /// Tensors that it answers, in that order.
    pub outputs: Vec<usize>,
}

/// Why a part cannot be a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PartError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] TfliteError),
    /// Something of it would be lost.
    #[error(
        "{what} cannot be copied into a part of its own, since not all of it is understood; write the parts as ONNX (--format onnx)"
    )]
    Unread { what: String },
    /// It does not fit.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl From<planus::Error> for PartError {
    fn from(error: planus::Error) -> Self {
        Self::File(error.into())
    }
}

/// What the operators of a file read and make, by number of the tensor: all that a division into
/// parts needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Each operator's operands that are there, and its results.
    pub operators: Vec<(Vec<usize>, Vec<usize>)>,
    /// The network's inputs.
    pub inputs: Vec<usize>,
    /// Its outputs.
    pub outputs: Vec<usize>,
    /// Type and shape of every tensor, each where it is known.
    pub tensors: Vec<(Option<DType>, Option<Shape>)>,
    /// Names of the tensors, each one once.
    pub names: Vec<String>,
}

/// Reads the wiring of a file's network. O(file).
pub fn wiring(file: &Bytes) -> Result<Wiring, TfliteError> {
    let Network { tensors, operators, inputs, outputs, .. } = read(file)?;
    let operators = operators.into_iter();
    let operators =
        operators.map(|each| (each.inputs.into_iter().flatten().collect(), each.outputs));
    let shape = |tensor: &Tensor| -> Option<Shape> {
        let sizes = tensor.shape.iter().map(|&size| u64::try_from(size).ok());
        sizes.collect::<Option<Vec<_>>>().map(Shape)
    };
    Ok(Wiring {
        operators: operators.collect(),
        inputs,
        outputs,
        tensors: tensors.iter().map(|tensor| (tensor.dtype, shape(tensor))).collect(),
        names: tensors.into_iter().map(|tensor| tensor.name).collect(),
    })
}

/// The file of a part. `names` are those of all tensors of the whole file, each one once. O(part).
pub fn part(file: &[u8], names: &[String], part: &Part) -> Result<Bytes, PartError> {
    let source = Source::new(file)?;
    let mut copy = Copy::new(&source, names)?;
    for &tensor in part.inputs.iter().chain(&part.outputs) {
        copy.tensor(tensor)?;
    }
    for &operator in &part.operators {
        copy.operator(operator)?;
    }
    copy.finish(part)
}

/// A file that was looked into.
struct Source<'a> {
    file: &'a [u8],
    model: ModelRef<'a>,
    graph: SubGraphRef<'a>,
}

impl<'a> Source<'a> {
    fn new(file: &'a [u8]) -> Result<Self, PartError> {
        let model = ModelRef::read_as_root(file)?;
        let graphs = model.subgraphs()?.ok_or_else(|| damaged("it has no graph"))?;
        let graph = graphs.get(0).ok_or_else(|| damaged("it has no graph"))??;
        Ok(Self { file, model, graph })
    }

    fn tensors(&self) -> Result<Vec<TensorRef<'a>>, PartError> {
        let tensors = self.graph.tensors()?.into_iter().flat_map(|tensors| tensors.iter());
        Ok(tensors.collect::<Result<_, _>>()?)
    }

    fn operators(&self) -> Result<Vec<OperatorRef<'a>>, PartError> {
        let operators = self.graph.operators()?.into_iter().flat_map(|found| found.iter());
        Ok(operators.collect::<Result<_, _>>()?)
    }

    /// The data of a buffer, wherever in the file they are.
    fn data(&self, index: u32) -> Result<&'a [u8], PartError> {
        let buffers = self.model.buffers()?;
        let found = buffers.and_then(|buffers| buffers.get(index as usize));
        let buffer = found.ok_or_else(|| damaged(format!("it has no buffer {index}")))??;
        let (offset, size) = (buffer.offset()?, buffer.size()?);
        if offset <= 1 {
            return Ok(buffer.data()?.unwrap_or_default());
        }
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let inside = range.and_then(|(start, size)| self.file.get(start..start.checked_add(size)?));
        inside.ok_or_else(|| damaged(format!("buffer {index} lies outside of it")))
    }
}

fn damaged(what: impl Into<String>) -> PartError {
    TfliteError::Damaged { problem: what.into() }.into()
}

/// A part while it is put together.
struct Copy<'a> {
    source: &'a Source<'a>,
    names: &'a [String],
    tensors: Vec<TensorRef<'a>>,
    operators: Vec<OperatorRef<'a>>,
    /// Places in the part by places in the file.
    tensor_at: BTreeMap<usize, usize>,
    code_at: BTreeMap<u32, u32>,
    buffer_at: BTreeMap<u32, u32>,
    new_tensors: Vec<NewTensor>,
    new_operators: Vec<Operator>,
    codes: Vec<OperatorCode>,
    buffers: Vec<&'a [u8]>,
    /// Bytes that were copied; tables may share what they refer to, so that a short file could
    /// stand for an enormous part.
    copied: usize,
}

impl<'a> Copy<'a> {
    fn new(source: &'a Source<'a>, names: &'a [String]) -> Result<Self, PartError> {
        let tensors = source.tensors()?;
        if tensors.len() != names.len() {
            return Err(damaged("its tensors are others than when it was read"));
        }
        Ok(Self {
            source,
            names,
            tensors,
            operators: source.operators()?,
            tensor_at: BTreeMap::new(),
            code_at: BTreeMap::new(),
            buffer_at: BTreeMap::new(),
            new_tensors: Vec::new(),
            new_operators: Vec::new(),
            codes: Vec::new(),
            // The first buffer stands for no data.
            buffers: vec![&[]],
            copied: 0,
        })
    }

    /// Counts what is copied, and refuses a part that is larger than the whole.
    fn count(&mut self, bytes: usize) -> Result<(), PartError> {
        self.copied = self.copied.saturating_add(bytes);
        match self.copied > 2 * self.source.file.len() {
            true => Err(damaged("parts of it would be larger than itself")),
            false => Ok(()),
        }
    }

    /// The place of a tensor in the part; it is copied when first asked for.
    fn tensor(&mut self, index: usize) -> Result<usize, PartError> {
        if let Some(&at) = self.tensor_at.get(&index) {
            return Ok(at);
        }
        let missing = || damaged(format!("it refers to tensor {index}"));
        let old = *self.tensors.get(index).ok_or_else(missing)?;
        let name = self.names[index].clone();
        self.count(scales(old)? * size_of::<i64>())?;
        let mut tensor = copied_tensor(old, &name)?;
        tensor.buffer = self.buffer(tensor.buffer)?;
        tensor.name = Some(name);
        let at = self.new_tensors.len();
        self.new_tensors.push(tensor);
        self.tensor_at.insert(index, at);
        Ok(at)
    }

    /// The place of a buffer in the part.
    fn buffer(&mut self, index: u32) -> Result<u32, PartError> {
        if let Some(&at) = self.buffer_at.get(&index) {
            return Ok(at);
        }
        let at = match self.source.data(index)? {
            [] => 0,
            data => {
                self.count(data.len())?;
                self.buffers.push(data);
                self.buffers.len() as u32 - 1
            }
        };
        self.buffer_at.insert(index, at);
        Ok(at)
    }

    fn code(&mut self, index: u32) -> Result<(u32, String), PartError> {
        let codes = self.source.model.operator_codes()?;
        let found = codes.and_then(|codes| codes.get(index as usize));
        let missing = || damaged(format!("it has no operator code {index}"));
        let code = OperatorCode::try_from(found.ok_or_else(missing)??)?;
        let name = name_of(&code);
        let at = *self.code_at.entry(index).or_insert_with(|| {
            self.codes.push(code);
            self.codes.len() as u32 - 1
        });
        Ok((at, name))
    }

    fn operator(&mut self, index: usize) -> Result<(), PartError> {
        let missing = || damaged(format!("it has no operator {index}"));
        let old = *self.operators.get(index).ok_or_else(missing)?;
        let (code, name) = self.code(old.opcode_index()?)?;
        check_known(old, &name)?;
        let lists = [old.inputs()?, old.outputs()?, old.intermediates()?];
        let operands: usize = lists.iter().flatten().map(|list| list.len()).sum();
        let custom = old.custom_options()?.map_or(0, <[u8]>::len);
        let states = old.mutating_variable_inputs()?.map_or(0, |list| list.len());
        self.count(operands * size_of::<i32>() + custom + states)?;
        let mut operator = Operator::try_from(old)?;
        operator.opcode_index = code;
        operator.debug_metadata_index = -1;
        let Operator { inputs, outputs, intermediates, .. } = &mut operator;
        for list in [inputs, outputs, intermediates].into_iter().flatten() {
            for entry in list.iter_mut().filter(|entry| **entry >= 0) {
                *entry = self.tensor(*entry as usize)? as i32;
            }
        }
        self.new_operators.push(operator);
        Ok(())
    }

    fn finish(mut self, part: &Part) -> Result<Bytes, PartError> {
        let place = |index: &usize| self.tensor_at.get(index).copied().unwrap_or_default();
        let places = |list: &[usize]| Some(list.iter().map(|t| place(t) as i32).collect());
        let entries = |list: &[usize]| {
            let entry = |index: &usize| TensorMap {
                name: self.names.get(*index).cloned(),
                tensor_index: place(index) as u32,
            };
            Some(list.iter().map(entry).collect())
        };
        let graph = SubGraph {
            inputs: places(&part.inputs),
            outputs: places(&part.outputs),
            name: self.source.graph.name()?.map(ToOwned::to_owned),
            tensors: Some(std::mem::take(&mut self.new_tensors)),
            operators: Some(std::mem::take(&mut self.new_operators)),
            ..SubGraph::default()
        };
        let signature = SignatureDef {
            inputs: entries(&part.inputs),
            outputs: entries(&part.outputs),
            signature_key: Some(SIGNATURE.to_owned()),
            subgraph_index: 0,
        };
        let metadata = self.kept_metadata()?;
        let model = Model {
            version: self.source.model.version()?,
            operator_codes: Some(self.codes),
            subgraphs: Some(vec![graph]),
            description: self.source.model.description()?.map(ToOwned::to_owned),
            metadata,
            signature_defs: Some(vec![signature]),
            ..Model::default()
        };
        Ok(encode(&model, &self.buffers)?)
    }

    fn kept_metadata(&mut self) -> Result<Option<Vec<Metadata>>, PartError> {
        for entry in self.source.model.metadata()?.into_iter().flat_map(|found| found.iter()) {
            let entry = entry?;
            if entry.name()? == Some(KEPT_METADATA) {
                let buffer = self.buffer(entry.buffer()?)?;
                return Ok(Some(vec![Metadata { name: Some(KEPT_METADATA.to_owned()), buffer }]));
            }
        }
        Ok(None)
    }
}

/// A tensor with all that is known of it, its number of the buffer still the old one.
fn copied_tensor(old: TensorRef<'_>, name: &str) -> Result<NewTensor, PartError> {
    let shape = old.shape()?.map_or(0, |shape| shape.len());
    let signature = old.shape_signature()?.map_or(0, |shape| shape.len());
    if shape.max(signature) > MAX_RANK {
        return Err(damaged(format!("tensor `{name}` has {} axes", shape.max(signature))));
    }
    // A state that is kept between frames has no place in two parts.
    let mut lost = old.is_variable()?
        || old.sparsity()?.is_some()
        || old.variant_tensors()?.is_some()
        || old.external_buffer()? != 0;
    if let Some(quantization) = old.quantization()? {
        lost |= quantization.details_type()? != 0;
    }
    match lost {
        true => Err(PartError::Unread { what: format!("tensor `{name}`") }),
        false => Ok(NewTensor::try_from(old)?),
    }
}

/// How many numbers say what a tensor's elements stand for.
fn scales(tensor: TensorRef<'_>) -> Result<usize, PartError> {
    let Some(quantization) = tensor.quantization()? else { return Ok(0) };
    let floats = [quantization.scale()?, quantization.min()?, quantization.max()?];
    let floats: usize = floats.iter().flatten().map(|list| list.len()).sum();
    Ok(floats + quantization.zero_point()?.map_or(0, |list| list.len()))
}

/// Refuses an operator that has fields which are not read.
fn check_known(operator: OperatorRef<'_>, name: &str) -> Result<(), PartError> {
    let options = operator.builtin_options()?;
    let axes = match &options {
        Some(BuiltinOptionsRef::ReshapeOptions(options)) => options.new_shape()?,
        Some(BuiltinOptionsRef::SqueezeOptions(options)) => options.squeeze_dims()?,
        _ => None,
    };
    if axes.is_some_and(|axes| axes.len() > MAX_RANK) {
        return Err(damaged(format!("operator {name} has too many axes")));
    }
    let lost = options.is_some_and(|options| !is_read(&options))
        || operator.builtin_options_2_type()? != 0
        || operator.large_custom_options_size()? != 0;
    match lost {
        true => Err(PartError::Unread { what: format!("operator {name}") }),
        false => Ok(()),
    }
}

/// What a message calls an operator.
fn name_of(code: &OperatorCode) -> String {
    if let Some(custom) = &code.custom_code {
        return custom.clone();
    }
    let first = BuiltinOperator::try_from(i32::from(code.deprecated_builtin_code));
    let builtin = first.map_or(code.builtin_code, |first| first.max(code.builtin_code));
    format!("{builtin:?}")
}

/// Whether all fields of an operator's options are read, so that a copy has them.
fn is_read(options: &BuiltinOptionsRef<'_>) -> bool {
    use BuiltinOptionsRef as Options;
    matches!(
        options,
        Options::Conv2DOptions(_)
            | Options::DepthwiseConv2DOptions(_)
            | Options::Pool2DOptions(_)
            | Options::FullyConnectedOptions(_)
            | Options::SoftmaxOptions(_)
            | Options::ConcatenationOptions(_)
            | Options::AddOptions(_)
            | Options::ResizeBilinearOptions(_)
            | Options::ReshapeOptions(_)
            | Options::SpaceToDepthOptions(_)
            | Options::MulOptions(_)
            | Options::PadOptions(_)
            | Options::BatchToSpaceNdOptions(_)
            | Options::SpaceToBatchNdOptions(_)
            | Options::TransposeOptions(_)
            | Options::ReducerOptions(_)
            | Options::SubOptions(_)
            | Options::DivOptions(_)
            | Options::SqueezeOptions(_)
            | Options::StridedSliceOptions(_)
            | Options::ExpOptions(_)
            | Options::SplitOptions(_)
            | Options::LogSoftmaxOptions(_)
            | Options::CastOptions(_)
            | Options::DequantizeOptions(_)
            | Options::MaximumMinimumOptions(_)
            | Options::ArgMaxOptions(_)
            | Options::NegOptions(_)
            | Options::PadV2Options(_)
            | Options::SliceOptions(_)
            | Options::TransposeConvOptions(_)
            | Options::TileOptions(_)
            | Options::ExpandDimsOptions(_)
            | Options::PowOptions(_)
            | Options::ArgMinOptions(_)
            | Options::PackOptions(_)
            | Options::UnpackOptions(_)
            | Options::SquareOptions(_)
            | Options::ResizeNearestNeighborOptions(_)
            | Options::LeakyReluOptions(_)
            | Options::SquaredDifferenceOptions(_)
            | Options::MirrorPadOptions(_)
            | Options::AbsOptions(_)
            | Options::SplitVOptions(_)
            | Options::QuantizeOptions(_)
            | Options::HardSwishOptions(_)
            | Options::DepthToSpaceOptions(_)
    )
}
