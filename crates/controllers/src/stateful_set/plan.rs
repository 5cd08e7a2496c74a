//! The next steps of a StatefulSet.
//!
//! `Observed` in -> `Vec<Op>` out, to be done in that order; an empty plan waits for something to change.
//! Counterpart: `stateful_set_control.go`. Pure.
//! Invariant: an ordered set makes pod n only while all below n are available, and ends one pod at a time from above.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::identity::{self, ordinal, ordinals, spec};
use super::retention;
use crate::percentages::{Rounding, resolve};
use crate::pod;

/// A template by the name of its revision.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

/// A StatefulSet beside what exists of it.
pub struct Observed {
    pub set: Arc<StatefulSet>,
    /// What the set is being updated from, and to; the same when no update runs.
    pub current: Version,
    pub update: Version,
    /// Pods that the set controls.
    pub pods: Vec<Arc<Pod>>,
    /// Claims of those pods and of the wanted ordinals, by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    CreateClaim {
        pod: String,
        claim: Box<PersistentVolumeClaim>,
    },
    UpdateClaim {
        pod: String,
        claim: Box<PersistentVolumeClaim>,
    },
    CreatePod(Box<Pod>),
    UpdatePod(Box<Pod>),
    DeletePod(Arc<Pod>),
    /// The pod cannot be made until its claim, which is being deleted, is gone.
    AwaitClaim {
        pod: String,
        claim: String,
    },
    /// Somebody else's controller has the claim: the retention policy does not apply.
    ForeignClaim {
        claim: String,
    },
}

/// Whether later pods may be looked at in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    GoOn,
    Wait,
}

pub fn plan(seen: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    if seen.set.metadata.deletion_timestamp.is_some() {
        return ops;
    }
    if seen.fill(&mut ops) == Pace::GoOn && seen.shrink(&mut ops) == Pace::GoOn {
        seen.roll(&mut ops);
    }
    ops
}

// === impl Observed ===

impl Observed {
    fn ordered(&self) -> bool {
        spec(&self.set).pod_management_policy.as_deref() != Some("Parallel")
    }

    fn at(&self, ordinal: i32) -> Option<&Arc<Pod>> {
        self.pods.iter().find(|pod| identity::ordinal(&self.set, pod) == Some(ordinal))
    }

    /// Pods outside of the wanted ordinals, the highest first.
    fn condemned(&self) -> Vec<&Arc<Pod>> {
        let wanted = ordinals(&self.set);
        let mut condemned: Vec<(i32, &Arc<Pod>)> = self
            .pods
            .iter()
            .filter_map(|pod| Some((ordinal(&self.set, pod)?, pod)))
            .filter(|(ordinal, _)| !wanted.contains(ordinal))
            .collect();
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        condemned.into_iter().map(|(_, pod)| pod).collect()
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = spec(&self.set).min_ready_seconds.unwrap_or(0);
        pod::is_available(pod, min_ready, self.now) && !pod::is_terminating(pod)
    }

    // --- pods that should be there ---

    fn fill(&self, ops: &mut Vec<Op>) -> Pace {
        for ordinal in ordinals(&self.set) {
            let pace = match self.at(ordinal) {
                Some(pod) => self.keep(ordinal, pod, ops),
                None => self.make(ordinal, ops),
            };
            if pace == Pace::Wait && self.ordered() {
                return Pace::Wait;
            }
        }
        Pace::GoOn
    }

    fn make(&self, ordinal: i32, ops: &mut Vec<Op>) -> Pace {
        let pod = identity::pod_name(&self.set, ordinal);
        let claims = identity::new_claims(&self.set, ordinal);
        let present = || claims.iter().filter_map(|claim| self.present(claim));
        if present().any(|claim| retention::awaits_collection(&self.set, &pod, claim)) {
            return Pace::Wait;
        }
        self.make_claims(&pod, ordinal, ops);
        if let Some(going) = present().find(|claim| claim.metadata.deletion_timestamp.is_some()) {
            let claim = going.metadata.name.clone().unwrap_or_default();
            ops.push(Op::AwaitClaim { pod, claim });
            return Pace::Wait;
        }
        let version = self.version_for(ordinal);
        let pod = identity::new_pod(&self.set, &version.template, &version.name, ordinal);
        ops.push(Op::CreatePod(Box::new(pod)));
        Pace::Wait
    }

    fn make_claims(&self, pod: &str, ordinal: i32, ops: &mut Vec<Op>) {
        let claims = identity::new_claims(&self.set, ordinal);
        for mut claim in claims.into_iter().filter(|claim| self.present(claim).is_none()) {
            if let Some(owner) = retention::initial(&self.set) {
                claim.metadata.owner_references = Some(vec![owner]);
            }
            ops.push(Op::CreateClaim { pod: pod.into(), claim: Box::new(claim) });
        }
    }

    fn present(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(claim.metadata.name.as_deref()?)
    }

