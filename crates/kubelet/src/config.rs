//! Everything the node agent is told from outside, built once and passed by value.
//!
//! Counterpart: `KubeletConfiguration` and the kubelet's flags.
//! Invariant: paths are absolute and nothing in here changes while the agent runs.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::api::resource::Quantity};
use rustls::{RootCertStore, server::ResolvesServerCert};

use crate::{eviction::EvictionConfig, shutdown::ShutdownGrace};

/// The Kubernetes release whose node agent this is.
pub const KUBELET_VERSION: &str = "v1.36.0";

#[derive(Debug, Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Primary first; becomes the node's `InternalIP` and the host IP of its pods.
    pub node_ips: Vec<IpAddr>,
    /// The name of the container runtime, as its version tells it.
    pub container_runtime: String,
    /// Pod directories: volumes, `/etc/hosts`, termination messages.
    pub root_dir: PathBuf,
    /// Container logs, one directory per pod.
    pub log_dir: PathBuf,
    /// Servers that pods with DNS policy `ClusterFirst` ask.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's own resolver configuration, for DNS policy `Default`.
    pub resolv_conf: PathBuf,
    pub max_pods: u32,
    /// Set on the node at registration when nobody else allocates pod ranges.
    pub pod_cidr: Option<String>,
    /// Added to the well-known labels at registration.
    pub node_labels: BTreeMap<String, String>,
    pub register_with_taints: Vec<Taint>,
    /// Where the agent's API listens; `None` is the node's own address. The listener itself is handed to
    /// [`crate::Kubelet::serve`].
    pub address: Option<IpAddr>,
    /// Reported in `status.daemonEndpoints`.
    pub port: u16,
    pub serving: Option<ServingConfig>,
    /// Where health is told to whoever asks on the node itself; port 0 is nowhere. Differs from upstream, where that is 10248.
    pub healthz: SocketAddr,
    /// The CRI sockets of a runtime and its images; empty for the one that is built in. Whoever builds the agent connects to them.
    pub container_runtime_endpoint: String,
    pub image_service_endpoint: String,
    pub log_rotation: LogRotation,
    /// One pull after another. Differs from upstream, where this is the default.
    pub serialize_image_pulls: bool,
    /// Pulls at once when they are not serialized; `None` is without a limit.
    pub max_parallel_image_pulls: Option<usize>,
    pub credential_providers: Option<CredentialProviderPaths>,
    pub image_garbage: ImageGarbage,
    pub eviction: EvictionConfig,
    /// What pods get when the agent ends.
    pub shutdown: ShutdownGrace,
    /// Processes that a pod may have at once.
    pub pod_pids_limit: Option<i64>,
    /// Names, or beginnings of names with a `*`, of sysctls that pods may set although they are not safe.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Kept back from pods for the node's system and for Kubernetes' own parts.
    pub system_reserved: BTreeMap<String, Quantity>,
    pub kube_reserved: BTreeMap<String, Quantity>,
    /// All pods together are limited to what is left.
    pub enforce_node_allocatable: bool,
    /// Containers without a seccomp profile have the runtime's.
    pub seccomp_default: bool,
    pub swap: SwapBehavior,
    pub fail_swap_on: bool,
    pub fail_cgroup_v1: bool,
    /// How often the node is looked at, and how often its status is written though nothing changed.
    pub status_update: Duration,
    pub status_report: Duration,
    /// The largest ones are told of; `None` is all.
    pub status_max_images: Option<usize>,
    pub lease_seconds: u32,
    /// User and group ids of each pod with users of its own.
    pub ids_per_pod: u32,
    /// Manifests of pods that this node runs by itself.
    pub static_pod_path: Option<PathBuf>,
}

/// Who may swap, on cgroup v2: nobody, or burstable containers in proportion to the memory they ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SwapBehavior {
    #[default]
    NoSwap,
    LimitedSwap,
}

/// Programs that know credentials for images.
#[derive(Debug, Clone)]
pub struct CredentialProviderPaths {
    /// A `CredentialProviderConfig` of `kubelet.config.k8s.io/v1`.
    pub config: PathBuf,
    pub bin_dir: PathBuf,
}

/// When images nobody uses are removed.
#[derive(Debug, Clone, Copy)]
pub struct ImageGarbage {
    /// Per cent of the disk in use from which images go, and to which they go.
    pub high_threshold: u8,
    pub low_threshold: u8,
    /// Younger ones stay.
    pub min_age: Duration,
    /// Unused for this long they go whatever the disk holds; zero is never.
    pub max_age: Duration,
}

/// How the kubelet's own API proves who it is and recognises its callers.
#[derive(Clone)]
pub struct ServingConfig {
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Signs the client certificates that are believed.
    pub client_ca: Arc<RootCertStore>,
}

#[derive(Debug, Clone, Copy)]
pub struct LogRotation {
    pub max_bytes: u64,
    /// Files kept per container, the live one included.
    pub max_files: usize,
    pub look_every: Duration,
}

// === impl KubeletConfig ===

impl KubeletConfig {
    /// Upstream's defaults for everything but the node's name and addresses.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>) -> Self {
        KubeletConfig {
            node_name: node_name.into(),
            node_ips,
            container_runtime: "skiff".into(),
            root_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            pod_cidr: None,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            address: None,
            port: 10250,
            serving: None,
            healthz: (Ipv4Addr::LOCALHOST, 0).into(),
            container_runtime_endpoint: String::new(),
            image_service_endpoint: String::new(),
            log_rotation: LogRotation {
                max_bytes: 10 << 20,
                max_files: 5,
                look_every: Duration::from_secs(10),
            },
            serialize_image_pulls: false,
            max_parallel_image_pulls: Some(4),
            credential_providers: None,
            image_garbage: ImageGarbage {
                high_threshold: 85,
                low_threshold: 80,
                min_age: Duration::from_secs(120),
                max_age: Duration::ZERO,
            },
            eviction: EvictionConfig::default(),
            shutdown: ShutdownGrace::default(),
            pod_pids_limit: None,
            allowed_unsafe_sysctls: Vec::new(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            enforce_node_allocatable: true,
            seccomp_default: false,
            swap: SwapBehavior::NoSwap,
            fail_swap_on: false,
            fail_cgroup_v1: false,
            status_update: Duration::from_secs(10),
            status_report: Duration::from_secs(300),
            status_max_images: Some(50),
            lease_seconds: 40,
            ids_per_pod: 65536,
            static_pod_path: None,
        }
    }

    pub fn pods_dir(&self) -> PathBuf {
        self.root_dir.join("pods")
    }

    /// Where device plugins find the agent, and it finds them.
    pub fn device_plugins_dir(&self) -> PathBuf {
        self.root_dir.join("device-plugins")
    }

    /// Where plugins put the sockets they register by.
    pub fn plugins_registry_dir(&self) -> PathBuf {
        self.root_dir.join("plugins_registry")
    }

    /// Where drivers of volumes stage them, below the name of each.
    pub fn csi_dir(&self) -> PathBuf {
        self.root_dir.join("plugins/kubernetes.io/csi")
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// `<log dir>/<namespace>_<name>_<uid>`, which log collectors parse.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

// === impl SwapBehavior ===

impl SwapBehavior {
    pub fn name(self) -> &'static str {
        match self {
            SwapBehavior::NoSwap => "NoSwap",
            SwapBehavior::LimitedSwap => "LimitedSwap",
        }
    }
}

// === impl ServingConfig ===

impl fmt::Debug for ServingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingConfig").finish_non_exhaustive()
    }
}
