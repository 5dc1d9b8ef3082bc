//! The fast engine: ONNX Runtime, loaded at run time from a shared library of the machine.
//!
//! A process loads one library and keeps it. Threads do not spin between runs, because two stages
//! may share a machine; inputs are borrowed and outputs handed over without a copy.
//!
//! On an NVIDIA GPU it is an engine of its own, `onnxruntime-cuda`, since it has other times: present
//! where the library was built for CUDA and a first small run on the GPU succeeds, never assumed.
//!
//! A session with as many threads as there are processors for it gives each its own. Otherwise a
//! thread that is woken for a run is often put on the processor of the thread that woke it, and
//! waits there for milliseconds until the system finds the idle one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use cutline_core::{
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto, tensor_shape_proto, type_proto,
    },
    split::external_tensors,
    tensor::{DType, Shape},
};
use ort::{
    environment::Environment,
    ep::{CUDA, cuda::ConvAlgorithmSearch},
    logging::LogLevel,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{
        OutputSelector, RunOptions, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{
        DynTensor, DynTensorValueType, Outlet, PrimitiveTensorElementType, TensorElementType,
        TensorRefMut, ValueType,
    },
};

use prost::Message;

use super::{
    Engine, EngineError, EngineStatus, LoadOptions, ModelSource, Port, Session, check_inputs,
    check_threads, converted, decode, find_outputs, layer_with, library, unsigned, whole,
};
use crate::{pace::timer, tensor::Tensor};

/// The engine's name.
pub const NAME: &str = "onnxruntime";

/// Its name on an NVIDIA GPU.
pub const CUDA_NAME: &str = "onnxruntime-cuda";

/// The file beside the library that computes on NVIDIA GPUs.
const CUDA_FILE: &str = "libonnxruntime_providers_cuda.so";

/// The library, loaded and initialised.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    version: Arc<str>,
    /// [`NAME`] or [`CUDA_NAME`]: where it computes.
    name: &'static str,
}

impl OnnxRuntime {
    /// Finds the library and loads it; the next call of the same process returns the same one.
    pub fn open() -> Result<Self, EngineError> {
        static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let found = library::find().map_err(|missing| unavailable(missing.reason))?;
        let environment = ort::init_from(&found.path)
            .map_err(unavailable)?
            .with_name("cutline")
            .with_telemetry(false)
            // Whatever the library has to say of a failure is in the error it returns.
            .with_logger(Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| ()))
            .build()
            .map_err(unavailable)?;
        let runtime = Self { environment, version: found.version.into(), name: NAME };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// The same library, computing on the first NVIDIA GPU. It is tried once in a process: a model of
    /// one operator is loaded and run there, because a library that offers CUDA may yet lack the
    /// driver, cuDNN, or a GPU.
    pub fn open_cuda() -> Result<Self, EngineError> {
        static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
        let found = library::find().map_err(|missing| without_cuda(missing.reason))?;
        built_for_cuda(&found.path).map_err(without_cuda)?;
        let runtime = Self { name: CUDA_NAME, ..Self::open()? };
        TRIED.get_or_init(|| runtime.try_out()).clone().map_err(without_cuda)?;
        Ok(runtime)
    }

    /// Computes something small, or says why that failed.
    fn try_out(&self) -> Result<(), String> {
        let input = Tensor::from_f32(Shape(vec![2]), vec![-1.0, 2.0]).map_err(|e| e.to_string())?;
        let model = ModelSource::Memory(relu().encode_to_vec().into());
        let run = || -> Result<Vec<Tensor>, EngineError> {
            self.load(&model, LoadOptions { threads: 1 })?.run(&[("x", &input)], &["y"])
        };
        let answer = run().map_err(|error| format!("a first run on the GPU failed: {error}"))?;
        match answer.first().and_then(Tensor::as_f32).as_deref() {
            Some([0.0, 2.0]) => Ok(()),
            other => Err(format!("a first run on the GPU answered {other:?}, not [0, 2]")),
        }
    }

