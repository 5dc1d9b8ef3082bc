//! Networks as TFLite files: convolutional ones in ONNX, with floats or fully in integers.
//!
//! [`Network::lower`] says a network in the operators of the format, each map with its channels last
//! (ONNX has them first), activations inside the operators before them. [`Network::quantise`] then
//! gives each tensor the scale that its values need and its constants as integers, as TensorFlow's
//! specification of 8-bit quantisation wants them (Jacob et al., 2018). [`Network::encode`] writes the
//! file.
//!
//! ```text
//! ONNX ─ lower ─▶ floats ────────────────────▶ encode ─▶ .tflite
//!                   └─ ranges ─▶ quantise ─▶ integers ──┘
//! ```
//!
//! Values keep their names. Every step gives the same for the same on every machine.

use thiserror::Error;

use super::schema::tflite::{BuiltinOperator, BuiltinOptions};
use crate::onnx::ImportError;

mod file;
mod lower;
mod quantise;
mod window;

/// A network in the operators of the format.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    tensors: Vec<Tensor>,
    operators: Vec<Operator>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// A value of the network.
#[derive(Clone, Debug, PartialEq)]
struct Tensor {
    name: String,
    /// Channels last.
    shape: Vec<i32>,
    data: Data,
    /// Its least and largest element, where that is known without looking.
    known: Option<[f32; 2]>,
    scales: Option<Scales>,
}

/// What a tensor holds.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    /// What an operator, or the caller, gives it.
    Made,
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Bytes(Vec<i8>),
}

/// What integers stand for: `scale x (integer - zero point)`, of the whole tensor or of each index
/// along an axis.
#[derive(Clone, Debug, PartialEq)]
struct Scales {
    scale: Vec<f32>,
    zero_point: Vec<i64>,
    axis: i32,
}

#[derive(Clone, Debug)]
struct Operator {
    code: BuiltinOperator,
    options: Option<BuiltinOptions>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// Why a network cannot be written as a TFLite file.
#[derive(Debug, Error)]
pub enum WriteError {
    /// It is none.
    #[error("the network cannot be analysed")]
    Import(#[from] ImportError),
    /// A layer has no counterpart.
    #[error("layer `{layer}` ({operator}) cannot be written as TFLite: {why}")]
    Layer {
        /// Its name.
        layer: String,
        /// Its operator, as ONNX calls it.
        operator: String,
        /// What is in the way.
        why: String,
    },
    /// A value cannot be quantised.
    #[error("`{value}` cannot be quantised: {why}")]
    Range {
        /// Its name.
        value: String,
        /// What is in the way.
        why: String,
    },
}

impl Network {
    /// Names of the values whose ranges [`quantise`](Self::quantise) asks for; all are values of the
    /// ONNX model, too.
    pub fn values(&self) -> Vec<&str> {
        let made = self.tensors.iter().filter(|tensor| {
            tensor.data == Data::Made && tensor.known.is_none() && !tensor.name.ends_with(ADDED)
        });
        made.map(|tensor| tensor.name.as_str()).collect()
    }
}

/// End of the names of values that ONNX does not have.
const ADDED: &str = ".padded";
