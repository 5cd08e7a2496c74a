//! What a Deployment's ReplicaSets say: which one is new, how many pods they stand for, what their annotations mean.
//!
//! Counterpart: `pkg/controller/deployment/util`. Pure. Invariant: the name of a new ReplicaSet is a function of the
//! Deployment's name, its template and its collision count alone, so that a repeated create hits the same name.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::claims::reference_to;
use crate::percentages::{Rounding, resolve};
use crate::pod_template;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations that belong to one object and are never copied from Deployment to ReplicaSet.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    ROLLBACK_TO,
];

/// A Deployment beside what exists of it, with its numbers resolved.
pub struct Rollout {
    pub deployment: Arc<Deployment>,
    /// The ReplicaSet of the current template, if it exists.
    pub new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    /// Whether any pod of an old ReplicaSet has not ended yet.
    pub old_pods_running: bool,
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

// === impl Rollout ===

impl Rollout {
    pub fn new(
        deployment: Arc<Deployment>,
        mut sets: Vec<Arc<ReplicaSet>>,
        old_pods_running: bool,
    ) -> Rollout {
        sets.sort_by(|a, b| age_order(a).cmp(&age_order(b)));
        // The oldest match wins: with several (made by hand) the choice must not flip between reconciles.
        let new = sets.iter().find(|set| same_template(&deployment, set)).cloned();
        let old = sets
            .into_iter()
            .filter(|set| new.as_ref().is_none_or(|new| !Arc::ptr_eq(new, set)))
            .collect();
        let replicas = spec(&deployment).replicas.unwrap_or(1);
        let (max_surge, max_unavailable) = fenceposts(&deployment, replicas);
        Rollout { deployment, new, old, old_pods_running, replicas, max_surge, max_unavailable }
    }

    pub fn spec(&self) -> &DeploymentSpec {
        spec(&self.deployment)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    pub fn recreates(&self) -> bool {
        strategy_type(&self.deployment) == "Recreate"
    }

    pub fn paused(&self) -> bool {
        self.spec().paused == Some(true)
    }

    /// The annotations that let proportional scaling see, later, what size a ReplicaSet was made for.
    pub fn sizes(&self) -> [(&'static str, String); 2] {
        let max = self.replicas + self.max_surge;
        [(DESIRED_REPLICAS, self.replicas.to_string()), (MAX_REPLICAS, max.to_string())]
    }

    /// The ReplicaSet of the current template as it has to be created.
    pub fn blueprint(&self, replicas: i32, revision: i64) -> ReplicaSet {
        let deployment = &self.deployment;
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = pod_template::hash(&self.spec().template, collisions);
        let mut template = self.spec().template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(POD_TEMPLATE_HASH.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec().selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(POD_TEMPLATE_HASH.into(), hash.clone());
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{hash}")),
                namespace: deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![reference_to(deployment.as_ref())]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec().min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotate(&mut set, self, revision);
        set
    }
}

// === numbers ===

pub fn desired(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

pub fn terminating(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
}

pub fn sum<'a>(
    sets: impl Iterator<Item = &'a Arc<ReplicaSet>>,
    number: fn(&ReplicaSet) -> i32,
) -> i32 {
    sets.map(|set| number(set)).sum()
}

fn spec(deployment: &Deployment) -> &DeploymentSpec {
    deployment.spec.as_ref().expect("the API server stores no deployment without a spec")
}

fn strategy_type(deployment: &Deployment) -> &str {
    let strategy = spec(deployment).strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// maxSurge (rounded up) and maxUnavailable (rounded down). Both zero would never move, so one may be missing then.
fn fenceposts(deployment: &Deployment, replicas: i32) -> (i32, i32) {
    if strategy_type(deployment) != "RollingUpdate" {
        return (0, 0);
    }
    let rolling =
        spec(deployment).strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable =
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let (surge, unavailable) =
        (resolve(surge, replicas, Rounding::Up), resolve(unavailable, replicas, Rounding::Down));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(replicas)) }
}

// === templates ===

/// Whether the ReplicaSet was made from the Deployment's current template; the hash label is ours, not the user's.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    without_hash(template) == without_hash(&spec(deployment).template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    template
}

// === annotations and revisions ===

pub fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations
        .as_ref()
        .and_then(|all| all.get(REVISION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// A number that an earlier reconcile wrote beside the ReplicaSet.
pub fn noted(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Brings a ReplicaSet's annotations up to date with its Deployment, keeping the history of revisions it had.
pub fn annotate(set: &mut ReplicaSet, rollout: &Rollout, new_revision: i64) {
    let before = revision(&set.metadata);
    let mut wanted: BTreeMap<String, String> =
        rollout.sizes().map(|(key, value)| (key.to_owned(), value)).into();
    let theirs = rollout.deployment.metadata.annotations.iter().flatten();
    wanted.extend(
        theirs
            .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    let annotations = set.metadata.annotations.get_or_insert_default();
    if before < new_revision {
        wanted.insert(REVISION.into(), new_revision.to_string());
        if before > 0 {
            let history = annotations.get(REVISION_HISTORY).filter(|history| !history.is_empty());
            wanted.insert(
                REVISION_HISTORY.into(),
                history.map_or(before.to_string(), |old| format!("{old},{before}")),
            );
        }
    }
    annotations.extend(wanted);
}

fn age_order(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, set.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn deployment(strategy: &str) -> Deployment {
        yaml(&format!(
            "{{spec: {{replicas: 10, selector: {{}}, template: {{}}, strategy: {strategy}}}}}"
        ))
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let check = |strategy: &str, expected| {
            assert_eq!(fenceposts(&deployment(strategy), 10), expected, "{strategy}")
        };
        check("{type: RollingUpdate}", (3, 2));
        check("{type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}", (0, 1));
        check("{type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 5%}}", (0, 1));
        check("{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 200%}}", (1, 10));
        check("{type: Recreate}", (0, 0));
    }
}
