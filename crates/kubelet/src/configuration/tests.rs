//! What files say, and what becomes of it.

use std::time::Duration;

use super::*;
use crate::{config::SwapBehavior, eviction::Signal};

fn plain() -> KubeletConfig {
    KubeletConfig::new("node", vec!["192.0.2.1".parse().expect("an address")])
}

fn apply(yaml: &str) -> Result<KubeletConfig, String> {
    let inner = yaml.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(yaml);
    let text = format!("{{apiVersion: {API_VERSION}, kind: {KIND}, {inner}}}");
    let file = KubeletConfiguration::parse(&text).map_err(|fault| fault.to_string())?;
    file.apply(plain(), &plain()).map_err(|fault| fault.to_string())
}

#[test]
fn every_field_stands_once_and_in_order() {
    let paths: Vec<String> = FIELDS.iter().map(|field| field.path.to_lowercase()).collect();
    let mut sorted = paths.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(paths, sorted);
    for field in FIELDS {
        if let Part::Fixed(value) | Part::Moot(value) = field.part {
            let value = serde_json::from_str(value).expect("JSON");
            assert!(checked(field, value).is_ok(), "{}", field.path);
        }
    }
}

#[test]
fn what_the_file_says_is_in_force_and_shown() {
    let config = apply(
        "{maxPods: 20, podPidsLimit: 100, clusterDNS: [10.0.0.10], systemReserved: {memory: 100Mi}, \
         evictionHard: {memory.available: 200Mi}, evictionSoft: {nodefs.available: 15%}, \
         evictionSoftGracePeriod: {nodefs.available: 1m}, evictionPressureTransitionPeriod: 0s, \
         imageMinimumGCAge: 60s, nodeStatusUpdateFrequency: 4s, seccompDefault: true, memorySwap: {swapBehavior: LimitedSwap}, \
         enforceNodeAllocatable: [none], allowedUnsafeSysctls: ['kernel.msg*'], userNamespaces: {idsPerPod: 131072}}",
    )
    .expect("a good file");
    assert_eq!(
        (config.max_pods, config.pod_pids_limit, config.ids_per_pod),
        (20, Some(100), 131072)
    );
    assert_eq!((config.seccomp_default, config.swap), (true, SwapBehavior::LimitedSwap));
    assert_eq!(config.status_report, Duration::from_secs(4), "it follows the other");
    let signals: Vec<_> = config.eviction.thresholds.iter().map(|t| t.signal).collect();
    assert_eq!(signals, [Signal::MemoryAvailable, Signal::NodefsAvailable], "nothing is merged");
    let shown = shown(&config);
    for (pointer, value) in [
        ("/kind", json!("KubeletConfiguration")),
        ("/maxPods", json!(20)),
        ("/podPidsLimit", json!(100)),
        ("/systemReserved", json!({ "memory": "100Mi" })),
        ("/evictionHard", json!({ "memory.available": "200Mi" })),
        ("/evictionSoft", json!({ "nodefs.available": "15%" })),
        ("/evictionSoftGracePeriod", json!({ "nodefs.available": "1m0s" })),
        ("/evictionPressureTransitionPeriod", json!("5m0s")),
        ("/imageMinimumGCAge", json!("1m0s")),
        ("/memorySwap/swapBehavior", json!("LimitedSwap")),
        ("/enforceNodeAllocatable", json!(["none"])),
        ("/authentication/anonymous/enabled", json!(false)),
        ("/userNamespaces/idsPerPod", json!(131072)),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&value), "{pointer}");
    }
    assert!(shown.get("kubeAPIQPS").is_none(), "what is not in force is not shown");
}

#[test]
fn fields_that_say_nothing_are_no_trouble() {
    let config = apply(
        "{authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {}}, \
         authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s}}, cgroupDriver: cgroupfs, cpuManagerReconcilePeriod: 0s, \
         containerRuntimeEndpoint: '', fileCheckFrequency: 0s, logging: {flushFrequency: 5s, verbosity: 0}, \
         memorySwap: {}, rotateCertificates: false, syncFrequency: 1m, volumeStatsAggPeriod: 0s, maxPods: 0, evictionHard: null}",
    );
    assert_eq!(shown(&config.expect("a good file")), shown(&plain()));
}

/// In the words of `kubeadm init`, with nothing asked of it.
const KUBEADM: &str = r#"
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous: { enabled: false }
  webhook: { cacheTTL: 0s, enabled: true }
  x509: { clientCAFile: /etc/kubernetes/pki/ca.crt }
authorization:
  mode: Webhook
  webhook: { cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s }
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options: { json: { infoBufferSize: "0" }, text: { infoBufferSize: "0" } }
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"#;

