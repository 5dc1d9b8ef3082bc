//! From a mapping to stages, hops and messages, by pure derivation.
