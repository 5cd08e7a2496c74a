//! Every field of upstream's `KubeletConfiguration`, and what this node makes of it: the one place to look.
//!
//! A field is kept (read into [`KubeletConfig`], shown from it), fixed (the node is this way and cannot be another), or
//! moot (upstream's default is accepted because it says nothing about this node, and is not shown). Of the last two some
//! overlook other values: those that distributions write for every node, and that change nothing for any pod.
//! Invariant: in alphabetical order, every field once; what is neither kept nor as fixed nor overlooked is refused by name.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use serde_json::{Value, json};

use super::draft::{
    Draft, quantities, quantity, seconds, show_amounts, show_graces, show_reclaims,
};
use crate::config::{KubeletConfig, SwapBehavior};

/// How a value is written, and which one says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// Zero says nothing.
    Int,
    /// Zero is a number like any other.
    Count,
    Float,
    /// The empty one says nothing.
    Text,
    /// Zero says nothing.
    Span,
    Texts,
    TextMap,
    Any,
}

type Set = fn(&mut Draft, &Value) -> Result<(), String>;
type Show = fn(&KubeletConfig) -> Value;

pub enum Part {
    Kept(Set, Show),
    /// As JSON.
    Fixed(&'static str),
    /// As JSON.
    Moot(&'static str),
}

pub struct Field {
    pub path: &'static str,
    pub kind: Kind,
    pub part: Part,
    pub overlooked: Option<Overlooked>,
}

/// Values that are accepted without an effect, which is told.
#[derive(Clone, Copy)]
pub struct Overlooked {
    /// As JSON; none listed are all.
    values: &'static [&'static str],
    pub why: &'static str,
}

// === impl Field ===

impl Field {
    const fn overlooking(mut self, values: &'static [&'static str], why: &'static str) -> Self {
        self.overlooked = Some(Overlooked { values, why });
        self
    }

    /// Why the value may stand although it has no effect.
    pub fn overlooks(&self, value: &Value) -> Option<&'static str> {
        let Overlooked { values, why } = self.overlooked?;
        let value = value.to_string();
        (values.is_empty() || values.contains(&value.as_str())).then_some(why)
    }
}

use Kind::{Any, Bool, Count, Float, Int, Span, Text, TextMap, Texts};

const fn kept(path: &'static str, kind: Kind, set: Set, show: Show) -> Field {
    Field { path, kind, part: Part::Kept(set, show), overlooked: None }
}

const fn fixed(path: &'static str, kind: Kind, value: &'static str) -> Field {
    Field { path, kind, part: Part::Fixed(value), overlooked: None }
}

const fn moot(path: &'static str, kind: Kind, value: &'static str) -> Field {
    Field { path, kind, part: Part::Moot(value), overlooked: None }
}

