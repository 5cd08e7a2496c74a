//! The pods of simulated nodes: what each needs next, and the writes that do it.
//!
//! A pod and its node in; a status or a deletion out, decided by the pure `plan`. Counterpart: `pkg/kubelet/pod_workers.go`.
//! Invariant: the decision looks at the newest version of the pod that was heard of.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::addresses::Addresses;
use super::{Host, RUN_SECONDS, seconds};

type Hosts = HashMap<String, Arc<Host>>;

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a pod that may end runs when it does not say.
const RUN_SECONDS_DEFAULT: u64 = 1;

/// What a pod needs next.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Run,
    End,
    LookAgain(Duration),
    Delete,
}

#[derive(Default)]
pub struct Pods {
    /// Pods to look at, by uid; empty between changes.
    changed: HashMap<String, Pod>,
    ready: VecDeque<String>,
    writing: HashSet<String>,
    /// Pods whose deletion the server has taken, until it is heard that they are gone. What is heard of them meanwhile
    /// is older, or tells of a finalizer that somebody else must lift.
    let_go: HashSet<String>,
    /// When to look at a pod again without news of it.
    timers: BTreeMap<(Instant, String), Pod>,
    /// Pods whose node is not heard of yet (or is a real one), by node.
    strangers: HashMap<String, HashMap<String, Pod>>,
    addresses: Addresses,
}

pub struct Write {
    pod: Pod,
    what: What,
}

enum What {
    Status(Value),
    Delete,
}

pub struct Done {
    pod: Pod,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    LetGo,
    Failed,
}

// === impl Pods ===

impl Pods {
    pub fn set(&mut self, pod: Pod, hosts: &Hosts) {
        let uid = pod.uid().unwrap_or_default();
        if !hosts.contains_key(node_of(&pod)) {
            return self.set_stranger(uid, pod);
        }
        if let Some(address) = address(&pod) {
            self.addresses.keep(address);
        }
        self.look_at(uid, pod);
    }

    fn look_at(&mut self, uid: String, pod: Pod) {
        if self.let_go.contains(&uid) {
            return;
        }
        self.changed.insert(uid.clone(), pod);
        if !self.writing.contains(&uid) {
            self.ready.push_back(uid);
        }
    }

    /// Only pods that nobody has started yet can still turn out to be ours.
    fn set_stranger(&mut self, uid: String, pod: Pod) {
        if phase(&pod) == "Pending" || pod.metadata.deletion_timestamp.is_some() {
            self.strangers.entry(node_of(&pod).to_owned()).or_default().insert(uid, pod);
        } else {
            self.forget_stranger(&uid, &pod);
        }
    }

    fn forget_stranger(&mut self, uid: &str, pod: &Pod) {
        let Some(pods) = self.strangers.get_mut(node_of(pod)) else { return };
        pods.remove(uid);
        if pods.is_empty() {
            self.strangers.remove(node_of(pod));
        }
    }

    pub fn node_came(&mut self, node: &str, hosts: &Hosts) {
        let pods = self.strangers.remove(node).unwrap_or_default();
        pods.into_values().for_each(|pod| self.set(pod, hosts));
    }

    pub fn remove(&mut self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        self.changed.remove(&uid);
        self.writing.remove(&uid);
        self.let_go.remove(&uid);
        self.forget_stranger(&uid, pod);
        if let Some(address) = address(pod) {
            self.addresses.give_back(address);
        }
    }

    /// A new list is on its way: what went meanwhile is not heard of any more.
    pub fn listed_anew(&mut self) {
        self.let_go.clear();
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    pub fn wake_due(&mut self) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= Instant::now()
        {
            let ((_, uid), pod) = entry.remove_entry();
            // What came meanwhile is newer.
            if !self.changed.contains_key(&uid) {
                self.look_at(uid, pod);
            }
        }
    }

    /// The next write that may start now.
    pub fn next_write(&mut self, hosts: &Hosts) -> Option<Write> {
        loop {
            let uid = self.ready.pop_front()?;
            let Some(pod) = self.changed.remove(&uid) else { continue };
            let Some(host) = hosts.get(node_of(&pod)) else { continue };
            let now = Timestamp::now();
            let what = match plan(&pod, now) {
                Step::Nothing => continue,
                Step::Run => match self.addresses.take() {
                    Some(address) => What::Status(running(&pod, host, address, now)),
                    None => continue,
                },
                Step::End => What::Status(ended(&pod, now)),
                Step::Delete => What::Delete,
                Step::LookAgain(after) => {
                    self.timers.insert((Instant::now() + after, uid), pod);
                    continue;
                }
            };
            self.writing.insert(uid);
            return Some(Write { pod, what });
        }
    }