#[test]
fn the_file_that_kubeadm_writes_was_refused_for_what_it_says_of_every_node() {
    let file = KubeletConfiguration::parse(KUBEADM).expect("it is known");
    let runtime = "unix:///var/run/containerd/containerd.sock";
    assert_eq!(file.container_runtime_endpoint(), Some(runtime));
    assert_eq!(file.image_service_endpoint(), None);
    let config = file.apply(plain(), &plain()).expect("a good file");
    let (shown, before) = (shown(&config), shown(&plain()));
    let changed: Vec<&String> = shown.as_object().expect("an object").keys().collect();
    let changed = changed.into_iter().filter(|key| shown[*key] != before[*key]);
    assert_eq!(
        changed.map(|key| (key.as_str(), shown[key].clone())).collect::<Vec<_>>(),
        [
            ("clusterDNS", json!(["10.96.0.10"])),
            ("containerRuntimeEndpoint", json!(runtime)),
            ("healthzPort", json!(10248)),
            ("resolvConf", json!("/run/systemd/resolve/resolv.conf")),
            ("staticPodPath", json!("/etc/kubernetes/manifests")),
        ],
        "what is overlooked is not shown as if it were in force"
    );
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    for (yaml, told) in [
        ("maxpods: 3", "strict decoding error: unknown field \"maxpods\""),
        (
            "{authentication: {basic: true}, nope: 1}",
            "strict decoding error: unknown field \"authentication.basic\", unknown field \"nope\"",
        ),
        (
            "maxPods: many",
            "json: cannot unmarshal string into Go struct field KubeletConfiguration.maxPods of type int32",
        ),
        (
            "imageMinimumGCAge: 2 minutes",
            "imageMinimumGCAge: time: unknown unit \" minutes\" in duration \"2 minutes\"",
        ),
        (
            "cgroupDriver: other",
            "cgroupDriver is not supported by this node: \"other\" was asked for, only \"cgroupfs\" is possible",
        ),
        (
            "readOnlyPort: 10255",
            "readOnlyPort is not supported by this node: 10255 was asked for, only 0 is possible",
        ),
        (
            "featureGates: {A: true}",
            "featureGates is not supported by this node: {\"A\":true} was asked for, only {} is possible",
        ),
        (
            "healthzBindAddress: localhost",
            "invalid configuration: healthzBindAddress \"localhost\" must be a valid IP address",
        ),
        ("healthzPort: 65536", "invalid configuration: healthzPort 65536 is too large"),
        ("maxPods: -1", "invalid configuration: maxPods -1 must not be a negative number"),
        (
            "imageGCHighThresholdPercent: 101",
            "invalid configuration: imageGCHighThresholdPercent 101 must be between 0 and 100, inclusive",
        ),
        (
            "{imageGCHighThresholdPercent: 70, imageGCLowThresholdPercent: 70}",
            "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 70 must be less than \
             imageGCHighThresholdPercent (--image-gc-high-threshold) 70",
        ),
        (
            "evictionSoft: {memory.available: 1Gi}",
            "invalid configuration: grace period must be specified for the soft eviction threshold memory.available",
        ),
        (
            "containerLogMaxFiles: 1",
            "invalid configuration: containerLogMaxFiles must be greater than 1",
        ),
        (
            "imageServiceEndpoint: unix:///images.sock",
            "invalid configuration: imageServiceEndpoint is of no use without a containerRuntimeEndpoint",
        ),
        (
            "kubeReserved: {gpu: '1'}",
            "invalid configuration: kubeReserved cannot reserve \"gpu\" resource",
        ),
        (
            "{serializeImagePulls: true, maxParallelImagePulls: 3}",
            "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false",
        ),
    ] {
        assert_eq!(apply(yaml).err().as_deref(), Some(told), "{yaml}");
    }
    let other =
        KubeletConfiguration::parse("{apiVersion: v1, kind: Pod}").expect_err("another kind");
    assert_eq!(other.to_string(), "no kind \"Pod\" is registered for version \"v1\"");
}

#[test]
fn flags_win_over_the_file() {
    let text = format!(
        "{{apiVersion: {API_VERSION}, kind: {KIND}, imageGCHighThresholdPercent: 95, imageGCLowThresholdPercent: 60}}"
    );
    let file = KubeletConfiguration::parse(&text).expect("a good file");
    let mut given = plain();
    given.image_garbage.high_threshold = 90;
    let config = file.apply(given, &plain()).expect("good");
    assert_eq!((config.image_garbage.high_threshold, config.image_garbage.low_threshold), (90, 60));
}

#[test]
fn thresholds_that_are_not_named_keep_their_defaults_when_merged() {
    let config =
        apply("{evictionHard: {memory.available: 1Gi}, mergeDefaultEvictionSettings: true}")
            .expect("good");
    let memory = config.eviction.reserved(Signal::MemoryAvailable, 8 << 30);
    assert_eq!((memory, config.eviction.thresholds.len()), (1 << 30, 5));
}
