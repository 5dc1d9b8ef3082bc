//! Group times from measured segments, by non-negative least squares.
