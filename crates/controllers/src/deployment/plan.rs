//! The next steps of a rollout.
//!
//! `Rollout` in -> `Vec<Op>` out; an empty plan means there is nothing to do until something changes.
//! Counterpart: sync.go, rolling.go, recreate.go, progress of `pkg/controller/deployment`.
//! Invariant: sizes are decided from what the ReplicaSets are told to be (`spec.replicas`), availability from what they
//! report; a lagging report can only make the rollout slower, never unsafe.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::replica_sets::{
    self, DESIRED_REPLICAS, MAX_REPLICAS, Rollout, actual, annotate, available, desired, noted,
    revision, sum,
};
use super::status::is_complete;

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Create(Box<ReplicaSet>),
    /// Annotations or minReadySeconds, not the size.
    Update(Box<ReplicaSet>),
    /// `set` already holds the new size and annotations.
    Scale {
        set: Box<ReplicaSet>,
        from: i32,
        to: i32,
    },
    Delete(Arc<ReplicaSet>),
    /// The revision annotation of the Deployment itself.
    SetRevision(i64),
}

pub fn plan(rollout: &Rollout, now: Timestamp) -> Vec<Op> {
    let mut ops = sync_revision(rollout);
    if rollout.paused() || is_scaling_event(rollout) {
        ops.extend(rescale(rollout));
        if rollout.paused() {
            ops.extend(clean_up(rollout));
        }
        return in_one_write(ops);
    }
    ops.extend(if rollout.recreates() { recreate(rollout) } else { roll(rollout) });
    if ops.is_empty() && is_complete(rollout, now) {
        ops = clean_up(rollout);
    }
    in_one_write(ops)
}

/// Two changes of one ReplicaSet would conflict: the second is based on the same version. The later step comes again.
fn in_one_write(ops: Vec<Op>) -> Vec<Op> {
    let updated = |set: &ReplicaSet| {
        ops.iter()
            .any(|op| matches!(op, Op::Update(update) if update.metadata.name == set.metadata.name))
    };
    let kept = ops.iter().filter(|op| !matches!(op, Op::Scale { set, .. } if updated(set)));
    kept.cloned().collect()
}

// === revisions ===

/// The new ReplicaSet bears the highest revision, and the Deployment shows it.
fn sync_revision(rollout: &Rollout) -> Vec<Op> {
    let Some(new) = &rollout.new else { return Vec::new() };
    let mut ops = Vec::new();
    let mut updated = new.as_ref().clone();
    annotate(&mut updated, rollout, next_revision(rollout));
    if let Some(spec) = updated.spec.as_mut() {
        spec.min_ready_seconds = rollout.spec().min_ready_seconds;
    }
    let shown = revision(&updated.metadata);
    // A size note that is out of date tells `is_scaling_event` to rescale; only the rescaling may overwrite it.
    if is_scaling_event(rollout) {
        keep_size_notes(&mut updated, new);
    }
    if updated != **new {
        ops.push(Op::Update(Box::new(updated)));
    }
    if revision(&rollout.deployment.metadata) != shown {
        ops.push(Op::SetRevision(shown));
    }
    ops
}

fn keep_size_notes(updated: &mut ReplicaSet, before: &ReplicaSet) {
    let annotations = updated.metadata.annotations.get_or_insert_default();
    for key in [DESIRED_REPLICAS, MAX_REPLICAS] {
        match before.metadata.annotations.as_ref().and_then(|all| all.get(key)) {
            Some(value) => annotations.insert(key.into(), value.clone()),
            None => annotations.remove(key),
        };
    }
}

fn next_revision(rollout: &Rollout) -> i64 {
    rollout.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1
}

// === strategies ===

fn roll(rollout: &Rollout) -> Vec<Op> {
    let Some(new) = &rollout.new else {
        let blueprint = rollout.blueprint(room_for_new(rollout, 0), next_revision(rollout));
        return vec![Op::Create(Box::new(blueprint))];
    };
    let size = desired(new);
    let target =
        if size > rollout.replicas { rollout.replicas } else { room_for_new(rollout, size) };
    if target != size {
        return vec![scale(rollout, new, target)];
    }
    shrink_old(rollout)
}

/// How large the new ReplicaSet may be now, given the surge.
fn room_for_new(rollout: &Rollout, size: i32) -> i32 {
    let room = rollout.replicas + rollout.max_surge - sum(rollout.all(), desired);
    size + room.min(rollout.replicas - size).max(0)
}