#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    kept("address", Text, |d, v| address(v).map(|a| d.config.address = Some(a)), |c| json!(c.address.or(c.node_ips.first().copied()))),
    kept("allowedUnsafeSysctls", Texts, |d, v| sysctls(v).map(|s| d.config.allowed_unsafe_sysctls = s), |c| json!(c.allowed_unsafe_sysctls)),
    fixed("authentication.anonymous.enabled", Bool, "false"),
    moot("authentication.webhook.cacheTTL", Span, "\"2m0s\""),
    fixed("authentication.webhook.enabled", Bool, "true"),
    moot("authentication.x509.clientCAFile", Text, "\"\"").overlooking(&[], "callers are known by certificates of the cluster's own authority"),
    fixed("authorization.mode", Text, "\"Webhook\""),
    moot("authorization.webhook.cacheAuthorizedTTL", Span, "\"5m0s\""),
    moot("authorization.webhook.cacheUnauthorizedTTL", Span, "\"30s\""),
    // Upstream passes over it too where the runtime says which it uses.
    fixed("cgroupDriver", Text, "\"cgroupfs\"").overlooking(&["\"systemd\""], "groups are made in the kernel's tree, without systemd"),
    moot("cgroupRoot", Text, "\"\""),
    fixed("cgroupsPerQOS", Bool, "true"),
    kept("clusterDNS", Texts, |d, v| addresses(v).map(|a| d.config.cluster_dns = a), |c| json!(c.cluster_dns)),
    kept("clusterDomain", Text, |d, v| { d.config.cluster_domain = text(v); Ok(()) }, |c| json!(c.cluster_domain)),
    fixed("configMapAndSecretChangeDetectionStrategy", Text, "\"Watch\""),
    kept("containerLogMaxFiles", Count, |d, v| whole(v).map(|n| d.config.log_rotation.max_files = n), |c| json!(c.log_rotation.max_files)),
    kept("containerLogMaxSize", Text, |d, v| quantity(v).map(|n| d.config.log_rotation.max_bytes = n), |c| json!(format!("{}Mi", c.log_rotation.max_bytes >> 20))),
    moot("containerLogMaxWorkers", Count, "1"),
    kept("containerLogMonitorInterval", Span, |d, v| seconds(v).map(|s| d.config.log_rotation.look_every = s), |c| span(c.log_rotation.look_every)),
    kept("containerRuntimeEndpoint", Text, |d, v| { d.config.container_runtime_endpoint = text(v); Ok(()) }, |c| json!(c.container_runtime_endpoint)),
    moot("contentType", Text, "\"application/vnd.kubernetes.protobuf\""),
    fixed("cpuCFSQuota", Bool, "true"),
    fixed("cpuCFSQuotaPeriod", Span, "\"100ms\""),
    fixed("cpuManagerPolicy", Text, "\"none\""),
    moot("cpuManagerPolicyOptions", TextMap, "{}"),
    moot("cpuManagerReconcilePeriod", Span, "\"10s\""),
    moot("crashLoopBackOff.maxContainerRestartPeriod", Span, "\"5m0s\""),
    fixed("enableContentionProfiling", Bool, "false"),
    fixed("enableControllerAttachDetach", Bool, "true"),
    fixed("enableDebugFlagsHandler", Bool, "false"),
    fixed("enableDebuggingHandlers", Bool, "true"),
    fixed("enableProfilingHandler", Bool, "false"),
    fixed("enableServer", Bool, "true"),
    fixed("enableSystemLogHandler", Bool, "false"),
    fixed("enableSystemLogQuery", Bool, "false"),
    kept("enforceNodeAllocatable", Texts, |d, v| enforce(v).map(|on| d.config.enforce_node_allocatable = on), |c| json!([if c.enforce_node_allocatable { "pods" } else { "none" }])),
    moot("eventBurst", Int, "100"),
    moot("eventRecordQPS", Count, "50"),
    kept("evictionHard", TextMap, |d, v| { d.hard = Some(pairs(v)); Ok(()) }, |c| show_amounts(c, true)),
    kept("evictionMaxPodGracePeriod", Int, |d, v| unsigned(v).map(|n| d.config.eviction.max_pod_grace = Duration::from_secs(n)), |c| json!(c.eviction.max_pod_grace.as_secs())),
    kept("evictionMinimumReclaim", TextMap, |d, v| { d.reclaim = pairs(v); Ok(()) }, show_reclaims),
    kept("evictionPressureTransitionPeriod", Span, |d, v| seconds(v).map(|s| d.config.eviction.transition = s), |c| span(c.eviction.transition)),
    kept("evictionSoft", TextMap, |d, v| { d.soft = pairs(v); Ok(()) }, |c| show_amounts(c, false)),
    kept("evictionSoftGracePeriod", TextMap, |d, v| { d.soft_grace = pairs(v); Ok(()) }, show_graces),
    kept("failCgroupV1", Bool, |d, v| { d.config.fail_cgroup_v1 = v == true; Ok(()) }, |c| json!(c.fail_cgroup_v1)),
    kept("failSwapOn", Bool, |d, v| { d.config.fail_swap_on = v == true; Ok(()) }, |c| json!(c.fail_swap_on)),
    moot("featureGates", Any, "{}"),
    moot("fileCheckFrequency", Span, "\"20s\""),
    moot("hairpinMode", Text, "\"promiscuous-bridge\""),
    kept("healthzBindAddress", Text, |d, v| address(v).map(|a| d.config.healthz.set_ip(a)), |c| json!(c.healthz.ip())),
    kept("healthzPort", Count, |d, v| whole(v).map(|p| d.config.healthz.set_port(p)), |c| json!(c.healthz.port())),
    moot("httpCheckFrequency", Span, "\"20s\""),
    kept("imageGCHighThresholdPercent", Count, |d, v| percent(v).map(|n| d.config.image_garbage.high_threshold = n), |c| json!(c.image_garbage.high_threshold)),
    kept("imageGCLowThresholdPercent", Count, |d, v| percent(v).map(|n| d.config.image_garbage.low_threshold = n), |c| json!(c.image_garbage.low_threshold)),
    kept("imageMaximumGCAge", Span, |d, v| seconds(v).map(|s| d.config.image_garbage.max_age = s), |c| span(c.image_garbage.max_age)),
    kept("imageMinimumGCAge", Span, |d, v| seconds(v).map(|s| d.config.image_garbage.min_age = s), |c| span(c.image_garbage.min_age)),
    moot("imagePullCredentialsVerificationPolicy", Text, "\"NeverVerifyPreloadedImages\""),
    kept("imageServiceEndpoint", Text, |d, v| { d.config.image_service_endpoint = text(v); Ok(()) }, |c| json!(c.image_service_endpoint)),
    moot("iptablesDropBit", Count, "15"),
    moot("iptablesMasqueradeBit", Count, "14"),
    moot("kernelMemcgNotification", Bool, "false"),
    moot("kubeAPIBurst", Int, "100"),
    moot("kubeAPIQPS", Count, "50"),
    moot("kubeletCgroups", Text, "\"\""),
    kept("kubeReserved", TextMap, |d, v| quantities(v).map(|r| d.config.kube_reserved = r), |c| json!(c.kube_reserved)),
    moot("kubeReservedCgroup", Text, "\"\""),
    fixed("localStorageCapacityIsolation", Bool, "true"),
    moot("logging.flushFrequency", Any, "\"5s\"").overlooking(&[], "nothing that is logged is held back"),
    fixed("logging.format", Text, "\"text\""),
    moot("logging.options", Any, "{\"json\":{\"infoBufferSize\":\"0\"},\"text\":{\"infoBufferSize\":\"0\"}}"),
    moot("logging.verbosity", Int, "0"),
    moot("logging.vmodule", Any, "[]"),
    moot("makeIPTablesUtilChains", Bool, "true"),
    moot("maxOpenFiles", Int, "1000000"),
    kept("maxParallelImagePulls", Count, |d, v| parallel(v).map(|n| d.config.max_parallel_image_pulls = Some(n)), |c| json!(c.max_parallel_image_pulls)),
    kept("maxPods", Int, |d, v| whole(v).map(|n| d.config.max_pods = n), |c| json!(c.max_pods)),
    fixed("memoryManagerPolicy", Text, "\"None\""),
    moot("memoryReservationPolicy", Text, "\"None\""),
    kept("memorySwap.swapBehavior", Text, |d, v| swap(v).map(|s| d.config.swap = s), |c| json!(c.swap.name())),
    moot("memoryThrottlingFactor", Float, "0.9"),
    kept("mergeDefaultEvictionSettings", Bool, |d, v| { d.merge_defaults = v == true; Ok(()) }, |_| Value::Null),
    kept("nodeLeaseDurationSeconds", Int, |d, v| whole(v).map(|n| d.config.lease_seconds = n), |c| json!(c.lease_seconds)),
    kept("nodeStatusMaxImages", Count, |d, v| max_images(v).map(|n| d.config.status_max_images = n), |c| c.status_max_images.map_or(json!(-1), |n| json!(n))),
    kept("nodeStatusReportFrequency", Span, |d, v| seconds(v).map(|s| d.config.status_report = s), |c| span(c.status_report)),
    kept("nodeStatusUpdateFrequency", Span, |d, v| seconds(v).map(|s| d.config.status_update = s), |c| span(c.status_update)),
    moot("oomScoreAdj", Count, "-999"),
    moot("podCIDR", Text, "\"\""),
    kept("podLogsDir", Text, |d, v| directory(v).map(|p| d.config.log_dir = p), |c| json!(c.log_dir)),
    kept("podPidsLimit", Count, |d, v| number(v).map(|n| d.config.pod_pids_limit = Some(n).filter(|n| *n > 0)), |c| json!(c.pod_pids_limit.unwrap_or(-1))),
    moot("podsPerCore", Int, "0"),
    kept("port", Int, |d, v| whole(v).map(|n| d.config.port = n), |c| json!(c.port)),
    moot("preloadedImagesVerificationAllowlist", Texts, "[]"),
    fixed("protectKernelDefaults", Bool, "false"),
    moot("providerID", Text, "\"\""),
    moot("qosReserved", TextMap, "{}"),
    fixed("readOnlyPort", Int, "0"),
    fixed("registerNode", Bool, "true"),
    kept("registerWithTaints", Any, |d, v| taints(v).map(|t| d.config.register_with_taints = t), |c| json!(c.register_with_taints)),
    moot("registryBurst", Int, "10"),
    moot("registryPullQPS", Count, "5"),
    moot("reservedMemory", Any, "[]"),
    moot("reservedSystemCPUs", Text, "\"\""),
    kept("resolvConf", Text, |d, v| { d.config.resolv_conf = text(v).into(); Ok(()) }, |c| json!(c.resolv_conf)),
    moot("rotateCertificates", Bool, "false").overlooking(&["true"], "the node's certificates are the server's, which renews them"),
    moot("runOnce", Bool, "false"),
    moot("runtimeRequestTimeout", Span, "\"2m0s\""),
    kept("seccompDefault", Bool, |d, v| { d.config.seccomp_default = v == true; Ok(()) }, |c| json!(c.seccomp_default)),
    kept("serializeImagePulls", Bool, |d, v| { d.config.serialize_image_pulls = v == true; Ok(()) }, |c| json!(c.serialize_image_pulls)),
    moot("serverTLSBootstrap", Bool, "false"),
    moot("showHiddenMetricsForVersion", Text, "\"\""),
    kept("shutdownGracePeriod", Span, |d, v| seconds(v).map(|s| d.config.shutdown.total = s), |c| span(c.shutdown.total)),
    moot("shutdownGracePeriodByPodPriority", Any, "[]"),
    kept("shutdownGracePeriodCriticalPods", Span, |d, v| seconds(v).map(|s| d.config.shutdown.critical = s), |c| span(c.shutdown.critical)),
    fixed("singleProcessOOMKill", Bool, "false"),
    kept("staticPodPath", Text, |d, v| directory(v).map(|p| d.config.static_pod_path = Some(p)), |c| json!(c.static_pod_path)),
    moot("staticPodURL", Text, "\"\""),
    moot("staticPodURLHeader", Any, "{}"),
    moot("streamingConnectionIdleTimeout", Span, "\"4h0m0s\""),
    moot("syncFrequency", Span, "\"1m0s\""),
    moot("systemCgroups", Text, "\"\""),
    kept("systemReserved", TextMap, |d, v| quantities(v).map(|r| d.config.system_reserved = r), |c| json!(c.system_reserved)),
    moot("systemReservedCgroup", Text, "\"\""),
    moot("tlsCertFile", Text, "\"\""),
    moot("tlsCipherSuites", Texts, "[]"),
    moot("tlsCurvePreferences", Any, "[]"),
    moot("tlsMinVersion", Text, "\"\""),
    moot("tlsPrivateKeyFile", Text, "\"\""),
    fixed("topologyManagerPolicy", Text, "\"none\""),
    moot("topologyManagerPolicyOptions", TextMap, "{}"),
    moot("topologyManagerScope", Text, "\"container\""),
    moot("tracing", Any, "null"),
    kept("userNamespaces.idsPerPod", Count, |d, v| whole(v).map(|n| d.config.ids_per_pod = n), |c| json!(c.ids_per_pod)),
    moot("volumePluginDir", Text, "\"/usr/libexec/kubernetes/kubelet-plugins/volume/exec/\""),
    moot("volumeStatsAggPeriod", Span, "\"1m0s\""),
];

