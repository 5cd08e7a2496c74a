//! Nobody hands out rights they do not hold.
//!
//! Called when a role or binding is written: a user without the verb `escalate` (roles) or `bind` (bindings) may only grant what
//! is covered by the user's own rules. Counterpart: `pkg/registry/rbac/*/policybased`.

use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{GroupResource, KindDef, Status};

use super::rules::{PolicyRule, describe, uncovered};
use super::{Attributes, decide, rbac};
use crate::server::Server;
use crate::user::{PRIVILEGED_GROUP, UserInfo};

/// Checks the new state of an RBAC object that `user` writes.
pub async fn check(
    server: &Server,
    user: &UserInfo,
    kind: &KindDef,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if kind.group != rbac::GROUP || user.is_in(PRIVILEGED_GROUP) {
        return Ok(());
    }
    match kind.resource.as_str() {
        "roles" | "clusterroles" if old.is_none_or(|old| grants_differ(old, object)) => {
            role(server, user, kind, object).await
        }
        "rolebindings" | "clusterrolebindings"
            if old.is_none_or(|old| old["subjects"] != object["subjects"]) =>
        {
            binding(server, user, kind, object).await
        }
        _ => Ok(()),
    }
}

fn grants_differ(old: &Value, new: &Value) -> bool {
    old["rules"] != new["rules"] || old["aggregationRule"] != new["aggregationRule"]
}

async fn role(
    server: &Server,
    user: &UserInfo,
    kind: &KindDef,
    object: &Value,
) -> Result<(), Status> {
    let meta = meta(object);
    if may(server, user, "escalate", &kind.resource, meta.namespace(), meta.name()).await? {
        return Ok(());
    }
    let wanted: Vec<PolicyRule> =
        serde_json::from_value(object["rules"].clone()).unwrap_or_default();
    let aggregated = object["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    let everything = || {
        let all = || vec!["*".to_owned()];
        [
            PolicyRule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..PolicyRule::default()
            },
            PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
        ]
    };
    let wanted = if aggregated { wanted.into_iter().chain(everything()).collect() } else { wanted };
    compare(server, user, kind, object, &wanted).await
}

async fn binding(
    server: &Server,
    user: &UserInfo,
    kind: &KindDef,
    object: &Value,
) -> Result<(), Status> {
    let namespace = meta(object).namespace();
    let text = |field: &str| object["roleRef"][field].as_str().unwrap_or("");
    let (role_kind, name) = (text("kind"), text("name"));
    let resource = if role_kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(server, user, "bind", resource, namespace, name).await? {
        return Ok(());
    }
    let policy = server.rbac.policy(server).await?;
    let Some(wanted) = policy.role(role_kind, name, namespace) else {
        return Err(Status::not_found(&kind.group_resource(), name));
    };
    compare(server, user, kind, object, wanted).await
}

async fn compare(
    server: &Server,
    user: &UserInfo,
    kind: &KindDef,
    object: &Value,
    wanted: &[PolicyRule],
) -> Result<(), Status> {
    let policy = server.rbac.policy(server).await?;
    let owned = policy.rules_of(user, meta(object).namespace());
    let missing = uncovered(&owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(describe).collect();
    lines.sort();
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        lines.join("\n")
    );
    let resource: GroupResource = kind.group_resource();
    Err(Status::forbidden(&resource, meta(object).name(), &why))
}

async fn may(
    server: &Server,
    user: &UserInfo,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<bool, Status> {
    let attributes = Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: rbac::GROUP.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    Ok(decide(server, user, &attributes).await?.allowed)
}
