//! The link simulator: rate, delay and jitter in user space.
