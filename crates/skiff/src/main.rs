//! The command line and the wiring of every part.
fn main() {}
