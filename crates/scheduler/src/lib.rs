//! Queue, node snapshot, one file per plugin.
