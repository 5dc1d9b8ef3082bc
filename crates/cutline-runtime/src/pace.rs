//! Pacing a device: the sleep that makes this machine as slow as another.
