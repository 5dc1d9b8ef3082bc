//! Running a plan: deploy it, stream frames, trace every part.
