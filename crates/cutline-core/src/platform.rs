//! Devices and links: where a network may run.