    pub fn done(&mut self, done: Done) {
        let uid = done.pod.uid().unwrap_or_default();
        // That it is gone may be heard before the answer to the write.
        let known = self.writing.remove(&uid);
        if done.outcome == Outcome::LetGo {
            self.changed.remove(&uid);
            if known {
                self.let_go.insert(uid);
            }
        } else if self.changed.contains_key(&uid) {
            self.ready.push_back(uid);
        } else if done.outcome == Outcome::Failed {
            self.timers.insert((Instant::now() + RETRY_AFTER, uid), done.pod);
        }
    }
}

// === impl Write ===

impl Write {
    pub async fn run(self, client: Client) -> Done {
        let (written, well) = match &self.what {
            What::Status(status) => {
                (write_status(&client, &self.pod, status).await, Outcome::Written)
            }
            What::Delete => (delete(client, &self.pod).await, Outcome::LetGo),
        };
        let outcome = match written {
            Ok(()) => well,
            // It is gone, or another of its name is there.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => well,
            Err(error) => {
                tracing::debug!(pod = self.pod.name_any(), %error, "simulated pod was not written");
                Outcome::Failed
            }
        };
        Done { pod: self.pod, outcome }
    }
}

/// The answer is not looked at: the watch tells it anyway.
async fn write_status(client: &Client, pod: &Pod, status: &Value) -> kube::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
    let path = Pod::url_path(&(), pod.metadata.namespace.as_deref());
    let request = Request::new(path)
        .patch_subresource("status", &pod.name_any(), &PatchParams::default(), &patch)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

async fn delete(client: Client, pod: &Pod) -> kube::Result<()> {
    let uid = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(uid),
        ..DeleteParams::default()
    };
    let namespace = pod.namespace().unwrap_or_default();
    Api::<Pod>::namespaced(client, &namespace).delete(&pod.name_any(), &params).await.map(drop)
}

fn plan(pod: &Pod, now: Timestamp) -> Step {
    if pod.metadata.deletion_timestamp.is_some() {
        // Without any grace left the pod goes by itself, once its finalizers are lifted.
        return match pod.metadata.deletion_grace_period_seconds {
            Some(0) => Step::Nothing,
            _ => Step::Delete,
        };
    }
    match phase(pod) {
        "Pending" => Step::Run,
        "Running" if may_end(pod) => {
            let left = end_of(pod).as_second() - now.as_second();
            match u64::try_from(left) {
                Ok(seconds) if seconds > 0 => Step::LookAgain(Duration::from_secs(seconds)),
                _ => Step::End,
            }
        }
        _ => Step::Nothing,
    }
}

fn may_end(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.restart_policy.as_deref() != Some("Always"))
}

fn end_of(pod: &Pod) -> Timestamp {
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let asked = pod.annotations().get(RUN_SECONDS).and_then(|seconds| seconds.parse().ok());
    let run_for = Duration::from_secs(asked.unwrap_or(RUN_SECONDS_DEFAULT));
    let start = start.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    start.checked_add(run_for).unwrap_or(Timestamp::MAX)
}

fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.unwrap_or("Pending")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|status| status.pod_ip.as_deref())
}

/// The status of a pod whose every container runs and is ready.
fn running(pod: &Pod, host: &Host, address: Ipv4Addr, now: Timestamp) -> Value {
    let now = seconds(now);
    let mut conditions = vec![scheduled(pod)];
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        conditions.push(condition(kind, "True", None, &now));
    }
    let state = json!({"running": {"startedAt": now}});
    json!({
        "phase": "Running", "startTime": now, "conditions": conditions,
        "hostIP": host.address, "hostIPs": [{"ip": host.address}],
        "podIP": address, "podIPs": [{"ip": address}],
        "containerStatuses": container_statuses(pod, &state, true),
    })
}

/// The status of a pod whose containers have all ended well.
fn ended(pod: &Pod, now: Timestamp) -> Value {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let started = started.map_or(now, |time| time.0);
    let now = seconds(now);
    let done = Some("PodCompleted");
    let conditions = vec![
        scheduled(pod),
        condition("PodReadyToStartContainers", "False", None, &now),
        condition("Initialized", "True", done, &seconds(started)),
        condition("ContainersReady", "False", done, &now),
        condition("Ready", "False", done, &now),
    ];
    let state = json!({"terminated": {
        "exitCode": 0, "reason": "Completed", "startedAt": seconds(started), "finishedAt": now,
    }});
    json!({
        "phase": "Succeeded", "conditions": conditions,
        "containerStatuses": container_statuses(pod, &state, false),
    })
}

fn condition(kind: &str, status: &str, reason: Option<&str>, now: &str) -> Value {
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": now});
    if let Some(reason) = reason {
        condition["reason"] = reason.into();
    }
    condition
}

/// The condition that the scheduler wrote: the list is replaced as a whole.
fn scheduled(pod: &Pod) -> Value {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let scheduled = conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled");
    scheduled.map_or_else(|| json!({"type": "PodScheduled", "status": "True"}), |c| json!(c))
}

