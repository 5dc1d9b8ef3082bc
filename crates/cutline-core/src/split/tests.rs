//! Splitting, from hand-built networks.
