//! Nobody hands out rights they do not hold.
//!
//! Called when a role or binding is written: a user without the verb `escalate` (roles) or `bind` (bindings) may only grant what
//! is covered by the user's own rules. Counterpart: `pkg/registry/rbac/*/policybased`. Invariant: an update is judged as a
//! whole, whatever part of it changed, unless it only lets the garbage collector go on.

use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status};

use super::rules::{PolicyRule, describe, everything, uncovered};
use super::{Attributes, decide, rbac};
use crate::call::Call;
use crate::user::PRIVILEGED_GROUP;

/// Checks the new state of an RBAC object that the caller writes.
pub async fn check(
    call: &Call,
    kind: &KindDef,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if kind.group != rbac::GROUP || call.user.is_in(PRIVILEGED_GROUP) {
        return Ok(());
    }
    match kind.resource.as_str() {
        "roles" | "clusterroles" => role(call, kind, object, old).await,
        "rolebindings" | "clusterrolebindings" if !only_releases(object, old) => {
            binding(call, kind, object).await
        }
        _ => Ok(()),
    }
}

/// Whether nothing but finalizers and owners changed.
fn only_releases(object: &Value, old: Option<&Value>) -> bool {
    let settled = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object["metadata"].as_object_mut() {
            for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion"] {
                meta.remove(field);
            }
        }
        object
    };
    old.is_some_and(|old| settled(old) == settled(object))
}

async fn role(
    call: &Call,
    kind: &KindDef,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    // The name is the request's: when a role is created it is not known to those who grant `escalate` by name.
    let info = &call.info;
    if may(call, "escalate", &kind.resource, &info.namespace, &info.name).await?
        || only_releases(object, old)
    {
        return Ok(());
    }
    let wanted: Vec<PolicyRule> =
        serde_json::from_value(object["rules"].clone()).unwrap_or_default();
    compare(call, kind, object, &wanted).await?;
    if (aggregates(object) || old.is_some_and(aggregates))
        && compare(call, kind, object, &everything()).await.is_err()
    {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(Status::forbidden(&kind.group_resource(), meta(object).name(), why));
    }
    Ok(())
}

fn aggregates(role: &Value) -> bool {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    selectors.is_some_and(|list| !list.is_empty())
}

async fn binding(call: &Call, kind: &KindDef, object: &Value) -> Result<(), Status> {
    let namespace = meta(object).namespace();
    let text = |field: &str| object["roleRef"][field].as_str().unwrap_or("");
    let (role_kind, name) = (text("kind"), text("name"));
    let resource = if role_kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(call, "bind", resource, namespace, name).await? {
        return Ok(());
    }
    let policy = call.server.rbac.policy(&call.server.store).await?;
    let Some(wanted) = policy.role(role_kind, name, namespace) else {
        return Err(Status::not_found(&kind.group_resource(), name));
    };
    compare(call, kind, object, wanted).await
}

async fn compare(
    call: &Call,
    kind: &KindDef,
    object: &Value,
    wanted: &[PolicyRule],
) -> Result<(), Status> {
    let user = &call.user;
    let policy = call.server.rbac.policy(&call.server.store).await?;
    let (owned, unresolved) = policy.rules_of(user, &call.info.namespace);
    let missing = uncovered(&owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(describe).collect();
    lines.sort();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let mut why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        lines.join("\n")
    );
    if !unresolved.is_empty() {
        // Upstream looks roles up in the name of the resource that is written, and says so.
        let resource = kind.group_resource();
        let problems = unresolved.iter().map(|(_, name)| format!("{resource} {name:?} not found"));
        let problems = rbac::aggregate(problems.collect());
        why.push_str(&format!("; resolution errors: [{problems}]"));
    }
    Err(Status::forbidden(&kind.group_resource(), meta(object).name(), &why))
}

async fn may(
    call: &Call,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<bool, Status> {
    let attributes = Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: rbac::GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    Ok(decide(&call.server, &call.user, &attributes).await?.is_allowed())
}
