//! Admission: what may be stored beyond what a kind's own validation says, and what the server adds.
//!
//! Request + object -> changed object, or a refusal. Counterpart: `plugin/pkg/admission`. The order of [`PLUGINS`] is
//! meaning: it is upstream's recommended order, mutating plugins see what the ones before them made, and webhooks and
//! policies stand before ResourceQuota, which counts what is finally stored. When a webhook or a policy changed something,
//! the whole mutating list runs a second time, in which only those of them that ask for it are asked again.
//! Invariant: validating plugins run on the object as it will be stored.

mod always;
mod always_pull_images;
mod asking;
mod certificates;
mod chain;
mod claim_resize;
mod configured;
mod default_class;
mod default_toleration_seconds;
mod evaluation;
mod external_ips;
mod limit_ranger;
mod live;
mod matching;
mod namespace_lifecycle;
mod namespaces;
mod node_restriction;
mod owner_references;
mod placement;
mod pod_resize;
mod pod_security;
mod pod_topology_labels;
mod policies;
mod priority;
mod reinvocation;
mod request;
mod requester;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes_by_condition;
mod versions;
mod webhooks;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{KindDef, Status};

pub use chain::ChainError;
pub use request::{Operation, Request};

use configured::Configured;
use policies::Policies;
use webhooks::Hooks;

const GROUP: &str = "admissionregistration.k8s.io";

/// The plugins of a server, and what they know of configuration in the store.
pub struct Admission {
    plugins: Vec<&'static dyn Plugin>,
    policies: Configured<Policies>,
    webhooks: Configured<Hooks>,
    quota_locks: resource_quota::Locks,
}

/// One plugin. `handles` is asked first, so that a plugin costs nothing for kinds it does not know.
#[async_trait]
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    fn handles(&self, request: &Request<'_>) -> bool;

    /// Changes the object before it is validated.
    async fn mutate(&self, _: &Request<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Judges the object as it will be stored; `Null` for a deletion.
    async fn validate(&self, _: &Request<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

pub async fn mutate(request: &mut Request<'_>, object: &mut Value) -> Result<(), Status> {
    mutate_once(request, object).await?;
    match request.reinvocation.start_again() {
        true => mutate_once(request, object).await,
        false => Ok(()),
    }
}

async fn mutate_once(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    for plugin in request.server.admission.plugins.iter().filter(|plugin| plugin.handles(request)) {
        tracing::trace!(plugin = plugin.name(), "mutating admission");
        plugin.mutate(request, object).await?;
    }
    Ok(())
}

/// Everything there is to ask before an object goes; there is nothing to change in it.
pub async fn admit_deletion(mut request: Request<'_>) -> Result<(), Status> {
    let mut nothing = Value::Null;
    mutate(&mut request, &mut nothing).await?;
    validate(&request, &nothing).await
}

/// Admits the body of a subresource that is of a kind of its own: a Binding, an Eviction, options of exec.
pub async fn admit_part(mut request: Request<'_>, body: &mut Value) -> Result<(), Status> {
    mutate(&mut request, body).await?;
    validate(&request, body).await
}

pub async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    for plugin in request.server.admission.plugins.iter().filter(|plugin| plugin.handles(request)) {
        tracing::trace!(plugin = plugin.name(), "validating admission");
        plugin.validate(request, object).await?;
    }
    Ok(())
}

/// What configures admission is not subject to it, so that it can always be put right.
fn is_admission_configuration(kind: &KindDef) -> bool {
    const KINDS: &[&str] = &[
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ];
    kind.group == GROUP && KINDS.contains(&kind.kind.as_str())
}

// === impl Admission ===

impl Admission {
    /// `enabled` and `disabled` name plugins beside those that run by default.
    pub fn new(enabled: &[String], disabled: &[String]) -> Result<Admission, ChainError> {
        let plugins = chain::of(enabled, disabled)?;
        Ok(Admission {
            plugins,
            policies: Configured::default(),
            webhooks: Configured::default(),
            quota_locks: resource_quota::Locks::default(),
        })
    }

    /// An object of this kind was written.
    pub fn committed(&self, kind: &KindDef) {
        if kind.group == GROUP {
            self.policies.changed();
            self.webhooks.changed();
        }
    }
}
