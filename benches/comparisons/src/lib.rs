//! Cutline against others: a genetic algorithm, and published placements of published graphs.
//!
//! What only comparing needs lives here, in a package that the project's workspace does not build.

pub mod genetic;
pub mod hypervolume;
pub mod published;
