//! Writing files so that nothing half-written is ever seen.
