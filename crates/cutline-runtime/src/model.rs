//! A model file on disk: mapped, decoded, hashed, imported.
