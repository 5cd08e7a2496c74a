//! What the pods on this node have been granted: who may run here, and with how much.
//!
//! Consumes pods as they arrive, are resized and end; decides whether what they ask for still fits beside the others;
//! emits the grant, a rejection, or the wait for room. Counterpart: `pkg/kubelet/allocation` with the predicates of
//! `pkg/kubelet/lifecycle`.
//! Invariant: the sum of all grants stays within the node's allocatable resources, however many workers ask at once;
//! a grant is on disk before it is acted on, so a restarted agent neither takes back nor adds to it.

mod grant;
mod predicates;
mod preemption;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodStatus};
use skiff_api::scheduling::resources::{PodRequests, Resources};
use tokio::sync::{Notify, futures::Notified, mpsc};

use crate::{
    container::resources::{QosClass, qos_class},
    eviction::is_critical,
};
use grant::Grant;
pub use predicates::Rejection;
use predicates::{HostPort, NodeRoom, insufficient};
use preemption::{Candidate, Need};

/// All grants of the node. Shared; every method is one short critical section.
pub struct Allocations {
    allocatable: Resources,
    pods_dir: PathBuf,
    allowed_sysctls: Vec<String>,
    /// Told the uid of every pod whose waiting resize has been granted.
    granted: mpsc::UnboundedSender<String>,
    held: Mutex<BTreeMap<String, Held>>,
    changed: Notify,
    released: Notify,
    preempted: Mutex<BTreeMap<String, u64>>,
}

struct Held {
    qos: QosClass,
    importance: Importance,
    /// It ends to make room for a critical pod.
    goes: bool,
    grant: Grant,
    requests: Resources,
    ports: Vec<HostPort>,
    /// A resize that has to wait for room.
    waiting: Option<Waiting>,
}

struct Waiting {
    grant: Grant,
    requests: Resources,
    rank: Rank,
}

/// Who is served first when room appears: those who shrink, then by priority, class and time of asking.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Rank {
    grows: bool,
    priority: std::cmp::Reverse<i32>,
    guaranteed: std::cmp::Reverse<bool>,
    asked: u64,
}

/// There may be room later.
const DEFERRED: &str = "Deferred";
/// More than the whole node has.
pub const INFEASIBLE: &str = "Infeasible";

/// The answer to a pod's wish.
#[derive(Debug)]
pub struct Granted {
    /// The pod with the resources it may use, which are the wished ones unless `pending` says why not.
    pub pod: Arc<Pod>,
    pub pending: Option<Pending>,
}

/// Why a resize has not been granted: the condition `PodResizePending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// [`DEFERRED`] or [`INFEASIBLE`].
    pub reason: &'static str,
    pub message: String,
}

/// Who makes room for whom.
#[derive(Clone, Copy)]
struct Importance {
    critical: bool,
    priority: Option<i32>,
}

// === impl Importance ===

impl Importance {
    fn of(pod: &Pod) -> Self {
        Importance { critical: is_critical(pod), priority: spec(pod).priority }
    }

    fn outranks(self, other: Importance) -> bool {
        let higher = self.priority.zip(other.priority).is_some_and(|(mine, its)| mine > its);
        self.critical && !other.critical || higher
    }
}

// === impl Allocations ===

impl Allocations {
    pub fn new(
        allocatable: Resources,
        pods_dir: PathBuf,
        granted: mpsc::UnboundedSender<String>,
    ) -> Self {
        let (held, changed) = (Mutex::default(), Notify::new());
        let allowed_sysctls = Vec::new();
        let (released, preempted) = (Notify::new(), Mutex::default());
        Allocations {
            allocatable,
            pods_dir,
            allowed_sysctls,
            granted,
            held,
            changed,
            released,
            preempted,
        }
    }

    /// Lets pods set these sysctls, too.
    pub fn allowing(self, allowed_sysctls: Vec<String>) -> Self {
        Allocations { allowed_sysctls, ..self }
    }

    /// Returns when the sum of grants may have changed since the last time; for one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the pods of a class have been granted together, in thousandths of a CPU.
    pub fn granted_cpu(&self, qos: QosClass) -> i64 {
        let held = self.held.lock().expect("no holder panics");
        held.values().filter(|held| held.qos == qos).map(|held| held.requests.milli_cpu).sum()
    }

