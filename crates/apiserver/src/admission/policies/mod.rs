//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules and changes that cluster operators write as expressions.
//!
//! Request -> the [`Policy`]s it matches, each with its bindings and their parameters -> changes, warnings, audit annotations or a
//! refusal. Counterpart: `k8s.io/apiserver/pkg/admission/plugin/policy`.
//! Invariant: expressions are compiled once per change of their policy.

mod mutating;
mod params;
mod patch;
mod policy;
mod validating;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;

pub use self::policy::Policies;
use self::policy::{Binding, Policy};
use super::asking::RequestAuthorizer;
use super::configured::{Configuration, Phase};
use super::evaluation::Subject;
use super::matching::{Interest, Match};
use super::{Plugin, Request, versions};
use crate::objects;

pub struct MutatingAdmissionPolicy;
pub struct ValidatingAdmissionPolicy;

/// A binding that applies to a request, with one of its parameters.
struct Invocation<'a> {
    policy: &'a Policy,
    binding: &'a Binding,
    params: Option<Value>,
}

/// Why a policy cannot say anything about a request.
struct Misconfigured<'a> {
    policy: &'a Policy,
    binding: Option<&'a Binding>,
    why: String,
}

impl Configuration for Policies {
    fn interest(&self) -> &Interest {
        &self.interest
    }

    async fn load(request: &Request<'_>, phase: Phase) -> Result<Policies, Status> {
        let (server, prefix) = (request.server, phase.prefix());
        let policies = objects::all(server, &format!("{prefix}admissionpolicies/")).await?;
        let bindings = objects::all(server, &format!("{prefix}admissionpolicybindings/")).await?;
        Ok(Policies::read(&policies, &bindings))
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.server.admission.policies.may_concern(request, Phase::Validating)
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let all = &request.server.admission.policies;
        match all.concerning(request, Phase::Validating).await? {
            Some(policies) => validating::judge(&policies, request, object).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.server.admission.policies.may_concern(request, Phase::Mutating)
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let all = &request.server.admission.policies;
        match all.concerning(request, Phase::Mutating).await? {
            Some(policies) => mutating::change(&policies, request, object).await,
            None => Ok(()),
        }
    }
}

/// The bindings of a policy that apply, each with its parameters.
async fn invocations<'a>(
    policy: &'a Policy,
    request: &Request<'_>,
    object: &Value,
) -> (Vec<Invocation<'a>>, Vec<Misconfigured<'a>>) {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    if let Some(why) = params::unknown_kind(policy, request) {
        faults.push(Misconfigured { policy, binding: None, why });
        return (found, faults);
    }
    for binding in &policy.bindings {
        let mut misconfigured =
            |why: String| faults.push(Misconfigured { policy, binding: Some(binding), why });
        match binding.matches(request, object).await {
            Ok(false) => continue,
            Ok(true) => {}
            Err(status) => {
                misconfigured(status.message);
                continue;
            }
        }
        match params::collect(policy, binding, request, object).await {
            Ok(all) => {
                found.extend(all.into_iter().map(|params| Invocation { policy, binding, params }))
            }
            Err(why) => misconfigured(why),
        }
    }
    (found, faults)
}

/// What expressions are shown of a request.
async fn subject(request: &Request<'_>, found: &Match, object: &Value) -> Result<Subject, Status> {
    let old = request.old.unwrap_or(&Value::Null);
    Ok(Subject {
        object: versions::shown(request, &found.kind, object)?,
        old: versions::shown(request, &found.kind, old)?,
        request: super::webhooks::review::attributes(request, found, object),
        namespace: namespace_of(request).await?,
        authorizer: Arc::new(RequestAuthorizer::of(request)),
    })
}

/// Null for what is in no namespace; a Namespace is not in itself.
async fn namespace_of(request: &Request<'_>) -> Result<Value, Status> {
    if request.namespace.is_empty() {
        return Ok(Value::Null);
    }
    let found = objects::find(request.server, "namespaces", "", request.namespace).await?;
    Ok(found.unwrap_or_default())
}

impl Misconfigured<'_> {
    /// What the client reads, where the policy does not let such failures pass.
    fn message(&self) -> String {
        let what = if self.binding.is_some() { "binding" } else { "policy" };
        format!("failed to configure {what}: {}", self.why)
    }
}

impl Invocation<'_> {
    /// Tells this from any other binding and parameter.
    fn id(&self) -> String {
        let params = self.params.as_ref().map(|params| meta(params));
        let params = params.map(|of| format!("{}/{}", of.namespace(), of.name()));
        format!("{}/{}/{}", self.policy.name, self.binding.name, params.unwrap_or_default())
    }
}
