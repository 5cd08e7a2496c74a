//! What a Job's own rules say: how a pod's failure counts, and whether enough indexes succeeded.
//!
//! A failed pod and the rules in -> the action of the first rule that matches. Succeeded indexes in -> the first success rule met.
//! Counterpart: `pod_failure_policy.go`, `success_policy.go`. Invariant: the first matching rule decides.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

#[derive(Debug, PartialEq)]
pub enum Failure {
    /// Counts towards the back-off limits, as every failure does when no rule matches.
    Count,
    /// As if it had not happened.
    Ignore,
    FailIndex,
    /// The whole Job fails; the message says why.
    FailJob(String),
}

/// How the failure of `pod` is to be taken.
pub fn failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    let rules = policy.iter().flat_map(|policy| &policy.rules).enumerate();
    let matched =
        rules.filter_map(|(position, rule)| Some((position, rule, cause(rule, pod)?))).next();
    let Some((position, rule, cause)) = matched else { return Failure::Count };
    match rule.action.as_str() {
        "Ignore" => Failure::Ignore,
        "FailIndex" => Failure::FailIndex,
        "FailJob" => {
            Failure::FailJob(format!("{cause} matching {} rule at index {position}", rule.action))
        }
        _ => Failure::Count,
    }
}

/// Why the rule matches, in the words of the message; none if it does not.
fn cause(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let main = status.container_statuses.iter().flatten();
        let statuses = main.chain(status.init_container_statuses.iter().flatten());
        let (container, code) = statuses.filter_map(|status| exited(codes, status)).next()?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let condition = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", condition.type_))
}

fn exited<'a>(
    rule: &PodFailurePolicyOnExitCodesRequirement,
    status: &'a ContainerStatus,
) -> Option<(&'a str, i32)> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let meant = rule.container_name.as_ref().is_none_or(|name| *name == status.name);
    let listed = rule.values.contains(&code);
    let matches = match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (code != 0 && meant && matches).then_some((status.name.as_str(), code))
}

/// Why the Job has succeeded early, if it has.
pub fn success(
    policy: Option<&SuccessPolicy>,
    completions: usize,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| {
        let enough = |count: usize| {
            rule.succeeded_count.is_some_and(|wanted| i64::from(wanted) <= count as i64)
        };
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let have = wanted.overlap(succeeded);
                !wanted.is_empty() && (have == wanted.count() || enough(have))
            }
            None => enough(succeeded.count()),
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const POD: &str = "
        metadata: {name: p, namespace: ns}
        status:
          phase: Failed
          conditions: [{type: DisruptionTarget, status: 'True'}]
          initContainerStatuses: [{name: init, image: i, imageID: i, ready: false, restartCount: 0, state: {terminated: {exitCode: 7}}}]
          containerStatuses:
          - {name: a, image: i, imageID: i, ready: false, restartCount: 0, state: {terminated: {exitCode: 0}}}
          - {name: b, image: i, imageID: i, ready: false, restartCount: 0, state: {terminated: {exitCode: 42}}}
          - {name: c, image: i, imageID: i, ready: false, restartCount: 0, state: {running: {}}}";

    #[test]
    fn the_first_matching_rule_decides_how_a_failure_counts() {
        let job = |message: &str| Failure::FailJob(message.into());
        for (rules, expected) in [
            ("[]", Failure::Count),
            ("[{action: Ignore, onExitCodes: {operator: In, values: [1]}}]", Failure::Count),
            ("[{action: Ignore, onExitCodes: {operator: In, values: [1, 42]}}]", Failure::Ignore),
            ("[{action: Ignore, onExitCodes: {operator: NotIn, values: [42, 7]}}]", Failure::Count),
            (
                "[{action: FailIndex, onExitCodes: {containerName: init, operator: NotIn, values: [42]}}]",
                Failure::FailIndex,
            ),
            (
                "[{action: Count, onPodConditions: [{type: DisruptionTarget, status: 'True'}]},
                  {action: Ignore, onExitCodes: {operator: In, values: [42]}}]",
                Failure::Count,
            ),
            (
                "[{action: Ignore, onPodConditions: [{type: DisruptionTarget, status: 'False'}]},
                  {action: FailJob, onPodConditions: [{type: DisruptionTarget, status: 'True'}]}]",
                job("Pod ns/p has condition DisruptionTarget matching FailJob rule at index 1"),
            ),
            (
                "[{action: FailJob, onExitCodes: {containerName: b, operator: In, values: [42]}}]",
                job(
                    "Container b for pod ns/p failed with exit code 42 matching FailJob rule at index 0",
                ),
            ),
        ] {
            let policy: PodFailurePolicy = yaml(&format!("{{rules: {rules}}}"));
            assert_eq!(failure(Some(&policy), &yaml(POD)), expected, "{rules}");
        }
        assert_eq!(failure(None, &yaml(POD)), Failure::Count);
    }

    #[test]
    fn success_is_by_indexes_by_count_or_by_both() {
        for (rules, succeeded, met) in [
            ("[{succeededIndexes: 0-2}]", "0-1", None),
            ("[{succeededIndexes: 0-2}]", "0-3", Some(0)),
            ("[{succeededIndexes: 0-2, succeededCount: 1}]", "2", Some(0)),
            ("[{succeededCount: 3}]", "1,5", None),
            ("[{succeededCount: 3}, {succeededIndexes: '5'}]", "1,5", Some(1)),
            ("[{succeededCount: 0}]", "", None),
        ] {
            let policy: SuccessPolicy = yaml(&format!("{{rules: {rules}}}"));
            let message = success(Some(&policy), 10, &Indexes::parse(succeeded, 10));
            let expected = met.map(|index: usize| format!("Matched rules at index {index}"));
            assert_eq!(message, expected, "{rules}");
        }
    }
}
