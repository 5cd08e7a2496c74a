//! What containers wrote: reading it, keeping it small, and their last words.

pub mod reader;
pub mod rotation;
pub mod termination;
