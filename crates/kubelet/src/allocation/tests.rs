//! What a node lets in, and what a resize of a running pod comes to: allocation against what is left.

use serde_json::{Value, json};

use super::*;

/// A node of two CPUs and ten pods.
fn node() -> (Allocations, mpsc::UnboundedReceiver<String>, tempdir::Dir) {
    let dir = tempdir::Dir::new();
    let (granted, notes) = mpsc::unbounded_channel();
    let allocatable =
        Resources { milli_cpu: 2000, memory: 1 << 30, pods: 10, ..Resources::default() };
    (Allocations::new(allocatable, dir.0.clone(), granted), notes, dir)
}

mod tempdir {
    use std::{
        path::PathBuf,
        sync::atomic::{AtomicU32, Ordering},
    };

    pub struct Dir(pub PathBuf);

    static NEXT: AtomicU32 = AtomicU32::new(0);

    impl Dir {
        pub fn new() -> Self {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("skiff-allocation-{}-{number}", std::process::id());
            Dir(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn pod(name: &str, cpu: &str) -> Arc<Pod> {
    with_spec(
        name,
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] }),
    )
}

fn with_spec(name: &str, spec: Value) -> Arc<Pod> {
    let pod = json!({ "metadata": { "name": name, "uid": name }, "spec": spec });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn cpu(granted: &Granted) -> &str {
    let containers = &spec(&granted.pod).containers;
    &containers[0].resources.as_ref().expect("resources").requests.as_ref().expect("requests")["cpu"].0
}

#[test]
fn a_pod_beyond_the_node_is_rejected_in_upstreams_words() {
    let (node, _notes, _dir) = node();
    node.admit(&pod("a", "1500m"), None, false).expect("it fits");
    let rejection = node.admit(&pod("b", "600m"), None, false).expect_err("it does not fit");
    assert_eq!(rejection.reason, "OutOfcpu");
    let text = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
    assert_eq!(rejection.message, text);
    node.release("a");
    node.admit(&pod("b", "600m"), None, false).expect("there is room now");
}

#[test]
fn a_resize_is_granted_deferred_or_infeasible() {
    let (node, mut notes, _dir) = node();
    node.admit(&pod("a", "1"), None, false).expect("it fits");
    node.admit(&pod("b", "500m"), None, false).expect("it fits");
    let granted = node.grant(pod("a", "1500m"));
    assert_eq!((cpu(&granted), &granted.pending), ("1500m", &None));

    let deferred = node.grant(pod("b", "1"));
    assert_eq!(cpu(&deferred), "500m", "it keeps what it has");
    assert_eq!(deferred.pending.expect("a reason").reason, DEFERRED);
    let infeasible = node.grant(pod("b", "3"));
    assert_eq!(infeasible.pending.expect("a reason").reason, INFEASIBLE);

    node.grant(pod("b", "1"));
    node.release("a");
    assert_eq!(notes.try_recv().ok().as_deref(), Some("b"), "the one that waits is told");
    let granted = node.grant(pod("b", "1"));
    assert_eq!((cpu(&granted), &granted.pending), ("1", &None));
}

#[test]
fn room_goes_to_the_pod_of_higher_priority_first() {
    let (node, mut notes, _dir) = node();
    let with_priority = |name, cpu, priority| {
        let container = json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        with_spec(name, json!({ "priority": priority, "containers": [container] }))
    };
    for (name, cpu, priority) in [("low", "500m", 1), ("high", "500m", 2), ("other", "1", 0)] {
        node.admit(&with_priority(name, cpu, priority), None, false).expect("it fits");
    }
    for (name, priority) in [("low", 1), ("high", 2)] {
        assert!(node.grant(with_priority(name, "1200m", priority)).pending.is_some());
    }
    node.release("other");
    assert_eq!(notes.try_recv().ok().as_deref(), Some("high"));
    assert!(notes.try_recv().is_err(), "both would not fit");
}

#[test]
fn a_restarted_agent_finds_what_was_granted_rather_than_what_is_wished() {
    let (first, _notes, dir) = node();
    first.admit(&pod("a", "1"), None, false).expect("it fits");
    let (granted, _notes) = mpsc::unbounded_channel();
    let allocatable = Resources { milli_cpu: 2000, pods: 10, ..Resources::default() };
    let second = Allocations::new(allocatable, dir.0.clone(), granted);
    second.admit(&pod("a", "5"), None, true).expect("it runs already");
    let answer = second.grant(pod("a", "5"));
    assert_eq!(cpu(&answer), "1");
    assert_eq!(answer.pending.expect("a reason").reason, INFEASIBLE);
}

#[test]
fn ports_sysctls_and_labels_are_checked() {
    let (node, _notes, _dir) = node();
    let port = json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080 }] }] });
    node.admit(&with_spec("a", port.clone()), None, false).expect("the port is free");
    let reason = |name: &str, spec: Value, labels: Value| {
        let object = json!({ "metadata": { "name": "n", "labels": labels } });
        let object: Node = serde_json::from_value(object).expect("a node");
        node.admit(&with_spec(name, spec), Some(&object), false).expect_err("refused").reason
    };
    assert_eq!(reason("b", port, json!({})), "NodePorts");
    let sysctl = json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "kernel.msgmax", "value": "1" }] } });
    assert_eq!(reason("c", sysctl, json!({})), "SysctlForbidden");
    let selector = json!({ "containers": [], "nodeSelector": { "disk": "ssd" } });
    assert_eq!(reason("d", selector.clone(), json!({ "disk": "hdd" })), "NodeAffinity");
    let windows = json!({ "containers": [], "os": { "name": "windows" } });
    assert_eq!(reason("e", windows, json!({})), "PodOSNotSupported");
}