// === reading: the kind has been checked ===

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn number(value: &Value) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| "must be a 64-bit number".to_owned())
}

fn whole<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let number = number(value)?;
    T::try_from(number).map_err(|_| match number < 0 {
        true => format!("{number} must not be a negative number"),
        false => format!("{number} is too large"),
    })
}

fn unsigned(value: &Value) -> Result<u64, String> {
    whole(value)
}

fn percent(value: &Value) -> Result<u8, String> {
    let number = number(value)?;
    let found = u8::try_from(number).ok().filter(|n| *n <= 100);
    found.ok_or_else(|| format!("{number} must be between 0 and 100, inclusive"))
}

fn parallel(value: &Value) -> Result<usize, String> {
    let number = number(value)?;
    let found = usize::try_from(number).ok().filter(|n| *n > 0);
    found.ok_or_else(|| format!("{number} must be a positive number"))
}

fn max_images(value: &Value) -> Result<Option<usize>, String> {
    match number(value)? {
        -1 => Ok(None),
        count => {
            usize::try_from(count).map(Some).map_err(|_| format!("{count} must be -1 or greater"))
        }
    }
}

fn address(value: &Value) -> Result<IpAddr, String> {
    let text = text(value);
    text.parse().map_err(|_| format!("{text:?} must be a valid IP address"))
}

