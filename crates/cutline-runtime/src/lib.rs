//! The imperative shell of Cutline: engines, pictures, sockets, files and clocks.
//!
//! Nothing here decides where a layer runs; it executes the plans that `cutline-core` makes and
//! measures what they cost.

pub mod files;

pub mod tensor;

pub mod model;

pub mod engine;

pub mod verify;

pub mod labels;

pub mod parts;

pub mod boxes;

pub mod picture;

pub mod mjpeg;

pub mod stats;

pub mod meter;

pub mod profiler;

pub mod wire;

pub mod pace;

pub mod link;

#[cfg(target_os = "linux")]
pub mod testbed;

pub mod stage;

pub mod connections;

pub mod telemetry;

pub mod pki;

pub mod client;

pub mod agent;

pub mod mqtt;

pub mod runner;