    /// The model with its bytes computed as exactly as elsewhere, and faster; `None` where it has
    /// no layers on bytes.
    fn rewritten(&self, model: &ModelSource) -> Option<ModelSource> {
        // What is no model is for the library to say.
        let mut proto = decode(self.name, model).ok()?;
        if !external_tensors(&proto).is_empty() {
            return None;
        }
        // Its own sums and products of two values round to the other side of a half now and then.
        let mut is_changed = whole::compute_in_whole_numbers(&mut proto, &["Add", "Mul", "Sub"]);
        if cfg!(target_arch = "x86_64") && self.name != CUDA_NAME {
            is_changed |= unsigned::compute_in_unsigned_bytes(&mut proto);
        }
        is_changed.then(|| ModelSource::Memory(proto.encode_to_vec().into()))
    }

    fn builder(&self, threads: usize, cores: &[usize]) -> Result<SessionBuilder, ort::Error> {
        let mut builder = ort::session::Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // Threads that sleep must be woken for every operator, so they spin within a run; between
            // runs they must not take a core from other stages.
            .with_intra_op_spinning(threads > 1)?
            .with_config_entry("session.force_spinning_stop", "1")?
            // Otherwise signed bytes become unsigned ones where the library finds that easy, and
            // layers between the two are computed in floats, which is not exact.
            .with_config_entry("session.qdqisint8allowed", "1")?
            // Without it older processors lose what does not fit into 16 bits of a sum of products.
            .with_config_entry("session.x64quantprecision", on_old_processors())?
            .with_inter_op_spinning(false)?;
        if let [_, others @ ..] = cores {
            // The library counts processors from 1, and names none for the calling thread.
            let places: Vec<String> = others.iter().map(|core| (core + 1).to_string()).collect();
            builder = builder
                .with_config_entry("session.intra_op_thread_affinities", places.join(";"))?;
        }
        if self.name == CUDA_NAME {
            // Trying every algorithm for every shape would take seconds at each load of a stage.
            let cuda = CUDA::default().with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
            builder = builder.with_execution_providers([cuda.build().error_on_failure()])?;
        }
        Ok(builder)
    }
}

/// What is known of the engine on this machine. Loads the library, but keeps it only if it is in
/// use already.
pub fn status() -> EngineStatus {
    let (version, reason, path): (_, _, Option<PathBuf>) = match library::find() {
        Ok(found) => (Some(found.version), "found on this machine".to_owned(), Some(found.path)),
        Err(missing) => (None, missing.reason, missing.path),
    };
    EngineStatus { name: NAME, available: version.is_some(), version, reason, path }
}

/// What is known of the engine on this machine's GPU. Where the library is built for CUDA it is
/// loaded, kept, and tried.
pub fn cuda_status() -> EngineStatus {
    let path = library::find().ok().map(|found| found.path);
    let (version, reason) = match OnnxRuntime::open_cuda() {
        Ok(runtime) => (Some(runtime.version.to_string()), "ran on this machine's GPU".to_owned()),
        Err(EngineError::Unavailable { reason, .. }) => (None, reason),
        Err(error) => (None, error.to_string()),
    };
    EngineStatus { name: CUDA_NAME, available: version.is_some(), version, reason, path }
}

/// Refuses a library without the part that computes on GPUs.
fn built_for_cuda(library: &Path) -> Result<(), String> {
    match library.with_file_name(CUDA_FILE).exists() {
        true => Ok(()),
        false => Err(format!(
            "`{}` computes on the processor only: there is no `{CUDA_FILE}` beside it; for an \
             NVIDIA GPU install the Python package onnxruntime-gpu and set ORT_DYLIB_PATH to its \
             library",
            library.display()
        )),
    }
}

fn without_cuda(reason: String) -> EngineError {
    EngineError::Unavailable { engine: CUDA_NAME.to_owned(), reason }
}

