//! Deployments from the first replica to garbage collection, seen through kubectl and through HTTP.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{Cluster, Host, deployment, eventually, eventually_within, http, service};

#[test]
fn three_pods_answer_behind_one_node_port() {
    let host = Host::new("three-pods");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("kuard", 3));
    cluster.apply(&service("kuard", 30080));
    cluster.wait_for_rollout("deployment/kuard");

    let mut names = BTreeSet::new();
    let server = cluster.node_port(30080);
    eventually("every pod has answered", || {
        let env = host.inside(|| http::get(server, "/env/api")).expect("the node port answers");
        let env: serde_json::Value = serde_json::from_str(&env).expect("the app prints JSON");
        names.insert(env["env"]["HOSTNAME"].as_str().unwrap_or("").to_owned());
        names.len() == 3
    });

    cluster.kubectl("scale deployment kuard --replicas=5").ok();
    cluster.wait_for_rollout("deployment/kuard");
    assert_eq!(cluster.field("deployment kuard", "{.status.readyReplicas}"), "5");
    cluster.kubectl("scale deployment kuard --replicas=1").ok();
    eventually("four pods have gone", || {
        cluster.get("pods -l app=kuard")["items"].as_array().map(Vec::len) == Some(1)
    });
}

#[test]
fn a_rolling_update_fails_no_request_and_can_be_undone() {
    let host = Host::new("rolling-update");
    let cluster = Cluster::start(&host);
    cluster.load("kuard-green.tar");
    cluster.apply(&deployment("kuard", 3));
    cluster.apply(&service("kuard", 30080));
    cluster.wait_for_rollout("deployment/kuard");
    let server = cluster.node_port(30080);
    eventually("the node port answers", || host.inside(|| http::get(server, "/version")).is_ok());

    let done = AtomicBool::new(false);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            host.inside(|| {
                let mut failed = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    failed.extend(http::get(server, "/healthy").err().map(|e| e.to_string()));
                }
                failed
            })
        });
        cluster.kubectl("set image deployment/kuard kuard=kuard:green").ok();
        cluster.wait_for_rollout("deployment/kuard");
        eventually("only green pods are left", || {
            (0..10).all(|_| {
                host.inside(|| http::get(server, "/version")).is_ok_and(|is| is == "green")
            })
        });
        done.store(true, Ordering::Relaxed);
        client.join().expect("the client does not panic")
    });
    assert_eq!(failed, Vec::<String>::new());

    let history = cluster.kubectl("rollout history deployment/kuard").ok();
    assert!(history.contains("1 ") && history.contains("2 "), "{history}");
    cluster.kubectl("rollout undo deployment/kuard").ok();
    cluster.wait_for_rollout("deployment/kuard");
    assert_eq!(
        cluster.field("deployment kuard", "{.spec.template.spec.containers[0].image}"),
        "kuard:blue"
    );
    eventually("blue answers again", || {
        host.inside(|| http::get(server, "/version")).is_ok_and(|is| is == "blue")
    });
}

#[test]
fn a_paused_rollout_waits_until_it_is_resumed() {
    let host = Host::new("paused");
    let cluster = Cluster::start(&host);
    cluster.load("kuard-green.tar");
    cluster.apply(&deployment("kuard", 1));
    cluster.wait_for_rollout("deployment/kuard");
    cluster.kubectl("rollout pause deployment/kuard").ok();
    cluster.kubectl("set image deployment/kuard kuard=kuard:green").ok();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.get("replicasets -l app=kuard")["items"].as_array().map(Vec::len), Some(1));
    cluster.kubectl("rollout resume deployment/kuard").ok();
    cluster.wait_for_rollout("deployment/kuard");
    eventually("only the new image runs", || {
        let images = "{.items[*].spec.containers[0].image}";
        cluster.field("pods -l app=kuard", images) == "kuard:green"
    });
}

#[test]
fn a_container_that_keeps_failing_is_seen_to_back_off() {
    let host = Host::new("crash-loop");
    let cluster = Cluster::start(&host);
    let command = ["run", "crash", "--image=kuard:blue", "--command", "--", "sh", "-c", "exit 3"];
    cluster.kubectl_args(&command).ok();
    eventually_within(Duration::from_secs(60), "the status says CrashLoopBackOff", || {
        cluster.kubectl("get pod crash").ok().contains("CrashLoopBackOff")
    });
    let state = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(cluster.field("pod crash", state), "3");
    let restarts = cluster.field("pod crash", "{.status.containerStatuses[0].restartCount}");
    assert!(restarts.parse::<u32>().is_ok_and(|count| count >= 1), "{restarts}");
}

