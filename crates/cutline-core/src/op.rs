//! What a layer computes: the operators that Cutline can analyse, and `Opaque` for the rest.

use serde::{Deserialize, Serialize};

/// An operator with the attributes that its shape, its cost or its fusion depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// An operator that cannot be analysed: placeable, but of unknown shape and cost.
    Opaque {
        /// ONNX domain, empty for the default one.
        domain: String,
        /// Operator name.
        name: String,
    },
}