/// Takes pods away from old ReplicaSets: first those that are not available anyway, then as many as may be missed.
fn shrink_old(rollout: &Rollout) -> Vec<Op> {
    let min_available = rollout.replicas - rollout.max_unavailable;
    let new_unavailable = rollout.new.iter().map(|new| desired(new) - available(new)).sum::<i32>();
    let spare = sum(rollout.all(), desired) - min_available - new_unavailable;
    let mut sizes: Vec<i32> = rollout.old.iter().map(|set| desired(set)).collect();
    if spare <= 0 || sizes.iter().all(|size| *size == 0) {
        return Vec::new();
    }
    let mut unhealthy = spare;
    for (set, size) in rollout.old.iter().zip(&mut sizes) {
        let cut = (*size - available(set)).clamp(0, unhealthy);
        *size -= cut;
        unhealthy -= cut;
    }
    let mut healthy = (sum(rollout.all(), available) - min_available).max(0).min(unhealthy);
    for size in &mut sizes {
        let cut = healthy.min(*size);
        *size -= cut;
        healthy -= cut;
    }
    let changed = rollout.old.iter().zip(sizes).filter(|(set, size)| desired(set) != *size);
    changed.map(|(set, size)| scale(rollout, set, size)).collect()
}

fn recreate(rollout: &Rollout) -> Vec<Op> {
    let stops: Vec<Op> = rollout
        .old
        .iter()
        .filter(|set| desired(set) > 0)
        .map(|set| scale(rollout, set, 0))
        .collect();
    if !stops.is_empty() || rollout.old_pods_running {
        return stops;
    }
    match &rollout.new {
        None => {
            vec![Op::Create(Box::new(rollout.blueprint(rollout.replicas, next_revision(rollout))))]
        }
        Some(new) if desired(new) != rollout.replicas => {
            vec![scale(rollout, new, rollout.replicas)]
        }
        Some(_) => Vec::new(),
    }
}

// === scaling ===

/// The Deployment's size changed since its ReplicaSets were last sized.
fn is_scaling_event(rollout: &Rollout) -> bool {
    let active = rollout.all().filter(|set| desired(set) > 0);
    active
        .into_iter()
        .any(|set| noted(set, DESIRED_REPLICAS).is_some_and(|noted| noted != rollout.replicas))
}

/// Follows a change of size without moving the rollout: in proportion, if several ReplicaSets have pods.
fn rescale(rollout: &Rollout) -> Vec<Op> {
    let active: Vec<&Arc<ReplicaSet>> = rollout.all().filter(|set| desired(set) > 0).collect();
    let only = match active.as_slice() {
        [] => rollout.new.as_ref().or(rollout.old.last()),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        let wanted = scale(rollout, only, rollout.replicas);
        return changes(only, &wanted).then_some(wanted).into_iter().collect();
    }
    if rollout.new.as_ref().is_some_and(|new| is_saturated(rollout, new)) {
        let old = rollout.old.iter().filter(|set| desired(set) > 0);
        return old.map(|set| scale(rollout, set, 0)).collect();
    }
    if rollout.recreates() { Vec::new() } else { proportionally(rollout, active) }
}

fn is_saturated(rollout: &Rollout, set: &ReplicaSet) -> bool {
    let wanted = rollout.replicas;
    desired(set) == wanted
        && available(set) == wanted
        && noted(set, DESIRED_REPLICAS) == Some(wanted)
}

/// Shares the difference out by size; the largest ReplicaSet takes what rounding leaves.
fn proportionally(rollout: &Rollout, mut active: Vec<&Arc<ReplicaSet>>) -> Vec<Op> {
    let allowed = if rollout.replicas > 0 { rollout.replicas + rollout.max_surge } else { 0 };
    let difference = allowed - active.iter().map(|set| desired(set)).sum::<i32>();
    // Of equal sizes, the newer one grows first and the older one shrinks first. `active` comes oldest first.
    if difference > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(desired(set)));
    let mut left = difference;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let share = share_of(rollout, set);
        let share = if difference > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        left -= share;
        sizes.push(desired(set) + share);
    }
    sizes[0] = (sizes[0] + left).max(0);
    let wanted = active.iter().zip(sizes).map(|(set, size)| (set, scale(rollout, set, size)));
    wanted.filter(|(set, op)| changes(set, op)).map(|(_, op)| op).collect()
}

