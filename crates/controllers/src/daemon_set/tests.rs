//! Tables of nodes, pods and steps, and a small world in which every state must end in rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::nodes::{Fit, fit, new_pod, node_of};
use super::plan::{Observed, Plan, plan};
use super::status::status;
use crate::pod;
use crate::testing::{Dice, yaml};

fn set(strategy: &str) -> DaemonSet {
    yaml(&format!(
        "{{metadata: {{name: agent, namespace: ns, uid: set, generation: 2}},
          spec: {{selector: {{matchLabels: {{app: agent}}}}, updateStrategy: {strategy},
            template: {{metadata: {{labels: {{app: agent}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
    ))
}

const ONE_BY_ONE: &str = "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 0}}";
const SURGE: &str = "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}";

/// A pod by a word: its node and template, then what is the matter with it.
/// `a:old` is available, `a:old!` not ready, `a:old-` terminating, `a:oldX` failed, `a:oldV` succeeded.
fn pod(set: &DaemonSet, index: usize, word: &str) -> Arc<Pod> {
    let (node, rest) = word.split_once(':').expect("a word is node and template");
    let mut pod = new_pod(set, rest.trim_end_matches(['!', '-', 'X', 'V']), node);
    pod.metadata.name = Some(format!("{word}#{index}"));
    pod.metadata.creation_timestamp = Some(Time(at(index as i64)));
    pod.spec.as_mut().unwrap().node_name = Some(node.into());
    if rest.ends_with('-') {
        pod.metadata.deletion_timestamp = Some(Time(at(0)));
    }
    let (phase, ready) = match rest.chars().last() {
        Some('X') => ("Failed", "False"),
        Some('V') => ("Succeeded", "False"),
        Some('!') => ("Running", "False"),
        _ => ("Running", "True"),
    };
    pod.status = Some(yaml(&format!(
        "{{phase: {phase}, conditions: [{{type: Ready, status: '{ready}', lastTransitionTime: '2023-01-01T00:00:00Z'}}]}}"
    )));
    Arc::new(pod)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Nodes by a word: `a` runs daemons, `a~` only keeps them, `a/` is not for them.
fn observed(set: DaemonSet, nodes: &[&str], pods: Vec<Arc<Pod>>) -> Observed {
    let mut seen = Observed::new(Arc::new(set), "new".into(), pods, at(1000));
    seen.nodes = nodes
        .iter()
        .map(|word| match word.split_at(1) {
            (node, "") => (node.to_owned(), Fit::Runs),
            (node, "~") => (node.to_owned(), Fit::Stays),
            (node, _) => (node.to_owned(), Fit::None),
        })
        .collect();
    seen
}

fn seen(strategy: &str, nodes: &[&str], pods: &[&str]) -> Observed {
    let set = set(strategy);
    let pods = pods.iter().enumerate().map(|(index, word)| pod(&set, index, word)).collect();
    observed(set, nodes, pods)
}

fn describe(plan: &Plan) -> Vec<String> {
    let name = |pod: &Arc<Pod>| {
        let name = pod.metadata.name.clone().unwrap();
        name.split('#').next().unwrap().to_owned()
    };
    let created = plan.create.iter().map(|node| format!("create on {node}"));
    let deleted = plan.delete.iter().map(|pod| format!("delete {}", name(pod)));
    let ended = plan.ended.iter().map(|pod| format!("replace {}", name(pod)));
    created.chain(deleted).chain(ended).collect()
}

fn steps(strategy: &str, nodes: &[&str], pods: &[&str]) -> Vec<String> {
    describe(&plan(&seen(strategy, nodes, pods)))
}

type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[test]
fn every_node_has_one_pod() {
    let table: &[Case] = &[
        (&["a", "b"], &["a:new"], &["create on b"]),
        (&["a"], &["a:new", "a:new"], &["delete a:new"]),
        (&["a"], &["a:new-"], &[]),
        (&["a/"], &["a:new"], &["delete a:new"]),
        (&["a~"], &["a:new"], &[]),
        (&["a~"], &[], &[]),
        (&["a"], &["a:newX"], &["replace a:newX"]),
        (&["a"], &["a:newV"], &["replace a:newV"]),
        (&[], &["a:new"], &[]),
    ];
    for (nodes, pods, expected) in table {
        assert_eq!(steps(ONE_BY_ONE, nodes, pods), *expected, "{nodes:?} {pods:?}");
    }
}

#[test]
fn a_pod_pinned_to_a_node_that_is_no_more_goes() {
    let set = set(ONE_BY_ONE);
    let mut waiting = pod(&set, 0, "gone:new").as_ref().clone();
    waiting.spec.as_mut().unwrap().node_name = None;
    let seen = observed(set, &["a"], vec![Arc::new(waiting)]);
    assert_eq!(describe(&plan(&seen)), ["create on a", "delete gone:new"]);
}

#[test]
fn a_node_whose_pod_failed_lately_waits() {
    let mut seen = seen(ONE_BY_ONE, &["a"], &["a:newX"]);
    seen.waiting = BTreeSet::from(["a".to_owned()]);
    assert_eq!(plan(&seen), Plan::default());
}

#[test]
fn an_update_takes_as_many_as_may_be_missed() {
    let abc = &["a", "b", "c"];
    let table: &[Case] = &[
        (abc, &["a:old", "b:old", "c:old"], &["delete a:old"]),
        (abc, &["a:new!", "b:old", "c:old"], &[]),
        (abc, &["a:new", "b:old-", "c:old"], &[]),
        (abc, &["a:new", "b:old", "c:old!"], &["delete c:old!"]),
        (abc, &["a:new", "b:new", "c:new"], &[]),
    ];
    for (nodes, pods, expected) in table {
        assert_eq!(steps(ONE_BY_ONE, nodes, pods), *expected, "{pods:?}");
    }
    let half = "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 50%}}";
    assert_eq!(steps(half, abc, &["a:old", "b:old", "c:old"]), ["delete a:old", "delete b:old"]);
    assert!(steps("{type: OnDelete}", abc, &["a:old", "b:old", "c:old"]).is_empty());
}

#[test]
fn a_surge_brings_the_new_pod_first() {
    let ab = &["a", "b"];
    let table: &[Case] = &[
        (ab, &["a:old", "b:old"], &["create on a"]),
        (ab, &["a:old", "a:new!", "b:old"], &[]),
        (ab, &["a:old", "a:new", "b:old"], &["delete a:old"]),
        (ab, &["a:new", "b:old"], &["create on b"]),
        (ab, &["a:old!", "b:old"], &["create on a", "create on b"]),
        (ab, &["a:old!", "a:new!", "b:new"], &["delete a:old!"]),
        (&["a~", "b"], &["a:old!", "b:new"], &["delete a:old!"]),
        (&["a~", "b"], &["a:old", "b:new"], &["delete a:old"]),
        (ab, &["a:old-", "b:new"], &["create on a"]),
    ];
    for (nodes, pods, expected) in table {
        assert_eq!(steps(SURGE, nodes, pods), *expected, "{nodes:?} {pods:?}");
    }
}

#[test]
fn a_node_is_judged_by_name_labels_and_taints() {
    let mut set = set(ONE_BY_ONE);
    let node = |more: &str| -> Node {
        yaml(&format!(
            "{{metadata: {{name: n1, labels: {{disk: ssd}}}}, spec: {{taints: [{more}]}}}}"
        ))
    };
    assert_eq!(fit(&set, &node("")), Fit::Runs);
    assert_eq!(fit(&set, &node("{key: k, effect: NoSchedule}")), Fit::Stays);
    assert_eq!(fit(&set, &node("{key: k, effect: NoExecute}")), Fit::None);
    assert_eq!(fit(&set, &node("{key: k, effect: PreferNoSchedule}")), Fit::Runs);
    for (key, effect) in [
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/not-ready", "NoExecute"),
    ] {
        assert_eq!(fit(&set, &node(&format!("{{key: {key}, effect: {effect}}}"))), Fit::Runs);
    }
    let network = node("{key: node.kubernetes.io/network-unavailable, effect: NoSchedule}");
    assert_eq!(fit(&set, &network), Fit::Stays);
    let template = &mut set.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(fit(&set, &network), Fit::Runs);
    let template = &mut set.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().node_selector = yaml("{disk: hdd}");
    assert_eq!(fit(&set, &node("")), Fit::None);
}

#[test]
fn pods_are_pinned_whatever_the_template_asks() {
    let mut set = set(ONE_BY_ONE);
    let affinity =
        "{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
        {matchExpressions: [{key: disk, operator: Exists}]}]}}}";
    let template = &mut set.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().affinity = yaml(affinity);
    let pod = new_pod(&set, "h", "n1");
    assert_eq!(node_of(&pod).as_deref(), Some("n1"));
    assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    assert_eq!(pod.metadata.labels.unwrap()["controller-revision-hash"], "h");
}

#[test]
fn status_counts_nodes_not_pods() {
    let seen = seen(ONE_BY_ONE, &["a", "b", "c", "d/"], &["a:new", "a:old!", "b:old!", "d:new"]);
    let told = status(&seen, 0);
    assert_eq!(told.desired_number_scheduled, 3);
    assert_eq!(told.current_number_scheduled, 2);
    assert_eq!(told.number_misscheduled, 1);
    assert_eq!((told.number_ready, told.updated_number_scheduled), (1, Some(1)));
    assert_eq!((told.number_available, told.number_unavailable), (Some(1), Some(2)));
    assert_eq!((told.observed_generation, told.collision_count), (Some(2), None));
}

// === from any state to rest ===

/// What a cluster does between two plans: pods that end are gone, others become ready.
fn kubelet(seen: &mut Observed) {
    let mut pods: Vec<Arc<Pod>> = seen.pods.values().flatten().cloned().collect();
    pods.retain(|pod| !pod::is_terminating(pod));
    for pod in pods.iter_mut().filter(|pod| !pod::is_terminal(pod) && !pod::is_ready(pod)) {
        Arc::make_mut(pod).status = Some(yaml(
            "{phase: Running, conditions: [{type: Ready, status: 'True', lastTransitionTime: '2023-01-01T00:00:00Z'}]}",
        ));
    }
    let nodes = std::mem::take(&mut seen.nodes);
    *seen = Observed::new(seen.set.clone(), seen.hash.clone(), pods, seen.now);
    seen.nodes = nodes;
}

fn carry_out(seen: &mut Observed, plan: Plan, made: &mut usize) {
    for gone in plan.delete.iter().chain(&plan.ended) {
        let pods = seen.pods.values_mut().flatten();
        let found = pods.into_iter().find(|pod| Arc::ptr_eq(pod, gone));
        let found = Arc::make_mut(found.expect("only what is there is deleted"));
        found.metadata.deletion_timestamp = Some(Time(at(0)));
    }
    for node in plan.create {
        *made += 1;
        let set = seen.set.clone();
        seen.pods.entry(node.clone()).or_default().push(pod(
            &set,
            100 + *made,
            &format!("{node}:new!"),
        ));
    }
}

#[test]
fn from_any_state_a_set_comes_to_rest_as_it_should_be() {
    let states = ["old", "old!", "old-", "new", "new!", "new-", "oldX", "newX", "newV"];
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let strategy = [ONE_BY_ONE, SURGE][dice.below(2)];
        let nodes = ["a", "b", "c~", "d/", "e"];
        let words: Vec<String> = (0..dice.below(9))
            .map(|_| {
                let node = &nodes[dice.below(5)][..1];
                format!("{node}:{}", states[dice.below(states.len())])
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut world = seen(strategy, &nodes, &words);
        let (mut quiet, mut made) = (0, 0);
        for _ in 0..100 {
            let next = plan(&world);
            quiet = if next == Plan::default() { quiet + 1 } else { 0 };
            carry_out(&mut world, next, &mut made);
            kubelet(&mut world);
        }
        assert!(quiet > 10, "seed {seed}: still writing");
        for node in ["a", "b", "e"] {
            let pods = world.on(node);
            assert!(
                pods.len() == 1 && world.is_updated(&pods[0]),
                "seed {seed}: {node} has {pods:?}"
            );
        }
        assert!(world.on("d").is_empty(), "seed {seed}");
    }
}
