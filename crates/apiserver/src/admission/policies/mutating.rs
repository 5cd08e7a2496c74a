//! What mutating policies change in an object, one after the other.
//!
//! Policies + request -> the object as they leave it, or a refusal that lists every policy that failed. Counterpart:
//! `policy/mutating/dispatcher.go` over `policy/generic/policy_dispatcher.go`.

use serde_json::Value as Json;
use skiff_api::status::Cause;
use skiff_api::{Reason, Status};
use skiff_cel::MATCH_CONDITIONS_BUDGET;

use super::policy::{Mutation, Policies, Policy};
use super::{Invocation, Misconfigured, invocations, patch, subject};
use crate::admission::evaluation::Evaluation;
use crate::admission::matching::Match;
use crate::admission::reinvocation::Invoked;
use crate::admission::{Request, versions};

/// Why a policy did not do what it should have.
struct Fault {
    message: String,
    /// Configuration errors leave the reason at Forbidden.
    evaluated: bool,
}

pub async fn change(
    policies: &Policies,
    request: &Request<'_>,
    object: &mut Json,
) -> Result<(), Status> {
    invoked(request).begin(request.reinvocation.is_second(), object);
    let mut faults = Vec::new();
    for policy in &policies.list {
        faults.extend(change_by(policy, request, object).await?);
    }
    invoked(request).end(object);
    match faults.is_empty() {
        true => Ok(()),
        false => Err(refusal(request, object, faults)),
    }
}

fn invoked<'a>(request: &'a Request<'_>) -> std::sync::MutexGuard<'a, Invoked> {
    request.reinvocation.policies.lock().expect("no panic while held")
}

/// The faults that count, given the policy's own word on failures.
async fn change_by(
    policy: &Policy,
    request: &Request<'_>,
    object: &mut Json,
) -> Result<Vec<Fault>, Status> {
    let found = match policy.criteria.matches(request, object).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Vec::new()),
        Err(status) => {
            let why = status.message;
            let fault = configuration_fault(&Misconfigured { policy, binding: None, why });
            return Ok(counting(policy, vec![fault]));
        }
    };
    let (invocations, misconfigured) = invocations(policy, request, object).await;
    let mut faults: Vec<Fault> = misconfigured.iter().map(configuration_fault).collect();
    for invocation in &invocations {
        faults.extend(invoke(invocation, request, &found, object).await?);
    }
    Ok(counting(policy, faults))
}

fn counting(policy: &Policy, faults: Vec<Fault>) -> Vec<Fault> {
    if policy.ignores_failures { Vec::new() } else { faults }
}

fn configuration_fault(misconfigured: &Misconfigured<'_>) -> Fault {
    let policy = &misconfigured.policy.name;
    let message = match misconfigured.binding {
        Some(binding) => format!(
            "policy '{policy}' with binding '{}' denied request: {}",
            binding.name,
            misconfigured.message()
        ),
        None => format!("policy {policy:?} denied request: {}", misconfigured.message()),
    };
    Fault { message, evaluated: false }
}

async fn invoke(
    invocation: &Invocation<'_>,
    request: &Request<'_>,
    found: &Match,
    object: &mut Json,
) -> Result<Vec<Fault>, Status> {
    let policy = invocation.policy;
    let fault = |why: String| Fault {
        message: format!(
            "policy '{}' with binding '{}' denied request: {why}",
            policy.name, invocation.binding.name
        ),
        evaluated: true,
    };
    let mut subject = subject(request, found, object).await?;
    let params = invocation.params.as_ref();
    let conditions = Evaluation::new(&subject, params, &policy.variables, MATCH_CONDITIONS_BUDGET);
    match policy.conditions.hold(&conditions) {
        Ok(true) => {}
        Ok(false) => return Ok(Vec::new()),
        Err(why) => return Ok(vec![fault(why)]),
    }
    let id = invocation.id();
    if request.reinvocation.is_second() && !invoked(request).is_due(&id) {
        return Ok(Vec::new());
    }
    let mut faults = Vec::new();
    let before = object.clone();
    for mutation in policy.mutations.iter().filter(|_| !before.is_null()) {
        match patch::mutated(mutation, invocation, &found.kind, &subject) {
            Ok(patched) => {
                // A JSON patch is held to the fields there are; what is applied was already.
                let strict = matches!(mutation, Mutation::JsonPatch(_));
                *object = versions::taken_back(request, &found.kind, patched, strict)?;
                subject.object = versions::shown(request, &found.kind, object)?;
            }
            Err(why) => faults.push(fault(why)),
        }
    }
    if *object != before {
        invoked(request).changed();
        request.reinvocation.want();
    }
    if policy.reinvoke {
        invoked(request).ran(&id);
    }
    Ok(faults)
}

/// The first fault is the message; all are causes.
fn refusal(request: &Request<'_>, object: &Json, faults: Vec<Fault>) -> Status {
    let mut status = request.forbidden(object, "admission request denied by policy");
    if let Some(first) = faults.first() {
        status.message = first.message.clone();
        if first.evaluated {
            status.reason = Reason::Invalid;
        }
    }
    let causes =
        faults.into_iter().map(|fault| Cause { message: fault.message, ..Cause::default() });
    status.details.get_or_insert_default().causes.extend(causes);
    status
}
