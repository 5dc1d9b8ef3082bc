//! The imperative shell of Cutline: engines, pictures, sockets, files and clocks.
//!
//! Nothing here decides where a layer runs; it executes the plans that `cutline-core` makes and
//! measures what they cost.
#![warn(missing_docs)]

pub mod engine;
pub mod tensor;
pub mod wire;
