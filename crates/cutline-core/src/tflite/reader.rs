//! A file as checked lists of tensors and operators.
//!
//! Data stays slices of the file. Every list that is visited is charged to a budget proportional to
//! the file's length, because tables may be shared: without it a short file could name one list of
//! a thousand entries from a thousand tables.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use planus::ReadAsRoot;

use super::{
    TfliteError, is_tflite,
    schema::tflite::{
        BufferRef, BuiltinOperator, BuiltinOptionsRef, ModelRef, OperatorCodeRef, OperatorRef,
        QuantizationParametersRef, SubGraphRef, TensorRef, TensorType,
    },
};
use crate::tensor::DType;

/// Elements visited per byte of the file, at most.
const VISITS_PER_BYTE: usize = 16;
/// Largest scale.
const LARGEST_SCALE: f32 = 1e12;
/// Longest list of axes.
const MAX_RANK: usize = 8;

/// A network as the file tells it.
pub(super) struct Network<'a> {
    pub(super) name: String,
    pub(super) tensors: Vec<Tensor>,
    pub(super) operators: Vec<Operator<'a>>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

/// A tensor of the network; names are unique.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    /// `None` for types that ONNX lacks.
    pub(super) dtype: Option<DType>,
    /// Its elements where the file stores them.
    pub(super) data: Option<Bytes>,
    pub(super) quantisation: Option<Quantisation>,
    /// Why no operator can use it.
    pub(super) refused: Option<String>,
}

/// `real = scale * (stored - zero_point)`, with one pair or one per index of `axis`.
pub(super) struct Quantisation {
    pub(super) scale: Vec<f32>,
    pub(super) zero_point: Vec<i64>,
    pub(super) axis: usize,
}

/// An application of an operator.
pub(super) struct Operator<'a> {
    pub(super) kind: BuiltinOperator,
    /// The name of a custom operator.
    pub(super) custom: Option<&'a str>,
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) outputs: Vec<usize>,
    pub(super) options: Option<BuiltinOptionsRef<'a>>,
}

/// What may still be visited.
struct Budget(usize);

impl Budget {
    fn take(&mut self, count: usize) -> Result<(), TfliteError> {
        self.0 = self.0.checked_sub(count).ok_or_else(|| damaged("its tables share each other"))?;
        Ok(())
    }

    /// A list of the file as a vector.
    fn list<'a, T: planus::VectorRead<'a>>(
        &mut self,
        list: Option<planus::Vector<'a, T>>,
    ) -> Result<Vec<T>, TfliteError> {
        let Some(list) = list else { return Ok(Vec::new()) };
        self.take(list.len())?;
        Ok(list.iter().collect())
    }
}

fn damaged(problem: impl Into<String>) -> TfliteError {
    TfliteError::Damaged { problem: problem.into() }
}

/// Reads a file. O(file).
pub(super) fn read(bytes: &Bytes) -> Result<Network<'_>, TfliteError> {
    if !is_tflite(bytes) {
        return Err(TfliteError::Identifier);
    }
    let mut budget = Budget(bytes.len().saturating_mul(VISITS_PER_BYTE));
    let model = ModelRef::read_as_root(bytes)?;
    if model.version()? != 3 {
        return Err(TfliteError::Version { found: model.version()? });
    }
    let subgraphs = model.subgraphs()?;
    let count = subgraphs.map_or(0, |list| list.len());
    let graph = match (subgraphs.and_then(|list| list.get(0)), count) {
        (Some(graph), 1) => graph?,
        _ => return Err(TfliteError::Subgraphs { found: count }),
    };
    let tensors = tensors(bytes, &model, &graph, &mut budget)?;
    let operators = operators(&model, &graph, &tensors, &mut budget)?;
    let name = graph.name()?.or(model.description()?).unwrap_or("tflite");
    budget.take(name.len())?;
    Ok(Network {
        name: name.to_owned(),
        inputs: indices(budget.list(graph.inputs()?)?, tensors.len())?,
        outputs: each_once(indices(budget.list(graph.outputs()?)?, tensors.len())?),
        tensors,
        operators,
    })
}

