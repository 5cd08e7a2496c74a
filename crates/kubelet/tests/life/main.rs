//! The life of pods on one node: the real agent between an API server and a runtime that are both in memory.

mod csi;
mod dra;
mod fake_api;
mod fake_csi_driver;
mod fake_runtime;

use std::{path::PathBuf, sync::Arc, time::Duration};

use fake_api::FakeApi;
use fake_runtime::FakeRuntime;
use serde_json::{Value, json};
use skiff_kubelet::{Kubelet, KubeletConfig};
use tokio::{sync::oneshot, task::JoinHandle};

const PODS: &str = "/api/v1/namespaces/default/pods";
const PATIENCE: Duration = Duration::from_secs(10);

/// A node with its agent running.
struct Node {
    api: FakeApi,
    runtime: Arc<FakeRuntime>,
    dir: PathBuf,
    agent: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Node {
    async fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("skiff-kubelet-{}-{name}", std::process::id()));
        let mut node = Node { api: FakeApi::new(), runtime: FakeRuntime::new(), dir, agent: None };
        node.start_agent();
        node
    }

    fn start_agent(&mut self) {
        let mut config = KubeletConfig::new("node", vec!["192.0.2.1".parse().expect("an address")]);
        config.root_dir = self.dir.join("kubelet");
        config.log_dir = self.dir.join("logs");
        let kubelet =
            Kubelet::build(config, self.api.client(), self.runtime.clone()).expect("directories");
        let (stop, stopped) = oneshot::channel::<()>();
        let run = kubelet.run(async { drop(stopped.await) });
        self.agent = Some((stop, tokio::spawn(run)));
    }

    async fn stop_agent(&mut self) {
        let (stop, task) = self.agent.take().expect("it runs");
        drop(stop);
        task.await.expect("no panic");
    }

    fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        let metadata = json!({ "name": name, "namespace": "default", "generation": 1 });
        self.api.put(
            PODS,
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }),
        );
    }

    fn delete(&self, name: &str) {
        let mut pod = self.api.get(PODS, name).expect("the pod");
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-21T05:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        self.api.put(PODS, pod);
    }

    /// Waits until the pod is as wanted; panics with what it is instead.
    async fn until(&self, name: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let pod = self.api.get(PODS, name).unwrap_or(Value::Null);
            if is_it(&pod) {
                return pod;
            }
            let status = serde_json::to_string_pretty(&pod["status"]).expect("text");
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what} did not come: {status}\n{:?}",
                self.runtime.calls()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for an event with this message.
    async fn until_told(&self, message: &str) {
        let told = async {
            while !self.api.event_messages().iter().any(|told| told == message) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, told).await;
        assert!(came.is_ok(), "{:?}", self.api.event_messages());
    }

    async fn until_share(&self, cgroup: &str, shares: u64) {
        let share = async {
            while self.runtime.shares_of(cgroup) != Some(shares) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, share).await;
        assert!(came.is_ok(), "{cgroup} has {:?} shares", self.runtime.shares_of(cgroup));
    }

    async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "readiness", |p| condition(p, "Ready") == "True").await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or("")
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn one_container() -> Value {
    json!({ "containers": [{ "name": "app", "image": "kuard:blue", "imagePullPolicy": "IfNotPresent" }] })
}

