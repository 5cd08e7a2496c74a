//! CustomResourceDefinitions: storing one makes its kinds served at once, deleting one removes its objects.
//!
//! Definition -> names accepted or not -> status -> [`KindDef`]s served. [`settle`] runs inside the request that wrote the
//! definition, so the next request finds the kind. Counterpart: the naming, establishing and finalizing
//! controllers of `apiextensions-apiserver`. Invariant: a kind is served if and only if its definition is stored and Established.

use serde_json::{Value, json};
use skiff_api::codec::decode_stored;
use skiff_api::meta::{meta, meta_mut};
use skiff_api::{KindDef, Kinds, Status};
use skiff_store::{Entry, Expect, Op, RangeRequest, Txn};

use crate::objects;
use crate::ownership;
use crate::server::Server;
use crate::verbs::write::set;

pub const GROUP: &str = "apiextensions.k8s.io";
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
const NOTE: &str = r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"settle"}"#;
const API_SERVICES: &str = "/registry/apiregistration.k8s.io/apiservices/";

pub fn is_definition(kind: &KindDef) -> bool {
    kind.group == GROUP && kind.resource == "customresourcedefinitions"
}

/// Serves the kinds of every stored definition; at start.
pub async fn load(server: &Server) -> Result<(), Status> {
    let found =
        server.store.range(RangeRequest::prefix(PREFIX)).await.map_err(objects::store_status)?;
    let mut kinds = Kinds::clone(&server.kinds());
    for entry in &found.entries {
        serve(&mut kinds, &decode_stored(&entry.value)?);
    }
    server.serve_kinds(kinds);
    Ok(())
}

