//! Who is evicted, and who may come to a node that is short of something.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::{
    Conditions,
    pressure::{Reading, Starved},
    rank::{Candidate, Terms, choose},
    threshold::{Amount, Condition, Signal, Threshold},
    usage::{ContainerUsage, Disk, PodUsage},
};

const MIB: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    signal: String,
    /// Seconds; none is a hard threshold.
    #[serde(default)]
    grace: u64,
    #[serde(default)]
    dedicated_image_fs: bool,
    pods: BTreeMap<String, Candidates>,
    victim: Option<String>,
    message: Option<String>,
    granted: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidates {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    spec: serde_json::Value,
    /// Mebibytes of memory, and processes.
    #[serde(default)]
    memory: u64,
    #[serde(default)]
    processes: u64,
    /// Mebibytes on the disk, and as many inodes.
    #[serde(default)]
    rootfs: u64,
    #[serde(default)]
    logs: u64,
}

// === impl Candidates ===

impl Candidates {
    fn candidate(self, name: &str) -> Candidate {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": name, "namespace": "ns", "uid": name, "annotations": self.annotations },
            "spec": self.spec,
        }))
        .expect("a pod");
        let disk = |size: u64| Disk { bytes: size * MIB, inodes: size };
        let container = ContainerUsage {
            name: "c".into(),
            memory: self.memory * MIB,
            rootfs: disk(self.rootfs),
            logs: disk(self.logs),
        };
        let usage = PodUsage {
            memory: self.memory * MIB,
            processes: self.processes,
            containers: vec![container],
            volumes: Vec::new(),
        };
        Candidate { pod: Arc::new(pod), usage }
    }
}

fn starved(signal: Signal, grace: u64) -> Starved {
    let threshold = Threshold {
        signal,
        amount: Amount::Absolute(100 * MIB),
        grace: Duration::from_secs(grace),
        min_reclaim: None,
    };
    Starved { threshold, reading: Reading { capacity: 1 << 30, available: 50 * MIB } }
}

#[test]
fn victims() {
    let cases: Vec<Case> =
        serde_saphyr::from_str(include_str!("victim_table.yaml")).expect("the table parses");
    for case in cases {
        let signal = match case.signal.as_str() {
            "memory.available" => Signal::MemoryAvailable,
            "nodefs.available" => Signal::NodefsAvailable,
            "imagefs.inodesFree" => Signal::ImagefsInodesFree,
            "pid.available" => Signal::PidAvailable,
            other => panic!("{other} is not used here"),
        };
        let candidates: Vec<Candidate> =
            case.pods.into_iter().map(|(name, pod)| pod.candidate(&name)).collect();
        let terms = Terms {
            dedicated_image_fs: case.dedicated_image_fs,
            max_pod_grace: SignedDuration::from_secs(60),
        };
        let chosen = choose(&candidates, &starved(signal, case.grace), terms);
        let name = chosen.as_ref().and_then(|(pod, _)| pod.metadata.name.clone());
        assert_eq!(name, case.victim, "{}", case.name);
        let Some((_, ending)) = chosen else { continue };
        assert!(ending.disruption, "it is no fault of the pod's: {}", case.name);
        if let Some(message) = case.message {
            assert_eq!(ending.message, message, "{}", case.name);
        }
        if let Some(granted) = case.granted {
            assert_eq!(ending.grace, SignedDuration::from_secs(granted), "{}", case.name);
        }
    }
}

fn admitted(conditions: &[Condition], pod: serde_json::Value) -> Result<(), String> {
    let known = Conditions::default();
    known.set(conditions.iter().copied().collect());
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    known.admit(&pod).map_err(|rejection| format!("{}: {}", rejection.reason, rejection.message))
}

#[test]
fn a_node_that_is_short_takes_in_only_what_it_must() {
    let pod = |spec| serde_json::json!({ "spec": spec });
    let best_effort = pod(serde_json::json!({ "containers": [{ "name": "a" }] }));
    let burstable = pod(serde_json::json!({ "containers": [
        { "name": "a", "resources": { "requests": { "memory": "1Mi" } } },
    ] }));
    let tolerant = pod(serde_json::json!({
        "containers": [{ "name": "a" }],
        "tolerations": [{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" }],
    }));
    let critical =
        pod(serde_json::json!({ "containers": [{ "name": "a" }], "priority": 2_000_000_000 }));
    assert_eq!(admitted(&[], best_effort.clone()), Ok(()));
    let refused = |named: &str| Err(format!("Evicted: The node had condition: [{named}]. "));
    assert_eq!(admitted(&[Condition::Memory], best_effort), refused("MemoryPressure"));
    assert_eq!(admitted(&[Condition::Memory], burstable.clone()), Ok(()));
    assert_eq!(admitted(&[Condition::Memory], tolerant), Ok(()));
    assert_eq!(
        admitted(&[Condition::Disk, Condition::Memory], burstable),
        refused("MemoryPressure DiskPressure")
    );
    assert_eq!(admitted(&[Condition::Disk], critical), Ok(()));
}