/// A model of one operator on two numbers.
fn relu() -> ModelProto {
    let two = tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(2)),
        ..Default::default()
    };
    let tensor =
        type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim: vec![two] }) };
    let value = |name: &str| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor.clone())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: Some("Relu".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(13), ..Default::default() }],
        graph: Some(GraphProto {
            name: Some("relu".to_owned()),
            node: vec![node],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn load(
        &self,
        model: &ModelSource,
        options: LoadOptions,
    ) -> Result<Box<dyn Session>, EngineError> {
        check_threads(self.name, options)?;
        if let Some(onnx) = converted(self.name, model)? {
            return self.load(&onnx, options);
        }
        let rewritten = self.rewritten(model);
        let model = rewritten.as_ref().unwrap_or(model);
        let cores = own_cores(options.threads, timer::allowed());
        let builder = self.builder(options.threads, &cores);
        let mut builder = builder.map_err(|error| EngineError::load(self.name, error))?;
        let session = match model {
            ModelSource::File(path) => builder.commit_from_file(path),
            ModelSource::Memory(bytes) => builder.commit_from_memory(bytes),
        };
        let session = session.map_err(|error| match load_error(self.name, &error.to_string()) {
            EngineError::Unsupported { op, layer: None, .. } => {
                let layer = decode(self.name, model).ok().and_then(|model| layer_with(&model, &op));
                EngineError::unsupported(self.name, &op, layer)
            }
            error => error,
        })?;
        let inputs = session.inputs().iter().map(port).collect();
        let outputs = session.outputs().iter().map(port).collect();
        let memory =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
                .map_err(|error| EngineError::load(self.name, error))?;
        Ok(Box::new(OrtSession { name: self.name, session, inputs, outputs, memory, cores }))
    }
}

struct OrtSession {
    /// The engine's.
    name: &'static str,
    session: ort::session::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    memory: MemoryInfo<'static>,
    /// One processor per thread, the calling one's first; empty: wherever the system puts them.
    cores: Vec<usize>,
}

impl Session for OrtSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        check_inputs(self.name, &self.inputs, inputs)?;
        find_outputs(self.name, &self.outputs, outputs)?;
        let engine = self.name;
        let failed = |error: ort::Error| EngineError::run(engine, error);
        let aligned: Vec<Tensor> = inputs.iter().map(|(_, tensor)| align(tensor)).collect();
        let values = inputs
            .iter()
            .zip(&aligned)
            .map(|((name, _), tensor)| Ok((*name, borrow(&self.memory, tensor)?)))
            .collect::<Result<Vec<(&str, SessionInputValue<'_>)>, ort::Error>>()
            .map_err(failed)?;
        let wanted = outputs.iter().fold(OutputSelector::no_default(), |all, &name| all.with(name));
        let options = RunOptions::new().map_err(failed)?.with_outputs(wanted);
        timer::pin(&self.cores[..self.cores.len().min(1)]);
        let results = self.session.run_with_options(values, &options);
        timer::pin(&self.cores);
        let mut results = results.map_err(failed)?;
        let take = |name: &&str| {
            let missing = || EngineError::run(engine, format!("output `{name}` did not come"));
            let value = results.remove(name).ok_or_else(missing)?;
            hand_over(engine, value.downcast::<DynTensorValueType>().map_err(failed)?)
        };
        outputs.iter().map(take).collect()
    }
}

/// The setting for what only processors without instructions for sums of products of bytes need.
fn on_old_processors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx512vnni") && !is_x86_feature_detected!("avxvnni") {
        return "1";
    }
    "0"
}

/// A processor for each thread, where there are just as many as threads, and more than one.
fn own_cores(threads: usize, allowed: Vec<usize>) -> Vec<usize> {
    match threads > 1 && allowed.len() == threads {
        true => allowed,
        false => Vec::new(),
    }
}