/// Brings status, served kinds and API services in line with one stored definition.
pub async fn settle(server: &Server, key: &str) -> Result<(), Status> {
    loop {
        let Some(entry) = objects::read(server, key).await? else {
            let name = key.strip_prefix(PREFIX).unwrap_or(key);
            return withdraw(server, name).await;
        };
        let definition = decode_stored(&entry.value)?;
        if meta(&definition).deletion_timestamp().is_some() {
            return finalize(server, &definition).await;
        }
        let wanted = with_status(&server.kinds(), &definition);
        if wanted == definition || write(server, &entry, wanted.clone()).await? {
            let mut kinds = Kinds::clone(&server.kinds());
            serve(&mut kinds, &wanted);
            server.serve_kinds(kinds);
            return register(server, &wanted).await;
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

/// What a deletion adds to a definition: it waits until its objects are gone.
pub fn mark_for_cleanup(definition: &mut Value) {
    let Some(meta) = meta_mut(definition) else { return };
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

/// False if someone else was faster.
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

// === status: the pure part ===

/// The definition with the status it deserves among the kinds that are served.
fn with_status(kinds: &Kinds, definition: &Value) -> Value {
    let mut new = definition.clone();
    match conflict(kinds, definition) {
        None => {
            new["status"]["acceptedNames"] = accepted_names(&definition["spec"]["names"]);
            set_condition(&mut new, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let why = "the initial names have been accepted";
            set_condition(&mut new, "Established", "True", "InitialNamesAccepted", why);
        }
        Some((reason, why)) => {
            set_condition(&mut new, "NamesAccepted", "False", reason, &why);
            if !has_condition(&new, "Established") {
                set_condition(
                    &mut new,
                    "Established",
                    "False",
                    "NotAccepted",
                    "not all names are accepted",
                );
            }
        }
    }
    new
}

fn accepted_names(names: &Value) -> Value {
    names.clone()
}

/// A name that another resource of the group has already.
fn conflict(kinds: &Kinds, definition: &Value) -> Option<(&'static str, String)> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let text = |field: &str| names[field].as_str().unwrap_or("");
    let others: Vec<&KindDef> = kinds
        .iter()
        .map(|kind| &**kind)
        .filter(|kind| {
            kind.group == spec["group"].as_str().unwrap_or("") && kind.resource != text("plural")
        })
        .collect();
    let used = |name: &str| {
        others.iter().any(|kind| {
            kind.resource == name
                || kind.singular == name
                || kind.short_names.iter().any(|have| have == name)
        })
    };
    let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for (name, reason) in
        [(text("plural"), "PluralConflict"), (text("singular"), "SingularConflict")]
            .into_iter()
            .chain(short.map(|name| (name, "ShortNamesConflict")))
    {
        if !name.is_empty() && used(name) {
            return Some((reason, format!("{name:?} is already in use")));
        }
    }
    for (name, reason) in [(text("kind"), "KindConflict"), (text("listKind"), "ListKindConflict")] {
        if others.iter().any(|kind| kind.kind == name || kind.list_kind == name) {
            return Some((reason, format!("{name:?} is already in use")));
        }
    }
    None
}

fn has_condition(definition: &Value, of: &str) -> bool {
    definition["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == of)
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn set_condition(definition: &mut Value, of: &str, status: &str, reason: &str, message: &str) {
    let condition = json!({
        "type": of,
        "status": status,
        "lastTransitionTime": skiff_api::time::format(skiff_api::time::now()),
        "reason": reason,
        "message": message,
    });
    if !definition["status"]["conditions"].is_array() {
        definition["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = definition["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|have| have["type"] == of) {
        Some(have)
            if have["status"] == status
                && have["reason"] == reason
                && have["message"] == message => {}
        Some(have) => *have = condition,
        None => conditions.push(condition),
    }
}

// === what is served ===

fn serve(kinds: &mut Kinds, definition: &Value) {
    let (group, plural) = place(definition);
    remove(kinds, &group, &plural);
    if !is_established(definition) {
        return;
    }
    match skiff_api::custom::kinds(definition) {
        Ok(defs) => defs.into_iter().for_each(|def| kinds.insert(def)),
        Err(error) => {
            tracing::warn!(%error, name = meta(definition).name(), "a stored definition cannot be served")
        }
    }
}

fn remove(kinds: &mut Kinds, group: &str, plural: &str) {
    let gone: Vec<String> = kinds
        .iter()
        .filter(|kind| kind.custom && kind.group == group && kind.resource == plural)
        .map(|kind| kind.version.clone())
        .collect();
    gone.iter().for_each(|version| kinds.remove(group, version, plural));
}

fn place(definition: &Value) -> (String, String) {
    let text = |pointer: &str| {
        definition.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    (text("/spec/group"), text("/spec/names/plural"))
}

/// The definition is gone, and so are its kinds and the API services nobody needs any more.
async fn withdraw(server: &Server, name: &str) -> Result<(), Status> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let mut kinds = Kinds::clone(&server.kinds());
    remove(&mut kinds, group, plural);
    let still: Vec<String> =
        kinds.iter().filter(|kind| kind.group == group).map(|kind| kind.version.clone()).collect();
    server.serve_kinds(kinds);
    let services = server
        .store
        .range(RangeRequest::prefix(API_SERVICES))
        .await
        .map_err(objects::store_status)?;
    let mut txn = Txn::default().note(NOTE);
    for entry in services.entries {
        let service = decode_stored(&entry.value)?;
        let version = service["spec"]["version"].as_str().unwrap_or("");
        let ours =
            meta(&service).label("kube-aggregator.kubernetes.io/automanaged") == Some("true");
        if ours && service["spec"]["group"] == group && !still.iter().any(|have| have == version) {
            txn.ops.push(Op::Delete { key: entry.key.clone(), expect: Expect::Any });
        }
    }
    commit_if_any(server, txn).await
}

/// Every served group and version has an APIService, custom ones too.
async fn register(server: &Server, definition: &Value) -> Result<(), Status> {
    let (group, _) = place(definition);
    let kinds = server.kinds();
    let kind = kinds
        .get("apiregistration.k8s.io", "v1", "apiservices")
        .ok_or_else(Status::no_such_path)?;
    let mut txn = Txn::default().note(NOTE);
    for version in definition["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true)
    {
        let version = version["name"].as_str().unwrap_or("");
        let key = kind.key("", &format!("{version}.{group}"));
        if objects::read(server, &key).await?.is_none() {
            let value = objects::encode(kind, &mut api_service(&group, version));
            txn.ops.push(Op::Put { key: key.into(), value, expect: Expect::Any });
        }
    }
    commit_if_any(server, txn).await
}

fn api_service(group: &str, version: &str) -> Value {
    let now = skiff_api::time::format(skiff_api::time::now());
    json!({
        "metadata": {
            "name": format!("{version}.{group}"),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": now,
            "labels": { "kube-aggregator.kubernetes.io/automanaged": "true" },
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

// === deletion ===

/// Deletes what is left of a kind; the definition itself once nothing is.
async fn finalize(server: &Server, definition: &Value) -> Result<(), Status> {
    let (group, plural) = place(definition);
    let left = delete_instances(server, &group, &plural).await?;
    if left > 0 {
        return Ok(());
    }
    let key = format!("{PREFIX}{}", meta(definition).name());
    loop {
        let Some(entry) = objects::read(server, &key).await? else { break };
        let mut stored = decode_stored(&entry.value)?;
        if let Some(list) = stored.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut)
        {
            list.retain(|finalizer| finalizer != FINALIZER);
        }
        if meta(&stored).finalizers().next().is_some() {
            if write(server, &entry, stored).await? {
                return Ok(());
            }
            continue;
        }
        match server
            .store
            .commit(Txn::delete(entry.key.clone(), Expect::Mod(entry.mod_revision)).note(NOTE))
            .await
        {
            Err(skiff_store::Error::Conflict { .. }) => {}
            outcome => {
                outcome.map_err(objects::store_status)?;
                break;
            }
        }
    }
    withdraw(server, meta(definition).name()).await
}

/// Objects with finalizers are marked and counted as left.
async fn delete_instances(server: &Server, group: &str, plural: &str) -> Result<usize, Status> {
    let kinds = server.kinds();
    let Some(kind) =
        kinds.iter().find(|kind| kind.custom && kind.group == group && kind.resource == plural)
    else {
        return Ok(0);
    };
    let storage = objects::storage_kind(&kinds, kind);
    let found = server
        .store
        .range(RangeRequest::prefix(kind.key_prefix.as_str()))
        .await
        .map_err(objects::store_status)?;
    let mut left = 0;
    for entry in found.entries {
        let mut object = decode_stored(&entry.value)?;
        let held = meta(&object).finalizers().next().is_some();
        left += usize::from(held);
        let txn = match (held, meta(&object).deletion_timestamp().is_some()) {
            (true, true) => continue,
            (true, false) => {
                set(
                    &mut object,
                    "deletionTimestamp",
                    skiff_api::time::format(skiff_api::time::now()).into(),
                );
                set(&mut object, "deletionGracePeriodSeconds", 0.into());
                Txn::put(
                    entry.key.clone(),
                    objects::encode(&storage, &mut object),
                    Expect::Mod(entry.mod_revision),
                )
            }
            (false, _) => Txn::delete(entry.key.clone(), Expect::Any),
        };
        match server.store.commit(txn.note(NOTE)).await {
            Ok(_) | Err(skiff_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(objects::store_status(error)),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({ "spec": { "group": "x.test", "names": { "plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing" } }, "status": {} })
    }

    #[test]
    fn a_definition_without_rivals_is_established_once() {
        let settled = with_status(&Kinds::default(), &definition());
        assert!(is_established(&settled));
        assert_eq!(settled["status"]["acceptedNames"]["plural"], "things");
        assert_eq!(with_status(&Kinds::default(), &settled), settled);
    }

    #[test]
    fn a_kind_that_is_taken_is_not_accepted() {
        let mut rival = definition();
        rival["spec"]["group"] = "apps".into();
        rival["spec"]["names"]["kind"] = "Deployment".into();
        let settled = with_status(&skiff_api::kinds::builtin(), &rival);
        assert!(!is_established(&settled));
        assert_eq!(settled["status"]["conditions"][0]["reason"], "KindConflict");
    }
}