/// By how much a ReplicaSet changes if it keeps its part of the whole.
fn share_of(rollout: &Rollout, set: &ReplicaSet) -> i32 {
    let size = desired(set);
    if rollout.replicas == 0 {
        return -size;
    }
    let shown = rollout.deployment.status.as_ref().and_then(|status| status.replicas);
    let before =
        noted(set, MAX_REPLICAS).or(shown).filter(|before| *before > 0).unwrap_or(rollout.replicas);
    let whole = f64::from(rollout.replicas + rollout.max_surge);
    let part = f64::from(size) * whole / f64::from(before);
    // A share of a 32-bit size: rounding cannot leave the range by more than the cast saturates.
    part.round() as i32 - size
}

fn scale(rollout: &Rollout, set: &Arc<ReplicaSet>, to: i32) -> Op {
    let mut scaled = set.as_ref().clone();
    let from = desired(set);
    scaled.spec.get_or_insert_default().replicas = Some(to);
    let annotations = scaled.metadata.annotations.get_or_insert_default();
    annotations.extend(rollout.sizes().map(|(key, value)| (key.to_owned(), value)));
    Op::Scale { set: Box::new(scaled), from, to }
}

fn changes(set: &ReplicaSet, op: &Op) -> bool {
    matches!(op, Op::Scale { set: scaled, .. } if **scaled != *set)
}

// === history ===

