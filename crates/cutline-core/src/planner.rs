//! The best mapping, with a proof.
