//! Admission: what may be stored beyond what a kind's own validation says, and what the server adds.
//!
//! Request + object -> changed object, or a refusal. Counterpart: `plugin/pkg/admission`. The order of [`PLUGINS`] is
//! meaning: it is upstream's recommended order, mutating plugins see what the ones before them made, and webhooks and
//! policies stand before ResourceQuota, which counts what is finally stored. When a webhook or a policy changed something,
//! the whole mutating list runs a second time, in which only those of them that ask for it are asked again.
//! Invariant: validating plugins run on the object as it will be stored.

mod default_class;
mod default_toleration_seconds;
mod limit_ranger;
mod live;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
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

use futures::future::BoxFuture;
use serde_json::Value;
use skiff_api::{KindDef, Status};

pub use request::{Operation, Request};

const GROUP: &str = "admissionregistration.k8s.io";

/// What admission knows of configuration in the store; part of the server.
#[derive(Default)]
pub struct Configured {
    webhooks: webhooks::Webhooks,
}

/// One plugin. `handles` is asked first, so that a plugin costs nothing for kinds it does not know.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    fn handles(&self, request: &Request<'_>) -> bool;

    /// Changes the object before it is validated.
    fn mutate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a mut Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }

    /// Judges the object as it will be stored; `Null` for a deletion.
    fn validate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }
}

const PLUGINS: &[&dyn Plugin] = &[
    &namespace_lifecycle::NamespaceLifecycle,
    &limit_ranger::LimitRanger,
    &service_account::ServiceAccount,
    &node_restriction::NodeRestriction,
    &taint_nodes_by_condition::TaintNodesByCondition,
    &pod_security::PodSecurity,
    &priority::Priority,
    &default_toleration_seconds::DefaultTolerationSeconds,
    &default_class::DefaultStorageClass,
    &storage_protection::StorageObjectInUseProtection,
    &runtime_class::RuntimeClass,
    &requester::CertificateRequester,
    &default_class::DefaultIngressClass,
    &webhooks::MutatingAdmissionWebhook,
    &webhooks::ValidatingAdmissionWebhook,
    &resource_quota::ResourceQuota,
];

pub async fn mutate(request: &mut Request<'_>, object: &mut Value) -> Result<(), Status> {
    mutate_once(request, object).await?;
    match request.reinvocation.start_again() {
        true => mutate_once(request, object).await,
        false => Ok(()),
    }
}

async fn mutate_once(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    for plugin in PLUGINS.iter().filter(|plugin| plugin.handles(request)) {
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
    for plugin in PLUGINS.iter().filter(|plugin| plugin.handles(request)) {
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

// === impl Configured ===

impl Configured {
    /// An object of this kind was written.
    pub fn committed(&self, kind: &KindDef) {
        if kind.group == GROUP {
            self.webhooks.changed();
        }
    }
}
