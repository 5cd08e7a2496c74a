//! Local clusters: create, start, stop, delete, load images.
