//! What kubectl does to a running container: exec, logs, port-forward.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

use e2e::{Cluster, Host, eventually, http, kuard_pod};
use serde_json::json;

#[test]
fn exec_hands_over_streams_and_the_exit_code() {
    let host = Host::new("exec");
    let cluster = Cluster::start(&host);
    cluster.apply(&kuard_pod("kuard"));
    cluster.wait_until_ready("kuard");
    assert_eq!(cluster.kubectl("exec kuard -- id -u").ok().trim(), "65534");
    assert_eq!(
        cluster.kubectl_with("exec -i kuard -- cat", "through and back").ok(),
        "through and back"
    );
    let ended = cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", "echo bad >&2; exit 7"]);
    assert_eq!((ended.code, ended.stderr.contains("bad")), (Some(7), true));
    let missing = cluster.kubectl("exec kuard -- no-such-program").fails();
    assert!(missing.contains("no-such-program"), "{missing}");

    // `script` gives kubectl the terminal that -t asks for.
    let kubectl = cluster.kubectl_command();
    let inner = format!(
        "{} exec -it kuard -- sh -c 'test -t 0 && echo a terminal'",
        kubectl.get_program().display()
    );
    let mut command = host.command("script");
    command.args(["-qec", &inner, "/dev/null"]).env("KUBECONFIG", cluster.kubeconfig());
    assert!(e2e::Outcome::of(&mut command, "").ok().contains("a terminal"));
}

#[test]
fn logs_follow_and_remember_the_previous_container() {
    let host = Host::new("logs");
    let cluster = Cluster::start(&host);
    let script = "echo started; for i in 1 2 3; do sleep 0.3; echo line $i; done; exit 1";
    cluster
        .kubectl_args(&[
            "run",
            "talker",
            "--image=kuard:blue",
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ])
        .ok();
    eventually("it has started", || cluster.kubectl("logs talker").stdout.contains("started"));
    let mut following = cluster.kubectl_running("logs -f talker -c talker");
    let output = following.0.stdout.take().expect("stdout is piped");
    let lines: Vec<String> = BufReader::new(output).lines().map_while(Result::ok).collect();
    assert!(lines.contains(&"line 3".to_owned()), "{lines:?}");
    eventually("there is a previous container", || {
        let previous = cluster.kubectl("logs --previous talker");
        previous.code == Some(0) && previous.stdout.contains("line 3")
    });
    let stamped = cluster.kubectl("logs --previous --timestamps --tail=1 talker").ok();
    assert!(stamped.starts_with("20") && stamped.trim_end().ends_with("line 3"), "{stamped}");
    let missing = cluster.kubectl("logs talker -c nobody").fails();
    assert!(missing.contains("container nobody is not valid for pod talker"), "{missing}");
}

#[test]
fn a_forwarded_port_reaches_the_pod() {
    let host = Host::new("port-forward");
    let cluster = Cluster::start(&host);
    cluster.apply(&kuard_pod("kuard"));
    cluster.wait_until_ready("kuard");
    let mut forward = cluster.kubectl_running("port-forward pod/kuard 18080:8080");
    let output = forward.0.stdout.take().expect("stdout is piped");
    // Read to the end of the test: kubectl ends when nobody listens to it.
    let mut lines = BufReader::new(output).lines();
    let first = lines.next().expect("it says what it does");
    assert!(first.expect("it prints text").contains("Forwarding from 127.0.0.1:18080"));
    let server: SocketAddr = "127.0.0.1:18080".parse().expect("an address");
    for _ in 0..20 {
        assert_eq!(host.inside(|| http::get(server, "/healthy")).expect("it is forwarded"), "ok");
    }
}

#[test]
fn a_failing_liveness_probe_restarts_and_readiness_only_gates() {
    let host = Host::new("probes");
    let cluster = Cluster::start(&host);
    let mut pod = kuard_pod("kuard");
    let probe = |path: &str| {
        serde_json::json!({
            "httpGet": { "path": path, "port": 8080 }, "periodSeconds": 1, "failureThreshold": 2,
        })
    };
    pod["spec"]["containers"][0]["livenessProbe"] = probe("/healthy");
    pod["spec"]["containers"][0]["readinessProbe"] = probe("/ready");
    cluster.apply(&pod);
    cluster.wait_until_ready("kuard");
    // busybox wget has no PUT: netcat says it as it is.
    let put = |path: &str, fails: i32| {
        let body = format!("{{\"failNext\":{fails}}}");
        let script = format!(
            "printf 'PUT {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: {}\\r\\n\\r\\n{body}' | nc -w 2 127.0.0.1 8080",
            body.len()
        );
        cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", &script]).ok();
    };
    put("/ready/api", -1);
    eventually("the pod is not ready", || {
        cluster.field("pod kuard", "{.status.containerStatuses[0].ready}") == "false"
    });
    assert_eq!(cluster.field("pod kuard", "{.status.containerStatuses[0].restartCount}"), "0");
    put("/healthy/api", -1);
    eventually("the container was restarted", || {
        cluster.field("pod kuard", "{.status.containerStatuses[0].restartCount}") == "1"
    });
    cluster.wait_until_ready("kuard");
    let events = cluster.kubectl("get events --field-selector involvedObject.name=kuard").ok();
    assert!(events.contains("Unhealthy") && events.contains("Killing"), "{events}");
}

#[test]
fn a_pod_with_users_of_its_own_is_a_pod_like_any_other() {
    let host = Host::new("own-users");
    let cluster = Cluster::start(&host);
    cluster.kubectl("create configmap words --from-literal=word=hello").ok();
    let mut pod = kuard_pod("kuard");
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["securityContext"] = json!({ "fsGroup": 2000 });
    pod["spec"]["volumes"] = json!([
        { "name": "scratch", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "words", "configMap": { "name": "words", "defaultMode": 0o640 } },
    ]);
    let container = &mut pod["spec"]["containers"][0];
    container["readinessProbe"] = json!({ "exec": { "command": ["test", "-O", "/scratch/mine"] } });
    container["securityContext"] = json!({ "runAsUser": 1000 });
    container["command"] = json!([
        "sh",
        "-c",
        "cat /proc/self/uid_map && touch /scratch/mine /part/deep && exec sleep 1000"
    ]);
    container["volumeMounts"] = json!([
        { "name": "scratch", "mountPath": "/scratch" },
        { "name": "scratch", "mountPath": "/part", "subPath": "some/where" },
        { "name": "memory", "mountPath": "/memory" },
        { "name": "words", "mountPath": "/words" },
    ]);
    cluster.apply(&pod);
    cluster.wait_until_ready("kuard");
    let log = cluster.kubectl("logs kuard").ok();
    let map: Vec<&str> = log.split_whitespace().collect();
    assert!(matches!(map[..], ["0", first, "65536"] if first != "0"), "{log}");
    let told = "id -u; cat /words/word; touch /memory/x; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; \
                stat -c '/%u:%g' /scratch/mine /scratch/some/where/deep; stat -Lc '/%u:%g' /words/word";
    assert_eq!(
        cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", told]).ok(),
        "1000\nhellodefault/1000:2000\n/1000:2000\n/0:2000\n"
    );
    // What a server that was killed knew of the pod, the next one finds.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(cluster.server_pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("the server runs");
    eventually("the pod can be talked to", || {
        cluster.kubectl("exec kuard -- true").code == Some(0)
    });
    assert_eq!(cluster.field("pod kuard", "{.status.containerStatuses[0].restartCount}"), "0");
    cluster.kubectl("delete pod kuard --grace-period=1").ok();
}
