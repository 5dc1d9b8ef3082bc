//! From a decoded model to a [`Graph`]: values first, then the layers in topological order, each
//! with its shapes, work and role.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    graph::{Graph, GraphBuilder, ValueId},
    onnx::{
        ImportError, ImportOptions, OLDEST_IR, OLDEST_OPSET,
        arithmetic::{self, Known},
        attributes::{self, Attributes},
        declared::Declared,
        macs, order,
        proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto},
        role::Statics,
        shape::{self, Operands},
        tensors, types,
    },
};

pub(super) fn import(model: &ModelProto, options: &ImportOptions) -> Result<Graph, ImportError> {
    let graph = model.graph.as_ref().ok_or(ImportError::Missing { missing: "graph" })?;
    let opset = check_versions(model, graph)?;
    if graph.node.is_empty() {
        return Err(ImportError::NoEnd { missing: "layers" });
    }
    if graph.output.is_empty() {
        return Err(ImportError::NoEnd { missing: "outputs" });
    }
    let names = order::layer_names(&graph.node);
    let inputs = network_inputs(graph);
    let (declared, input_types) = Declared::bind(graph, &inputs, options)?;
    let mut importer = Importer {
        opset,
        declared,
        answers: graph.output.iter().map(|output| output.name()).collect(),
        builder: GraphBuilder::new(graph.name()),
        known: Vec::new(),
        ids: HashMap::new(),
        statics: Statics::default(),
    };
    for (input, known) in inputs.into_iter().zip(input_types) {
        importer.input(input, known)?;
    }
    importer.weights(graph)?;
    let captures: Vec<BTreeSet<&str>> = graph.node.iter().map(order::captures).collect();
    let waits_for = importer.dependencies(graph, &names, &captures)?;
    for node in order::topological(&waits_for, &names)? {
        importer.layer(node, &graph.node[node], &names[node], &captures[node])?;
    }
    importer.outputs(graph)?;
    Ok(importer.builder.build())
}

/// The version of the default operator set.
fn check_versions(model: &ModelProto, graph: &GraphProto) -> Result<i64, ImportError> {
    let found = model.ir_version.ok_or(ImportError::Missing { missing: "IR version" })?;
    if found < OLDEST_IR {
        return Err(ImportError::IrVersion { found });
    }
    let mut sets = model.opset_import.iter();
    match sets.find(|set| matches!(set.domain(), "" | "ai.onnx")) {
        Some(set) if set.version() < OLDEST_OPSET => {
            Err(ImportError::Opset { found: set.version() })
        }
        Some(set) => Ok(set.version()),
        None if graph.node.iter().any(attributes::is_default_domain) => Err(ImportError::NoOpset),
        None => Ok(OLDEST_OPSET),
    }
}

/// The inputs that are not weights: old files list every initializer as an input too.
fn network_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    graph.input.iter().filter(|input| !weights.contains(input.name())).collect()
}

struct Importer<'a> {
    opset: i64,
    declared: Declared<'a>,
    answers: HashSet<&'a str>,
    builder: GraphBuilder,
    /// What is known of each value, by value index.
    known: Vec<Known>,
    ids: HashMap<&'a str, ValueId>,
    statics: Statics,
}

impl<'a> Importer<'a> {
    fn input(&mut self, input: &'a ValueInfoProto, known: Known) -> Result<(), ImportError> {
        let name = required(input.name(), "an input")?;
        let id = self.builder.input(name, known.dtype, known.shape.clone());
        self.enter(name, id, known, "an input")
    }

    fn weights(&mut self, graph: &'a GraphProto) -> Result<(), ImportError> {
        for tensor in &graph.initializer {
            let name = required(tensor.name(), "an initializer")?;
            let stored = tensors::stored(tensor, name)?;
            self.weight(name, stored.known, stored.bytes)?;
        }
        for tensor in &graph.sparse_initializer {
            let name = tensor.values.as_ref().map_or("", |values| values.name());
            let name = required(name, "a sparse initializer")?;
            self.weight(name, tensors::sparse(tensor, name)?, None)?;
        }
        Ok(())
    }

    fn weight(
        &mut self,
        name: &'a str,
        known: Known,
        bytes: Option<Vec<u8>>,
    ) -> Result<(), ImportError> {
        let id = self.builder.weight(name, known.dtype, known.shape.clone());
        if let Some(bytes) = bytes {
            self.builder.set_constant(id, bytes);
        }
        self.statics.mark(id);
        self.enter(name, id, known, "an initializer")
    }

    fn enter(
        &mut self,
        name: &'a str,
        id: ValueId,
        known: Known,
        what: &str,
    ) -> Result<(), ImportError> {
        if self.ids.insert(name, id).is_some() {
            return Err(ImportError::Duplicate {
                name: name.to_owned(),
                first: "an input or initializer".to_owned(),
                second: what.to_owned(),
            });
        }
        self.known.push(known);
        Ok(())
    }

