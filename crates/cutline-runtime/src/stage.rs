//! What an agent is told about one stage of a plan.
