//! Objects in the store: how they are encoded, read, committed, and shown at another version.
//!
//! Values in, entries out; every verb goes through here. Counterpart: `registry/generic/registry` together with `storage/etcd3`.
//! Invariant: stored bytes begin with the head of [`head`] and the revision's hole right after it, so a list can
//! leave the head away and the store can fill the hole without parsing.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use skiff_api::codec::{self, decode_stored};
use skiff_api::{KindDef, Kinds, Reason, Status};
use skiff_store::{Committed, Entry, Error, EventKind, Revision, Txn};

use crate::call::Call;
use crate::custom::{self, conversion};
use crate::flow_control;
use crate::server::Server;
use crate::verbs::selection::Selection;

/// The kind in whose version objects are stored; usually the same.
pub fn storage_kind(kinds: &Kinds, kind: &Arc<KindDef>) -> Arc<KindDef> {
    kinds.stored(kind)
}

/// `{"kind":"Pod","apiVersion":"v1",`: how every stored object of a kind begins.
pub fn head(kind: &KindDef) -> String {
    format!("{{\"kind\":{},\"apiVersion\":{},", json!(kind.kind), json!(kind.api_version()))
}

/// Makes an object what it is once it has been stored.
pub fn as_stored(kind: &KindDef, object: &mut Value) {
    match keeps_empty_lists(kind) {
        true => codec::complete(object, &kind.schema),
        false => codec::settle(object, &kind.schema),
    }
}

/// Encodes an object of its storage kind, with the hole for its revision.
pub fn encode(kind: &KindDef, object: &mut Value) -> skiff_store::Value {
    as_stored(kind, object);
    let mut out = head(kind).into_bytes();
    out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
    let hole = u32::try_from(out.len()).expect("a head is short");
    out.push(b'"');
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let own = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    write_fields(&mut out, own, &["resourceVersion"]);
    out.push(b'}');
    write_fields(&mut out, fields, &["kind", "apiVersion", "metadata"]);
    out.push(b'}');
    skiff_store::Value::with_revision_at(out, hole)
}

/// Upstream stores these as JSON and everything else as protobuf, where an empty list is none.
fn keeps_empty_lists(kind: &KindDef) -> bool {
    kind.custom || matches!(kind.group.as_str(), "apiextensions.k8s.io" | "apiregistration.k8s.io")
}

/// As [`encode`], for an object that may first have to be converted to the version that is stored.
pub async fn encode_stored(
    server: &Server,
    kind: &Arc<KindDef>,
    object: &mut Value,
) -> Result<skiff_store::Value, Status> {
    let stored = storage_kind(&server.kinds(), kind);
    if !kind.custom || stored.version == kind.version {
        return Ok(encode(kind, object));
    }
    let converted = conversion::convert(server, &stored, vec![object.clone()]).await?;
    let mut converted = converted.into_iter().next().unwrap_or_default();
    Ok(encode(&stored, &mut converted))
}

fn write_fields(out: &mut Vec<u8>, fields: &Map<String, Value>, skipped: &[&str]) {
    for (name, value) in fields.iter().filter(|(name, _)| !skipped.contains(&name.as_str())) {
        out.push(b',');
        serde_json::to_writer(&mut *out, name).expect("writing to memory");
        out.push(b':');
        serde_json::to_writer(&mut *out, value).expect("writing to memory");
    }
}

/// A stored object as it stands in a list of a built-in kind: without kind and version.
pub fn without_head<'a>(kind: &KindDef, bytes: &'a [u8]) -> Option<&'a [u8]> {
    bytes.strip_prefix(head(kind).as_bytes())
}

/// Stored bytes, with their revision, as an object of the version that was asked for.
pub async fn at_version(
    server: &Server,
    kind: &Arc<KindDef>,
    stored: &Bytes,
    revision: Revision,
) -> Result<Bytes, Status> {
    if conversion::is_as_stored(kind, revision.0) {
        return Ok(stored.clone());
    }
    Ok(plain_bytes(kind, &value(server, kind, stored, revision).await?))
}

