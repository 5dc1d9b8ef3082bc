//! Parts against the whole: the same outputs, value by value.