#[tokio::test]
async fn a_pod_runs_and_is_deleted_without_a_trace() {
    let node = Node::start("runs").await;
    let begun = std::time::Instant::now();
    node.create("web", one_container());
    let pod = node.until_ready("web").await;
    println!("created to ready: {:?}", begun.elapsed());
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.0.0.7");
    assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert!(container(&pod)["containerID"].as_str().is_some_and(|id| id.starts_with("skiff://")));
    assert!(container(&pod)["state"]["running"]["startedAt"].is_string());

    let writes = node.api.writes().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later: Vec<String> = node.api.writes().split_off(writes);
    assert!(later.iter().all(|w| w.contains("/events")), "an idle pod writes nothing: {later:?}");

    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !node.runtime.is_empty()
        || node.dir.join("kubelet/pods").read_dir().expect("a directory").count() > 0
    {
        assert!(tokio::time::Instant::now() < deadline, "left behind: {:?}", node.runtime.calls());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_crash_is_restarted_once_and_then_backs_off() {
    let node = Node::start("crash").await;
    node.create("web", one_container());
    node.until_ready("web").await;
    node.runtime.exit("app", 3);
    let pod = node
        .until("web", "a restart", |p| {
            container(p)["restartCount"] == 1 && condition(p, "Ready") == "True"
        })
        .await;
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 3);
    node.runtime.exit("app", 4);
    let reason =
        |p: &Value| container(p)["state"]["waiting"]["reason"].as_str() == Some("CrashLoopBackOff");
    let pod = node.until("web", "CrashLoopBackOff", reason).await;
    let message = container(&pod)["state"]["waiting"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("back-off 10s restarting failed container=app pod=web_default("),
        "{message}"
    );
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 4);
    assert_eq!(condition(&pod, "Ready"), "False");
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test]
async fn init_containers_run_in_order_before_the_rest() {
    let node = Node::start("init").await;
    let mut spec = one_container();
    spec["initContainers"] = json!([
        { "name": "first", "image": "i" },
        { "name": "side", "image": "i", "restartPolicy": "Always" },
        { "name": "second", "image": "i" },
    ]);
    node.create("web", spec);
    let running = |name: &'static str| {
        move |p: &Value| {
            let list = p["status"]["initContainerStatuses"].as_array();
            list.is_some_and(|l| {
                l.iter().any(|s| s["name"] == name && s["state"]["running"].is_object())
            })
        }
    };
    let pod = node.until("web", "the first", running("first")).await;
    assert_eq!(container(&pod)["state"]["waiting"]["reason"], "PodInitializing");
    assert!(node.runtime.config("side").is_none());
    node.runtime.exit("first", 0);
    node.until("web", "the second", running("second")).await;
    assert!(node.runtime.config("side").is_some() && node.runtime.config("app").is_none());
    node.runtime.exit("second", 0);
    node.until_ready("web").await;
    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    let stops: Vec<String> =
        node.runtime.calls().into_iter().filter(|c| c.starts_with("stop ")).collect();
    let at = |what: &str| stops.iter().position(|c| c.starts_with(what));
    assert!(at("stop app") < at("stop side") && at("stop side") < at("stop sandbox"), "{stops:?}");
}

#[tokio::test]
async fn a_job_like_pod_ends_with_its_containers() {
    for (code, phase) in [(0, "Succeeded"), (1, "Failed")] {
        let node = Node::start(phase).await;
        let mut spec = one_container();
        spec["restartPolicy"] = json!("Never");
        node.create("job", spec);
        node.until_ready("job").await;
        node.runtime.exit("app", code);
        let pod = node.until("job", phase, |p| p["status"]["phase"] == phase).await;
        assert_eq!(container(&pod)["state"]["terminated"]["exitCode"], code);
        assert_eq!(condition(&pod, "Ready"), "False");
        assert!(node.runtime.calls().contains(&"stop sandbox".to_owned()));
    }
}

