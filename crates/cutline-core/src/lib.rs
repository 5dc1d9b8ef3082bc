//! The functional core of Cutline: what a network is, what a plan costs, which plan is best.
//!
//! No I/O, no clock, no threads, no async, no randomness except from a seed argument. The modules
//! build on each other in the order in which they stand here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod tensor;
pub mod units;

pub mod graph;
pub mod onnx;
pub mod op;
pub mod picture;

pub mod dag;
pub mod profile;
