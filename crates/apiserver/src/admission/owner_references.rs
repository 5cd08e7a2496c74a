//! OwnerReferencesPermissionEnforcement: who may make an object depend on another, and hold that one's deletion up.
//!
//! Counterpart: `plugin/pkg/admission/gc`. Off unless asked for. Pods and their likes are judged alike; changing `status` is free.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;

use super::{Operation, Plugin, Request};
use crate::authz::{self, Attributes};

pub struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let is_status = request.kind.resource == "pods" && request.subresource == "status";
        matches!(request.operation, Operation::Create | Operation::Update) && !is_status
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let (now, before) = (owners(object), request.old.map(owners).unwrap_or_default());
        if now == before {
            return Ok(());
        }
        if request.operation == Operation::Update {
            may_delete(request, object).await?;
        }
        let blocking: Vec<&Value> =
            now.iter().filter(|owner| newly_blocks(owner, before)).collect();
        if blocking.is_empty() || may_finalize_anything(request).await? {
            return Ok(());
        }
        for owner in blocking {
            may_finalize(request, object, owner).await?;
        }
        Ok(())
    }
}

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

fn newly_blocks(owner: &Value, before: &[Value]) -> bool {
    let known = before.iter().find(|old| old["uid"] == owner["uid"]);
    owner["blockOwnerDeletion"] == true && known.is_none_or(|old| old["blockOwnerDeletion"] != true)
}

async fn may_delete(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let attributes = Attributes {
        verb: "delete".to_owned(),
        is_resource: true,
        group: request.requested.group.clone(),
        resource: request.requested.resource.clone(),
        subresource: request.subresource.to_owned(),
        namespace: request.namespace.to_owned(),
        name: request.name.clone(),
        ..Attributes::default()
    };
    let decision = authz::decide(request.server, request.user, &attributes).await?;
    if decision.is_allowed() {
        return Ok(());
    }
    let why = format!(
        "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
        decision.reason
    );
    Err(request.forbidden(object, &why))
}

async fn may_finalize_anything(request: &Request<'_>) -> Result<bool, Status> {
    let anything = finalizers("*", "*", "", "*");
    authz::decide(request.server, request.user, &anything)
        .await
        .map(|decision| decision.is_allowed())
}

async fn may_finalize(request: &Request<'_>, object: &Value, owner: &Value) -> Result<(), Status> {
    let text = |field: &str| owner[field].as_str().unwrap_or("");
    let (version, kind) = (text("apiVersion"), text("kind"));
    let (group, of) = version.split_once('/').unwrap_or(("", version));
    let kinds = request.server.kinds();
    let Some(found) = kinds.by_kind(group, of, kind) else {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}: no matches for kind {kind:?} in version {version:?}"
        );
        return Err(request.forbidden(object, &why));
    };
    let namespace = if found.namespaced { request.namespace } else { "" };
    let attributes = finalizers(group, &found.resource, namespace, text("name"));
    let decision = authz::decide(request.server, request.user, &attributes).await?;
    if decision.is_allowed() {
        return Ok(());
    }
    let why = format!(
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
        decision.reason
    );
    Err(request.forbidden(object, &why))
}

fn finalizers(group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: "update".to_owned(),
        is_resource: true,
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: "finalizers".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}
