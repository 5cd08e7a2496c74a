//! A pod as its worker wants it: the wire object, parsed once.
//!
//! Consumes a `v1.Pod`, decides each container's role and restart rule, emits [`DesiredPod`]. Counterpart: the
//! helpers of `pkg/api/v1/pod` and `pkg/kubelet/container`.
//! Invariant: containers are in start order (init in order, then regular, then ephemeral), and names are unique
//! among them, as validation promised.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSecurityContext, PodSpec};

use crate::container::resources::{QosClass, qos_class};

/// What names one pod for good: a new pod of the same name has another uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone)]
pub struct DesiredPod {
    pub object: Arc<Pod>,
    pub key: PodKey,
    pub containers: Vec<DesiredContainer>,
    pub qos: QosClass,
}

#[derive(Debug, Clone)]
pub struct DesiredContainer {
    pub role: Role,
    pub spec: Container,
    /// The container whose process namespace an ephemeral container joins.
    pub target: Option<String>,
    pub restart_policy: RestartPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion, one after another, before anything else.
    Init,
    /// An init container with `restartPolicy: Always`: started in turn, then stays beside the others.
    Sidecar,
    Regular,
    /// Added by `kubectl debug`; started once, never restarted.
    Ephemeral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

// === impl DesiredPod ===

impl DesiredPod {
    pub fn new(object: Arc<Pod>) -> Self {
        let key = PodKey::of(&object);
        let spec = object.spec.clone().unwrap_or_default();
        let restart_policy =
            RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let containers = in_start_order(&spec, restart_policy);
        DesiredPod { qos: qos_class(&spec), object, key, containers }
    }

    pub fn spec(&self) -> &PodSpec {
        self.object.spec.as_ref().expect("a pod bound to a node has a spec")
    }

    pub fn security(&self) -> Option<&PodSecurityContext> {
        self.spec().security_context.as_ref()
    }

    pub fn container(&self, name: &str) -> Option<&DesiredContainer> {
        self.containers.iter().find(|c| c.spec.name == name)
    }

    pub fn of_role(&self, role: Role) -> impl DoubleEndedIterator<Item = &DesiredContainer> {
        self.containers.iter().filter(move |c| c.role == role)
    }

    /// Init containers and sidecars, in the order they are written.
    pub fn init(&self) -> impl DoubleEndedIterator<Item = &DesiredContainer> {
        self.containers.iter().filter(|c| matches!(c.role, Role::Init | Role::Sidecar))
    }

    pub fn deletion_requested(&self) -> Option<Timestamp> {
        self.object.metadata.deletion_timestamp.as_ref().map(|t| t.0)
    }

    /// The grace a deletion grants, or else the one the spec asks for.
    pub fn grace(&self) -> SignedDuration {
        let meta = self.object.metadata.deletion_grace_period_seconds;
        SignedDuration::from_secs(
            meta.or(self.spec().termination_grace_period_seconds).unwrap_or(30),
        )
    }

    pub fn active_deadline(&self) -> Option<SignedDuration> {
        self.spec().active_deadline_seconds.map(SignedDuration::from_secs)
    }

    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    pub fn has_own_users(&self) -> bool {
        self.spec().host_users == Some(false)
    }

    pub fn is_terminal(&self) -> bool {
        let phase = self.object.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.object.metadata.annotations.clone().unwrap_or_default()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.object.metadata.labels.clone().unwrap_or_default()
    }
}

fn in_start_order(spec: &PodSpec, pod_policy: RestartPolicy) -> Vec<DesiredContainer> {
    let init = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        let inherited =
            if pod_policy == RestartPolicy::Never { pod_policy } else { RestartPolicy::OnFailure };
        DesiredContainer {
            role: if sidecar { Role::Sidecar } else { Role::Init },
            spec: c.clone(),
            target: None,
            restart_policy: RestartPolicy::parse(c.restart_policy.as_deref()).unwrap_or(inherited),
        }
    });
    let regular = spec.containers.iter().map(|c| DesiredContainer {
        role: Role::Regular,
        spec: c.clone(),
        target: None,
        restart_policy: RestartPolicy::parse(c.restart_policy.as_deref()).unwrap_or(pod_policy),
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| DesiredContainer {
        role: Role::Ephemeral,
        spec: as_container(c),
        target: c.target_container_name.clone().filter(|t| !t.is_empty()),
        restart_policy: RestartPolicy::Never,
    });
    init.chain(regular).chain(ephemeral).collect()
}

/// An ephemeral container has the fields of a container that make sense for it.
fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Default::default()
    }
}

// === impl DesiredContainer ===

impl DesiredContainer {
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether an exit with `exit_code` is followed by another start. Rules are asked first, then the policy.
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        if self.role == Role::Ephemeral {
            return false;
        }
        let ruled = self.spec.restart_policy_rules.iter().flatten().any(|rule| {
            let codes = rule.exit_codes.as_ref();
            rule.action == "Restart"
                && codes.is_some_and(|c| {
                    let listed = c.values.iter().flatten().any(|&v| v == exit_code);
                    if c.operator == "NotIn" { !listed } else { listed }
                })
        });
        ruled
            || match self.restart_policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit_code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Where in the pod's spec this container stands, as events point to it.
    pub fn field_path(&self) -> String {
        let list = match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Regular => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.spec.name)
    }

    pub fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or_default()
    }
}

// === impl RestartPolicy ===

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "Always" => Some(RestartPolicy::Always),
            "OnFailure" => Some(RestartPolicy::OnFailure),
            "Never" => Some(RestartPolicy::Never),
            _ => None,
        }
    }
}

// === impl PodKey ===

impl PodKey {
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        PodKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

/// As upstream's messages name a pod: `name_namespace(uid)`.
impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}
