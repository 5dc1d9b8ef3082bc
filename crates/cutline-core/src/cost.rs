//! Everything the planner needs to know, as one dense table of integers.