/// As [`at_version`], for many at once.
pub async fn all_at_version(
    server: &Server,
    kind: &Arc<KindDef>,
    entries: &[Arc<Entry>],
) -> Result<Vec<Bytes>, Status> {
    if entries.iter().all(|entry| conversion::is_as_stored(kind, entry.mod_revision.0)) {
        return Ok(entries.iter().map(|entry| entry.value.clone()).collect());
    }
    let decoded =
        entries.iter().map(|entry| Ok((decode_stored(&entry.value)?, entry.mod_revision.0)));
    let decoded: Vec<(Value, u64)> = decoded.collect::<Result<_, Status>>()?;
    let values = match kind.custom {
        true => conversion::from_stored(server, kind, decoded).await?,
        false => decoded
            .into_iter()
            .map(|(object, _)| value_at_version(kind, object))
            .collect::<Result<_, Status>>()?,
    };
    Ok(values.iter().map(|value| plain_bytes(kind, value)).collect())
}

/// Whether an entry is selected, in the version that the client speaks.
pub async fn is_selected(
    server: &Server,
    kind: &Arc<KindDef>,
    selection: &Selection,
    entry: &Entry,
) -> Result<bool, Status> {
    if is_selected_as_stored(kind, selection, entry) {
        return Ok(selection.scanner().matches(&entry.value));
    }
    let shown = at_version(server, kind, &entry.value, entry.mod_revision).await?;
    Ok(selection.scanner().matches(&shown))
}

