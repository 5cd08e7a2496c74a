//! What validating policies say about an object, and what becomes of it: a refusal, a warning, a line of audit.
//!
//! Policies + request -> [`Decision`]s -> the first denial, or none. Counterpart: `policy/validating` (`dispatcher.go`,
//! `validator.go`).

use serde_json::{Value as Json, json};
use skiff_api::status::Cause;
use skiff_api::{Reason, Status};
use skiff_cel::{MATCH_CONDITIONS_BUDGET, RUNTIME_BUDGET, Value};

use super::policy::{Action, Binding, Policies, Policy, Validation};
use super::{Invocation, invocations, subject};
use crate::admission::Request;
use crate::admission::evaluation::{Evaluation, Failure, Subject};

/// A validation that did not hold, or could not be evaluated.
struct Decision {
    /// Which validation of the policy.
    at: usize,
    message: String,
    reason: Reason,
}

/// What the client is told of a denial.
struct Denial {
    message: String,
    reason: Reason,
}

/// A longer or many-lined message is not shown.
const MAX_MESSAGE: usize = 5 * 1024;
const MAX_ANNOTATION: usize = 10 * 1024;
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

pub async fn judge(
    policies: &Policies,
    request: &Request<'_>,
    object: &Json,
) -> Result<(), Status> {
    let mut denials = Vec::new();
    for policy in &policies.list {
        denials.extend(judge_by(policy, request, object).await?);
    }
    match denials.into_iter().next() {
        None => Ok(()),
        Some(denial) => Err(refusal(request, object, denial)),
    }
}

async fn judge_by(
    policy: &Policy,
    request: &Request<'_>,
    object: &Json,
) -> Result<Vec<Denial>, Status> {
    let found = match policy.criteria.matches(request, object).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Vec::new()),
        Err(_) if policy.ignores_failures => return Ok(Vec::new()),
        Err(status) => {
            let message = format!("failed to configure policy: {}", status.message);
            return Ok(vec![denied(policy, None, message, Reason::Invalid)]);
        }
    };
    let (invocations, faults) = invocations(policy, request, object).await;
    let faults = faults.iter().filter(|_| !policy.ignores_failures);
    let mut denials: Vec<Denial> =
        faults.map(|f| denied(policy, f.binding, f.message(), Reason::Invalid)).collect();
    if invocations.is_empty() {
        return Ok(denials);
    }
    let subject = subject(request, &found, object).await?;
    let mut annotations = Annotations::default();
    for invocation in &invocations {
        for decision in decide(invocation, &subject) {
            denials.extend(enforce(request, invocation, decision));
        }
        denials.extend(annotations.collect(invocation, &subject));
    }
    annotations.publish(policy, request);
    Ok(denials)
}

/// Does what the binding says is to be done about a validation that does not hold.
fn enforce(
    request: &Request<'_>,
    invocation: &Invocation<'_>,
    decision: Decision,
) -> Option<Denial> {
    let (policy, binding) = (invocation.policy, invocation.binding);
    let mut denial = None;
    for action in &binding.actions {
        match action {
            Action::Deny => {
                let (message, reason) = (decision.message.clone(), decision.reason.clone());
                denial = Some(denied(policy, Some(binding), message, reason));
            }
            Action::Warn => request.call.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, decision.message
            )),
            Action::Audit => annotate_failure(request, policy, binding, &decision),
        }
    }
    denial
}

fn annotate_failure(
    request: &Request<'_>,
    policy: &Policy,
    binding: &Binding,
    decision: &Decision,
) {
    let actions: Vec<&str> = binding.actions.iter().map(|action| action.name()).collect();
    let failure = json!([{
        "message": decision.message,
        "policy": policy.name,
        "binding": binding.name,
        "expressionIndex": decision.at,
        "validationActions": actions,
    }]);
    request.annotate(FAILURE_ANNOTATION, &failure.to_string());
}

fn denied(policy: &Policy, binding: Option<&Binding>, why: String, reason: Reason) -> Denial {
    let with = binding.map(|binding| format!(" with binding '{}'", binding.name));
    let message = format!(
        "ValidatingAdmissionPolicy '{}'{} denied request: {why}",
        policy.name,
        with.unwrap_or_default()
    );
    Denial { message, reason }
}

