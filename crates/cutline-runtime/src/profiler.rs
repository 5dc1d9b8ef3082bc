//! Measuring a model on this device: segments, spread, fitted profile.