    /// Takes a pod in, or says why it may not run here. A pod that was granted before keeps what it has.
    /// `node` is needed only for a pod that names labels of it (see [`needs_node`]). One that `runs` is not turned out.
    pub fn admit(&self, pod: &Pod, node: Option<&Node>, runs: bool) -> Result<(), Rejection> {
        let (uid, spec) = (uid(pod), spec(pod));
        let mut held = self.held.lock().expect("no holder panics");
        if held.contains_key(uid) {
            return Ok(());
        }
        let known = grant::read(&self.pod_dir(uid));
        let grant = known.clone().unwrap_or_else(|| Grant::of(spec));
        let requests = requests(&grant.apply_to(spec));
        let ports = predicates::host_ports(spec);
        if known.is_none() {
            let room = self.room(&held, uid);
            if !runs {
                predicates::sysctls(spec, &self.allowed_sysctls)?;
                predicates::admit(pod, &requests, &ports, &room, node)?;
            }
            self.record(uid, &grant)?;
        }
        let qos = qos_class(spec);
        let importance = Importance::of(pod);
        let (goes, waiting) = (false, None);
        held.insert(
            uid.to_owned(),
            Held { qos, importance, goes, grant, requests, ports, waiting },
        );
        self.changed.notify_one();
        Ok(())
    }

    /// Makes room for a critical pod that was turned out for want of resources: answers the pods that have to end for it
    /// and do not yet. It is to ask again when something was released. `None` if nothing is lacking (any more).
    pub fn preempt(
        &self,
        pod: &Pod,
        node: Option<&Node>,
    ) -> Result<Option<Vec<String>>, Rejection> {
        let (uid, spec) = (uid(pod), spec(pod));
        let mut held = self.held.lock().expect("no holder panics");
        let (wants, ports) = (requests(spec), predicates::host_ports(spec));
        let room = self.room(&held, uid);
        predicates::sysctls(spec, &self.allowed_sysctls)?;
        // Nobody ends for a pod that would be turned out all the same.
        predicates::admit(pod, &Resources::default(), &ports, &room, node)?;
        let Some(first) = insufficient(&wants, &room).next() else { return Ok(None) };
        let chosen = self.choose(&held, &wants, Importance::of(pod))?;
        for uid in &chosen {
            held.entry(uid.clone()).and_modify(|one| one.goes = true);
        }
        let mut preempted = self.preempted.lock().expect("no holder panics");
        *preempted.entry(first.resource().to_owned()).or_default() += chosen.len() as u64;
        Ok(Some(chosen))
    }

