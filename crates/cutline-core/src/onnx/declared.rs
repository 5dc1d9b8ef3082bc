//! What the file declares of its values' types, once symbolic sizes are bound.
//!
//! A network input gets a shape from the caller, else from the file; an open first axis is the
//! batch, 1 by default; any other open axis must be given. Sizes given for one input bind the same
//! symbol everywhere. Declarations of other values serve where inference has no answer, unless they
//! may be stale: once a given size differs from the default batch, only declarations that speak in
//! symbols are believed.

use std::collections::{BTreeMap, HashMap};

use crate::{
    onnx::{
        ImportError, ImportOptions,
        arithmetic::Known,
        proto::{
            GraphProto, TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::dimension::Value as Dim, type_proto,
        },
    },
    tensor::{DType, Shape},
};

/// Declared types, and the sizes that symbols stand for.
pub(super) struct Declared<'a> {
    infos: HashMap<&'a str, &'a ValueInfoProto>,
    symbols: BTreeMap<&'a str, u64>,
    stale: bool,
}

impl<'a> Declared<'a> {
    /// Binds the symbols of `inputs`, the network's inputs without the weights among them, and
    /// returns each input's type.
    pub(super) fn bind(
        graph: &'a GraphProto,
        inputs: &[&'a ValueInfoProto],
        options: &ImportOptions,
    ) -> Result<(Self, Vec<Known>), ImportError> {
        for name in options.input_shapes.keys() {
            if !inputs.iter().any(|input| input.name() == name) {
                let names: Vec<&str> = inputs.iter().map(|input| input.name()).collect();
                let inputs = names.join(", ");
                return Err(ImportError::NoSuchInput { name: name.clone(), inputs });
            }
        }
        let infos = graph.value_info.iter().chain(&graph.output);
        let infos = infos.map(|info| (info.name(), info)).collect();
        let mut declared = Self { infos, symbols: BTreeMap::new(), stale: false };
        for input in inputs {
            if let Some(given) = options.input_shapes.get(input.name()) {
                declared.bind_given(input, given)?;
            }
        }
        let known = inputs.iter().map(|input| {
            let given = options.input_shapes.get(input.name());
            declared.input(input, given)
        });
        let known: Vec<Known> = known.collect::<Result<_, _>>()?;
        Ok((declared, known))
    }

    /// The declared type of a value that is not an input.
    pub(super) fn known(&self, name: &str) -> Known {
        let Some((dtype, shape)) = self.infos.get(name).and_then(|info| tensor_type(info)) else {
            return Known::default();
        };
        let shape = shape.and_then(|shape| self.resolve(shape));
        Known { dtype, shape, data: None }
    }

    fn resolve(&self, shape: &TensorShapeProto) -> Option<Shape> {
        let mut has_symbol = false;
        let dims: Option<Vec<u64>> = shape
            .dim
            .iter()
            .map(|dim| match &dim.value {
                Some(Dim::DimValue(size)) => u64::try_from(*size).ok().filter(|&size| size > 0),
                Some(Dim::DimParam(symbol)) => {
                    has_symbol = true;
                    self.symbols.get(symbol.as_str()).copied()
                }
                None => None,
            })
            .collect();
        dims.filter(|_| has_symbol || !self.stale).map(Shape)
    }

    fn bind_given(&mut self, input: &'a ValueInfoProto, given: &Shape) -> Result<(), ImportError> {
        let Some((_, Some(shape))) = tensor_type(input) else { return Ok(()) };
        let fits = shape.dim.len() == given.0.len()
            && shape.dim.iter().zip(&given.0).all(|(dim, &size)| match fixed(&dim.value) {
                Some(declared) => declared == size,
                None => true,
            });
        let error = || ImportError::GivenShape {
            name: input.name().to_owned(),
            declared: text(shape),
            given: given.clone(),
        };
        if !fits {
            return Err(error());
        }
        for (dim, &size) in shape.dim.iter().zip(&given.0) {
            if fixed(&dim.value).is_none() && size != 1 {
                self.stale = true;
            }
            let Some(Dim::DimParam(symbol)) = &dim.value else { continue };
            if symbol.is_empty() {
                continue;
            }
            let bound = *self.symbols.entry(symbol).or_insert(size);
            if bound != size {
                return Err(error());
            }
        }
        Ok(())
    }

    fn input(
        &mut self,
        input: &'a ValueInfoProto,
        given: Option<&Shape>,
    ) -> Result<Known, ImportError> {
        let name = || input.name().to_owned();
        let Some((dtype, shape)) = tensor_type(input) else {
            return Err(ImportError::InputKind { name: name() });
        };
        if let Some(given) = given {
            return Ok(Known { dtype, shape: Some(given.clone()), data: None });
        }
        let Some(shape) = shape else { return Err(ImportError::OpenShape { name: name() }) };
        let mut dims = Vec::with_capacity(shape.dim.len());
        for (axis, dim) in shape.dim.iter().enumerate() {
            let symbol = match &dim.value {
                Some(Dim::DimParam(symbol)) if !symbol.is_empty() => Some(symbol.as_str()),
                _ => None,
            };
            let bound = fixed(&dim.value).or_else(|| self.symbols.get(symbol?).copied());
            let size = match bound {
                Some(size) => size,
                None if axis == 0 => 1,
                None => {
                    let symbol = symbol.map_or_else(String::new, |text| format!(" (`{text}`)"));
                    return Err(ImportError::OpenAxis { name: name(), axis, symbol });
                }
            };
            if let Some(symbol) = symbol {
                self.symbols.entry(symbol).or_insert(size);
            }
            dims.push(size);
        }
        Ok(Known { dtype, shape: Some(Shape(dims)), data: None })
    }
}

/// A size that the file fixes; exporters also write 0 and -1 for an open one.
fn fixed(dim: &Option<Dim>) -> Option<u64> {
    match dim {
        Some(Dim::DimValue(size)) => u64::try_from(*size).ok().filter(|&size| size > 0),
        _ => None,
    }
}

/// Element type and shape of a declared tensor.
fn tensor_type(info: &ValueInfoProto) -> Option<(Option<DType>, Option<&TensorShapeProto>)> {
    match &info.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) => {
            Some((tensor.elem_type.and_then(DType::from_onnx), tensor.shape.as_ref()))
        }
        _ => None,
    }
}

fn text(shape: &TensorShapeProto) -> String {
    let dims: Vec<String> = shape
        .dim
        .iter()
        .map(|dim| match (&dim.value, fixed(&dim.value)) {
            (_, Some(size)) => size.to_string(),
            (Some(Dim::DimParam(symbol)), None) => symbol.clone(),
            (_, None) => "?".to_owned(),
        })
        .collect();
    dims.join("x")
}