#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    let node = Node::start("config").await;
    let mut spec = one_container();
    spec["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "settings" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/etc/settings" }]);
    spec["volumes"] =
        json!([{ "name": "v", "configMap": { "name": "settings", "optional": true } }]);
    node.create("web", spec);
    let waits =
        |p: &Value| container(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = node.until("web", "the config error", waits).await;
    assert_eq!(container(&pod)["state"]["waiting"]["message"], "configmap \"settings\" not found");
    let map = |color: &str| json!({ "metadata": { "name": "settings", "namespace": "default" }, "data": { "color": color } });
    node.api.put("/api/v1/namespaces/default/configmaps", map("blue"));
    node.until_ready("web").await;
    let config = node.runtime.config("app").expect("created");
    assert!(config.envs.contains(&("color".into(), "blue".into())));
    let mount =
        config.mounts.iter().find(|m| m.container_path == std::path::Path::new("/etc/settings"));
    let file = mount.expect("mounted").host_path.join("color");
    node.api.put("/api/v1/namespaces/default/configmaps", map("green"));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while std::fs::read_to_string(&file).expect("a file") != "green" {
        assert!(tokio::time::Instant::now() < deadline, "the volume still holds the old value");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_missing_image_is_reported() {
    let node = Node::start("image").await;
    node.runtime.image_present.store(false, std::sync::atomic::Ordering::Relaxed);
    node.create("web", one_container());
    let pod = node
        .until("web", "the pull error", |p| {
            container(p)["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    let message = container(&pod)["state"]["waiting"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("Back-off pulling image \"kuard:blue\": ErrImagePull: "),
        "{message}"
    );
}

#[tokio::test]
async fn an_image_is_fetched_as_the_user_of_the_pull_secret() {
    let node = Node::start("pull-secret").await;
    node.runtime.image_present.store(false, std::sync::atomic::Ordering::Relaxed);
    node.runtime.allow_pulls_by("ada");
    // {"auths":{"registry.example":{"username":"ada","password":"x"}}}
    let config =
        "eyJhdXRocyI6eyJyZWdpc3RyeS5leGFtcGxlIjp7InVzZXJuYW1lIjoiYWRhIiwicGFzc3dvcmQiOiJ4In19fQ==";
    let secret = json!({ "metadata": { "name": "login", "namespace": "default" },
        "type": "kubernetes.io/dockerconfigjson", "data": { ".dockerconfigjson": config } });
    node.api.put("/api/v1/namespaces/default/secrets", secret);
    let mut spec = one_container();
    spec["containers"][0]["image"] = json!("registry.example/kuard:blue");
    spec["imagePullSecrets"] = json!([{ "name": "login" }]);
    node.create("web", spec);
    node.until_ready("web").await;
    let pull = "pull registry.example/kuard:blue as \"ada\"".to_owned();
    assert!(node.runtime.calls().contains(&pull), "{:?}", node.runtime.calls());
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let node = Node::start("liveness").await;
    let mut spec = one_container();
    let probe =
        json!({ "exec": { "command": ["true"] }, "periodSeconds": 1, "failureThreshold": 2 });
    spec["containers"][0]["livenessProbe"] = probe.clone();
    spec["containers"][0]["readinessProbe"] = probe;
    node.create("web", spec);
    node.until_ready("web").await;
    node.runtime.set_exec_exit(1);
    node.until("web", "unreadiness", |p| condition(p, "Ready") == "False").await;
    node.until("web", "the restart", |p| container(p)["restartCount"] == 1).await;
    node.runtime.set_exec_exit(0);
    node.until_ready("web").await;
    assert!(node.runtime.calls().contains(&"stop app 30".to_owned()));
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs_and_removes_what_is_orphaned() {
    let mut node = Node::start("adopt").await;
    node.create("web", one_container());
    node.create("gone", one_container());
    node.until_ready("web").await;
    node.until_ready("gone").await;
    node.stop_agent().await;
    node.api.remove(PODS, "gone");
    let before = node.runtime.calls().iter().filter(|c| c.starts_with("create")).count();
    node.start_agent();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !node.runtime.calls().contains(&"remove sandbox".to_owned()) {
        assert!(tokio::time::Instant::now() < deadline, "the orphan was not removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pod = node.until_ready("web").await;
    assert_eq!(container(&pod)["restartCount"], 0);
    let after = node.runtime.calls().iter().filter(|c| c.starts_with("create")).count();
    assert_eq!(before, after, "nothing was started again");
}

fn with_memory(limit: &str, policy: &str) -> Value {
    let resources = json!({ "requests": { "memory": "10Mi" }, "limits": { "memory": limit } });
    let resize_policy = json!([{ "resourceName": "memory", "restartPolicy": policy }]);
    json!({ "containers": [{
        "name": "app", "image": "kuard:blue", "imagePullPolicy": "IfNotPresent",
        "resources": resources, "resizePolicy": resize_policy,
    }] })
}

impl Node {
    fn resize(&self, name: &str, limit: &str) {
        let mut pod = self.api.get(PODS, name).expect("the pod");
        pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!(limit);
        pod["metadata"]["generation"] = json!(2);
        self.api.put(PODS, pod);
    }

    async fn until_resized(&self, name: &str, limit: &str) -> Value {
        let has_limit = |p: &Value| {
            container(p)["resources"]["limits"]["memory"] == limit
                && condition(p, "Ready") == "True"
                && condition(p, "PodResizeInProgress").is_empty()
        };
        self.until(name, "the new limit", has_limit).await
    }
}

#[tokio::test]
async fn a_resize_in_place_changes_limits_and_restarts_nothing() {
    let node = Node::start("resize").await;
    node.create("web", with_memory("20Mi", "NotRequired"));
    node.until_ready("web").await;
    node.resize("web", "40Mi");
    let pod = node.until_resized("web", "40Mi").await;
    assert_eq!(container(&pod)["restartCount"], 0);
    let limit = 40 << 20;
    let calls = node.runtime.calls();
    assert!(calls.contains(&format!("resize container to {limit}")), "{calls:?}");
    assert!(calls.contains(&format!("resize sandbox to {limit}")), "{calls:?}");
}

#[tokio::test]
async fn a_resize_that_needs_a_restart_starts_the_container_anew_with_the_new_limit() {
    let node = Node::start("resize-restart").await;
    node.create("web", with_memory("20Mi", "RestartContainer"));
    node.until_ready("web").await;
    node.resize("web", "40Mi");
    let pod = node.until_resized("web", "40Mi").await;
    assert_eq!(container(&pod)["restartCount"], 1);
    let config = node.runtime.config("app").expect("a container");
    assert_eq!(config.linux.resources.memory_limit_bytes, 40 << 20);
}

#[tokio::test]
async fn a_resize_beyond_the_node_is_infeasible_and_changes_nothing() {
    let node = Node::start("infeasible").await;
    let mut spec = one_container();
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "1m" } });
    node.create("web", spec);
    node.until_ready("web").await;
    let mut pod = node.api.get(PODS, "web").expect("the pod");
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("100000");
    node.api.put(PODS, pod);
    let is_pending = |p: &Value| condition(p, "PodResizePending") == "True";
    let pod = node.until("web", "PodResizePending", is_pending).await;
    assert_eq!(container(&pod)["allocatedResources"]["cpu"], "1m");

    let mut pod = node.api.get(PODS, "web").expect("the pod");
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1m");
    node.api.put(PODS, pod);
    node.until("web", "an end of it", |p| condition(p, "PodResizePending").is_empty()).await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_with_the_reason_and_never_starts() {
    let node = Node::start("rejected").await;
    let mut spec = one_container();
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "100000" } });
    node.create("web", spec);
    let pod = node.until("web", "rejection", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    let message = pod["status"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu"),
        "{message}"
    );
    assert!(node.runtime.is_empty(), "{:?}", node.runtime.calls());
}

#[tokio::test]
async fn the_burstable_class_has_the_share_its_pods_ask_for() {
    let node = Node::start("class-share").await;
    let mut spec = one_container();
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "500m" } });
    node.create("pod", spec);
    node.until_ready("pod").await;
    node.until_share("/kubepods/burstable", 512).await;
    node.until_share("/kubepods/besteffort", 2).await;
    node.delete("pod");
    node.until_share("/kubepods/burstable", 2).await;
}

