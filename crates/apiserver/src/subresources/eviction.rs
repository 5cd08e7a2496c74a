//! `pods/eviction`: deletion that asks the disruption budgets first.
//!
//! Counterpart: `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::codec::{self, Target, decode_stored};
use skiff_api::meta::meta;
use skiff_api::selector::Labels;
use skiff_api::status::{Cause, Details};
use skiff_api::{GroupResource, KindDef, Reason, Status};
use skiff_store::{Expect, Txn};

use crate::admission::{self, Operation, Request};
use crate::call::Call;
use crate::objects;
use crate::ownership;
use crate::reply::Reply;
use crate::verbs::delete::{self, DeleteOptions};

/// Evictions a budget remembers before its controller has seen them.
const MOST_WAITING: usize = 2000;

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let target = Target::known("policy", "v1", "Eviction").ok_or_else(Status::no_such_path)?;
    let body = as_v1(&call.body);
    let validation = call.write_options("CreateOptions")?.validation;
    let decoded = codec::decode(&body, call.body_format()?, &target)?;
    let mut eviction = call.accept(decoded, &target, validation)?;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let given = meta(&eviction).name();
    if given != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let part = kind.subresource("eviction").ok_or_else(Status::no_such_path)?;
    let request = Request::of_part(call, &kind, part, Operation::Create);
    admission::admit_part(request, &mut eviction).await?;
    let mut options = DeleteOptions::from_object(&eviction["deleteOptions"])?;
    options.dry_run |= call.query.has("dryRun");
    let entry = objects::read(&call.server, &kind.key(namespace, name)).await?;
    let entry = entry.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
    let pod = decode_stored(&entry.value)?;
    if needs_permission(&pod) {
        take_permission(call, &pod, options.dry_run).await?;
    }
    if !options.dry_run {
        mark(call, &kind, name, &options).await?;
        // The mark itself changed the revision that the client asked for.
        options.resource_version = None;
    }
    delete::one_in(call, &kind, namespace, name, &options).await?;
    Ok(Reply::Value {
        code: StatusCode::CREATED,
        value: json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }),
    })
}

/// The older version says the same; clients of it are still around.
fn as_v1(body: &Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(body) {
        Ok(mut object) if object["apiVersion"] == "policy/v1beta1" => {
            object["apiVersion"] = "policy/v1".into();
            object.to_string().into()
        }
        _ => body.clone(),
    }
}

/// A pod that runs nothing any more, or is going, disturbs nobody.
fn needs_permission(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    !matches!(phase, "Succeeded" | "Failed" | "Pending" | "")
        && meta(pod).deletion_timestamp().is_none()
}

/// Says in the pod's status why it goes, for those who count its failures.
///
/// Nobody owns the condition: it is written beneath the tracking of fields.
async fn mark(
    call: &Call,
    kind: &KindDef,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    loop {
        let key = kind.key(&call.info.namespace, name);
        let Some(entry) = objects::read(&call.server, &key).await? else { return Ok(()) };
        let mut pod = decode_stored(&entry.value)?;
        options.check_preconditions(kind, &pod)?;
        let revision = meta(&pod).resource_version().parse().map_err(Status::internal)?;
        let now = skiff_api::time::format(skiff_api::time::now());
        let mut condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "lastProbeTime": null,
            "lastTransitionTime": now,
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        });
        if let Some(seen) = pod["status"].get("observedGeneration") {
            condition["observedGeneration"] = seen.clone();
        }
        put_condition(&mut pod["status"], condition);
        let value = objects::encode(kind, &mut pod);
        let txn = Txn::put(key, value, Expect::Mod(skiff_store::Revision(revision)))
            .note(objects::note(call, "kube-apiserver"));
        match objects::commit(&call.server, kind, txn).await {
            Err(skiff_store::Error::Conflict { .. }) => {}
            outcome => return outcome.map(|_| ()).map_err(objects::store_status),
        }
    }
}

