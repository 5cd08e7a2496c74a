//! Tables of states and steps, and a small world in which every state must end in rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::identity::{self, ordinal, ordinals, spec};
use super::plan::{Observed, Op, Version, plan};
use super::status::status;
use crate::testing::{Dice, yaml};

fn set(more: &str) -> StatefulSet {
    let mut set: serde_json::Value = yaml(
        "{metadata: {name: web, namespace: ns, uid: set, generation: 1},
          spec: {replicas: 3, serviceName: peers, selector: {matchLabels: {app: web}},
            updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}},
            template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: new}]}}}}",
    );
    let more: serde_json::Value = yaml(more);
    for (key, value) in more.as_object().into_iter().flatten() {
        set["spec"][key] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

fn version(name: &str, set: &StatefulSet) -> Version {
    Version { name: name.into(), template: spec(set).template.clone() }
}

fn observed(set: StatefulSet, pods: Vec<Pod>) -> Observed {
    Observed {
        current: version("web-old", &set),
        update: version("web-new", &set),
        set: Arc::new(set),
        pods: pods.into_iter().map(Arc::new).collect(),
        claims: BTreeMap::new(),
        now: at(1000),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A pod by a word: its ordinal and revision, then what is the matter with it.
/// `2:old` is available, `2:old!` not ready, `2:old-` terminating, `2:old?` pending, `2:oldX` failed.
fn pod(set: &StatefulSet, word: &str) -> Pod {
    let (ordinal, rest) = word.split_once(':').expect("a word is ordinal and revision");
    let revision = rest.trim_end_matches(['!', '-', '?', 'X']);
    let revision = format!("web-{revision}");
    let ordinal = ordinal.parse().unwrap();
    let mut pod = identity::new_pod(set, &spec(set).template, &revision, ordinal);
    pod.metadata.uid = Some(format!("pod-{ordinal}"));
    if rest.ends_with('-') {
        pod.metadata.deletion_timestamp = Some(Time(at(0)));
    }
    let (phase, ready) = match rest.chars().last() {
        Some('?') => ("Pending", "False"),
        Some('X') => ("Failed", "False"),
        Some('!') => ("Running", "False"),
        _ => ("Running", "True"),
    };
    pod.status = Some(yaml(&format!(
        "{{phase: {phase}, conditions: [{{type: Ready, status: '{ready}', lastTransitionTime: '2023-01-01T00:00:00Z'}}]}}"
    )));
    pod
}

fn describe(op: &Op) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    let claim = |claim: &PersistentVolumeClaim| claim.metadata.name.clone().unwrap_or_default();
    match op {
        Op::CreateClaim { claim: one, .. } => format!("claim {}", claim(one)),
        Op::UpdateClaim { claim: one, .. } => format!("own {}", claim(one)),
        Op::CreatePod(pod) => {
            format!("create {} of {}", name(pod), identity::revision(pod).unwrap_or_default())
        }
        Op::UpdatePod(pod) => format!("update {}", name(pod)),
        Op::DeletePod(pod) => format!("delete {}", name(pod)),
        Op::AwaitClaim { claim, .. } => format!("await {claim}"),
        Op::ForeignClaim { claim } => format!("foreign {claim}"),
    }
}

/// The steps planned for a set with these pods.
fn steps(more: &str, pods: &[&str]) -> Vec<String> {
    let set = set(more);
    let pods = pods.iter().map(|word| pod(&set, word)).collect();
    plan(&observed(set, pods)).iter().map(describe).collect()
}

#[test]
fn ordered_pods_come_one_by_one_and_go_from_above() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["create web-0 of web-new"]),
        (&["0:new!"], &[]),
        (&["0:new"], &["create web-1 of web-new"]),
        (&["0:new", "2:new"], &["create web-1 of web-new"]),
        (&["0:new", "1:new-", "2:new"], &[]),
        (&["0:newX", "1:new", "2:new"], &["delete web-0"]),
        (&["0:new", "1:new", "2:new"], &[]),
        (&["0:new", "1:new", "2:new", "3:new", "4:new"], &["delete web-4"]),
        (&["0:new", "1:new", "2:new", "3:new", "4:new-"], &[]),
        (&["0:new", "1:new!", "2:new", "3:new"], &[]),
        (&["0:new", "1:new", "2:new", "3:new!", "4:new!"], &[]),
        (&["0:new", "1:new", "2:new", "3:new", "4:new!"], &["delete web-4"]),
    ];
    for (pods, expected) in table {
        assert_eq!(steps("{}", pods), *expected, "{pods:?}");
    }
}

#[test]
fn parallel_pods_come_and_go_together() {
    let parallel = |pods: &[&str]| steps("{podManagementPolicy: Parallel}", pods);
    assert_eq!(
        parallel(&["1:new!"]),
        ["create web-0 of web-new", "create web-2 of web-new"],
        "one that is not ready holds up nobody"
    );
    assert_eq!(
        parallel(&["0:new", "1:new", "2:new", "3:new", "4:new!"]),
        ["delete web-4", "delete web-3"]
    );
}

