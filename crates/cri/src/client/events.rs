//! What happens to containers by itself.
//!
//! Two lists, and what changed between them -> [`ContainerEvent`]s. Counterpart: `pkg/kubelet/pleg` (generic and evented).
//! Where the runtime streams its events, each is a reason to look at once; where it does not (containerd before 1.7), a look a second
//! does. Differs from upstream: a streamed event is never believed by itself, so both ways report the same.
//! Invariant: events of one container come in the order of its life, none twice.

use std::{collections::BTreeMap, sync::Weak, time::Duration};

use skiff_grpc::{Code, Status, Streaming};
use skiff_runtime::{
    ContainerEvent, ContainerEventKind, ContainerState, PodSandboxState, Result, Runtime,
};
use tokio::time::{sleep, timeout};

use super::RemoteRuntime;
use crate::{
    api::{self, RUNTIME_SERVICE},
    convert::Enumeration,
    error::error_of,
};

/// Between looks without and with events that are streamed; upstream's figures.
const RELIST: Duration = Duration::from_secs(1);
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(300);

/// One look at all there is.
#[derive(Debug, Default, PartialEq)]
struct Look {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sandbox {
    uid: String,
    ready: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Container {
    sandbox_id: String,
    state: ContainerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Started,
    Stopped,
    Deleted,
    SandboxStopped,
}

/// Runs as long as the runtime is used.
pub async fn watch(runtime: Weak<RemoteRuntime>) {
    let mut last: Option<Look> = None;
    let mut stream = Stream::Unopened;
    while let Some(runtime) = runtime.upgrade() {
        // Opened before the look, so that nothing falls in between.
        stream.open(&runtime).await;
        match runtime.look().await {
            Ok(now) => {
                // What was there before the first look is nobody's news.
                if let Some(before) = &last {
                    runtime.publish(before, &now).await;
                }
                last = Some(now);
            }
            Err(error) => tracing::warn!(%error, "containers cannot be listed"),
        }
        drop(runtime);
        stream.wait().await;
    }
}

/// The runtime's own events, as far as it has any.
enum Stream {
    Unopened,
    Open(Streaming<api::ContainerEventResponse>),
    /// The runtime knows no such verb.
    Unoffered,
}

// === impl Stream ===

impl Stream {
    async fn open(&mut self, runtime: &RemoteRuntime) {
        if !matches!(self, Stream::Unopened) {
            return;
        }
        let path = format!("{RUNTIME_SERVICE}GetContainerEvents");
        match runtime.runtime.server_streaming(&path, &(), None).await {
            Ok(events) => *self = Stream::Open(events),
            Err(status) => self.failed(&status),
        }
    }

    fn failed(&mut self, status: &Status) {
        *self = match status.code {
            Code::Unimplemented => Stream::Unoffered,
            _ => Stream::Unopened,
        };
    }

    /// Until it is worth looking again.
    async fn wait(&mut self) {
        let Stream::Open(events) = self else { return sleep(RELIST).await };
        match timeout(RELIST_WITH_EVENTS, events.next()).await {
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None)) => {
                *self = Stream::Unopened;
                sleep(RELIST).await;
            }
            Ok(Err(status)) => {
                self.failed(&status);
                sleep(RELIST).await;
            }
        }
    }
}

// === impl RemoteRuntime ===

impl RemoteRuntime {
    async fn look(&self) -> Result<Look> {
        let (sandboxes, containers) =
            tokio::try_join!(self.sandboxes(None), self.containers(None))?;
        let sandboxes = sandboxes.into_iter().map(|one| {
            let uid = one.metadata.unwrap_or_default().uid;
            (one.id, Sandbox { uid, ready: one.state == PodSandboxState::Ready.number() })
        });
        let containers = containers.into_iter().map(|one| {
            let state = ContainerState::named(one.state).unwrap_or(ContainerState::Unknown);
            (one.id, Container { sandbox_id: one.pod_sandbox_id, state })
        });
        Ok(Look { sandboxes: sandboxes.collect(), containers: containers.collect() })
    }

    async fn publish(&self, before: &Look, now: &Look) {
        for (change, container_id, sandbox_id) in changes(before, now) {
            let kind = match change {
                Change::Created => ContainerEventKind::Created,
                Change::Started => ContainerEventKind::Started,
                Change::Deleted => ContainerEventKind::Deleted,
                Change::SandboxStopped => ContainerEventKind::SandboxStopped,
                Change::Stopped => self.ended(&container_id).await,
            };
            let sandbox = now.sandboxes.get(&sandbox_id).or(before.sandboxes.get(&sandbox_id));
            let pod_uid = sandbox.map(|sandbox| sandbox.uid.clone()).unwrap_or_default();
            // Nobody listening is fine: a listener that comes later lists first.
            let _ = self.events.send(ContainerEvent { kind, sandbox_id, container_id, pod_uid });
        }
    }

