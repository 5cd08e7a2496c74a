//! NamespaceAutoProvision and NamespaceExists: a namespace is made when it is first used, or must be there for every write.
//!
//! Counterparts: `plugin/pkg/admission/namespace/{autoprovision,exists}`. Off unless asked for.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Status};
use skiff_store::{Error, Expect, Txn};

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct NamespaceAutoProvision;
pub struct NamespaceExists;

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && !request.namespace.is_empty() && !request.dry_run
    }

    async fn mutate(&self, request: &Request<'_>, _: &mut Value) -> Result<(), Status> {
        match find(request).await? {
            Some(_) => Ok(()),
            None => provision(request).await,
        }
    }
}

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation != Operation::Connect && !request.namespace.is_empty()
    }

    async fn validate(&self, request: &Request<'_>, _: &Value) -> Result<(), Status> {
        let missing =
            || Status::not_found(&GroupResource::new("", "namespaces"), request.namespace);
        find(request).await?.map(drop).ok_or_else(missing)
    }
}

async fn find(request: &Request<'_>) -> Result<Option<Value>, Status> {
    objects::find(request.server, "namespaces", "", request.namespace).await
}

/// Someone else may make it at the same time: that is just as well.
async fn provision(request: &Request<'_>) -> Result<(), Status> {
    let kinds = request.server.kinds();
    let kind = kinds.get("", "v1", "namespaces").ok_or_else(Status::no_such_path)?;
    let mut namespace = json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": {
            "name": request.namespace,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": skiff_api::time::format(skiff_api::time::now()),
            "labels": { "kubernetes.io/metadata.name": request.namespace },
        },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    });
    let value = objects::encode(kind, &mut namespace);
    let txn = Txn::put(kind.key("", request.namespace), value, Expect::Absent)
        .note(objects::note(request.call, "kube-apiserver"));
    match objects::commit(request.server, kind, txn).await {
        Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(objects::store_status(error)),
    }
}