fn unavailable(reason: impl ToString) -> EngineError {
    EngineError::Unavailable { engine: NAME.to_owned(), reason: reason.to_string() }
}

fn port(outlet: &Outlet) -> Port {
    let dtype = match outlet.dtype() {
        ValueType::Tensor { ty, .. } => dtype_of(*ty),
        _ => None,
    };
    Port { name: outlet.name().to_owned(), dtype }
}

fn dtype_of(element: TensorElementType) -> Option<DType> {
    Some(match element {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The same tensor where its elements are aligned, as they nearly always are; else a copy.
fn align(tensor: &Tensor) -> Tensor {
    let size = tensor.dtype().size().unwrap_or(1) as usize;
    if tensor.data().as_ptr().addr().is_multiple_of(size) {
        return tensor.clone();
    }
    let mut words = vec![0u64; tensor.data().len().div_ceil(8)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    bytes[..tensor.data().len()].copy_from_slice(tensor.data());
    let bytes = Bytes::from_owner(Words(words)).slice(..tensor.data().len());
    Tensor::new(tensor.dtype(), tensor.shape().clone(), bytes).expect("the same type and length")
}

struct Words(Vec<u64>);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn borrow<'a>(
    memory: &MemoryInfo<'static>,
    tensor: &'a Tensor,
) -> Result<SessionInputValue<'a>, ort::Error> {
    Ok(match tensor.dtype() {
        DType::F32 => view::<f32>(memory, tensor)?.into(),
        DType::F16 => view::<half::f16>(memory, tensor)?.into(),
        DType::BF16 => view::<half::bf16>(memory, tensor)?.into(),
        DType::F64 => view::<f64>(memory, tensor)?.into(),
        DType::I8 => view::<i8>(memory, tensor)?.into(),
        DType::U8 => view::<u8>(memory, tensor)?.into(),
        DType::I16 => view::<i16>(memory, tensor)?.into(),
        DType::U16 => view::<u16>(memory, tensor)?.into(),
        DType::I32 => view::<i32>(memory, tensor)?.into(),
        DType::U32 => view::<u32>(memory, tensor)?.into(),
        DType::I64 => view::<i64>(memory, tensor)?.into(),
        DType::U64 => view::<u64>(memory, tensor)?.into(),
        DType::Bool => view::<bool>(memory, tensor)?.into(),
        DType::String => return Err(ort::Error::new("text tensors are not supported")),
    })
}

fn view<'a, T: PrimitiveTensorElementType + std::fmt::Debug>(
    memory: &MemoryInfo<'static>,
    tensor: &'a Tensor,
) -> Result<TensorRefMut<'a, T>, ort::Error> {
    let shape = tensor.shape().0.iter().map(|&dim| dim as i64);
    let data = tensor.data().as_ptr().cast_mut().cast();
    // SAFETY: a `Tensor` holds exactly the elements of its type and shape; they are aligned for
    // `T` (see `align`), in main memory, and outlive the value because its lifetime is theirs. The
    // library does not write to the inputs of a run, and no Rust reference of type `T` is made.
    #[allow(unsafe_code)]
    unsafe {
        TensorRefMut::from_raw(memory.clone(), data, ort::value::Shape::new(shape))
    }
}

/// A result whose bytes stay where the library put them, for as long as anyone holds them.
fn hand_over(engine: &str, value: DynTensor) -> Result<Tensor, EngineError> {
    let named = |what: &str| EngineError::run(engine, format!("an output is {what}"));
    let dtype = dtype_of(*value.data_type()).ok_or_else(|| named("of an unknown element type"))?;
    if !value.memory_info().is_cpu_accessible() {
        return Err(named("not in main memory"));
    }
    let shape = Shape(value.shape().iter().map(|&dim| dim.unsigned_abs()).collect());
    let length = cutline_core::tensor::byte_size(dtype, &shape).map_or(0, |size| size.0 as usize);
    let data = match length {
        0 => Bytes::new(),
        _ => Bytes::from_owner(Output { value, length }),
    };
    Tensor::new(dtype, shape, data).map_err(|error| EngineError::run(engine, error))
}

