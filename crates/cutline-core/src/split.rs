//! Sub-models: the ONNX files of the parts of a partition.
