//! Generated types of the gRPC services: two that an agent serves, one that collectors of spans do.

/// The Open Inference Protocol v2.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod inference;

/// Cutline's own service beside it: deployment, profiling, clocks.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod control;

/// OTLP: how spans get to a collector.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod otlp;

pub mod contents;
pub mod rest;