/// The numbers without repetitions, in their order: an answer that is listed twice is one answer.
fn each_once(mut numbers: Vec<usize>) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    numbers.retain(|&number| seen.insert(number));
    numbers
}

fn index(value: i32, count: usize) -> Result<usize, TfliteError> {
    let index = usize::try_from(value).ok().filter(|&index| index < count);
    index.ok_or_else(|| damaged(format!("it names tensor {value} of {count}")))
}

fn indices(values: Vec<i32>, count: usize) -> Result<Vec<usize>, TfliteError> {
    values.into_iter().map(|value| index(value, count)).collect()
}

fn tensors<'a>(
    bytes: &'a Bytes,
    model: &ModelRef<'a>,
    graph: &SubGraphRef<'a>,
    budget: &mut Budget,
) -> Result<Vec<Tensor>, TfliteError> {
    let buffers = model.buffers()?;
    let list = budget.list(graph.tensors()?)?;
    let mut tensors = Vec::with_capacity(list.len());
    for (at, tensor) in list.into_iter().enumerate() {
        let tensor = tensor?;
        let name = tensor.name()?.unwrap_or_default();
        budget.take(name.len() + 1)?;
        let number = tensor.buffer()? as usize;
        let buffer = match buffers {
            Some(buffers) if number > 0 => {
                let missing = || damaged(format!("tensor {at} names buffer {number}"));
                Some(buffers.get(number).ok_or_else(missing)??)
            }
            _ => None,
        };
        tensors.push(read_tensor(bytes, &tensor, name, buffer, budget)?);
    }
    make_unique(&mut tensors, graph, budget)?;
    Ok(tensors)
}

/// Gives each tensor a name of its own; those of the network's ends come first and stay as they are.
///
/// Converters name a tensor after all that was fused into its operator, `a;b;c`, by hundreds of
/// letters. The first of them, what was computed last, is name enough for a value where
/// no other begins so and no weight is called so.
fn make_unique(
    tensors: &mut [Tensor],
    graph: &SubGraphRef<'_>,
    budget: &mut Budget,
) -> Result<(), TfliteError> {
    let mut ends = indices(budget.list(graph.inputs()?)?, tensors.len())?;
    ends.extend(indices(budget.list(graph.outputs()?)?, tensors.len())?);
    let mut beginnings: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in tensors.iter() {
        let name = if tensor.data.is_none() { beginning(&tensor.name) } else { &tensor.name };
        *beginnings.entry(name.to_owned()).or_default() += 1;
    }
    let mut named = vec![false; tensors.len()];
    let mut taken = BTreeSet::new();
    let many = ends.len();
    for (turn, at) in ends.into_iter().chain(0..tensors.len()).enumerate() {
        if std::mem::replace(&mut named[at], true) {
            continue;
        }
        let name = &mut tensors[at].name;
        let first = beginning(name);
        if turn >= many && tensors[at].data.is_none() && beginnings.get(first) == Some(&1) {
            *name = first.to_owned();
        }
        if name.is_empty() || taken.contains(name) {
            *name = format!("{name}#{at}");
            while taken.contains(name) {
                name.push('#');
            }
        }
        taken.insert(name.clone());
    }
    Ok(())
}

fn beginning(name: &str) -> &str {
    name.split(';').next().unwrap_or_default()
}