#[test]
fn a_class_holds_what_its_pods_were_granted() {
    let (node, _notes, _dir) = node();
    node.admit(&pod("a", "500m"), None, false).expect("room");
    node.admit(&pod("b", "250m"), None, false).expect("room");
    let best_effort = with_spec("c", json!({ "containers": [{ "name": "c" }] }));
    node.admit(&best_effort, None, false).expect("room");
    assert_eq!(node.granted_cpu(QosClass::Burstable), 750);
    assert_eq!(node.granted_cpu(QosClass::BestEffort), 0);
    node.release("a");
    assert_eq!(node.granted_cpu(QosClass::Burstable), 250);
}

#[test]
fn an_unsafe_sysctl_takes_a_node_that_allows_it() {
    let (node, _, _dir) = node();
    let node = node.allowing(vec!["kernel.msg*".into(), "net.core.somaxconn".into()]);
    for (name, allowed) in [
        ("kernel.msgmax", true),
        ("kernel/msgmnb", true),
        ("net.core.somaxconn", true),
        ("net.core.somaxconn2", false),
        ("kernel.sem", false),
    ] {
        let pod = json!({
            "metadata": { "uid": name.replace('/', "-"), "name": "p" },
            "spec": { "containers": [], "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let answer = node.admit(&pod, None, false).map_err(|rejection| rejection.reason);
        assert_eq!(answer, if allowed { Ok(()) } else { Err("SysctlForbidden".into()) }, "{name}");
    }
}

#[test]
fn a_critical_pod_takes_the_place_of_lesser_ones() {
    let (node, _, _dir) = node();
    let pod = |uid: &str, cpu: &str, priority: i32, port: i32| -> Pod {
        let port = json!({ "containerPort": port, "hostPort": port });
        let container =
            json!({ "name": "c", "resources": { "requests": { "cpu": cpu } }, "ports": [port] });
        let pod = json!({
            "metadata": { "uid": uid, "name": uid },
            "spec": { "priority": priority, "containers": [container] },
        });
        serde_json::from_value(pod).expect("a pod")
    };
    for (uid, cpu, priority) in
        [("small", "500m", 0), ("large", "1", 0), ("critical", "500m", 2_000_000_000)]
    {
        let port = i32::from(uid.as_bytes()[0]);
        node.admit(&pod(uid, cpu, priority, port), None, false).expect("there is room");
    }
    let asks = |cpu: &str, priority, port| {
        let pod = pod("new", cpu, priority, port);
        node.preempt(&pod, None).map_err(|rejection| rejection.message)
    };
    let taken = asks("1", 2_000_000_000, i32::from(b's')).expect_err("a port is no resource");
    assert!(taken.contains("free ports"), "{taken}");
    let told = asks("2", 2_000_000_000, 1).expect_err("the other critical pod stays");
    assert!(told.ends_with("reclaim resources: [(res: cpu, q: 500), ]"), "{told}");
    assert_eq!(asks("400m", 2_000_000_000, 1), Ok(Some(vec!["small".into()])));
    assert_eq!(asks("400m", 2_000_000_000, 1), Ok(Some(vec![])), "it goes already");
    node.release("small");
    assert_eq!(asks("400m", 2_000_000_000, 1), Ok(None), "there is room");
    assert_eq!(node.preempted(), BTreeMap::from([("cpu".to_owned(), 1)]));
}