/// The selected ones of some entries.
pub async fn selected(
    server: &Server,
    kind: &Arc<KindDef>,
    selection: &Selection,
    entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, Status> {
    let scanner = selection.scanner();
    if selection.is_everything() {
        return Ok(entries);
    }
    if entries.iter().all(|entry| is_selected_as_stored(kind, selection, entry)) {
        return Ok(entries.into_iter().filter(|entry| scanner.matches(&entry.value)).collect());
    }
    let shown = all_at_version(server, kind, &entries).await?;
    let each = entries.into_iter().zip(shown);
    Ok(each.filter(|(_, shown)| scanner.matches(shown)).map(|(entry, _)| entry).collect())
}

/// Conversion may change what selectors look at.
fn is_selected_as_stored(kind: &KindDef, selection: &Selection, entry: &Entry) -> bool {
    !kind.custom
        || selection.is_everything()
        || conversion::is_as_stored(kind, entry.mod_revision.0)
}

/// Stored bytes, with their revision, as a value of the version that was asked for.
pub async fn value(
    server: &Server,
    kind: &Arc<KindDef>,
    stored: &Bytes,
    revision: Revision,
) -> Result<Value, Status> {
    let object = decode_stored(stored)?;
    if !kind.custom {
        return value_at_version(kind, object);
    }
    if conversion::is_as_stored(kind, revision.0) && object["apiVersion"] == kind.api_version() {
        return Ok(object);
    }
    let converted = conversion::from_stored(server, kind, vec![(object, revision.0)]).await?;
    Ok(converted.into_iter().next().unwrap_or_default())
}

/// An object of the version it is stored in, as a value of the version that was asked for.
pub async fn unstored(server: &Server, kind: &KindDef, object: Value) -> Result<Value, Status> {
    if !kind.custom {
        return value_at_version(kind, object);
    }
    let converted = conversion::convert(server, kind, vec![object]).await?;
    Ok(converted.into_iter().next().unwrap_or_default())
}

/// An object of a built-in kind, as a value of the version that was asked for.
pub fn value_at_version(kind: &KindDef, mut object: Value) -> Result<Value, Status> {
    let said = object["apiVersion"].as_str().unwrap_or("");
    if said != kind.api_version() {
        let to = skiff_api::GroupVersion::new(&kind.group, &kind.version);
        skiff_api::kinds::legacy::convert(&mut object, &to);
        kind.strategy.convert(&mut object, &to).map_err(Status::internal)?;
        object["apiVersion"] = kind.api_version().into();
    }
    Ok(object)
}

/// Kind and version first, as everything that is stored.
pub fn plain_bytes(kind: &KindDef, object: &Value) -> Bytes {
    let mut out = head(kind).into_bytes();
    out.pop();
    if let Some(fields) = object.as_object() {
        write_fields(&mut out, fields, &["kind", "apiVersion"]);
    }
    out.push(b'}');
    out.into()
}

pub async fn read(server: &Server, key: &str) -> Result<Option<Arc<Entry>>, Status> {
    server.store.get(key).await.map_err(store_status)
}

/// The decoded object at a path, if it is there; for plugins that look at other kinds.
pub async fn find(
    server: &Server,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, Status> {
    let key = match namespace.is_empty() {
        true => format!("/registry/{resource}/{name}"),
        false => format!("/registry/{resource}/{namespace}/{name}"),
    };
    read(server, &key).await?.map(|entry| decode_stored(&entry.value)).transpose()
}

/// Every decoded object beneath a prefix of the registry, such as `limitranges/default/`.
pub async fn all(server: &Server, under: &str) -> Result<Vec<Value>, Status> {
    let request = skiff_store::RangeRequest::prefix(format!("/registry/{under}"));
    let found = server.store.range(request).await.map_err(store_status)?;
    found.entries.iter().map(|entry| decode_stored(&entry.value)).collect()
}

/// Commits and tells whoever keeps a view of this kind.
pub async fn commit(server: &Server, kind: &KindDef, txn: Txn) -> Result<Committed, Error> {
    let txn = if is_lease(kind) { txn.volatile() } else { txn };
    let committed = server.store.commit(txn).await?;
    server.committed(kind);
    if kind.group == flow_control::GROUP {
        let _ = flow_control::settle(server)
            .await
            .inspect_err(|error| tracing::warn!(%error, "flow control cannot be settled"));
    }
    server.aggregator.committed(server, kind).await;
    if custom::is_definition(kind) {
        for event in committed.events.iter() {
            settle(server, event.key()).await;
        }
    } else if kind.custom && committed.events.iter().any(|event| event.kind == EventKind::Delete) {
        let _ = custom::object_removed(server, kind)
            .await
            .inspect_err(|error| tracing::warn!(%error, "a definition is left behind"));
    }
    Ok(committed)
}

/// The write has happened, whatever becomes of this.
async fn settle(server: &Server, key: &str) {
    if let Err(error) = custom::settle(server, key).await {
        tracing::warn!(%error, key, "a definition cannot be settled");
    }
}

/// Leases change every few seconds and are worth nothing after a crash.
fn is_lease(kind: &KindDef) -> bool {
    kind.group == "coordination.k8s.io" && kind.resource == "leases"
}

/// Who writes and with what, kept beside the revision.
pub fn note(call: &Call, manager: &str) -> Bytes {
    #[derive(Serialize)]
    struct Note<'a> {
        agent: &'a str,
        manager: &'a str,
        user: &'a str,
        verb: &'a str,
    }
    let agent = call.header(http::header::USER_AGENT);
    let note = Note { agent, manager, user: &call.user.name, verb: &call.info.verb };
    serde_json::to_vec(&note).expect("text can be written").into()
}

pub fn store_status(error: Error) -> Status {
    match error {
        Error::Compacted { .. } => too_old(),
        Error::FutureRevision { requested, current } => {
            let message = format!("Too large resource version: {requested}, current: {current}");
            let cause = skiff_api::status::Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                ..Default::default()
            };
            let details = skiff_api::status::Details {
                retry_after_seconds: 1,
                causes: vec![cause],
                ..Default::default()
            };
            Status::new(504, Reason::Timeout, format!("Timeout: {message}")).with_details(details)
        }
        Error::TooLarge { .. } => {
            Status::new(413, Reason::RequestEntityTooLarge, "etcdserver: request is too large")
        }
        other => Status::internal(other),
    }
}

/// A resource version or continue token from before the oldest kept revision.
pub fn too_old() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}
