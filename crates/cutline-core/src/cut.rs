//! Cuts: the candidate ones, and those a user names by their values.
