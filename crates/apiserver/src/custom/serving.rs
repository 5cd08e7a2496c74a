//! What is served of the definitions: their kinds, and an APIService for each group and version.
//!
//! Invariant: a definition never takes the place of a built-in kind.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::codec::decode_stored;
use skiff_api::custom::{Defined, define};
use skiff_api::kind::Edition;
use skiff_api::meta::meta;
use skiff_api::{Kinds, Status};
use skiff_store::{Expect, Op, RangeRequest, Txn};

use super::naming::is_established;
use super::{NOTE, PREFIX, place};
use crate::objects;
use crate::server::Server;

const API_SERVICES: &str = "/registry/apiregistration.k8s.io/apiservices/";
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Serves the kinds of every stored definition; at start.
pub async fn load(server: &Server) -> Result<(), Status> {
    let found =
        server.store.range(RangeRequest::prefix(PREFIX)).await.map_err(objects::store_status)?;
    let mut kinds = Kinds::clone(&server.kinds());
    for entry in &found.entries {
        let definition = decode_stored(&entry.value)?;
        if is_established(&definition) {
            let edition = Arc::new(Edition::of(&definition, entry.mod_revision.0));
            insert(&mut kinds, defined(&definition, &edition));
        }
    }
    server.serve_kinds(kinds);
    Ok(())
}

/// Serves what the definition says now. While it says the same, its edition goes on.
pub async fn serve(server: &Server, definition: &Value) -> Result<(), Status> {
    let (group, plural) = place(definition);
    let since = server.store.current_revision().await.map_err(objects::store_status)?;
    let edition = match served_edition(&server.kinds(), &group, &plural) {
        Some(served) if served.says == Edition::of(definition, 0).says => served,
        _ => Arc::new(Edition::of(definition, since.0)),
    };
    let defined = match is_established(definition) {
        true => defined(definition, &edition),
        false => Defined::default(),
    };
    server.change_kinds(|kinds| {
        kinds.remove_custom(&group, &plural);
        insert(kinds, defined.clone());
    });
    Ok(())
}

fn served_edition(kinds: &Kinds, group: &str, plural: &str) -> Option<Arc<Edition>> {
    let served = kinds.iter().find(|kind| kind.group == group && kind.resource == plural)?;
    Some(served.versioning.as_ref()?.edition.clone())
}

fn defined(definition: &Value, edition: &Arc<Edition>) -> Defined {
    define(definition, edition).unwrap_or_else(|error| {
        tracing::warn!(%error, name = meta(definition).name(), "a stored definition cannot be served");
        Defined::default()
    })
}

fn insert(kinds: &mut Kinds, defined: Defined) {
    for def in defined.served {
        if kinds.get(&def.group, &def.version, &def.resource).is_none() {
            kinds.insert(def);
        }
    }
    defined.hidden.into_iter().for_each(|def| kinds.insert_hidden(def));
}

/// The definition is gone, and so are its kinds and the API services nobody needs any more.
pub async fn withdraw(server: &Server, name: &str) -> Result<(), Status> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    server.change_kinds(|kinds| kinds.remove_custom(group, plural));
    drop_services(server, group).await
}

/// Deletes the automatic API services of versions that no kind of the group has.
async fn drop_services(server: &Server, group: &str) -> Result<(), Status> {
    let kinds = server.kinds();
    let still: Vec<&str> =
        kinds.iter().filter(|kind| kind.group == group).map(|kind| kind.version.as_str()).collect();
    let services = server
        .store
        .range(RangeRequest::prefix(API_SERVICES))
        .await
        .map_err(objects::store_status)?;
    let mut txn = Txn::default().note(NOTE);
    for entry in services.entries.iter().filter(|entry| entry.key.ends_with(group)) {
        let service = decode_stored(&entry.value)?;
        let version = service["spec"]["version"].as_str().unwrap_or("");
        let ours = meta(&service).label(AUTOMANAGED) == Some("true");
        if ours && service["spec"]["group"] == group && !still.contains(&version) {
            txn.ops.push(Op::Delete { key: entry.key.clone(), expect: Expect::Any });
        }
    }
    commit_if_any(server, txn).await
}

/// Every served group and version has an APIService, custom ones too.
pub async fn register(server: &Server, definition: &Value) -> Result<(), Status> {
    let (group, _) = place(definition);
    if !is_established(definition) {
        return Ok(());
    }
    let kinds = server.kinds();
    let kind = kinds
        .get("apiregistration.k8s.io", "v1", "apiservices")
        .ok_or_else(Status::no_such_path)?;
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let mut txn = Txn::default().note(NOTE);
    for version in versions.filter(|version| version["served"] == true) {
        let version = version["name"].as_str().unwrap_or("");
        let key = kind.key("", &format!("{version}.{group}"));
        if objects::read(server, &key).await?.is_none() {
            let value = objects::encode(kind, &mut api_service(&group, version));
            txn.ops.push(Op::Put { key: key.into(), value, expect: Expect::Any });
        }
    }
    commit_if_any(server, txn).await?;
    drop_services(server, &group).await
}

fn api_service(group: &str, version: &str) -> Value {
    let now = skiff_api::time::format(skiff_api::time::now());
    json!({
        "metadata": {
            "name": format!("{version}.{group}"),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": now,
            "labels": { AUTOMANAGED: "true" },
        },
        "spec": { "group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100 },
        "status": { "conditions": [{
            "type": "Available", "status": "True", "lastTransitionTime": now,
            "reason": "Local", "message": "Local APIServices are always available",
        }] },
    })
}

async fn commit_if_any(server: &Server, txn: Txn) -> Result<(), Status> {
    match txn.ops.is_empty() {
        true => Ok(()),
        false => server.store.commit(txn).await.map(|_| ()).map_err(objects::store_status),
    }
}
