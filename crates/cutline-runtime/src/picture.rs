//! Pictures to input tensors: decoding, resizing, the encodings that travel.
