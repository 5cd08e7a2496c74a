//! Revisions: a multi-version key-value store with watch.
