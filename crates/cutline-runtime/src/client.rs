//! Calling agents: inference, deployment, profiling.
