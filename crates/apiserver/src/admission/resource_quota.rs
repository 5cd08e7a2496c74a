//! ResourceQuota: what a namespace may hold, counted where objects are made and grown.
//!
//! Object -> what it uses, less what it used before -> compare-and-swap on each matching quota's status. Counterpart:
//! `plugin/pkg/admission/resourcequota`. It stands last, so that only what is really stored is counted; a write that fails
//! afterwards is corrected by the quota controller.
//! Invariant: of two writes racing for what is left, one gets it: charges of a namespace are made one after the other, and all quotas
//! of one write are charged in one transaction.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::quota::{self, Amounts, Used, amounts};
use skiff_api::{KindDef, Status};
use skiff_store::{Entry, Expect, Op, RangeRequest, Txn};

use super::{Operation, Plugin, Request};
use crate::{objects, ownership};

pub struct ResourceQuota;

/// Only the quota controller writes quotas meanwhile.
const ATTEMPTS: usize = 10;
/// What the containers of a pod must state where a quota counts it.
const STATED: &[(&str, &str, &str)] = &[
    ("cpu", "requests", "cpu"),
    ("limits.cpu", "limits", "cpu"),
    ("limits.memory", "limits", "memory"),
    ("memory", "requests", "memory"),
    ("requests.cpu", "requests", "cpu"),
    ("requests.memory", "requests", "memory"),
];

/// One lock for each of a fixed number of groups of namespaces.
pub struct Locks([tokio::sync::Mutex<()>; 64]);

impl Default for Locks {
    fn default() -> Locks {
        Locks(std::array::from_fn(|_| tokio::sync::Mutex::default()))
    }
}

impl Locks {
    async fn of(&self, namespace: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let sum = namespace
            .bytes()
            .fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        self.0[sum % self.0.len()].lock().await
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        !request.namespace.is_empty()
            && request.part.is_none()
            && request.kind.resource != "events"
            && is_charged(request)
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        if quotas(request).await?.is_empty() || !may_change(request, object) {
            return Ok(());
        }
        let _alone = request.server.admission.quota_locks.of(request.namespace).await;
        for _ in 0..ATTEMPTS {
            if charge_all(request, object).await? {
                return Ok(());
            }
        }
        Err(Status::internal("quota usage changes too fast to be charged"))
    }
}

/// The operations that can change what a kind counts as.
fn is_charged(request: &Request<'_>) -> bool {
    let (kind, sub) = (request.kind, request.subresource);
    match request.operation {
        Operation::Create => sub.is_empty(),
        Operation::Update if quota::is_pods(kind) => matches!(sub, "" | "resize"),
        Operation::Update if quota::is_claims(kind) => matches!(sub, "" | "status"),
        Operation::Update => {
            sub.is_empty() && (quota::is_services(kind) || quota::is_device_claims(kind))
        }
        Operation::Delete | Operation::Connect => false,
    }
}

/// An ordinary update of a pod counts only when it moves the pod between scopes.
fn may_change(request: &Request<'_>, object: &Value) -> bool {
    let plain_update =
        quota::is_pods(request.kind) && request.subresource.is_empty() && request.old.is_some();
    let timed = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].is_i64();
    !plain_update || request.old.is_some_and(|old| timed(old) != timed(object))
}

async fn quotas(request: &Request<'_>) -> Result<Vec<std::sync::Arc<Entry>>, Status> {
    let prefix = format!("/registry/resourcequotas/{}/", request.namespace);
    let found = request.server.store.range(RangeRequest::prefix(prefix)).await;
    found.map(|found| found.entries).map_err(objects::store_status)
}

/// False if a quota changed meanwhile: then everything is looked at again.
async fn charge_all(request: &Request<'_>, object: &Value) -> Result<bool, Status> {
    let kinds = request.server.kinds();
    let Some(kind) = kinds.get("", "v1", "resourcequotas") else { return Ok(true) };
    let mut txn = Txn::default().note(objects::note(request.call, "kube-apiserver"));
    for entry in quotas(request).await? {
        let mut quota = decode_stored(&entry.value)?;
        if charge(request, object, &mut quota)? {
            txn.ops.push(put(kind, &entry, quota)?);
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

fn put(kind: &KindDef, entry: &Entry, mut quota: Value) -> Result<Op, Status> {
    let old = decode_stored(&entry.value)?;
    ownership::track_own(kind, Some(&old), &mut quota, "status");
    let value = objects::encode(kind, &mut quota);
    Ok(Op::Put { key: entry.key.clone(), value, expect: Expect::Mod(entry.mod_revision) })
}

/// Adds the usage to a quota's status. False if the quota does not count this object, or counts no more than before.
fn charge(request: &Request<'_>, object: &Value, quota: &mut Value) -> Result<bool, Status> {
    let name = meta(quota).name().to_owned();
    let hard = amounts(&quota["status"]["hard"]);
    let used = amounts(&quota["status"]["used"]);
    let counted: Vec<&str> =
        hard.keys().map(String::as_str).filter(|of| quota::counts(request.kind, of)).collect();
    if counted.is_empty() || !quota::all_match(request.kind, object, quota) {
        return Ok(false);
    }
    if quota::is_pods(request.kind) {
        demand_stated(request, object, &name, &counted)?;
    }
    if counted.iter().any(|of| !used.contains_key(*of)) {
        let why = format!("status unknown for quota: {name}, resources: {}", counted.join(","));
        return Err(request.forbidden(object, &why));
    }
    let before = request.old.filter(|old| quota::all_match(request.kind, old, quota));
    let mut asked = quota::added(Used { kind: request.kind, object }, before);
    asked.retain(|of, _| hard.contains_key(of));
    if asked.is_empty() {
        return Ok(false);
    }
    refuse_excess(request, object, &name, [&asked, &used, &hard])?;
    for (of, amount) in &asked {
        quota["status"]["used"][of] = (used[of] + *amount).to_string().into();
    }
    Ok(true)
}

fn refuse_excess(
    request: &Request<'_>,
    object: &Value,
    quota: &str,
    [asked, used, hard]: [&Amounts; 3],
) -> Result<(), Status> {
    let over = |of: &&String| used[*of] + asked[*of] > hard[*of];
    let over: Vec<&String> = asked.keys().filter(over).collect();
    // What is already so is only recorded.
    if over.is_empty() || request.subresource == "status" {
        return Ok(());
    }
    let list = |amounts: &Amounts| {
        let each: Vec<String> = over.iter().map(|of| format!("{of}={}", amounts[*of])).collect();
        each.join(",")
    };
    let why = format!(
        "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        list(asked),
        list(used),
        list(hard)
    );
    Err(request.forbidden(object, &why))
}

/// Under a quota of processors or memory every container says what it uses, unless the pod says it for them.
fn demand_stated(
    request: &Request<'_>,
    pod: &Value,
    quota: &str,
    counted: &[&str],
) -> Result<(), Status> {
    if quota::states_for_all(pod) {
        return Ok(());
    }
    let mut missing: Vec<String> = Vec::new();
    for (of, field, resource) in STATED.iter().filter(|(of, ..)| counted.contains(of)) {
        let lists = ["containers", "initContainers"].into_iter();
        let containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
        let silent = containers.filter(|one| one["resources"][field].get(*resource).is_none());
        let mut names: Vec<&str> = silent.filter_map(|one| one["name"].as_str()).collect();
        names.sort_unstable();
        if !names.is_empty() {
            missing.push(format!("{of} for: {}", names.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("failed quota: {quota}: must specify {}", missing.join("; "));
    debug_assert_ne!(request.operation, Operation::Delete);
    Err(request.forbidden(pod, &why))
}
