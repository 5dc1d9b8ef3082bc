//! Well-known networks with seeded random weights, written as ONNX.
