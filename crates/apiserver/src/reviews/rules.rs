//! SelfSubjectRulesReview: everything the caller may do in a namespace.

use serde_json::{Value, json};
use skiff_api::Status;

use super::text;
use crate::authz::rbac::{aggregate, missing_role};
use crate::authz::rules::{PolicyRule, everything};
use crate::call::Call;
use crate::user::PRIVILEGED_GROUP;

pub async fn of_self(call: &Call, object: &mut Value) -> Result<(), Status> {
    let namespace = text(&object["spec"], "namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let policy = call.server.rbac.policy(&call.server.store).await?;
    let (mut rules, missing) = policy.rules_of(&call.user, &namespace);
    if call.user.is_in(PRIVILEGED_GROUP) {
        rules.splice(0..0, everything());
    }
    let (resources, others): (Vec<&PolicyRule>, Vec<&PolicyRule>) =
        rules.iter().partition(|rule| !rule.resources.is_empty());
    let resources: Vec<Value> = resources.into_iter().map(|rule| json!(rule)).collect();
    let others: Vec<Value> = others
        .into_iter()
        .filter(|rule| !rule.non_resource_urls.is_empty())
        .map(|rule| json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }))
        .collect();
    // The answer repeats nothing of the question.
    object["spec"] = json!({});
    object["metadata"] = json!({});
    let mut status =
        json!({ "resourceRules": resources, "nonResourceRules": others, "incomplete": false });
    let problems = missing.iter().map(|(kind, name)| missing_role(kind, name));
    let mut faults = vec![aggregate(problems.collect())];
    let unlisted = call.server.authorizers.iter().filter_map(|one| one.unlisted(&call.user));
    let unlisted: Vec<String> = unlisted.map(str::to_owned).collect();
    if !unlisted.is_empty() {
        status["incomplete"] = true.into();
        faults.splice(0..0, unlisted);
    }
    faults.retain(|fault| !fault.is_empty());
    if !faults.is_empty() {
        status["evaluationError"] = aggregate(faults).into();
    }
    object["status"] = status;
    Ok(())
}
