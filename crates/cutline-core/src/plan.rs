//! `plan.json`: the answer of the planner, immutable once written.
