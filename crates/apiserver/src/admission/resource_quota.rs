//! ResourceQuota: what a namespace may hold, counted where objects are made.
//!
//! Object -> what it uses -> compare-and-swap on each matching quota's status. Counterpart:
//! `plugin/pkg/admission/resourcequota`. It stands last, so that only what is really stored is counted; a write that fails
//! afterwards is corrected by the quota controller.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::quantity::Quantity;
use skiff_store::{Expect, RangeRequest, Txn};

use super::limit_ranger::pod_total;
use super::{Operation, Plugin, Request};
use crate::objects;
use crate::ownership;

pub struct ResourceQuota;

type Usage = BTreeMap<String, Quantity>;

const ATTEMPTS: usize = 10;
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        !request.namespace.is_empty()
            && request.subresource.is_empty()
            && request.operation == Operation::Create
            && request.kind.resource != "resourcequotas"
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            for _ in 0..ATTEMPTS {
                if charge_all(request, object).await? {
                    return Ok(());
                }
            }
            Err(Status::internal("quota usage changes too fast to be charged"))
        })
    }
}

/// False if a quota changed meanwhile: then everything is looked at again.
async fn charge_all(request: &Request<'_>, object: &Value) -> Result<bool, Status> {
    let prefix = format!("/registry/resourcequotas/{}/", request.namespace);
    let found = request
        .server
        .store
        .range(RangeRequest::prefix(prefix))
        .await
        .map_err(objects::store_status)?;
    if found.entries.is_empty() {
        return Ok(true);
    }
    let usage = usage(request, object);
    let kinds = request.server.kinds();
    let Some(kind) = kinds.get("", "v1", "resourcequotas") else { return Ok(true) };
    let mut txn = Txn::default().note(objects::note(request.call, "kube-apiserver"));
    for entry in &found.entries {
        let mut quota = decode_stored(&entry.value)?;
        if charge(request, object, &mut quota, &usage)? {
            let old = decode_stored(&entry.value)?;
            ownership::track_own(kind, Some(&old), &mut quota, "status");
            let value = objects::encode(kind, &mut quota);
            txn.ops.push(skiff_store::Op::Put {
                key: entry.key.clone(),
                value,
                expect: Expect::Mod(entry.mod_revision),
            });
        }
    }
    if txn.ops.is_empty() || request.dry_run {
        return Ok(true);
    }
    match objects::commit(request.server, kind, txn).await {
        Ok(_) => Ok(true),
        Err(skiff_store::Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(objects::store_status(error)),
    }
}

/// Adds the usage to a quota's status. False if the quota does not count this object.
fn charge(
    request: &Request<'_>,
    object: &Value,
    quota: &mut Value,
    usage: &Usage,
) -> Result<bool, Status> {
    let name = meta(quota).name().to_owned();
    let hard = amounts(&quota["status"]["hard"]);
    let used = amounts(&quota["status"]["used"]);
    if !in_scope(request, object, quota) {
        return Ok(false);
    }
    if request.kind.resource == "pods" {
        demand_stated(request, object, &name, &hard)?;
    }
    let asked: Usage = usage
        .iter()
        .filter(|(resource, _)| hard.contains_key(*resource))
        .map(|(r, q)| (r.clone(), *q))
        .collect();
    if asked.is_empty() {
        return Ok(false);
    }
    let unknown: Vec<&str> =
        asked.keys().filter(|resource| !used.contains_key(*resource)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let why = format!("status unknown for quota: {name}, resources: {}", unknown.join(","));
        return Err(request.forbidden(object, &why));
    }
    let over: Vec<&String> = asked
        .keys()
        .filter(|resource| used[*resource] + asked[*resource] > hard[*resource])
        .collect();
    if !over.is_empty() {
        let list = |of: &Usage| {
            over.iter()
                .map(|resource| format!("{resource}={}", of[*resource]))
                .collect::<Vec<_>>()
                .join(",")
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            list(&asked),
            list(&used),
            list(&hard)
        );
        return Err(request.forbidden(object, &why));
    }
    for (resource, amount) in &asked {
        quota["status"]["used"][resource] = (used[resource] + *amount).to_string().into();
    }
    Ok(true)
}

/// Under a compute quota every container says what it uses.
fn demand_stated(
    request: &Request<'_>,
    pod: &Value,
    quota: &str,
    hard: &Usage,
) -> Result<(), Status> {
    let mut missing: Vec<String> = Vec::new();
    for resource in hard.keys() {
        let Some((field, of)) = compute_field(resource) else { continue };
        let lists = ["initContainers", "containers"].into_iter();
        let containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
        let silent = containers.filter(|container| container["resources"][field].get(of).is_none());
        let names: Vec<&str> = silent.filter_map(|container| container["name"].as_str()).collect();
        if !names.is_empty() {
            missing.push(format!("{resource} for: {}", names.join(",")));
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(request.forbidden(
            pod,
            &format!("failed quota: {quota}: must specify {}", missing.join("; ")),
        )),
    }
}

/// `requests.cpu`, `limits.cpu`, and plain `cpu` for requests.
fn compute_field(resource: &str) -> Option<(&'static str, &str)> {
    let (field, of) = match resource.split_once('.') {
        Some(("requests", of)) => ("requests", of),
        Some(("limits", of)) => ("limits", of),
        _ => ("requests", resource),
    };
    COMPUTE.contains(&of).then_some((field, of))
}

fn in_scope(request: &Request<'_>, object: &Value, quota: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected =
        quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let plain = scopes.map(|scope| (scope, json!({ "operator": "Exists" })));
    let all =
        plain.chain(selected.filter_map(|term| Some((term["scopeName"].as_str()?, term.clone()))));
    all.into_iter()
        .all(|(scope, term)| request.kind.resource == "pods" && pod_in_scope(object, scope, &term))
}

fn pod_in_scope(pod: &Value, scope: &str, term: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some();
    let best_effort = pod["status"]["qosClass"] == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().unwrap_or("");
            let listed = term["values"]
                .as_array()
                .is_some_and(|values| values.iter().any(|value| value == class));
            match term["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("DoesNotExist") => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

/// Everything a new object counts as.
fn usage(request: &Request<'_>, object: &Value) -> Usage {
    let kind = request.kind;
    let one = Quantity::from_units(1);
    let mut usage = Usage::from([(format!("count/{}", kind.group_resource()), one)]);
    if kind.group.is_empty() {
        usage.insert(kind.resource.clone(), one);
    }
    match (kind.group.as_str(), kind.resource.as_str()) {
        ("", "pods") => add_pod(&mut usage, object),
        ("", "services") => add_service(&mut usage, object),
        ("", "persistentvolumeclaims") => add_claim(&mut usage, object),
        _ => {}
    }
    usage
}

fn add_pod(usage: &mut Usage, pod: &Value) {
    for (resource, amount) in pod_total(pod, "requests") {
        usage.insert(format!("requests.{resource}"), amount);
        if COMPUTE.contains(&resource.as_str()) {
            usage.insert(resource, amount);
        }
    }
    for (resource, amount) in pod_total(pod, "limits") {
        usage.insert(format!("limits.{resource}"), amount);
    }
}

fn add_service(usage: &mut Usage, service: &Value) {
    let one = Quantity::from_units(1);
    let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len) as i64;
    match service["spec"]["type"].as_str() {
        Some("NodePort") => {
            usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
        }
        Some("LoadBalancer") => {
            usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
            usage.insert("services.loadbalancers".to_owned(), one);
        }
        _ => {}
    }
}

fn add_claim(usage: &mut Usage, claim: &Value) {
    let Some(storage) = amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied()
    else {
        return;
    };
    usage.insert("requests.storage".to_owned(), storage);
    if let Some(class) =
        claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty())
    {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/requests.storage"), storage);
        usage.insert(format!("{prefix}/persistentvolumeclaims"), Quantity::from_units(1));
    }
}

fn amounts(list: &Value) -> Usage {
    super::limit_ranger::amounts(list)
}
