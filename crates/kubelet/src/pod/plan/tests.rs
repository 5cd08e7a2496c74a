//! The table of plans: what is seen of a pod, and the steps that follow, read from `table.yaml`.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use skiff_runtime::{
    ContainerMetadata, ContainerState, NamespaceOptions, PodSandboxMetadata, PodSandboxState,
    PodSandboxStatus,
};

use super::*;
use crate::pod::{
    backoff::{Backoff, CONTAINER, SETUP},
    ending::Ending,
    observed::{Failure, Health, Unhealthy, Volumes},
};

const TABLE: &str = include_str!("table.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// A pod spec; the name of an image is optional.
    spec: serde_json::Value,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    seen: Seen,
    stage: String,
    #[serde(default)]
    actions: Vec<String>,
    /// Seconds from now.
    wake: Option<i64>,
}

/// What is observed, in a few words.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Seen {
    stage: Option<String>,
    volumes: Option<String>,
    sandbox: Option<String>,
    /// `name/attempt: state`, where state is `running`, `unready`, `unhealthy`, `created` or `exited CODE`.
    containers: std::collections::BTreeMap<String, String>,
    /// Containers that have been restarted before.
    restarted: Vec<String>,
    failed: Vec<String>,
    in_flight: Vec<String>,
    started_ago: Option<i64>,
    terminating_for: Option<i64>,
    removed: bool,
    /// The node ends the pod with so many seconds of grace.
    ended: Option<i64>,
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).expect("a time")
}

fn key(text: &str) -> StepKey {
    match text {
        "volumes" => StepKey::Volumes,
        "sandbox" => StepKey::Sandbox,
        "object" => StepKey::Object,
        name => StepKey::Container(name.into()),
    }
}

fn pod(case: &Case) -> DesiredPod {
    let mut spec = case.spec.clone();
    for list in ["containers", "initContainers"] {
        for c in spec[list].as_array_mut().into_iter().flatten() {
            if c["image"].is_null() {
                c["image"] = "i".into();
            }
        }
    }
    let mut pod = serde_json::json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": spec });
    if case.deleted {
        pod["metadata"]["deletionTimestamp"] = "1970-01-12T13:46:40Z".into();
    }
    DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod")))
}

fn container(name: &str, state: &str) -> ContainerStatus {
    let (name, attempt) = name.split_once('/').expect("name/attempt");
    let exited = state.strip_prefix("exited ");
    ContainerStatus {
        id: format!("{name}-{attempt}"),
        sandbox_id: "s".into(),
        metadata: ContainerMetadata {
            name: name.into(),
            attempt: attempt.parse().expect("a number"),
        },
        state: match state {
            "created" => ContainerState::Created,
            _ if exited.is_some() => ContainerState::Exited,
            _ => ContainerState::Running,
        },
        created_at: now().into(),
        started_at: Some(now().into()),
        finished_at: exited.map(|_| now().into()),
        exit_code: exited.map(|code| code.parse().expect("a number")),
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_ref: String::new(),
        image_id: String::new(),
        labels: Default::default(),
        annotations: Default::default(),
        mounts: Vec::new(),
        log_path: Default::default(),
        resources: Default::default(),
        user: None,
        pid: None,
        stop_signal: String::new(),
    }
}

fn health(state: &str) -> Health {
    let unhealthy = Unhealthy { probe: "liveness", grace_seconds: None };
    Health {
        started: state != "unready",
        ready: state == "running",
        unhealthy: (state == "unhealthy").then_some(unhealthy),
    }
}

fn sandbox(state: &str) -> PodSandboxStatus {
    PodSandboxStatus {
        id: "s".into(),
        metadata: PodSandboxMetadata::default(),
        state: if state == "ready" { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        created_at: now().into(),
        ips: Vec::new(),
        namespaces: NamespaceOptions::default(),
        labels: Default::default(),
        annotations: Default::default(),
        netns: None,
        resources: Default::default(),
    }
}

fn observed(seen: &Seen) -> Observed {
    let ago = |seconds: i64| now() - SignedDuration::from_secs(seconds);
    let failure = || Failure {
        reason: "Failed".into(),
        message: String::new(),
        at: now(),
        backoff: Backoff::next(None, SETUP, now()),
        repairable: true,
    };
    Observed {
        stage: match seen.stage.as_deref() {
            Some("Terminating") => Stage::Terminating(Why::Deleted),
            Some("Terminated") => Stage::Terminated(Why::Deleted),
            _ => Stage::Active,
        },
        volumes: Volumes {
            begun: seen.volumes.as_deref() != Some("none"),
            mounted: seen.volumes.as_deref() != Some("none"),
            stale: seen.volumes.as_deref() == Some("stale"),
            refresh_at: None,
        },
        sandbox: seen.sandbox.as_deref().map(sandbox),
        containers: seen.containers.iter().map(|(name, state)| container(name, state)).collect(),
        health: seen
            .containers
            .iter()
            .map(|(name, state)| (name.replace('/', "-"), health(state)))
            .collect(),
        failures: seen.failed.iter().map(|k| (key(k), failure())).collect(),
        restarts: seen
            .restarted
            .iter()
            .map(|c| (c.clone(), Backoff::next(None, CONTAINER, now())))
            .collect(),
        in_flight: seen.in_flight.iter().map(|k| key(k)).collect(),
        start_time: seen.started_ago.map(ago),
        terminating_since: seen.terminating_for.map(ago),
        removed: seen.removed,
        ending: seen.ended.map(|grace| Ending {
            reason: "Evicted",
            message: String::new(),
            grace: SignedDuration::from_secs(grace),
            disruption: true,
        }),
        ..Observed::default()
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::SetUpVolumes => "set up volumes".into(),
        Action::TearDownVolumes => "tear down volumes".into(),
        Action::RunSandbox { attempt } => format!("run sandbox {attempt}"),
        Action::StopSandbox { .. } => "stop sandbox".into(),
        Action::StartContainer { name, attempt } => format!("start {name}/{attempt}"),
        Action::KillContainer { id, grace, .. } => format!("kill {id} in {}s", grace.as_secs()),
        Action::RemoveContainer { id, .. } => format!("remove {id}"),
        Action::Resize { containers } => format!("resize {}", containers.join(" ")),
        Action::DeletePod => "delete pod".into(),
        Action::RemovePod => "remove pod".into(),
    }
}

#[test]
fn table() {
    let cases: Vec<Case> = serde_saphyr::from_str(TABLE).expect("the table parses");
    for case in cases {
        let (pod, mut seen) = (pod(&case), observed(&case.seen));
        if let Some(sandbox) = &mut seen.sandbox {
            sandbox.resources = crate::container::resources::pod_resources(pod.spec());
        }
        let first = plan(&pod, &seen, now());
        let stage = format!("{:?}", first.stage);
        assert_eq!(stage, case.stage, "stage: {}", case.name);
        assert_eq!(
            first.actions.iter().map(words).collect::<Vec<_>>(),
            case.actions,
            "actions: {}",
            case.name
        );
        let wake = first.wake_at.map(|at| at.duration_since(now()).as_secs());
        assert_eq!(wake, case.wake, "wake: {}", case.name);

        seen.stage = first.stage;
        seen.in_flight.extend(first.actions.iter().map(Action::key));
        let second = plan(&pod, &seen, now() + Duration::from_millis(1));
        assert_eq!(second.actions, [], "a second plan has nothing to add: {}", case.name);
    }
}
