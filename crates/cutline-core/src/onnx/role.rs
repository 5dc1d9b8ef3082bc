//! Which layers are replicated: what they compute does not depend on the network's input.
//!
//! A value is *static* if it is a weight or if a replicated layer makes it. A layer is replicated if the
//! elements of all its results are known at import (shape arithmetic), or if all its operands are
//! static and it would make the same from them on every device. So whoever needs a
//! replicated result can make it from weights and known constants alone.
//!
//! A layer that makes an answer of the network is never replicated: someone must give the answer.

use crate::{
    graph::{GraphBuilder, LayerId, Role, ValueId},
    op::Op,
};

/// Operators that make something else at every run.
const RANDOM: [&str; 6] = [
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
];

/// Which values are static so far, by value index.
#[derive(Default)]
pub(super) struct Statics(Vec<bool>);

impl Statics {
    pub(super) fn mark(&mut self, value: ValueId) {
        if self.0.len() <= value.index() {
            self.0.resize(value.index() + 1, false);
        }
        self.0[value.index()] = true;
    }

    fn contains(&self, value: ValueId) -> bool {
        self.0.get(value.index()).copied().unwrap_or(false)
    }

    /// Decides the role of the newest layer, whose results' constants are already recorded.
    pub(super) fn assign(&mut self, builder: &mut GraphBuilder, id: LayerId, makes_answer: bool) {
        let graph = builder.graph();
        let layer = graph.layer(id);
        let results: Vec<ValueId> = layer.makes().collect();
        let is_known = |value: &ValueId| graph.value(*value).constant.is_some();
        let all_known = !results.is_empty() && results.iter().all(is_known);
        let is_replicated = !makes_answer
            && (all_known || is_repeatable(&layer.op) && layer.reads().all(|id| self.contains(id)));
        if is_replicated {
            results.into_iter().for_each(|value| self.mark(value));
            builder.set_role(id, Role::Replicated);
        }
    }
}

/// Whether the same operands give the same results anywhere. Of foreign operators that is only
/// known for ONNX Runtime's own.
fn is_repeatable(op: &Op) -> bool {
    match op {
        Op::Opaque { domain, name } => {
            matches!(domain.as_str(), "" | "ai.onnx" | "com.microsoft")
                && !RANDOM.contains(&name.as_str())
        }
        _ => true,
    }
}
