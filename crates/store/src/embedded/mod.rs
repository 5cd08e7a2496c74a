//! The engine that needs no other process.