#[tokio::test]
async fn a_pod_that_wants_users_of_its_own_is_not_run_as_the_nodes() {
    let node = Node::start("host-users").await;
    let mut spec = one_container();
    spec["hostUsers"] = json!(false);
    node.create("pod", spec);
    let told = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user \
                namespaces";
    node.until_told(told).await;
    assert!(node.runtime.is_empty());
}

/// It was run as if it had no class.
#[tokio::test]
async fn a_pod_is_run_by_the_handler_of_its_class_or_not_at_all() {
    let node = Node::start("runtime-class").await;
    node.api.put(
        "/apis/node.k8s.io/v1/runtimeclasses",
        json!({
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": { "name": "sealed" },
            "handler": "kata",
        }),
    );
    let mut spec = one_container();
    spec["runtimeClassName"] = json!("sealed");
    node.create("pod", spec);
    let told = "Failed to create pod sandbox: runtime handler is not valid: no runtime for \"kata\" is configured";
    node.until_told(told).await;
    assert!(node.runtime.is_empty());
}

#[tokio::test]
async fn pods_with_users_of_their_own_share_them_with_nobody() {
    let node = Node::start("own-users").await;
    node.runtime.user_namespaces.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut first_ids = Vec::new();
    for name in ["one", "two"] {
        let mut spec = one_container();
        spec["hostUsers"] = json!(false);
        spec["containers"][0]["name"] = json!(name);
        node.create(name, spec);
        node.until_ready(name).await;
        let config = node.runtime.config(name).expect("a container");
        let users = config.linux.security.namespaces.user.expect("users of its own");
        assert_eq!(users.uids, users.gids);
        assert_eq!((users.uids[0].container_id, users.uids[0].length), (0, 65536));
        first_ids.push(users.uids[0].host_id);
    }
    first_ids.sort_unstable();
    assert_eq!(first_ids, [65536, 131072]);
}

#[tokio::test]
async fn a_critical_pod_that_does_not_fit_ends_another() {
    let node = Node::start("preempts").await;
    let all = std::thread::available_parallelism().expect("a number").get();
    let pod = |priority: i64, cpu: usize| {
        let mut spec = one_container();
        spec["priority"] = json!(priority);
        spec["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu.to_string() } });
        spec
    };
    node.create("usual", pod(0, all));
    node.until_ready("usual").await;
    node.create("critical", pod(2_000_000_000, 1));
    let ended =
        node.until("usual", "the end", |pod| pod["status"]["phase"] == "Failed").await["status"]
            .clone();
    assert_eq!(ended["reason"], "Preempting");
    let conditions = ended["conditions"].as_array().expect("conditions");
    let disruption = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("one");
    assert_eq!(disruption["reason"], "TerminationByKubelet");
    let told = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(disruption["message"], told);
    node.until_ready("critical").await;
    let event = "Preempted in order to admit critical pod";
    node.until("critical", "the event", |_| node.api.event_messages().iter().any(|m| m == event))
        .await;
}