#[test]
fn deleting_waits_for_the_grace_period_and_no_longer() {
    let host = Host::new("grace");
    let cluster = Cluster::start(&host);
    let script = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    cluster
        .kubectl_args(&[
            "run",
            "polite",
            "--image=kuard:blue",
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ])
        .ok();
    cluster.wait_until_ready("polite");
    let asked = Instant::now();
    cluster.kubectl("delete pod polite --grace-period=10").ok();
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");

    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    cluster
        .kubectl_args(&["run", "deaf", "--image=kuard:blue", "--command", "--", "sh", "-c", deaf])
        .ok();
    cluster.wait_until_ready("deaf");
    let asked = Instant::now();
    cluster.kubectl("delete pod deaf --grace-period=2").ok();
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn what_is_owned_goes_with_its_owner() {
    let host = Host::new("garbage");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("kuard", 2));
    cluster.wait_for_rollout("deployment/kuard");
    cluster.kubectl("delete deployment kuard").ok();
    eventually("no ReplicaSet and no Pod is left", || {
        cluster.kubectl("get replicasets,pods -o name").ok().is_empty()
    });

    cluster.apply(&deployment("orphan", 1));
    cluster.wait_for_rollout("deployment/orphan");
    cluster.kubectl("delete deployment orphan --cascade=orphan").ok();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.get("replicasets -l app=orphan")["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_deleted_namespace_takes_everything_with_it() {
    let host = Host::new("namespace");
    let cluster = Cluster::start(&host);
    cluster.kubectl("create namespace team").ok();
    cluster.kubectl_with("apply -n team -f -", &deployment("kuard", 2).to_string()).ok();
    cluster.kubectl("rollout status -n team deployment/kuard --timeout=60s").ok();
    cluster.kubectl("delete namespace team --timeout=60s").ok();
    assert!(cluster.kubectl("get pods -A -o name -l app=kuard").ok().is_empty());
    cluster.kubectl("get namespace team").fails();
}

#[test]
fn the_pods_of_a_stateful_set_come_in_order_and_keep_their_names() {
    let host = Host::new("stateful-set");
    let cluster = Cluster::start(&host);
    let mut set = deployment("kuard", 2);
    set["kind"] = "StatefulSet".into();
    set["spec"]["serviceName"] = "kuard".into();
    cluster.apply(&set);
    cluster.wait_for_rollout("statefulset/kuard");
    let born = |pod: &str| cluster.field(&format!("pod {pod}"), "{.status.startTime}");
    assert!(born("kuard-0") <= born("kuard-1"));
    let hostname = cluster.kubectl("exec kuard-1 -- hostname").ok();
    assert_eq!(hostname.trim(), "kuard-1");

    let first = cluster.field("pod kuard-0", "{.metadata.uid}");
    cluster.kubectl("delete pod kuard-0").ok();
    eventually("another of the same name", || {
        let uid = cluster.field("pod kuard-0", "{.metadata.uid}");
        !uid.is_empty() && uid != first
    });
    cluster.wait_until_ready("kuard-0");

    cluster.kubectl("scale statefulset kuard --replicas=1").ok();
    eventually("the last has gone", || {
        let pods = cluster.get("pods -l app=kuard");
        pods["items"].as_array().is_some_and(|pods| pods.len() == 1)
    });
    assert_eq!(cluster.field("pods -l app=kuard", "{.items[*].metadata.name}"), "kuard-0");
}

#[test]
fn jobs_run_to_their_end_by_hand_and_by_the_clock_and_top_shows_what_is_used() {
    let host = Host::new("jobs");
    let cluster = Cluster::start(&host);
    cluster.kubectl("create job once --image=kuard:blue -- true").ok();
    cluster.kubectl("wait --for=condition=Complete job/once --timeout=30s").ok();
    assert_eq!(cluster.field("job once", "{.status.succeeded}"), "1");

    let every_second = "--schedule=@every 1s";
    let tick = ["create", "cronjob", "tick", "--image=kuard:blue", every_second, "--", "true"];
    cluster.kubectl_args(&tick).ok();
    eventually("a job of the clock's has succeeded", || {
        !cluster.field("cronjob tick", "{.status.lastSuccessfulTime}").is_empty()
    });
    cluster.kubectl("delete cronjob tick").ok();

    cluster.apply(&deployment("kuard", 1));
    cluster.wait_for_rollout("deployment/kuard");
    eventually("the node and the pod are measured", || {
        let nodes = cluster.kubectl("top nodes --no-headers");
        let pods = cluster.kubectl("top pods --no-headers -l app=kuard");
        let measured = |top: &e2e::Outcome| top.code == Some(0) && top.stdout.contains("Mi");
        measured(&nodes) && measured(&pods)
    });
}
