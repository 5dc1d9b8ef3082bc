//! The functional core of Cutline: what a network is, what a plan costs, which plan is best.
//!
//! No I/O, no clock, no threads, no async, no randomness except from a seed argument. The modules
//! stand in order: each uses only those before it. The one `unsafe` is in generated code: what writes
//! TensorFlow Lite files implements traits that are declared so.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)
)]

// Vocabulary.
pub mod units;

pub mod hex;

pub mod random;

pub mod tensor;

// What is computed.
pub mod op;

pub mod graph;

pub mod onnx;

pub mod tflite;

pub mod zoo;

pub mod picture;

pub mod codec;

pub mod entropy;

pub mod agreement;

pub mod dag;

pub mod group;

pub mod cut;

// Where and how fast.
pub mod platform;

pub mod profile;

pub mod preset;

pub mod fit;

pub mod predict;

pub mod cost;

// Who computes what.
pub mod partition;

pub mod autodice;

pub mod evaluate;

pub mod scarce;

pub mod planner;

pub mod routing;

pub mod plan;

// Files to deploy.
pub mod split;

pub mod package;

// What it does under load.
pub mod histogram;

pub mod simulate;

pub mod queueing;

pub mod size;

// How fast, where nothing was measured.
pub mod unseen;

pub mod scaling;
