//! The end of a definition: its objects go first.
//!
//! A deletion marks the definition and holds it by a finalizer; once no object is left, the finalizer goes. Counterpart:
//! `controller/finalizer` and `customresourcedefinition/etcd.go`. Invariant: no object of a kind outlives its definition.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::codec::decode_stored;
use skiff_api::meta::{meta, meta_mut};
use skiff_api::{KindDef, Status};
use skiff_store::{Entry, Expect, RangeRequest, Txn};

use super::naming::{is_established, set_condition};
use super::{NOTE, PREFIX, place, serving, write};
use crate::objects;
use crate::server::Server;
use crate::verbs::write::set;

const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What the first deletion makes of a definition: it waits until its objects are gone.
pub fn mark_for_cleanup(definition: &mut Value) {
    let now = skiff_api::time::format(skiff_api::time::now());
    let Some(meta) = meta_mut(definition) else { return };
    meta.insert("deletionTimestamp".to_owned(), now.into());
    let list = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) =
        list.as_array_mut().filter(|list| !list.iter().any(|have| have == FINALIZER))
    {
        list.push(FINALIZER.into());
    }
    let why =
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(definition, "Terminating", "True", "InstanceDeletionPending", why);
}

/// Nothing new is let in while a definition is on its way out.
pub fn refuse_new_objects(kind: &KindDef, name: &str) -> Result<(), Status> {
    match kind.versioning.as_ref().is_some_and(|versioning| versioning.terminating) {
        false => Ok(()),
        true => Err(Status::forbidden(
            &kind.group_resource(),
            name,
            "create not allowed while custom resource definition is terminating",
        )),
    }
}

/// Deletes what is left of a kind; the definition itself once nothing is.
pub async fn finalize(server: &Server, definition: &Value) -> Result<(), Status> {
    let (group, plural) = place(definition);
    let left = match is_established(definition) {
        true => delete_instances(server, &group, &plural).await?,
        false => 0,
    };
    let key = format!("{PREFIX}{}", meta(definition).name());
    loop {
        let Some(entry) = objects::read(server, &key).await? else { break };
        let stored = decode_stored(&entry.value)?;
        let wanted = match left {
            0 => without_finalizer(stored.clone()),
            _ => in_progress(stored.clone()),
        };
        if meta(&wanted).finalizers().next().is_none() {
            match remove(server, &entry).await? {
                true => break,
                false => continue,
            }
        }
        if wanted == stored || write(server, &entry, wanted.clone()).await? {
            return serving::serve(server, &wanted).await;
        }
    }
    serving::withdraw(server, meta(definition).name()).await
}

fn in_progress(mut definition: Value) -> Value {
    let why = "CustomResource deletion is in progress";
    set_condition(&mut definition, "Terminating", "True", "InstanceDeletionInProgress", why);
    definition
}

fn without_finalizer(mut definition: Value) -> Value {
    let (reason, why) = match is_established(&definition) {
        true => ("InstanceDeletionCompleted", "removed all instances"),
        false => ("NeverEstablished", "resource was never established"),
    };
    set_condition(&mut definition, "Terminating", "False", reason, why);
    let finalizers = definition.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut);
    if let Some(list) = finalizers {
        list.retain(|finalizer| finalizer != FINALIZER);
    }
    definition
}

/// False if someone else was faster.
async fn remove(server: &Server, entry: &Entry) -> Result<bool, Status> {
    let txn = Txn::delete(entry.key.clone(), Expect::Mod(entry.mod_revision)).note(NOTE);
    match server.store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(skiff_store::Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(objects::store_status(error)),
    }
}

/// Objects with finalizers are marked and counted as left.
async fn delete_instances(server: &Server, group: &str, plural: &str) -> Result<usize, Status> {
    let kinds = server.kinds();
    let Some(kind) =
        kinds.iter().find(|kind| kind.custom && kind.group == group && kind.resource == plural)
    else {
        return Ok(0);
    };
    let storage = kinds.stored(kind);
    let found = server
        .store
        .range(RangeRequest::prefix(kind.key_prefix.as_str()))
        .await
        .map_err(objects::store_status)?;
    let mut left = 0;
    for entry in found.entries {
        left += usize::from(delete_instance(server, &storage, &entry).await?);
    }
    Ok(left)
}

/// True if the object is still there, held by a finalizer.
async fn delete_instance(
    server: &Server,
    storage: &Arc<KindDef>,
    entry: &Arc<Entry>,
) -> Result<bool, Status> {
    let mut object = decode_stored(&entry.value)?;
    let held = meta(&object).finalizers().next().is_some();
    let txn = match (held, meta(&object).deletion_timestamp().is_some()) {
        (true, true) => return Ok(true),
        (true, false) => {
            let now = skiff_api::time::format(skiff_api::time::now());
            set(&mut object, "deletionTimestamp", now.into());
            set(&mut object, "deletionGracePeriodSeconds", 0.into());
            let generation = meta(&object).generation();
            set(&mut object, "generation", (generation + 1).into());
            let value = objects::encode(storage, &mut object);
            Txn::put(entry.key.clone(), value, Expect::Mod(entry.mod_revision))
        }
        (false, _) => Txn::delete(entry.key.clone(), Expect::Any),
    };
    match server.store.commit(txn.note(NOTE)).await {
        Ok(_) | Err(skiff_store::Error::Conflict { .. }) => Ok(held),
        Err(error) => Err(objects::store_status(error)),
    }
}
