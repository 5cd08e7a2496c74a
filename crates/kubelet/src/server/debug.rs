//! What the agent knows and how it is set up, for people who look.

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Body, Refusal, json as json_response};
use crate::{config::KubeletConfig, pod::manager::PodIndex};

pub fn pods(index: &PodIndex) -> Result<Response<Body>, Refusal> {
    let index = index.read().expect("no writer panics");
    let items: Vec<Value> = index.values().map(|pod: &std::sync::Arc<Pod>| json!(&**pod)).collect();
    json_response(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

/// In the words of `kubelet.config.k8s.io/v1beta1`.
pub fn configz(config: &KubeletConfig) -> Result<Response<Body>, Refusal> {
    json_response(&json!({ "kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": config.port,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "maxPods": config.max_pods,
        "resolvConf": config.resolv_conf,
        "podLogsDir": config.log_dir,
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "staticPodPath": config.static_pod_path,
        "shutdownGracePeriod": format!("{}s", config.shutdown.total.as_secs()),
        "shutdownGracePeriodCriticalPods": format!("{}s", config.shutdown.critical.as_secs()),
        "evictionPressureTransitionPeriod": format!("{}s", config.eviction.transition.as_secs()),
        "containerLogMaxSize": format!("{}Mi", config.log_rotation.max_bytes >> 20),
        "containerLogMaxFiles": config.log_rotation.max_files,
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true, "cacheTTL": "5m0s" } },
        "authorization": { "mode": "Webhook", "webhook": { "cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s" } },
    }}))
}