#[test]
fn an_update_goes_down_to_the_partition() {
    let all_old = ["0:old", "1:old", "2:old"];
    assert_eq!(steps("{}", &all_old), ["delete web-2"]);
    assert_eq!(steps("{}", &["0:old", "1:old", "2:new"]), ["delete web-1"]);
    assert!(steps("{}", &["0:old", "1:old", "2:new!"]).is_empty());
    let partition = "{updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2}}}";
    assert_eq!(steps(partition, &all_old), ["delete web-2"]);
    assert!(steps(partition, &["0:old", "1:old", "2:new"]).is_empty());
    assert_eq!(steps(partition, &["0:old", "2:new"]), ["create web-1 of web-old"]);
    assert!(steps("{updateStrategy: {type: OnDelete}}", &all_old).is_empty());
    assert_eq!(
        steps("{updateStrategy: {type: OnDelete}}", &["0:old", "1:old"]),
        ["create web-2 of web-new"]
    );
}

#[test]
fn an_update_takes_as_many_as_may_be_missed() {
    let two =
        "{updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 2}}}";
    assert_eq!(steps(two, &["0:old", "1:old", "2:old"]), ["delete web-2", "delete web-1"]);
    let parallel = "{podManagementPolicy: Parallel,
        updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 67%}}}";
    assert_eq!(steps(parallel, &["0:old!", "1:old", "2:old"]), ["delete web-2"]);
    assert!(steps(parallel, &["0:old!", "1:old", "2:old-"]).is_empty());
}

#[test]
fn ordinals_begin_where_they_are_told() {
    let from_five = |pods: &[&str]| steps("{ordinals: {start: 5}, replicas: 2}", pods);
    assert_eq!(from_five(&[]), ["create web-5 of web-new"]);
    assert_eq!(from_five(&["5:new", "6:new", "0:new"]), ["delete web-0"]);
    let partition = "{ordinals: {start: 5}, replicas: 2,
        updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}}";
    assert_eq!(steps(partition, &["5:old", "6:old"]), ["delete web-6"]);
    assert_eq!(steps(partition, &["6:new"]), ["create web-5 of web-old"]);
}

const CLAIMED: &str = "{replicas: 1, volumeClaimTemplates: [{metadata: {name: data}, spec: {}}],
    persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}}";

#[test]
fn claims_come_before_their_pod_and_follow_the_policy() {
    assert_eq!(steps(CLAIMED, &[]), ["claim data-web-0", "create web-0 of web-new"]);
    let set = set(CLAIMED);
    let with = |pods: &[&str], claims: &[&str]| -> Vec<String> {
        let pods = pods.iter().map(|word| pod(&set, word)).collect();
        let mut seen = observed(set.clone(), pods);
        seen.claims = claims
            .iter()
            .map(|text| {
                let claim: PersistentVolumeClaim = yaml(text);
                (claim.metadata.name.clone().unwrap(), Arc::new(claim))
            })
            .collect();
        plan(&seen).iter().map(describe).collect()
    };
    assert_eq!(with(&["0:new"], &["{metadata: {name: data-web-0}}"]), ["own data-web-0"]);
    assert_eq!(
        with(&["0:new", "1:new"], &["{metadata: {name: data-web-1}}"]),
        ["own data-web-1", "delete web-1"],
        "a claim gets its owner before the pod it goes with"
    );
    assert_eq!(
        with(&[], &["{metadata: {name: data-web-0, deletionTimestamp: '2026-01-01T00:00:00Z'}}"]),
        ["await data-web-0"]
    );
    let stale = "{metadata: {name: data-web-0, ownerReferences: [
        {apiVersion: v1, kind: Pod, name: web-0, uid: earlier}]}}";
    assert!(with(&[], &[stale]).is_empty());
}

#[test]
fn a_pod_knows_who_it_is() {
    let set = set(CLAIMED);
    let pod = pod(&set, "0:new");
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["controller-revision-hash"], "web-new");
    let spec = pod.spec.unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("web-0"), Some("peers"))
    );
    let volume = &spec.volumes.unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-0");
}

#[test]
fn only_pods_named_after_the_set_are_its_own() {
    let set = set("{}");
    let named = |name: &str| ordinal(&set, &yaml(&format!("{{metadata: {{name: {name}}}}}")));
    assert_eq!(named("web-7"), Some(7));
    for name in ["web-07", "web-", "web", "web-x-1", "other-1", "web--1"] {
        assert_eq!(named(name), None, "{name}");
    }
}