    async fn ended(&self, id: &str) -> ContainerEventKind {
        let status = self.container_status(id).await.ok();
        let exit_code = status.as_ref().and_then(|status| status.exit_code).unwrap_or(255);
        let oom_killed = status.is_some_and(|status| status.reason == "OOMKilled");
        ContainerEventKind::Stopped { exit_code, oom_killed }
    }

    /// All sandboxes, or the one of an id.
    pub(super) async fn sandboxes(&self, id: Option<&str>) -> Result<Vec<api::PodSandbox>> {
        let filter = id.map(|id| api::PodSandboxFilter { id: id.to_owned(), ..Default::default() });
        let request = api::ListPodSandboxRequest { filter };
        let answer = self.call_for(super::TIMEOUT, "ListPodSandbox", &request).await;
        let answer: api::ListPodSandboxResponse =
            answer.map_err(|status| error_of(status, "pod sandbox", id.unwrap_or_default()))?;
        Ok(answer.items)
    }

    /// All containers, or the one of an id.
    pub(super) async fn containers(&self, id: Option<&str>) -> Result<Vec<api::Container>> {
        let filter = id.map(|id| api::ContainerFilter { id: id.to_owned(), ..Default::default() });
        let request = api::ListContainersRequest { filter };
        let answer: api::ListContainersResponse =
            self.call("ListContainers", &request, ("container", id.unwrap_or_default())).await?;
        Ok(answer.containers)
    }
}

/// What happened between two looks: the change, the object and its sandbox.
fn changes(before: &Look, now: &Look) -> Vec<(Change, String, String)> {
    let mut found = Vec::new();
    for (id, container) in &now.containers {
        let known = before.containers.get(id).map(|known| known.state);
        let passed = passed(known, container.state);
        found.extend(passed.iter().map(|one| (*one, id.clone(), container.sandbox_id.clone())));
    }
    let gone = before.containers.iter().filter(|(id, _)| !now.containers.contains_key(*id));
    found.extend(gone.map(|(id, one)| (Change::Deleted, id.clone(), one.sandbox_id.clone())));
    let stopped = before.sandboxes.iter().filter(|(id, known)| {
        known.ready && !now.sandboxes.get(*id).is_some_and(|sandbox| sandbox.ready)
    });
    found.extend(stopped.map(|(id, _)| (Change::SandboxStopped, id.clone(), id.clone())));
    found
}

/// The stations of a life between two states, also those that no look has seen.
fn passed(known: Option<ContainerState>, now: ContainerState) -> &'static [Change] {
    const LIFE: [Change; 3] = [Change::Created, Change::Started, Change::Stopped];
    // A state that nobody knows is neither running nor over.
    let station = |state| match state {
        ContainerState::Created | ContainerState::Unknown => 1,
        ContainerState::Running => 2,
        ContainerState::Exited => 3,
    };
    LIFE.get(known.map_or(0, station)..station(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(containers: &[(&str, ContainerState)], ready: bool) -> Look {
        let container = |(id, state): &(&str, ContainerState)| {
            ((*id).to_owned(), Container { sandbox_id: "s".into(), state: *state })
        };
        Look {
            sandboxes: [("s".to_owned(), Sandbox { uid: "u".into(), ready })].into(),
            containers: containers.iter().map(container).collect(),
        }
    }

    fn between(before: &Look, now: &Look) -> Vec<(Change, String)> {
        changes(before, now).into_iter().map(|(change, id, _)| (change, id)).collect()
    }

    #[test]
    fn a_life_between_two_looks_is_told_in_order() {
        use ContainerState::{Created, Exited, Running};
        let (none, exited) = (look(&[], true), look(&[("c", Exited)], true));
        let id = || "c".to_owned();
        let life = [(Change::Created, id()), (Change::Started, id()), (Change::Stopped, id())];
        assert_eq!(between(&none, &exited), life);
        assert_eq!(between(&look(&[("c", Created)], true), &exited), life[1..]);
        assert_eq!(between(&look(&[("c", Running)], true), &exited), life[2..]);
        assert_eq!(between(&exited, &exited), []);
        assert_eq!(between(&exited, &none), [(Change::Deleted, id())]);
    }

    #[test]
    fn a_sandbox_that_stops_or_vanishes_is_told_once() {
        let (up, down) = (look(&[], true), look(&[], false));
        let stopped = [(Change::SandboxStopped, "s".to_owned())];
        assert_eq!(between(&up, &down), stopped);
        assert_eq!(between(&up, &Look::default()), stopped);
        assert_eq!(between(&down, &Look::default()), []);
    }
}
