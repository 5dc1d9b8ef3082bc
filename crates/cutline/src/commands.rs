//! The commands, one module each: its arguments, and `run`.

pub(crate) mod accuracy;
pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod characterize;
pub(crate) mod demo;
pub(crate) mod deploy;
pub(crate) mod doctor;
pub(crate) mod engine;
pub(crate) mod explore;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod kernels;
pub(crate) mod link;
pub(crate) mod pki;
pub(crate) mod plan;
pub(crate) mod predict;
pub(crate) mod presets;
pub(crate) mod profile;
pub(crate) mod run;
pub(crate) mod size;
pub(crate) mod split;
pub(crate) mod study;
pub(crate) mod testbed;
pub(crate) mod verify;
pub(crate) mod zoo;
