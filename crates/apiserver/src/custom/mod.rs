//! CustomResourceDefinitions: storing one makes its kinds served at once, deleting one removes its objects.
//!
//! Definition -> names accepted or not -> status -> [`KindDef`]s served. [`settle`] runs inside the request that wrote the
//! definition, so the next request finds the kind. Counterpart: the naming, establishing and finalizing
//! controllers of `apiextensions-apiserver`. Invariant: a kind is served if and only if its definition is stored and Established.

pub mod conversion;
mod deletion;
mod naming;
mod serving;

use serde_json::Value;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status};
use skiff_store::{Entry, Expect, RangeRequest, Txn};

use crate::objects;
use crate::ownership;
use crate::server::Server;

pub use deletion::{mark_for_cleanup, refuse_new_objects};
pub use serving::load;

pub const GROUP: &str = "apiextensions.k8s.io";
const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
const NOTE: &str = r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"settle"}"#;

pub fn is_definition(kind: &KindDef) -> bool {
    kind.group == GROUP && kind.resource == "customresourcedefinitions"
}

/// Brings status, served kinds and API services in line with one stored definition, and with those that waited for a name
/// it gave up.
pub async fn settle(server: &Server, key: &str) -> Result<(), Status> {
    settle_one(server, key).await?;
    let group = group_of(key).to_owned();
    for waiting in naming::waiting(server, &group).await? {
        if waiting != key {
            settle_one(server, &waiting).await?;
        }
    }
    Ok(())
}

async fn settle_one(server: &Server, key: &str) -> Result<(), Status> {
    loop {
        let Some(entry) = objects::read(server, key).await? else {
            let name = key.strip_prefix(PREFIX).unwrap_or(key);
            return serving::withdraw(server, name).await;
        };
        let definition = decode_stored(&entry.value)?;
        if meta(&definition).deletion_timestamp().is_some() {
            return deletion::finalize(server, &definition).await;
        }
        let taken = naming::taken(server, &definition).await?;
        let wanted = naming::with_status(&taken, &definition);
        if wanted == definition || write(server, &entry, wanted.clone()).await? {
            serving::serve(server, &wanted).await?;
            return serving::register(server, &wanted).await;
        }
    }
}

/// An object of a custom kind is gone: its definition may have waited for that.
pub async fn object_removed(server: &Server, kind: &KindDef) -> Result<(), Status> {
    let key = format!("{PREFIX}{}.{}", kind.resource, kind.group);
    match objects::read(server, &key).await? {
        Some(entry) if meta(&decode_stored(&entry.value)?).deletion_timestamp().is_some() => {
            settle(server, &key).await
        }
        _ => Ok(()),
    }
}

/// Writes what the server says of a definition. False if someone else was faster.
async fn write(server: &Server, entry: &Entry, mut definition: Value) -> Result<bool, Status> {
    let kinds = server.kinds();
    let kind =
        kinds.get(GROUP, "v1", "customresourcedefinitions").ok_or_else(Status::no_such_path)?;
    let old = decode_stored(&entry.value)?;
    ownership::track_own(kind, Some(&old), &mut definition, "status");
    let value = objects::encode(kind, &mut definition);
    let txn = Txn::put(entry.key.clone(), value, Expect::Mod(entry.mod_revision)).note(NOTE);
    match server.store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(skiff_store::Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(objects::store_status(error)),
    }
}

/// The stored definitions of a group.
async fn definitions(server: &Server, group: &str) -> Result<Vec<Value>, Status> {
    let found =
        server.store.range(RangeRequest::prefix(PREFIX)).await.map_err(objects::store_status)?;
    let of_group = found.entries.iter().filter(|entry| group_of(&entry.key) == group);
    of_group.map(|entry| decode_stored(&entry.value)).collect()
}

/// A definition is named `plural.group`.
fn group_of(key: &str) -> &str {
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    name.split_once('.').map_or("", |(_, group)| group)
}

fn place(definition: &Value) -> (String, String) {
    let text = |pointer: &str| {
        definition.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    (text("/spec/group"), text("/spec/names/plural"))
}
