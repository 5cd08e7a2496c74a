//! Replaces pods of an earlier template, node by node.
//!
//! Without surge an old pod goes and its node gets a new one; with surge the new one comes first.
//! Counterpart: `rollingUpdate` of `pkg/controller/daemon/update.go`. Pure.
//! Invariant: available pods are taken away only while fewer than maxUnavailable nodes miss theirs, and no more than
//! maxSurge nodes hold two.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::RollingUpdateDaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::nodes::{Fit, spec};
use super::plan::{Observed, Plan};
use crate::percentages::{Rounding, resolve};
use crate::pod;

/// The pods on a node, as an update sees them.
enum Node<'a> {
    /// More than one of a template: the next look will have fewer.
    Crowded,
    Empty,
    Old(&'a Arc<Pod>),
    New(&'a Arc<Pod>),
    Both {
        old: &'a Arc<Pod>,
        new: &'a Arc<Pod>,
    },
}

fn rolling(seen: &Observed) -> Option<&RollingUpdateDaemonSet> {
    spec(&seen.set).update_strategy.as_ref()?.rolling_update.as_ref()
}

fn number(asked: Option<&IntOrString>, default: i32, seen: &Observed) -> usize {
    let number = asked.map_or(default, |asked| resolve(asked, seen.desired(), Rounding::Up));
    usize::try_from(number).unwrap_or(0)
}

fn max_surge(seen: &Observed) -> usize {
    number(rolling(seen).and_then(|rolling| rolling.max_surge.as_ref()), 0, seen)
}

/// Never zero together with the surge: the update would not move.
fn max_unavailable(seen: &Observed) -> usize {
    number(rolling(seen).and_then(|rolling| rolling.max_unavailable.as_ref()), 1, seen).max(1)
}

/// Whether an update may put a second pod on a node.
pub fn surges(seen: &Observed) -> bool {
    max_surge(seen) > 0
}

pub fn roll(seen: &Observed, plan: &mut Plan) {
    if surges(seen) { replace_after(seen, plan) } else { replace_before(seen, plan) }
}

/// Nodes that have or should have a pod.
fn nodes(seen: &Observed) -> BTreeSet<&String> {
    let should = seen.nodes.iter().filter(|(_, fit)| **fit == Fit::Runs).map(|(node, _)| node);
    seen.pods.keys().chain(should).collect()
}

fn look<'a>(seen: &'a Observed, node: &str) -> Node<'a> {
    let staying = seen.on(node).iter().filter(|pod| !pod::is_terminating(pod));
    let (new, old): (Vec<_>, Vec<_>) = staying.partition(|pod| seen.is_updated(pod));
    match (old.as_slice(), new.as_slice()) {
        ([], []) => Node::Empty,
        ([old], []) => Node::Old(old),
        ([], [new]) => Node::New(new),
        ([old], [new]) => Node::Both { old, new },
        _ => Node::Crowded,
    }
}

/// The old pod goes first: at once where it does not work anyway, else as many as may be missed.
fn replace_before(seen: &Observed, plan: &mut Plan) {
    let mut missed = 0;
    let mut working = Vec::new();
    for node in nodes(seen) {
        match look(seen, node) {
            Node::Old(old) if seen.is_available(old) => working.push(old.clone()),
            Node::Old(old) => {
                missed += 1;
                plan.delete.push(old.clone());
            }
            Node::New(new) if seen.is_available(new) => {}
            _ => missed += 1,
        }
    }
    let spare = max_unavailable(seen).saturating_sub(missed);
    plan.delete.extend(working.into_iter().take(spare));
}

/// The new pod comes first; where the old one does not work anyway, without counting as surge.
fn replace_after(seen: &Observed, plan: &mut Plan) {
    let (mut surge, mut available) = (0, 0);
    let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
    for node in nodes(seen) {
        let runs = seen.nodes.get(node) == Some(&Fit::Runs);
        let here = look(seen, node);
        if let Node::Old(shown) | Node::New(shown) | Node::Both { old: shown, .. } = &here {
            available += usize::from(seen.is_available(shown));
        }
        match here {
            Node::Crowded => surge += 1,
            Node::Empty | Node::New(_) => {}
            Node::Both { old, new } if seen.is_available(new) => plan.delete.push(old.clone()),
            Node::Both { .. } => surge += 1,
            Node::Old(old) => match (seen.is_available(old), runs) {
                (false, false) => plan.delete.push(old.clone()),
                (false, true) => plan.create.push(node.clone()),
                (true, false) => leaving.push(old.clone()),
                (true, true) => candidates.push(node.clone()),
            },
        }
    }
    let desired = usize::try_from(seen.desired()).unwrap_or(0);
    plan.delete.extend(leaving.into_iter().take(available.saturating_sub(desired)));
    plan.create.extend(candidates.into_iter().take(max_surge(seen).saturating_sub(surge)));
}