    /// Who has to end beside those who do already.
    fn choose(
        &self,
        held: &BTreeMap<String, Held>,
        wants: &Resources,
        importance: Importance,
    ) -> Result<Vec<String>, Rejection> {
        let mut left = NodeRoom::empty(&self.allocatable);
        held.values().filter(|one| !one.goes).for_each(|one| left.take(&one.requests, &[]));
        let needs: Vec<Need> = insufficient(wants, &left).map(|lack| lack.need()).collect();
        let may_go =
            held.iter().filter(|(_, one)| !one.goes && importance.outranks(one.importance));
        let candidates =
            may_go.map(|(uid, one)| Candidate { uid, qos: one.qos, requests: &one.requests });
        preemption::choose(candidates.collect(), &needs).map_err(|error| Rejection {
            reason: "UnexpectedAdmissionError".into(),
            message: format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set \
                 of pods to preempt: {error}"
            ),
        })
    }

    /// Returns when a pod gives back what it held, if it does so after this was made.
    pub fn released(&self) -> Notified<'_> {
        self.released.notified()
    }

    /// How many pods made room, by what was lacking.
    pub fn preempted(&self) -> BTreeMap<String, u64> {
        self.preempted.lock().expect("no holder panics").clone()
    }

    /// The pod as it may run now. Grants a wished resize if there is room, or else notes that it waits.
    /// A pod that was never admitted gets what it asks for: it is not going to start.
    pub fn grant(&self, pod: Arc<Pod>) -> Granted {
        let uid = uid(&pod).to_owned();
        let wished = Grant::of(spec(&pod));
        let mut held = self.held.lock().expect("no holder panics");
        let Some(mine) = held.get_mut(&uid) else {
            return Granted { pod, pending: None };
        };
        mine.waiting = None;
        if mine.grant == wished {
            return Granted { pod, pending: None };
        }
        let has = mine.requests.clone();
        let wants = requests(spec(&pod));
        let rank = rank(&has, &wants, spec(&pod), &held);
        let pending = self.try_resize(&mut held, &uid, &wished, &wants);
        let shrunk = pending.is_none() && !rank.grows;
        if pending.as_ref().is_some_and(|p| p.reason == DEFERRED)
            && let Some(mine) = held.get_mut(&uid)
        {
            mine.waiting = Some(Waiting { grant: wished, requests: wants, rank });
        }
        if shrunk {
            self.serve_waiting(&mut held);
        }
        let allowed = held[&uid].grant.apply(pod);
        Granted { pod: allowed, pending }
    }

    /// The pod needs nothing any more. What it held goes to those who wait.
    pub fn release(&self, uid: &str) {
        let mut held = self.held.lock().expect("no holder panics");
        if held.remove(uid).is_some() {
            self.changed.notify_one();
            self.released.notify_waiters();
            self.serve_waiting(&mut held);
        }
    }

    /// Whether the pod has a place here: it was admitted, and something of it may still run.
    pub fn holds(&self, uid: &str) -> bool {
        self.held.lock().expect("no holder panics").contains_key(uid)
    }

    /// Grants the wish if it fits beside the other pods and has been recorded.
    fn try_resize(
        &self,
        held: &mut BTreeMap<String, Held>,
        uid: &str,
        wished: &Grant,
        wants: &Resources,
    ) -> Option<Pending> {
        let pending = |reason, message| Some(Pending { reason, message });
        if let Some(lack) = insufficient(wants, &NodeRoom::empty(&self.allocatable)).next() {
            return pending(INFEASIBLE, lack.to_string());
        }
        if let Some(lack) = insufficient(wants, &self.room(held, uid)).next() {
            return pending(DEFERRED, lack.to_string());
        }
        if let Err(rejection) = self.record(uid, wished) {
            return pending(DEFERRED, rejection.message);
        }
        let mine = held.get_mut(uid)?;
        (mine.grant, mine.requests) = (wished.clone(), wants.clone());
        self.changed.notify_one();
        None
    }

    /// Goes through the waiting resizes in their order and grants what fits now.
    fn serve_waiting(&self, held: &mut BTreeMap<String, Held>) {
        let mut queue: Vec<(Rank, String)> = held
            .iter()
            .filter_map(|(uid, held)| Some((held.waiting.as_ref()?.rank, uid.clone())))
            .collect();
        queue.sort();
        for (_, uid) in queue {
            let Some(waiting) = held.get_mut(&uid).and_then(|h| h.waiting.take()) else { continue };
            if self.try_resize(held, &uid, &waiting.grant, &waiting.requests).is_none() {
                // Nobody listens only when the agent shuts down.
                let _ = self.granted.send(uid);
            } else if let Some(mine) = held.get_mut(&uid) {
                mine.waiting = Some(waiting);
            }
        }
    }

    /// What the node has, and what pods other than `uid` hold of it.
    fn room(&self, held: &BTreeMap<String, Held>, uid: &str) -> NodeRoom {
        let mut room = NodeRoom::empty(&self.allocatable);
        for other in held.iter().filter(|(other, _)| *other != uid).map(|(_, held)| held) {
            room.take(&other.requests, &other.ports);
        }
        room
    }

    fn record(&self, uid: &str, grant: &Grant) -> Result<(), Rejection> {
        grant::write(&self.pod_dir(uid), grant).map_err(|error| Rejection {
            reason: "UnexpectedAdmissionError".into(),
            message: format!("cannot record what the pod is granted: {error}"),
        })
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        Path::new(&self.pods_dir).join(uid)
    }
}

/// Whether [`Allocations::admit`] has to see the node object for this pod.
pub fn needs_node(pod: &Pod) -> bool {
    predicates::needs_node(spec(pod))
}

fn rank(has: &Resources, wants: &Resources, spec: &PodSpec, held: &BTreeMap<String, Held>) -> Rank {
    let asked = held.values().filter_map(|h| Some(h.waiting.as_ref()?.rank.asked)).max();
    Rank {
        grows: wants.milli_cpu > has.milli_cpu || wants.memory > has.memory,
        priority: std::cmp::Reverse(spec.priority.unwrap_or(0)),
        guaranteed: std::cmp::Reverse(qos_class(spec) == QosClass::Guaranteed),
        asked: asked.map_or(0, |last| last + 1),
    }
}

fn requests(spec: &PodSpec) -> Resources {
    let mut requests = PodRequests::of(spec, &PodStatus::default()).declared;
    requests.pods = 1;
    requests
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("a pod bound to a node has a spec")
}

#[cfg(test)]
mod tests;
