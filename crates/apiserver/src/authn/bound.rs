//! Whether what a token is bound to is still there.
//!
//! A reference -> the stored object's identity, or why the token is void. Only the metadata that decides is read.
//! Counterpart: the getters of `pkg/serviceaccount/claims.go`. Invariant: an object that is being deleted voids its
//! tokens once a moment has passed, whatever keeps it.

use serde::Deserialize;
use skiff_store::Entry;

use super::service_account::ObjectRef;
use crate::server::Server;

#[derive(Deserialize)]
struct Stored {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<jiff::Timestamp>,
}

/// The service account itself; `before` is when a deletion must have begun to count.
pub async fn account(
    server: &Server,
    namespace: &str,
    reference: &ObjectRef,
    before: i64,
) -> Result<(), String> {
    let name = &reference.name;
    let key = format!("/registry/serviceaccounts/{namespace}/{name}");
    let found = read(server, &key).await?;
    let found = found.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
    if found.uid != reference.uid {
        let (is, claimed) = (&found.uid, &reference.uid);
        return Err(format!("service account UID ({is}) does not match claim ({claimed})"));
    }
    match found.is_deleted(before) {
        true => Err(format!("service account {namespace}/{name} has been deleted")),
        false => Ok(()),
    }
}

/// A pod, secret or node that the token was asked for.
pub async fn object(
    server: &Server,
    resource: &str,
    namespace: &str,
    what: &str,
    reference: &ObjectRef,
    before: i64,
) -> Result<(), String> {
    let ObjectRef { name, uid } = reference;
    let key = match namespace.is_empty() {
        true => format!("/registry/{resource}/{name}"),
        false => format!("/registry/{resource}/{namespace}/{name}"),
    };
    let void = || "service account token has been invalidated".to_owned();
    let found = read(server, &key).await?.ok_or_else(void)?;
    if found.uid != *uid {
        let (title, is) = (what[..1].to_uppercase() + &what[1..], &found.uid);
        let title = if what == "node" { what } else { &title };
        return Err(format!(
            "{title} UID ({is}) does not match service account {what} ref claim ({uid})"
        ));
    }
    if found.is_deleted(before) { Err(void()) } else { Ok(()) }
}

async fn read(server: &Server, key: &str) -> Result<Option<Identity>, String> {
    let entry = server.store.get(key).await.map_err(|error| error.to_string())?;
    let identity = |entry: &Entry| {
        let stored: Stored = serde_json::from_slice(&entry.value).ok()?;
        Some(stored.metadata)
    };
    Ok(entry.as_deref().and_then(identity))
}

// === impl Identity ===

impl Identity {
    fn is_deleted(&self, before: i64) -> bool {
        self.deletion_timestamp.is_some_and(|at| at.as_second() < before)
    }
}