    /// The nodes that each node waits for, once every name is made exactly once.
    fn dependencies(
        &self,
        graph: &'a GraphProto,
        names: &[String],
        captures: &[BTreeSet<&'a str>],
    ) -> Result<Vec<BTreeSet<usize>>, ImportError> {
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                let first = match makers.insert(output, at) {
                    Some(first) => format!("layer `{}`", names[first]),
                    None if self.ids.contains_key(output.as_str()) => {
                        "an input or initializer".to_owned()
                    }
                    None => continue,
                };
                let second = format!("layer `{}`", names[at]);
                return Err(ImportError::Duplicate { name: output.clone(), first, second });
            }
        }
        let mut all = Vec::with_capacity(graph.node.len());
        for (at, node) in graph.node.iter().enumerate() {
            let mut waits_for = BTreeSet::new();
            let operands = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
            for name in operands.chain(captures[at].iter().copied()) {
                if let Some(&maker) = makers.get(name) {
                    waits_for.insert(maker);
                } else if !self.ids.contains_key(name) {
                    return Err(ImportError::Undefined {
                        layer: names[at].clone(),
                        operator: node.op_type().to_owned(),
                        value: name.to_owned(),
                    });
                }
            }
            all.push(waits_for);
        }
        Ok(all)
    }

    fn layer(
        &mut self,
        at: usize,
        node: &'a NodeProto,
        name: &str,
        captures: &BTreeSet<&'a str>,
    ) -> Result<(), ImportError> {
        if attributes::is_retired(node) {
            let operator = node.op_type().to_owned();
            return Err(ImportError::Retired { layer: name.to_owned(), operator });
        }
        let problem = |problem: String| ImportError::Layer {
            layer: name.to_owned(),
            operator: node.op_type().to_owned(),
            problem,
        };
        let op = attributes::operator(node, self.opset).map_err(problem)?;
        let inputs: Vec<Option<ValueId>> =
            node.input.iter().map(|name| self.ids.get(name.as_str()).copied()).collect();
        let captures = captures.iter().filter_map(|name| self.ids.get(name).copied()).collect();
        let stored = stored_value(node, name)?;
        let operands = inputs.iter().map(|id| id.map(|id| &self.known[id.index()])).collect();
        let operands = Operands(operands);
        let mut shapes =
            shape::infer(&op, &operands, stored.as_ref(), node.output.len()).map_err(problem)?;
        let mut results = Vec::with_capacity(node.output.len());
        for (position, output) in node.output.iter().enumerate() {
            let declared = self.declared.known(output);
            let shape = shapes[position].take().or(declared.shape);
            let dtype = types::result(&op, &operands, stored.as_ref(), position).or(declared.dtype);
            let data = shape.as_ref().filter(|_| position == 0).and_then(|shape| {
                arithmetic::evaluate(&op, &operands, stored.as_ref(), dtype, shape)
            });
            results.push(Known { dtype, shape, data });
        }
        let first_shape = results.first().and_then(|known| known.shape.as_ref());
        let macs = macs::count(&op, &operands, first_shape);
        let outputs = node.output.iter().map(|name| (!name.is_empty()).then(|| name.clone()));
        let id = self.builder.layer(name, op, at, inputs, captures, outputs.collect());
        self.builder.set_macs(id, macs);
        let makes_answer = node.output.iter().any(|name| self.answers.contains(name.as_str()));
        self.record(node, results);
        self.statics.assign(&mut self.builder, id, makes_answer);
        Ok(())
    }

    /// Enters the results of the newest layer.
    fn record(&mut self, node: &'a NodeProto, results: Vec<Known>) {
        let layer = self.builder.graph().layers().last().map(|layer| layer.outputs.clone());
        let named = layer.unwrap_or_default().into_iter().zip(&node.output).zip(results);
        for ((id, name), known) in named {
            let Some(id) = id else { continue };
            self.builder.set_type(id, known.dtype, known.shape.clone());
            let bytes = known.dtype.zip(known.data.as_ref());
            if let Some(bytes) = bytes.and_then(|(dtype, data)| data.bytes(dtype)) {
                self.builder.set_constant(id, bytes);
            }
            self.ids.insert(name, id);
            self.known.push(known);
        }
    }

    fn outputs(&mut self, graph: &'a GraphProto) -> Result<(), ImportError> {
        let mut declared = HashSet::new();
        for output in &graph.output {
            let name = required(output.name(), "an output")?;
            let Some(&id) = self.ids.get(name) else {
                return Err(ImportError::UndefinedOutput { value: name.to_owned() });
            };
            if declared.insert(id) {
                self.builder.output(id);
            }
        }
        Ok(())
    }
}

fn required<'a>(name: &'a str, what: &str) -> Result<&'a str, ImportError> {
    match name {
        "" => Err(ImportError::Unnamed { what: what.to_owned() }),
        name => Ok(name),
    }
}

/// The tensor that a node carries in its attributes: what a `Constant` makes, or what a
/// `ConstantOfShape` repeats.
fn stored_value(node: &NodeProto, layer: &str) -> Result<Option<Known>, ImportError> {
    if !matches!(node.op_type(), "Constant" | "ConstantOfShape") {
        return Ok(None);
    }
    let attributes = Attributes(&node.attribute);
    if let Some(tensor) = attributes.find("value").and_then(|attribute| attribute.t.as_ref()) {
        return tensors::stored(tensor, layer).map(|stored| Some(stored.known));
    }
    if let Some(sparse) =
        attributes.find("sparse_value").and_then(|attribute| attribute.sparse_tensor.as_ref())
    {
        return tensors::sparse(sparse, layer).map(Some);
    }
    Ok(types::literal(&attributes))
}
