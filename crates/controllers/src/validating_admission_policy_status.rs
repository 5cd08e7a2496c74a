//! What is doubtful about the expressions of ValidatingAdmissionPolicies, told in their status.
//!
//! A policy, discovery and the OpenAPI documents of the kinds it matches in; `status.typeChecking` and
//! `observedGeneration` out. Counterpart: `pkg/controller/validatingadmissionpolicystatus`.
//! Invariant: each generation of a policy is checked once.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::Client;
use serde_json::{Value, json};
use skiff_api::kinds::admissionregistration::type_checking::{
    self, Named, TYPES_MAX, Typed, declared,
};

use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};

const MANAGER: &str = "validatingadmissionpolicy-status";

pub const DEF: ControllerDef = ControllerDef {
    name: "validatingadmissionpolicy-status-controller",
    workers: 1,
    watches: |edges| edges.primary::<ValidatingAdmissionPolicy>(),
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(policy) = ctx.lister::<ValidatingAdmissionPolicy>().get(&key) else {
        return Ok(Action::Done);
    };
    let generation = policy.metadata.generation.unwrap_or_default();
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation);
    if seen.is_some_and(|seen| seen >= generation) {
        return Ok(Action::Done);
    }
    let uid = policy.metadata.uid.clone();
    let policy = serde_json::to_value(&*policy)
        .map_err(|error| Error::Invalid(format!("cannot encode a policy: {error}")))?;
    let status = status(generation, &warnings(&ctx.client, &policy).await?);
    let applied = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        // A later policy of that name has the same generation, and other faults.
        "metadata": { "name": key.name, "uid": uid }, "status": status,
    });
    ctx.apply_status::<ValidatingAdmissionPolicy>(&key, MANAGER, &applied).await?;
    Ok(Action::Done)
}

fn status(generation: i64, warnings: &[type_checking::ExpressionWarning]) -> Value {
    let shown = |it: &type_checking::ExpressionWarning| json!({ "fieldRef": it.field, "warning": it.warning });
    let mut checking = json!({});
    if !warnings.is_empty() {
        checking["expressionWarnings"] = warnings.iter().map(shown).collect();
    }
    json!({ "observedGeneration": generation, "typeChecking": checking })
}

async fn warnings(
    client: &Client,
    policy: &Value,
) -> Result<Vec<type_checking::ExpressionWarning>> {
    let mut kinds: Vec<Named> = Vec::new();
    for resource in type_checking::resources(policy) {
        kinds.extend(kind_of(client, &resource).await?);
        if kinds.len() == TYPES_MAX {
            break;
        }
    }
    kinds.sort();
    kinds.dedup();
    let mut typed = Vec::new();
    for kind in kinds {
        let document = read(client, &format!("/openapi/v3/{}", path(&kind))).await?;
        if let Some(decl) = document.and_then(|document| declared(&document, &kind)) {
            typed.push(Typed { kind, decl });
        }
    }
    let params = match type_checking::params(policy) {
        Some(kind) => read(client, &format!("/openapi/v3/{}", path(&kind)))
            .await?
            .and_then(|document| declared(&document, &kind)),
        None => None,
    };
    Ok(type_checking::check(policy, &typed, params.as_ref()))
}

/// The kind that a plural name stands for, if it is served.
async fn kind_of(client: &Client, resource: &Named) -> Result<Option<Named>> {
    let found = read(client, &format!("/{}", path(resource))).await?;
    let list = found.as_ref().and_then(|found| found["resources"].as_array());
    let entry = list.into_iter().flatten().find(|entry| entry["name"] == resource.name);
    let kind = entry.and_then(|entry| entry["kind"].as_str());
    Ok(kind.map(|kind| Named { name: kind.to_owned(), ..resource.clone() }))
}

fn path(named: &Named) -> String {
    match named.group.as_str() {
        "" => format!("api/{}", named.version),
        group => format!("apis/{group}/{}", named.version),
    }
}

/// A document of the server; `None` if it has none there.
async fn read(client: &Client, path: &str) -> Result<Option<Value>> {
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|error| Error::Invalid(format!("{path} is no path: {error}")))?;
    match client.request::<Value>(request).await {
        Ok(document) => Ok(Some(document)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(source) => Err(Error::Read { what: path.to_owned(), source }),
    }
}