fn read_tensor<'a>(
    bytes: &'a Bytes,
    tensor: &TensorRef<'a>,
    name: &str,
    buffer: Option<BufferRef<'a>>,
    budget: &mut Budget,
) -> Result<Tensor, TfliteError> {
    let shape: Vec<i64> = budget.list(tensor.shape()?)?.into_iter().map(i64::from).collect();
    let problem = |problem: String| TfliteError::Tensor { tensor: name.to_owned(), problem };
    if shape.len() > MAX_RANK {
        return Err(problem(format!("{} axes, where {MAX_RANK} are supported", shape.len())));
    }
    let kind = tensor.type_()?;
    let dtype = dtype(kind);
    let signature = budget.list(tensor.shape_signature()?)?;
    let mut refused = refusal(tensor, &shape, &signature)?;
    if dtype.is_none() {
        refused = Some(format!("its elements are {kind:?}, which is not supported"));
    }
    let data = buffer.map(|buffer| data(bytes, &buffer)).transpose()?.flatten();
    if let (Some(data), Some(dtype), None) = (&data, dtype, &refused) {
        let needed = elements(&shape).zip(dtype.size()).and_then(|(n, size)| n.checked_mul(size));
        if needed != Some(data.len() as u64) {
            let problem = |needed| format!("{} bytes are stored, not {needed}", data.len());
            let tensor = name.to_owned();
            let problem = problem(needed.unwrap_or_default());
            return Err(TfliteError::Tensor { tensor, problem });
        }
    }
    let quantisation = match tensor.quantization()? {
        Some(parameters) => quantisation(&parameters, dtype, &shape, budget, &mut refused)
            .map_err(|error| error.unwrap_or_else(problem))?,
        None => None,
    };
    Ok(Tensor { name: name.to_owned(), shape, dtype, data, quantisation, refused })
}

/// Why a tensor cannot be used, where that shows without its elements.
fn refusal(
    tensor: &TensorRef<'_>,
    shape: &[i64],
    signature: &[i32],
) -> Result<Option<String>, TfliteError> {
    Ok(if tensor.sparsity()?.is_some() {
        Some("sparse tensors are not supported; export it without sparsity".to_owned())
    } else if tensor.external_buffer()? != 0 {
        Some("its data lies in another file, which is not supported".to_owned())
    } else if tensor.is_variable()? {
        Some("variables, which keep a state between frames, are not supported".to_owned())
    } else if elements(shape).is_none() {
        Some(format!("its shape {shape:?} is not fixed; export it with fixed sizes"))
    } else if signature.iter().skip(1).any(|&size| size < 0) {
        Some(format!("its shape {signature:?} is open; export it with fixed sizes"))
    } else {
        None
    })
}

/// Number of elements; `None` where a size is open, or the product leaves 40 bits.
fn elements(shape: &[i64]) -> Option<u64> {
    let product = shape.iter().try_fold(1u64, |product, &size| {
        product.checked_mul(u64::try_from(size).ok().filter(|&size| size > 0)?)
    });
    product.filter(|&product| product < 1 << 40)
}

/// The elements in a buffer; `None` where it is empty.
fn data(bytes: &Bytes, buffer: &BufferRef<'_>) -> Result<Option<Bytes>, TfliteError> {
    if buffer.offset()? > 1 {
        let start = usize::try_from(buffer.offset()?).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(buffer.size()?).unwrap_or(usize::MAX));
        if end > bytes.len() {
            return Err(damaged(format!("a buffer ends at byte {end} of {}", bytes.len())));
        }
        return Ok((start < end).then(|| bytes.slice(start..end)));
    }
    let data = buffer.data()?.filter(|data| !data.is_empty());
    Ok(data.map(|data| bytes.slice_ref(data)))
}

