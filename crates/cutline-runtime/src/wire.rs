//! Generated types of the two gRPC services that an agent speaks.

/// The Open Inference Protocol v2.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod inference;

/// Cutline's own service beside it: deployment, profiling, clocks.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod control;

pub mod contents;
pub mod rest;
