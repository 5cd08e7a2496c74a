//! `create`: POST of one object to its collection.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::{KindDef, Status};

use super::write::Write;
use crate::call::Call;
use crate::reply::Reply;
use crate::subresources;

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    if kind.group.is_empty() && kind.resource == "bindings" {
        return subresources::binding::run(call, "").await;
    }
    let write = Write::new(call, kind.clone(), "", call.write_options("CreateOptions")?);
    let mut object: Value = write.decode_body()?;
    write.check_namespace(&mut object)?;
    let object = write.to_stored(object)?;
    let outcome = write.create(object, false).await?;
    Ok(Reply::created(kind, outcome.bytes))
}
