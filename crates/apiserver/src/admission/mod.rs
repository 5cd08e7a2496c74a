//! Admission: what may be stored beyond what a kind's own validation says, and what the server adds.
//!
//! Request + object -> changed object, or a refusal. Counterpart: `plugin/pkg/admission`. The order of [`PLUGINS`] is
//! meaning: it is upstream's recommended order, mutating plugins see what the ones before them made, and webhooks and
//! policies stand before ResourceQuota, which counts what is finally stored.
//! Invariant: validating plugins run on the object as it will be stored.

mod default_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
mod requester;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes_by_condition;

use futures::future::BoxFuture;
use serde_json::Value;
use skiff_api::{KindDef, Status};

use crate::call::Call;
use crate::server::Server;
use crate::user::UserInfo;
use crate::verbs::write::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// What is about to happen to which object.
pub struct Request<'a> {
    pub call: &'a Call,
    pub server: &'a Server,
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub kind: &'a KindDef,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: String,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
}

/// One rule. `handles` is asked first, so that a plugin costs nothing for kinds it does not know.
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

/// Mutating webhooks and policies belong before `runtime_class`, validating ones before `resource_quota`.
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
    &resource_quota::ResourceQuota,
];

pub async fn mutate(request: &mut Request<'_>, object: &mut Value) -> Result<(), Status> {
    for plugin in PLUGINS.iter().filter(|plugin| plugin.handles(request)) {
        tracing::trace!(plugin = plugin.name(), "mutating admission");
        plugin.mutate(request, object).await?;
    }
    Ok(())
}

pub async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    for plugin in PLUGINS.iter().filter(|plugin| plugin.handles(request)) {
        tracing::trace!(plugin = plugin.name(), "validating admission");
        plugin.validate(request, object).await?;
    }
    Ok(())
}

// === impl Request ===

impl<'a> Request<'a> {
    pub fn new(write: &'a Write<'a>, operation: Operation, old: Option<&'a Value>) -> Request<'a> {
        let call = write.call;
        Request {
            call,
            server: &call.server,
            user: &call.user,
            operation,
            kind: &write.stored,
            subresource: &write.subresource,
            namespace: if write.kind.namespaced { &call.info.namespace } else { "" },
            name: call.info.name.clone(),
            old,
            dry_run: write.options.dry_run,
        }
    }

    pub fn deletion(
        call: &'a Call,
        kind: &'a KindDef,
        namespace: &'a str,
        name: &str,
        old: &'a Value,
        dry_run: bool,
    ) -> Request<'a> {
        Request {
            call,
            server: &call.server,
            user: &call.user,
            operation: Operation::Delete,
            kind,
            subresource: "",
            namespace,
            name: name.to_owned(),
            old: Some(old),
            dry_run,
        }
    }

    /// Whether this is about objects of a resource themselves, not a part of them.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.kind.group == group && self.kind.resource == resource && self.subresource.is_empty()
    }

    pub fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource)
    }

    pub fn forbidden(&self, object: &Value, why: &str) -> Status {
        let name = skiff_api::meta::meta(object).name();
        Status::forbidden(
            &self.kind.group_resource(),
            if name.is_empty() { &self.name } else { name },
            why,
        )
    }
}