fn refusal(request: &Request<'_>, object: &Json, denial: Denial) -> Status {
    let mut status = request.forbidden(object, &denial.message);
    status.code = match denial.reason {
        Reason::Forbidden => 403,
        Reason::Unauthorized => 401,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    status.reason = denial.reason;
    let details = status.details.get_or_insert_default();
    details.causes.push(Cause { message: denial.message, ..Cause::default() });
    status
}

// === decisions ===

fn decide(invocation: &Invocation<'_>, subject: &Subject) -> Vec<Decision> {
    let (policy, params) = (invocation.policy, invocation.params.as_ref());
    let failed = |message: String| match policy.ignores_failures {
        true => Vec::new(),
        false => vec![Decision { at: 0, message, reason: Reason::Invalid }],
    };
    let round = |budget: u64| Evaluation::new(subject, params, &policy.variables, budget);
    match policy.conditions.hold(&round(MATCH_CONDITIONS_BUDGET)) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(message) => return failed(message),
    }
    let evaluation = round(RUNTIME_BUDGET);
    let mut outcomes = Vec::new();
    for validation in &policy.validations {
        match evaluation.evaluate(&validation.expression) {
            Err(Failure::OutOfBudget) => return failed(Failure::OutOfBudget.into_message()),
            outcome => outcomes.push(outcome),
        }
    }
    // Messages are paid for out of what the validations left.
    let messages = round(evaluation.budget());
    let judged = outcomes.into_iter().zip(&policy.validations).enumerate();
    let decisions = judged.filter_map(|(at, (outcome, validation))| match outcome {
        Ok(Value::Bool(true)) => None,
        Ok(_) => {
            let message = message(validation, &messages);
            Some(Decision { at, message, reason: validation.reason.clone() })
        }
        Err(_) if policy.ignores_failures => None,
        Err(failure) => {
            Some(Decision { at, message: failure.into_message(), reason: Reason::Invalid })
        }
    });
    decisions.collect()
}

/// What the expression for it says, else the fixed message, else the expression that failed.
fn message(validation: &Validation, evaluation: &Evaluation<'_>) -> String {
    let told = validation.message_expression.as_ref().map(|told| evaluation.evaluate(told));
    let told = match told {
        Some(Ok(Value::String(text))) => text.trim().to_owned(),
        _ => String::new(),
    };
    if !told.is_empty() && told.len() <= MAX_MESSAGE && !told.contains('\n') {
        return told;
    }
    match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.expression.text.trim()),
        message => message.to_owned(),
    }
}

// === audit annotations ===

/// Key -> its different values, in the order they came.
#[derive(Default)]
struct Annotations(Vec<(String, Vec<String>)>);

impl Annotations {
    /// Evaluates the policy's annotations; what fails denies, unless failures pass.
    fn collect(&mut self, invocation: &Invocation<'_>, subject: &Subject) -> Vec<Denial> {
        let (policy, params) = (invocation.policy, invocation.params.as_ref());
        let evaluation = Evaluation::new(subject, params, &policy.variables, RUNTIME_BUDGET);
        let mut denials = Vec::new();
        if policy.audits.is_empty() || policy.conditions.hold(&evaluation) != Ok(true) {
            return denials;
        }
        for (key, expression) in &policy.audits {
            match evaluation.evaluate(expression) {
                Ok(Value::String(text)) => self.add(key, text.trim()),
                Ok(_) => {}
                Err(_) if policy.ignores_failures => {}
                Err(failure) => {
                    let why = failure.into_message();
                    denials.push(denied(policy, Some(invocation.binding), why, Reason::Invalid));
                }
            }
        }
        denials
    }

    fn add(&mut self, key: &str, text: &str) {
        let text: String = text.chars().take(MAX_ANNOTATION).collect();
        if text.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) if values.contains(&text) => {}
            Some((_, values)) => values.push(text),
            None => self.0.push((key.to_owned(), vec![text])),
        }
    }

    fn publish(self, policy: &Policy, request: &Request<'_>) {
        for (key, values) in self.0 {
            request.annotate(&format!("{}/{key}", policy.name), &values.join(", "));
        }
    }
}
