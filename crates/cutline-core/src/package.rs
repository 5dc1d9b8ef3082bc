//! Deployable folders in the layout of a Triton model repository.