fn addresses(value: &Value) -> Result<Vec<IpAddr>, String> {
    value.as_array().into_iter().flatten().map(address).collect()
}

fn directory(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value));
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("path {path:?} must be absolute path")),
    }
}

fn swap(value: &Value) -> Result<SwapBehavior, String> {
    let text = text(value);
    let found =
        [SwapBehavior::NoSwap, SwapBehavior::LimitedSwap].into_iter().find(|s| s.name() == text);
    found.ok_or_else(|| format!("{text:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""))
}

/// Only what belongs to a pod alone may be allowed.
fn sysctls(value: &Value) -> Result<Vec<String>, String> {
    const NAMESPACED: [&str; 5] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."];
    let each = texts(value).into_iter().map(|name| {
        let dotted = name.replace('/', ".");
        match NAMESPACED.iter().any(|beginning| dotted.starts_with(beginning)) {
            true => Ok(dotted),
            false => Err(format!("the sysctls {name:?} are not known to be namespaced")),
        }
    });
    each.collect()
}

/// What else upstream can enforce, it does in cgroups that are not the pods'.
fn enforce(value: &Value) -> Result<bool, String> {
    match texts(value).iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pods"] => Ok(true),
        [] | ["none"] => Ok(false),
        _ => Err(format!(
            "{value} is not supported by this node: only [\"pods\"] and [\"none\"] are"
        )),
    }
}

fn taints(value: &Value) -> Result<Vec<Taint>, String> {
    let taints: Vec<Taint> =
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    match taints.iter().any(|taint| taint.time_added.is_some()) {
        true => Err("taint.TimeAdded is not nil".to_owned()),
        false => Ok(taints),
    }
}

fn span(span: Duration) -> Value {
    json!(skiff_api::duration::print(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
}
