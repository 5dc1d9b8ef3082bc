//! What a partition costs, part by part.
