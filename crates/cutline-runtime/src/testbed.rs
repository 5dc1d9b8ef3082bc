//! Devices in network namespaces, joined by links that the kernel shapes.
//!
//! Where the [link simulator](crate::link) relays bytes, and so hides what TCP does, this is the
//! kernel's own network: slow start, shared links, queues that fill, cuts that nobody reports. It
//! needs no root: everything is in a user namespace of its own, which reaches nothing outside.
//!
//! ```text
//!   pi ══ tbf ════════════ tbf ══ cloud            a link of two devices: a pair of interfaces
//!
//!   cam1 ──┐                                       links that share a card: one shaped pair
//!          bridge ══ tbf ══ tbf ══ bridge ── cloud  between two bridges
//!   cam2 ──┘
//! ```
//!
//! [`layout`] decides, as a pure function of a platform, what there is to build; [`namespace`] holds
//! the kernel's calls; [`network`] builds, changes and cuts.

pub mod layout;
pub mod namespace;
pub mod network;