    /// Ordinals below the partition stay with the current revision, even if their pods have to be made again.
    fn version_for(&self, ordinal: i32) -> &Version {
        let start = ordinals(&self.set).start;
        let done = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let kept = match (self.rolls(), self.rolling()) {
            (_, Some(rolling)) => rolling.partition.unwrap_or(0),
            (true, None) => done,
            (false, None) => 0,
        };
        if ordinal < start.saturating_add(kept) { &self.current } else { &self.update }
    }

    fn rolls(&self) -> bool {
        let strategy = spec(&self.set).update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn rolling(&self) -> Option<&RollingUpdateStatefulSetStrategy> {
        spec(&self.set).update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn keep(&self, ordinal: i32, pod: &Arc<Pod>, ops: &mut Vec<Op>) -> Pace {
        if pod::is_terminating(pod) {
            return Pace::Wait;
        }
        // However it ended, evicted or done: the pod is made again once it is gone.
        if pod::is_terminal(pod) {
            ops.push(Op::DeletePod(pod.clone()));
            return Pace::Wait;
        }
        if pod::phase(pod) == "Pending" {
            self.make_claims(&identity::pod_name(&self.set, ordinal), ordinal, ops);
        }
        self.retain(pod, ordinal, ops);
        if !self.is_available(pod) && self.ordered() {
            return Pace::Wait;
        }
        let mut identified = pod.as_ref().clone();
        identity::identify(&self.set, &mut identified, ordinal);
        if identified != **pod {
            ops.push(Op::UpdatePod(Box::new(identified)));
        }
        Pace::GoOn
    }

    /// Brings the owners of a pod's claims in line with the retention policy.
    fn retain(&self, pod: &Pod, ordinal: i32, ops: &mut Vec<Op>) {
        for wanted in identity::new_claims(&self.set, ordinal) {
            let Some(claim) = self.present(&wanted) else { continue };
            let Some(owners) = retention::corrected(&self.set, pod, claim) else { continue };
            if retention::is_foreign(&self.set, pod, claim) {
                ops.push(Op::ForeignClaim { claim: wanted.metadata.name.unwrap_or_default() });
            }
            let mut claim = claim.as_ref().clone();
            claim.metadata.owner_references = Some(owners);
            let pod = identity::pod_name(&self.set, ordinal);
            ops.push(Op::UpdateClaim { pod, claim: Box::new(claim) });
        }
    }

    // --- pods that should not ---

    fn shrink(&self, ops: &mut Vec<Op>) -> Pace {
        let condemned = self.condemned();
        for pod in &condemned {
            if let Some(ordinal) = ordinal(&self.set, pod) {
                self.retain(pod, ordinal, ops);
            }
        }
        let unavailable = condemned.iter().rev().find(|pod| !self.is_available(pod));
        for pod in &condemned {
            if !self.ordered() {
                if !pod::is_terminating(pod) {
                    ops.push(Op::DeletePod((*pod).clone()));
                }
                continue;
            }
            let first_to_heal = unavailable.is_none_or(|first| Arc::ptr_eq(first, pod));
            // Differs from upstream: a pod that has ended is not waited for, it cannot heal.
            let may_go = self.is_available(pod) || first_to_heal || pod::is_terminal(pod);
            if may_go && !pod::is_terminating(pod) {
                ops.push(Op::DeletePod((*pod).clone()));
            }
            return Pace::Wait;
        }
        Pace::GoOn
    }

    // --- pods of an earlier template ---

    /// Ends outdated pods from the highest ordinal down to the partition, as many as may be missed.
    fn roll(&self, ops: &mut Vec<Op>) {
        if !self.rolls() {
            return;
        }
        let wanted = ordinals(&self.set);
        let asked = self.rolling().and_then(|rolling| rolling.max_unavailable.as_ref());
        let partition = self.rolling().and_then(|rolling| rolling.partition).unwrap_or(0);
        let whole = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
        let mut spare = asked.map_or(1, |asked| resolve(asked, whole, Rounding::Down).max(1));
        // Who asks for more than one at a time has all missing pods counted, not only those above the next to go.
        if asked.is_some() {
            spare -= wanted.clone().filter(|at| self.is_missed(*at)).count() as i32;
        }
        for at in (wanted.start.saturating_add(partition)..wanted.end).rev() {
            if spare <= 0 {
                return;
            }
            match self.at(at) {
                Some(pod) if self.is_outdated(pod) && !pod::is_terminating(pod) => {
                    let planned = ops
                        .iter()
                        .any(|op| matches!(op, Op::DeletePod(other) if Arc::ptr_eq(other, pod)));
                    if !planned {
                        ops.push(Op::DeletePod(pod.clone()));
                    }
                    spare -= 1;
                }
                _ if asked.is_none() && self.is_missed(at) => spare -= 1,
                _ => {}
            }
        }
    }

    fn is_missed(&self, ordinal: i32) -> bool {
        self.at(ordinal).is_none_or(|pod| !self.is_available(pod))
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        identity::revision(pod) != Some(self.update.name.as_str())
    }
}
