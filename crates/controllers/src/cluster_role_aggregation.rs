//! ClusterRoles that are the sum of others.
//!
//! Roles with labels in, the rules of those with an `aggregationRule` out. Counterpart:
//! `pkg/controller/clusterroleaggregation`. Invariant: an aggregated role's rules are those of the roles that its
//! selectors choose, in the order of their names, each once; what else stood there goes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use serde_json::json;
use skiff_api::scheduling::{Labels, Selector};

use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const NAME: &str = "clusterrole-aggregation-controller";

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 1,
    watches: |edges| {
        // Any role may be part of any sum.
        edges.mapped::<ClusterRole>(|caches, delta| {
            let all = caches.store::<ClusterRole>().all();
            let sums = all.iter().filter(|role| role.aggregation_rule.is_some());
            let changed =
                std::iter::once(delta.latest()).filter(|role| role.aggregation_rule.is_some());
            sums.chain(changed).map(|role| Key::of(role.as_ref())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let roles = ctx.lister::<ClusterRole>();
    let Some(role) = roles.get(&key) else { return Ok(Action::Done) };
    if let Some(rules) = plan(&role, &roles.all()) {
        let applied = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": key.name }, "rules": rules,
        });
        ctx.apply::<ClusterRole>(&key, NAME, &applied).await?;
    }
    Ok(Action::Done)
}

/// The rules that the role should have, if it has others.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let AggregationRule { cluster_role_selectors } = role.aggregation_rule.as_ref()?;
    let mut sources: Vec<&Arc<ClusterRole>> =
        all.iter().filter(|other| other.metadata.name != role.metadata.name).collect();
    sources.sort_by_key(|source| &source.metadata.name);
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in cluster_role_selectors.iter().flatten() {
        let selector = Selector::of(selector);
        for source in sources.iter().filter(|source| selects(&selector, source)) {
            for rule in source.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

fn selects(selector: &Selector, role: &ClusterRole) -> bool {
    selector.matches(role.metadata.labels.as_ref().unwrap_or(&Labels::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn role(name: &str, labels: &str, verbs: &str) -> Arc<ClusterRole> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, labels: {labels}}}, rules: [{{verbs: [{verbs}], apiGroups: [''], resources: [pods]}}]}}"
        )))
    }

    #[test]
    fn a_sum_follows_its_parts_and_is_then_left_alone() {
        let sum: ClusterRole = yaml(
            "{metadata: {name: sum, labels: {part: 'yes'}}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {part: 'yes'}}]}, \
             rules: [{verbs: [stale]}]}",
        );
        let parts = [
            role("b", "{part: 'yes'}", "list"),
            role("a", "{part: 'yes'}", "get"),
            role("again", "{part: 'yes'}", "get"),
            role("other", "{part: 'no'}", "delete"),
            Arc::new(sum.clone()),
        ];
        let rules = plan(&sum, &parts).expect("other rules");
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(plan(&ClusterRole { rules: Some(rules), ..sum }, &parts), None);
        assert_eq!(plan(&parts[0], &parts), None);
    }
}
