//! `get`: the stored bytes as they are.

use std::sync::Arc;

use skiff_api::{KindDef, Status};

use super::selection::{RevisionError, revision};
use crate::call::Call;
use crate::objects;
use crate::reply::Reply;

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let info = &call.info;
    let asked = revision(call.query.text("resourceVersion")).map_err(RevisionError::into_status)?;
    let entry = objects::read(&call.server, &kind.key(&info.namespace, &info.name)).await?;
    check_not_in_future(call, asked, entry.as_ref().map_or(0, |entry| entry.mod_revision.0))
        .await?;
    let entry = entry.ok_or_else(|| Status::not_found(&kind.group_resource(), &info.name))?;
    let bytes = objects::at_version(&call.server, &kind, &entry.value, entry.mod_revision).await?;
    Ok(Reply::object(kind, bytes))
}

/// A client that has seen a revision must not be shown anything older.
async fn check_not_in_future(call: &Call, asked: u64, seen: u64) -> Result<(), Status> {
    if asked <= seen {
        return Ok(());
    }
    let current = call.server.store.current_revision().await.map_err(objects::store_status)?;
    match skiff_store::Revision(asked) > current {
        true => Err(objects::store_status(skiff_store::Error::FutureRevision {
            requested: skiff_store::Revision(asked),
            current,
        })),
        false => Ok(()),
    }
}