fn container_statuses(pod: &Pod, state: &Value, ready: bool) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let status = |container: &Container| {
        let image = container.image.as_deref().unwrap_or_default();
        json!({
            "name": container.name, "image": image, "imageID": image, "restartCount": 0,
            "ready": ready, "started": ready, "state": state,
            "containerID": format!("simulated://{}-{}", pod.metadata.uid.as_deref().unwrap_or_default(), container.name),
        })
    };
    containers.map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6d5e";
    const GOING: &str =
        "{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 30}}";

    fn pod(more: &str) -> Pod {
        let text = format!(
            "{{metadata: {{name: p, namespace: default, uid: {UID}}}, spec: {{nodeName: one, containers: [{{name: c, image: i}}]}}}}"
        );
        let mut pod: Value = serde_saphyr::from_str(&text).unwrap();
        let more: Value = serde_saphyr::from_str(more).unwrap();
        merge(&mut pod, &more);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(object: &mut Value, patch: &Value) {
        match patch.as_object() {
            Some(fields) => fields.iter().for_each(|(name, value)| merge(&mut object[name], value)),
            None => *object = patch.clone(),
        }
    }

    fn hosts() -> Hosts {
        HashMap::from([("one".into(), Arc::new(Host { address: "198.18.0.1".into() }))])
    }

    #[track_caller]
    fn check(more: &str, expected: Step) {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(plan(&pod(more), now), expected);
    }

    #[test]
    fn pods_run_until_they_may_end_or_must_go() {
        check("{}", Step::Run);
        check("{spec: {restartPolicy: Always}, status: {phase: Running}}", Step::Nothing);
        let running = "spec: {restartPolicy: Never}, status: {phase: Running, startTime: '2026-01-01T00:00:00Z'}";
        check(&format!("{{{running}}}"), Step::End);
        let long = format!("{{metadata: {{annotations: {{{RUN_SECONDS}: '15'}}}}, {running}}}");
        check(&long, Step::LookAgain(Duration::from_secs(5)));
        check("{status: {phase: Succeeded}}", Step::Nothing);
        check("{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}}", Step::Delete);
        let held = "{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 0}}";
        check(held, Step::Nothing);
    }

    #[tokio::test]
    async fn a_pod_that_is_heard_of_before_its_node_is_not_forgotten() {
        let mut pods = Pods::default();
        pods.set(pod("{}"), &Hosts::new());
        assert!(pods.next_write(&hosts()).is_none());
        pods.node_came("one", &hosts());
        assert!(matches!(pods.next_write(&hosts()).unwrap().what, What::Status(_)));
    }

    #[tokio::test]
    async fn one_write_at_a_time_and_then_the_newest_state() {
        let mut pods = Pods::default();
        pods.set(pod("{}"), &hosts());
        let write = pods.next_write(&hosts()).unwrap();
        pods.set(pod(GOING), &hosts());
        assert!(pods.next_write(&hosts()).is_none(), "the first write is still on its way");
        pods.done(Done { pod: write.pod, outcome: Outcome::Written });
        assert!(matches!(pods.next_write(&hosts()).unwrap().what, What::Delete));
    }

    /// The deletion raced the news of the pod's last changes, and each of those had it deleted once more.
    #[tokio::test]
    async fn a_pod_that_was_let_go_is_not_deleted_again() {
        let mut pods = Pods::default();
        pods.set(pod(GOING), &hosts());
        let write = pods.next_write(&hosts()).unwrap();
        pods.set(pod(GOING), &hosts());
        pods.done(Done { pod: write.pod, outcome: Outcome::LetGo });
        assert!(pods.next_write(&hosts()).is_none(), "heard while it was deleted");
        pods.set(pod(GOING), &hosts());
        assert!(pods.next_write(&hosts()).is_none(), "heard later, but older than the deletion");
        pods.remove(&pod(GOING));
        assert!(pods.let_go.is_empty());
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_before_the_answer_came_is_not_remembered() {
        let mut pods = Pods::default();
        pods.set(pod(GOING), &hosts());
        let write = pods.next_write(&hosts()).unwrap();
        pods.remove(&pod(GOING));
        pods.done(Done { pod: write.pod, outcome: Outcome::LetGo });
        assert!(pods.let_go.is_empty() && pods.writing.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_tried_again() {
        let mut pods = Pods::default();
        pods.set(pod("{}"), &hosts());
        let write = pods.next_write(&hosts()).unwrap();
        pods.done(Done { pod: write.pod, outcome: Outcome::Failed });
        assert!(pods.next_write(&hosts()).is_none());
        tokio::time::advance(RETRY_AFTER).await;
        pods.wake_due();
        assert!(pods.next_write(&hosts()).is_some());
    }

    #[tokio::test]
    async fn the_pods_of_real_nodes_are_left_alone() {
        let mut pods = Pods::default();
        pods.set(pod("{spec: {nodeName: real}}"), &hosts());
        pods.set(pod("{spec: {nodeName: real}, status: {phase: Running}}"), &hosts());
        assert!(pods.next_write(&hosts()).is_none());
        assert!(pods.strangers.is_empty(), "a pod that runs belongs to somebody");
    }
}