#[test]
fn an_update_is_complete_when_all_are_new_and_ready() {
    let told = |words: &[&str]| {
        let set = set("{}");
        let pods = words.iter().map(|word| pod(&set, word)).collect();
        status(&observed(set, pods), 0)
    };
    let half = told(&["0:old", "1:old", "2:new!"]);
    assert_eq!((half.current_replicas, half.updated_replicas), (Some(2), Some(1)));
    assert_eq!((half.ready_replicas, half.available_replicas), (Some(2), Some(2)));
    assert_eq!(half.current_revision.as_deref(), Some("web-old"));
    assert_eq!(told(&["0:new", "1:new", "2:new!"]).current_revision.as_deref(), Some("web-old"));
    let done = told(&["0:new", "1:new", "2:new"]);
    assert_eq!(done.current_revision.as_deref(), Some("web-new"));
    assert_eq!(done.current_replicas, Some(3));
}

#[test]
fn a_set_on_its_way_out_only_watches() {
    let mut going = set("{}");
    going.metadata.deletion_timestamp = Some(Time(at(0)));
    assert!(plan(&observed(going, Vec::new())).is_empty());
}

// === from any state to rest ===

/// A cluster of one set: what the plan asks for happens, and between plans a kubelet does what kubelets do.
struct World {
    seen: Observed,
}

// === impl World ===

impl World {
    fn any(dice: &mut Dice) -> World {
        let set = set(match dice.below(4) {
            0 => "{}",
            1 => "{podManagementPolicy: Parallel, replicas: 4}",
            2 => CLAIMED,
            _ => "{ordinals: {start: 2}, minReadySeconds: 5}",
        });
        let states = ["old", "old!", "old-", "new", "new!", "new-", "old?", "newX"];
        let mut pods = Vec::new();
        for ordinal in 0..6 {
            if dice.below(2) == 0 {
                pods.push(pod(&set, &format!("{ordinal}:{}", states[dice.below(states.len())])));
            }
        }
        World { seen: observed(set, pods) }
    }

    fn apply(&mut self, op: Op) {
        let pods = &mut self.seen.pods;
        match op {
            Op::CreateClaim { claim, .. } | Op::UpdateClaim { claim, .. } => {
                self.seen.claims.insert(claim.metadata.name.clone().unwrap(), Arc::from(claim));
            }
            Op::CreatePod(mut pod) => {
                let name = pod.metadata.name.clone();
                assert!(pods.iter().all(|other| other.metadata.name != name), "two pods of a name");
                pod.metadata.uid = Some(format!("again-{}", name.unwrap()));
                pod.status = Some(yaml("{phase: Pending}"));
                pods.push(Arc::from(pod));
            }
            Op::UpdatePod(pod) => {
                pods.retain(|other| other.metadata.name != pod.metadata.name);
                pods.push(Arc::from(pod));
            }
            Op::DeletePod(pod) => {
                let found = pods.iter_mut().find(|other| Arc::ptr_eq(other, &pod));
                let found = Arc::make_mut(found.expect("only what is there is deleted"));
                found.metadata.deletion_timestamp = Some(Time(at(0)));
            }
            Op::AwaitClaim { .. } | Op::ForeignClaim { .. } => {}
        }
    }

    /// Pods that end are gone, others become ready; time goes on. Claims whose pod is gone are collected.
    fn kubelet(&mut self) {
        self.seen.now += jiff::SignedDuration::from_secs(10);
        self.seen.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        let now = self.seen.now;
        for pod in self.seen.pods.iter_mut().filter(|pod| !crate::pod::is_terminal(pod)) {
            if !crate::pod::is_ready(pod) {
                Arc::make_mut(pod).status = Some(yaml(&format!(
                    "{{phase: Running, conditions: [{{type: Ready, status: 'True', lastTransitionTime: '{now}'}}]}}"
                )));
            }
        }
        let uids: Vec<_> = self.seen.pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        self.seen.claims.retain(|_, claim| {
            let owners = claim.metadata.owner_references.iter().flatten();
            owners.clone().all(|owner| owner.kind != "Pod")
                || owners.clone().any(|owner| uids.contains(&Some(owner.uid.clone())))
        });
    }
}

#[test]
fn from_any_state_a_set_comes_to_rest_as_it_should_be() {
    for seed in 0..400 {
        let mut world = World::any(&mut Dice::new(seed));
        let mut quiet = 0;
        for _ in 0..200 {
            let ops = plan(&world.seen);
            quiet = if ops.is_empty() { quiet + 1 } else { 0 };
            ops.into_iter().for_each(|op| world.apply(op));
            world.kubelet();
        }
        let set = world.seen.set.clone();
        let mut names: Vec<_> =
            world.seen.pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        names.sort();
        let wanted: Vec<_> = ordinals(&set).map(|at| identity::pod_name(&set, at)).collect();
        assert_eq!(names, wanted, "seed {seed}");
        assert!(quiet > 10, "seed {seed}: still writing");
        let done = status(&world.seen, 0);
        assert_eq!(done.current_revision.as_deref(), Some("web-new"), "seed {seed}");
    }
}
