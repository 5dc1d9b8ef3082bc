//! The embedded engine: `rten`, pure Rust, nothing to install.
//!
//! It computes in `f32`, `i32`, `i8` and `u8`. Other types are converted at its border, so that a
//! caller sees those of the model file:
//!
//! | declared | computed in |
//! |---|---|
//! | FP16, BF16, FP64 | `f32` |
//! | INT64 (saturating), BOOL | `i32` |
//!
//! Inputs in a type of its own are borrowed where they are aligned; outputs are handed over
//! without a copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use cutline_core::{
    onnx::proto::{ModelProto, ValueInfoProto, type_proto},
    tensor::DType,
};
use prost::Message;
use rten::{LoadError, LoadErrorKind, Model, ModelOptions, NodeId, RunOptions, ThreadPool};

use super::{
    Engine, EngineError, LoadOptions, ModelSource, Port, Session, check_inputs, check_threads,
    convert, converted, decode, find_outputs, layer_with, legacy, unsigned, whole,
};
use crate::tensor::Tensor;

/// The engine's name.
pub const NAME: &str = "rten";

/// Version of the crate that this build contains.
pub const VERSION: &str = "0.27";

/// The embedded engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rten;

impl Engine for Rten {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(
        &self,
        model: &ModelSource,
        options: LoadOptions,
    ) -> Result<Box<dyn Session>, EngineError> {
        check_threads(NAME, options)?;
        if let Some(onnx) = converted(NAME, model)? {
            return self.load(&onnx, options);
        }
        let mut proto = decode(NAME, model)?;
        let is_old = legacy::write_out_old_softmax(&mut proto);
        let ops = ["Add", "Conv", "Gemm", "Mul", "Sub"];
        let mut is_changed = whole::compute_in_whole_numbers(&mut proto, &ops) || is_old;
        // It quantises to unsigned bytes in vectors, to signed ones one by one.
        is_changed |= unsigned::compute_in_unsigned_bytes(&mut proto);
        let mut loader = ModelOptions::with_all_ops();
        let loaded = match model {
            // Only from a file of this extension does the library load external data by itself.
            ModelSource::File(path) if !is_changed && is_named_onnx(path) => loader.load_file(path),
            ModelSource::File(path) => {
                add_external_data(&mut loader, path, &proto)?;
                loader.load(proto.encode_to_vec())
            }
            ModelSource::Memory(_) if is_changed => loader.load(proto.encode_to_vec()),
            ModelSource::Memory(bytes) => loader.load(bytes.to_vec()),
        };
        let model = loaded.map_err(|error| load_error(&error, &proto))?;
        let graph = proto.graph.unwrap_or_default();
        let inputs = ports(&model, model.input_ids(), &graph.input);
        let outputs = ports(&model, model.output_ids(), &graph.output);
        let threads = thread_pool(options.threads);
        Ok(Box::new(RtenSession { model, threads, inputs, outputs }))
    }
}

struct RtenSession {
    model: Model,
    threads: Arc<ThreadPool>,
    /// Parallel to the model's input ids.
    inputs: Vec<Port>,
    /// Parallel to the model's output ids.
    outputs: Vec<Port>,
}

impl Session for RtenSession {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, EngineError> {
        let given = check_inputs(NAME, &self.inputs, inputs)?;
        let wanted = find_outputs(NAME, &self.outputs, outputs)?;
        let ids = self.model.input_ids();
        let values = given
            .iter()
            .zip(inputs)
            .map(|(&index, (name, tensor))| Ok((ids[index], convert::to_rten(name, tensor)?)))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|reason| EngineError::run(NAME, reason))?;
        let ids: Vec<NodeId> = wanted.iter().map(|&index| self.model.output_ids()[index]).collect();
        let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
        let results = self
            .model
            .run(values, &ids, Some(options))
            .map_err(|error| EngineError::run(NAME, error))?;
        let declared = wanted.iter().map(|&index| &self.outputs[index]);
        declared
            .zip(results)
            .map(|(port, value)| convert::from_rten(&port.name, port.dtype, value))
            .collect::<Result<_, String>>()
            .map_err(|reason| EngineError::run(NAME, reason))
    }
}

/// One pool per thread count, shared by all sessions that live at the same time: sessions of one
/// process take turns, and idle pools would only hold memory.
fn thread_pool(threads: usize) -> Arc<ThreadPool> {
    static POOLS: Mutex<BTreeMap<usize, Weak<ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads).and_then(Weak::upgrade) {
        return pool;
    }
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    pools.insert(threads, Arc::downgrade(&pool));
    pool
}

/// The library goes by the extension when it reads a file.
fn is_named_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// Reads the external data that a model in memory refers to.
fn add_external_data(
    loader: &mut ModelOptions,
    path: &Path,
    proto: &ModelProto,
) -> Result<(), EngineError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let weights = proto.graph.iter().flat_map(|graph| &graph.initializer);
    let entries = weights.flat_map(|weight| &weight.external_data);
    let names: BTreeSet<&str> =
        entries.filter(|entry| entry.key() == "location").map(|entry| entry.value()).collect();
    for name in names {
        let is_inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        if !is_inside {
            let reason = format!("its external data `{name}` is not inside the model's folder");
            return Err(EngineError::load(NAME, reason));
        }
        let data = fs::read(folder.join(name))
            .map_err(|error| EngineError::load(NAME, format!("external data `{name}`: {error}")))?;
        loader.external_data(name, data);
    }
    Ok(())
}

/// Tells a missing operator from every other trouble, and finds out which layer has it.
fn load_error(error: &LoadError, proto: &ModelProto) -> EngineError {
    if error.kind() != LoadErrorKind::OperatorInvalid {
        return EngineError::load(NAME, error);
    }
    let nodes = || proto.graph.iter().flat_map(|graph| &graph.node);
    let name = error.node().filter(|name| !name.is_empty());
    let by_name = name.and_then(|name| nodes().find(|node| node.name() == name));
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    // A nameless layer is known only by the words "ai.onnx.LRN operator not supported ...".
    let by_cause = cause.split_once(" operator ").map(|(op, _)| op);
    let op = match (by_name, by_cause) {
        (Some(node), _) => node.op_type(),
        (None, Some(op)) => op.rsplit(['.', ':', '/']).next().unwrap_or(op),
        (None, None) => return EngineError::load(NAME, error),
    };
    let layer = name.map(ToOwned::to_owned).or_else(|| layer_with(proto, op));
    EngineError::unsupported(NAME, op, layer)
}

/// Names and declared types of values of the model.
fn ports(model: &Model, ids: &[NodeId], infos: &[ValueInfoProto]) -> Vec<Port> {
    let port = |&id: &NodeId| {
        let name = model.node_info(id).and_then(|info| info.name()).unwrap_or_default();
        let info = infos.iter().find(|info| info.name() == name);
        Port { name: name.to_owned(), dtype: info.and_then(declared_type) }
    };
    ids.iter().map(port).collect()
}

fn declared_type(info: &ValueInfoProto) -> Option<DType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => DType::from_onnx(tensor.elem_type?),
        _ => None,
    }
}