struct Output {
    value: DynTensor,
    /// Bytes of the tensor; not zero.
    length: usize,
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the library allocated the elements of this type and shape in main memory, frees
        // them when the value is dropped, and writes to them no more once the run has returned.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.value.data_ptr().cast(), self.length)
        }
    }
}

/// Tells a missing operator from every other trouble; the library has only words for it.
///
/// ```text
/// Could not find an implementation for LRN(13) node with name 'norm1'
/// In Node, ("norm1", Affine, "", -1) : (...) -> (...) , Error No Op registered for Affine with ...
/// ... Fatal error: com.example:Affine(-1) is not a registered function/op
/// ```
fn load_error(engine: &str, message: &str) -> EngineError {
    let quoted = |after: &str, quote: char| {
        let rest = message.split_once(after)?.1;
        let name = rest.split(quote).next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let word_after = |after: &str| {
        let rest = message.split_once(after)?.1;
        rest.split(['(', ' ', ',']).next().map(ToOwned::to_owned)
    };
    let op = word_after("Could not find an implementation for ")
        .or_else(|| word_after("No Op registered for "))
        .or_else(|| {
            let before = message.split_once(" is not a registered function/op")?.0;
            let op = before.rsplit([' ', ':']).next()?;
            op.split('(').next().map(ToOwned::to_owned)
        });
    let layer = quoted("node with name '", '\'').or_else(|| quoted("In Node, (\"", '"'));
    match op {
        Some(op) => EngineError::unsupported(engine, &op, layer),
        None => EngineError::load(engine, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_operator_is_told_from_other_troubles() {
        let cases = [
            (
                "Could not find an implementation for LRN(13) node with name 'norm1'",
                Some(("LRN", Some("norm1"))),
            ),
            (
                "This is an invalid model. In Node, (\"n\", Affine, \"\", -1) : (\"x\": \
                 tensor(float),) -> (\"y\",) , Error No Op registered for Affine with \
                 domain_version of 9",
                Some(("Affine", Some("n"))),
            ),
            (
                "Fatal error: com.example:Affine(-1) is not a registered function/op",
                Some(("Affine", None)),
            ),
            ("Load model from x.onnx failed: Protobuf parsing failed.", None),
        ];
        for (message, expected) in cases {
            match (load_error(NAME, message), expected) {
                (EngineError::Unsupported { op, layer, .. }, Some((name, of))) => {
                    assert_eq!((op.as_str(), layer.as_deref()), (name, of));
                }
                (EngineError::Load { reason, .. }, None) => assert_eq!(reason, message),
                (error, _) => panic!("{message}: {error:?}"),
            }
        }
    }

    #[test]
    fn threads_have_processors_of_their_own_only_where_they_fill_the_machine() {
        assert_eq!(own_cores(2, vec![0, 3]), [0, 3]);
        for (threads, allowed) in [(1, vec![0]), (1, vec![0, 1]), (2, vec![0, 1, 2]), (4, vec![0])]
        {
            assert!(own_cores(threads, allowed).is_empty(), "{threads}");
        }
    }

    #[test]
    fn a_misaligned_tensor_is_copied() {
        let bytes = Bytes::from((0..17).collect::<Vec<u8>>());
        let start = usize::from(bytes.as_ptr().addr().is_multiple_of(4));
        let tensor =
            Tensor::new(DType::F32, Shape(vec![4]), bytes.slice(start..start + 16)).unwrap();
        let copy = align(&tensor);
        assert!(copy.data().as_ptr().addr().is_multiple_of(4));
        assert_eq!(copy, tensor);
        assert_eq!(align(&copy).data().as_ptr(), copy.data().as_ptr());
    }
}
