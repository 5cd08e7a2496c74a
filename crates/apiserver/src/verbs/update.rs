//! `update`: PUT of a whole object, or of its status or another part.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status, Subresource};

use super::write::{Outcome, Proposed, Write, names_revision};
use crate::call::Call;
use crate::reply::Reply;

pub async fn run(
    call: &Call,
    kind: Arc<KindDef>,
    sub: Option<&Subresource>,
) -> Result<Reply, Status> {
    let subresource = sub.map_or("", |sub| sub.name.as_str());
    let write = Write::new(call, kind.clone(), subresource, call.write_options("UpdateOptions")?);
    let name = call.info.name.as_str();
    let mut object = write.decode_body()?;
    write.check_namespace(&mut object)?;
    check_name(&object, name)?;
    // Upstream's status strategies inherit this from the whole object's.
    let may_create = matches!(subresource, "" | "status") && kind.strategy.allow_create_on_update();
    let outcome = write
        .update(name, |current| match current {
            None if !may_create => Err(Status::not_found(&kind.group_resource(), name)),
            _ => Ok(Proposed {
                object: object.clone(),
                owned: false,
                fixed: names_revision(&object),
            }),
        })
        .await?;
    Ok(reply(kind, outcome))
}

pub fn reply(kind: Arc<KindDef>, outcome: Outcome) -> Reply {
    let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    Reply::Object { code, kind, bytes: outcome.bytes }
}

fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    match meta(object).name() {
        given if given == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}