/// The scales of a tensor; an error without a cause of its own is the text of one.
fn quantisation(
    parameters: &QuantizationParametersRef<'_>,
    dtype: Option<DType>,
    shape: &[i64],
    budget: &mut Budget,
    refused: &mut Option<String>,
) -> Result<Option<Quantisation>, Refused> {
    if parameters.details_type()? != 0 {
        *refused = Some("it is quantised in blocks, which is not supported".to_owned());
    }
    let scale = budget.list(parameters.scale()?)?;
    if scale.is_empty() {
        return Ok(None);
    }
    let mut zero_point = budget.list(parameters.zero_point()?)?;
    let axis = parameters.quantized_dimension()?;
    let axis =
        usize::try_from(axis).ok().filter(|&axis| axis < shape.len().max(1)).ok_or_else(|| {
            Refused::Text(format!("it is quantised along axis {axis} of {}", shape.len()))
        })?;
    if zero_point.is_empty() {
        zero_point = vec![0];
    }
    let size = shape.get(axis).copied().unwrap_or(1);
    let fits = |length: usize| length == 1 || length as i64 == size;
    if !fits(scale.len()) || !fits(zero_point.len()) || scale.len() < zero_point.len() {
        return Err(Refused::Text(format!(
            "{} scales and {} zero points for {size} channels",
            scale.len(),
            zero_point.len()
        )));
    }
    let range = match dtype {
        Some(DType::I8) => -128..=127,
        Some(DType::U8) => 0..=255,
        _ => i64::MIN..=i64::MAX,
    };
    if let Some(point) = zero_point.iter().find(|point| !range.contains(point)) {
        return Err(Refused::Text(format!("its zero point {point} is none of its integers")));
    }
    // LiteRT ends the process where products of scales leave the range of floats.
    if scale.iter().any(|scale| !(0.0..=LARGEST_SCALE).contains(scale)) {
        return Err(Refused::Text("a scale is negative, enormous or no number".to_owned()));
    }
    Ok(Some(Quantisation { scale, zero_point, axis }))
}

/// An error of the file, or the text of one about a tensor.
enum Refused {
    File(TfliteError),
    Text(String),
}

impl Refused {
    fn unwrap_or_else(self, of_text: impl FnOnce(String) -> TfliteError) -> TfliteError {
        match self {
            Self::File(error) => error,
            Self::Text(text) => of_text(text),
        }
    }
}

impl<E: Into<TfliteError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::File(error.into())
    }
}

/// The ONNX type for a type of the format.
fn dtype(kind: TensorType) -> Option<DType> {
    Some(match kind {
        TensorType::Float32 => DType::F32,
        TensorType::Float16 => DType::F16,
        TensorType::Int32 => DType::I32,
        TensorType::Uint8 => DType::U8,
        TensorType::Int64 => DType::I64,
        TensorType::Bool => DType::Bool,
        TensorType::Int8 => DType::I8,
        _ => return None,
    })
}

fn operators<'a>(
    model: &ModelRef<'a>,
    graph: &SubGraphRef<'a>,
    tensors: &[Tensor],
    budget: &mut Budget,
) -> Result<Vec<Operator<'a>>, TfliteError> {
    let codes = budget.list(model.operator_codes()?)?;
    let codes = codes.into_iter().collect::<Result<Vec<OperatorCodeRef<'a>>, _>>()?;
    let list = budget.list(graph.operators()?)?;
    list.into_iter().map(|operator| read_operator(&operator?, &codes, tensors, budget)).collect()
}

fn read_operator<'a>(
    operator: &OperatorRef<'a>,
    codes: &[OperatorCodeRef<'a>],
    tensors: &[Tensor],
    budget: &mut Budget,
) -> Result<Operator<'a>, TfliteError> {
    let number = operator.opcode_index()? as usize;
    let code = codes.get(number).ok_or_else(|| damaged(format!("operator code {number}")))?;
    let inputs = budget.list(operator.inputs()?)?;
    let operand = |value: i32| (value != -1).then(|| index(value, tensors.len())).transpose();
    let inputs = inputs.into_iter().map(operand).collect::<Result<Vec<_>, _>>()?;
    let outputs = indices(budget.list(operator.outputs()?)?, tensors.len())?;
    // A graph names the tensor at every use, where the file has a number of four bytes.
    let ends = inputs.iter().flatten().chain(&outputs);
    budget.take(ends.map(|&at| tensors[at].name.len()).sum())?;
    let kind = kind(code)?;
    let custom = code.custom_code()?;
    Ok(Operator { kind, custom, inputs, outputs, options: operator.builtin_options()? })
}

/// What an operator code stands for: the greater of its two numbers.
fn kind(code: &OperatorCodeRef<'_>) -> Result<BuiltinOperator, TfliteError> {
    let kind = code.builtin_code()?;
    let older = i32::from(code.deprecated_builtin_code()?);
    if older <= kind as i32 {
        return Ok(kind);
    }
    BuiltinOperator::try_from(older).map_err(|_| damaged(format!("operator number {older}")))
}
