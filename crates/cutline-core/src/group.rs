//! Fusion groups: which layers an engine runs as one, and which are replicated.
