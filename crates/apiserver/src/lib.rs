//! The request path: the only hub of a cluster.
