//! The agent: a device that serves stages over the Open Inference Protocol.