/// Deletes the oldest ReplicaSets without pods, beyond the history that `rollout undo` may want.
fn clean_up(rollout: &Rollout) -> Vec<Op> {
    let Some(limit) = rollout.spec().revision_history_limit else { return Vec::new() };
    let mut old: Vec<&Arc<ReplicaSet>> =
        rollout.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| replica_sets::revision(&set.metadata));
    let empty = |set: &ReplicaSet| {
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        desired(set) == 0 && actual(set) == 0 && set.metadata.generation <= observed
    };
    old.into_iter()
        .take(excess)
        .filter(|set| empty(set))
        .map(|set| Op::Delete(set.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::apps::v1::Deployment;

    struct Case {
        deployment: Deployment,
        sets: Vec<Arc<ReplicaSet>>,
    }

    /// A Deployment of `replicas` with template image `new`, surge 1 and unavailable 1 unless `spec` says otherwise.
    fn case(replicas: i32, spec: &str) -> Case {
        let mut deployment: Deployment = yaml(&format!(
            "{{metadata: {{name: web, namespace: ns, uid: d1, annotations: {{deployment.kubernetes.io/revision: '2'}}}},
               spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, revisionHistoryLimit: 2,
                 strategy: {{type: RollingUpdate, rollingUpdate: {{maxSurge: 1, maxUnavailable: 1}}}},
                 template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: new}}]}}}}}}}}"
        ));
        let overlay: serde_json::Value = yaml(spec);
        let mut json = serde_json::to_value(&deployment).unwrap();
        for (key, value) in overlay.as_object().into_iter().flatten() {
            json["spec"][key] = value.clone();
        }
        deployment = serde_json::from_value(json).unwrap();
        Case { deployment, sets: Vec::new() }
    }

    impl Case {
        /// Adds a ReplicaSet of image `image` with size and availability; the name is the image's.
        fn set(mut self, image: &str, revision: i64, size: i32, available: i32) -> Case {
            let replicas = self.deployment.spec.as_ref().unwrap().replicas.unwrap();
            self.sets.push(Arc::new(yaml(&format!(
                "{{metadata: {{name: {image}, namespace: ns, uid: {image}, labels: {{app: web, pod-template-hash: h}},
                   creationTimestamp: '2026-01-01T00:00:0{revision}Z',
                   annotations: {{deployment.kubernetes.io/revision: '{revision}',
                     deployment.kubernetes.io/desired-replicas: '{replicas}',
                     deployment.kubernetes.io/max-replicas: '{}'}}}},
                   spec: {{replicas: {size}, selector: {{}}, template: {{metadata: {{labels: {{app: web, pod-template-hash: h}}}},
                     spec: {{containers: [{{name: c, image: {image}}}]}}}}}},
                   status: {{replicas: {size}, readyReplicas: {available}, availableReplicas: {available}}}}}",
                replicas + 1
            ))));
            self
        }

        fn resized(mut self, replicas: i32) -> Case {
            self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
            self
        }

        fn ops(&self) -> Vec<String> {
            let rollout = Rollout::new(Arc::new(self.deployment.clone()), self.sets.clone(), false);
            plan(&rollout, Timestamp::UNIX_EPOCH).iter().map(describe).collect()
        }
    }

    fn describe(op: &Op) -> String {
        let name = |set: &ReplicaSet| set.metadata.name.clone().unwrap();
        match op {
            Op::Create(set) => format!("create {}", desired(set)),
            Op::Update(set) => {
                format!("update {} to revision {}", name(set), revision(&set.metadata))
            }
            Op::Scale { set, from, to } => format!("scale {} {from}->{to}", name(set)),
            Op::Delete(set) => format!("delete {}", name(set)),
            Op::SetRevision(revision) => format!("revision {revision}"),
        }
    }

    #[test]
    fn rolling_update_step_by_step() {
        assert_eq!(case(3, "{}").ops(), ["create 3"]);
        assert_eq!(case(3, "{}").set("old", 1, 3, 3).ops(), ["create 1"]);
        assert_eq!(case(3, "{}").set("old", 1, 3, 3).set("new", 2, 1, 0).ops(), ["scale old 3->2"]);
        assert_eq!(case(3, "{}").set("old", 1, 2, 2).set("new", 2, 1, 0).ops(), ["scale new 1->2"]);
        assert_eq!(
            case(3, "{}").set("old", 1, 2, 2).set("new", 2, 2, 0).ops(),
            Vec::<String>::new()
        );
        assert_eq!(case(3, "{}").set("old", 1, 2, 2).set("new", 2, 2, 1).ops(), ["scale old 2->1"]);
        assert_eq!(case(3, "{}").set("old", 1, 1, 1).set("new", 2, 2, 2).ops(), ["scale new 2->3"]);
        assert_eq!(case(3, "{}").set("old", 1, 1, 1).set("new", 2, 3, 2).ops(), ["scale old 1->0"]);
        assert_eq!(
            case(3, "{}").set("old", 1, 0, 0).set("new", 2, 3, 3).ops(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn broken_old_pods_go_first() {
        let rolling = case(3, "{}").set("broken", 1, 2, 0).set("good", 2, 2, 2).set("new", 3, 0, 0);
        assert_eq!(rolling.ops().last().unwrap(), "scale broken 2->0");
    }

    #[test]
    fn recreate_stops_everything_before_it_starts_anything() {
        let recreate = || case(3, "{strategy: {type: Recreate}}");
        assert_eq!(recreate().set("old", 1, 3, 3).ops(), ["scale old 3->0"]);
        let stopping = recreate().set("old", 1, 0, 0);
        let running =
            Rollout::new(Arc::new(stopping.deployment.clone()), stopping.sets.clone(), true);
        assert_eq!(plan(&running, Timestamp::UNIX_EPOCH), []);
        assert_eq!(stopping.ops(), ["create 3"]);
    }

    #[test]
    fn going_back_reuses_the_old_set_with_a_new_revision() {
        let back = case(3, "{}").set("new", 1, 0, 0).set("old", 2, 3, 3);
        let ops = back.ops();
        assert_eq!(ops[..2], ["update new to revision 3", "revision 3"]);
    }

    #[test]
    fn scaling_follows_the_size() {
        assert_eq!(case(3, "{}").set("new", 2, 3, 3).resized(5).ops(), ["scale new 3->5"]);
        assert_eq!(case(3, "{}").set("new", 2, 3, 3).resized(0).ops(), ["scale new 3->0"]);
        let paused = case(10, "{paused: true}").set("old", 1, 8, 8).set("new", 2, 3, 0).resized(20);
        assert_eq!(paused.ops(), ["scale old 8->15", "scale new 3->6"]);
    }

    #[test]
    fn paused_deployments_do_not_roll() {
        assert_eq!(case(3, "{paused: true}").set("old", 1, 3, 3).ops(), Vec::<String>::new());
    }

    #[test]
    fn history_is_limited_once_complete() {
        let mut done =
            case(1, "{}").set("a", 1, 0, 0).set("b", 2, 0, 0).set("c", 3, 0, 0).set("new", 4, 1, 1);
        done.deployment
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .insert(replica_sets::REVISION.into(), "4".into());
        assert_eq!(done.ops(), ["delete a"]);
    }
}
