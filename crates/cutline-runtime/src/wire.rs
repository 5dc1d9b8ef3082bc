//! Generated types of the two gRPC services that an agent speaks.

/// The Open Inference Protocol v2.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod inference;

/// Cutline's own service beside it: deployment, profiling, clocks.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod control;