/// Adds a condition or replaces the one of its type, which keeps its time while its status stays.
fn put_condition(status: &mut Value, mut condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|old| old["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].take();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

/// A pod that is not ready does not count as healthy, so its budget loses nothing with it.
fn costs_nothing(pod: &Value, budget: &Value) -> bool {
    let ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let kept = status("desiredHealthy") > 0 && status("currentHealthy") >= status("desiredHealthy");
    !ready && (kept || budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow")
}

/// Takes one disruption out of the budget that covers the pod.
async fn take_permission(call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    loop {
        let budgets = covering(call, pod).await?;
        let mut budget = match budgets.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, Reason::Unknown, why));
            }
        };
        if costs_nothing(pod, &budget) {
            return Ok(());
        }
        let old = budget.clone();
        disrupt(&mut budget, pod)?;
        if dry_run {
            return Ok(());
        }
        let kinds = call.server.kinds();
        let kind =
            kinds.get("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
        let revision = meta(&budget).resource_version().parse().map_err(Status::internal)?;
        let key = kind.key(meta(&budget).namespace(), meta(&budget).name());
        ownership::track_own(kind, Some(&old), &mut budget, "status");
        let value = objects::encode(kind, &mut budget);
        let txn = Txn::put(key, value, Expect::Mod(skiff_store::Revision(revision)))
            .note(objects::note(call, "kube-apiserver"));
        match objects::commit(&call.server, kind, txn).await {
            Err(skiff_store::Error::Conflict { .. }) => {}
            outcome => return outcome.map(|_| ()).map_err(objects::store_status),
        }
    }
}

async fn covering(call: &Call, pod: &Value) -> Result<Vec<Value>, Status> {
    let all = objects::all(&call.server, &format!("poddisruptionbudgets/{}/", call.info.namespace))
        .await?;
    let covers = |budget: &Value| {
        budget["spec"]["selector"].is_object()
            && Labels::from_object(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches(meta(pod).labels()))
    };
    Ok(all.into_iter().filter(covers).collect())
}

fn disrupt(budget: &mut Value, pod: &Value) -> Result<(), Status> {
    let name = meta(budget).name().to_owned();
    let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
    if observed < meta(budget).generation() {
        return Err(refused(
            &format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
    let forbidden = |why: &str| Status::forbidden(&budgets(), &name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let waiting = budget["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if waiting > MOST_WAITING {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refused(&why_none_may_go(&name, &budget["status"]), 0));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    let now = skiff_api::time::format(skiff_api::time::now());
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed",
            "status": "False",
            "observedGeneration": observed,
            "lastTransitionTime": now,
            "reason": "InsufficientPods",
            "message": "",
        });
        put_condition(&mut budget["status"], condition);
    }
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][meta(pod).name()] = now.into();
    Ok(())
}

/// Counts are told only where the budget was counted and has too few.
fn why_none_may_go(name: &str, status: &Value) -> String {
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let said = conditions
        .filter(|it| it["type"] == "DisruptionAllowed" && it["status"] == "False")
        .find_map(|it| Some((it["reason"].as_str()?, it["message"].as_str()?)))
        .filter(|(_, message)| !message.is_empty());
    let none = format!("The disruption budget {name} does not allow evicting pods currently");
    match said {
        Some(("SyncFailed", message)) => format!("{none} because it failed sync: {message}"),
        _ if healthy <= desired => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        ),
        Some((reason, message)) => format!("{none} ({reason}): {message}"),
        None => none,
    }
}

fn budgets() -> GroupResource {
    GroupResource::new("policy", "poddisruptionbudget")
}

fn refused(why: &str, retry_after_seconds: u32) -> Status {
    let cause = Cause {
        reason: "DisruptionBudget".to_owned(),
        message: why.to_owned(),
        field: String::new(),
    };
    let details = Details { causes: vec![cause], retry_after_seconds, ..Details::default() };
    Status::new(
        429,
        Reason::TooManyRequests,
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )
    .with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_says_why_nobody_may_go() {
        let none = "The disruption budget b does not allow evicting pods currently";
        let said = |status: Value| why_none_may_go("b", &status);
        let of = |reason: &str| json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": "m"}]);
        assert_eq!(
            said(json!({"currentHealthy": 1, "desiredHealthy": 1})),
            "The disruption budget b needs 1 healthy pods and has 1 currently"
        );
        assert_eq!(said(json!({"currentHealthy": 2, "desiredHealthy": 1})), none);
        let status = json!({"currentHealthy": 2, "desiredHealthy": 1, "conditions": of("R")});
        assert_eq!(said(status), format!("{none} (R): m"));
        let status = json!({"conditions": of("SyncFailed")});
        assert_eq!(said(status), format!("{none} because it failed sync: m"));
    }
}
