//! The life of a local cluster: crash, stop, start, two at once, and a delete that leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{Cluster, Host, deployment, eventually, http, kuard_pod, service};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_killed_server_loses_no_acknowledged_write_and_restarts_no_pod() {
    let host = Host::new("kill");
    let cluster = Cluster::start(&host);
    cluster.apply(&kuard_pod("kuard"));
    cluster.wait_until_ready("kuard");
    let container = cluster.field("pod kuard", "{.status.containerStatuses[0].containerID}");

    let done = AtomicBool::new(false);
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("write-{number}");
                let written =
                    cluster.kubectl(&format!("create configmap {name} --from-literal=n={number}"));
                if written.code == Some(0) {
                    acknowledged.push(name);
                }
            }
            acknowledged
        });
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(700));
            let server = cluster.server_pid();
            kill(Pid::from_raw(server), Signal::SIGKILL).expect("the server is ours");
            eventually("the server is back", || {
                cluster.kubectl("get --raw /readyz").code == Some(0)
            });
        }
        done.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic")
    });

    let found = cluster.kubectl("get configmaps -o name").ok();
    let found: BTreeSet<&str> =
        found.lines().filter_map(|line| line.strip_prefix("configmap/")).collect();
    let lost: Vec<&String> =
        acknowledged.iter().filter(|name| !found.contains(name.as_str())).collect();
    assert!(lost.is_empty() && !acknowledged.is_empty(), "lost {lost:?} of {}", acknowledged.len());
    cluster.wait_until_ready("kuard");
    assert_eq!(cluster.field("pod kuard", "{.status.containerStatuses[0].containerID}"), container);
    assert_eq!(cluster.field("pod kuard", "{.status.containerStatuses[0].restartCount}"), "0");
    assert_eq!(cluster.kubectl("exec kuard -- echo alive").ok(), "alive\n");
}

#[test]
fn stop_keeps_what_start_resumes() {
    let host = Host::new("stop");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("kuard", 2));
    cluster.apply(&service("kuard", 30080));
    cluster.wait_for_rollout("deployment/kuard");
    let address = cluster.field("service kuard", "{.spec.clusterIP}");

    cluster.skiff(&["stop"]).ok();
    let status = cluster.skiff(&["status"]);
    assert_eq!(status.code, Some(7), "{}", status.stdout);
    assert!(status.stdout.contains("host: Stopped"));
    cluster.skiff(&["stop"]).ok();
    cluster.skiff(&["start"]).ok();
    assert_eq!(cluster.skiff(&["status"]).code, Some(0));
    assert_eq!(cluster.field("service kuard", "{.spec.clusterIP}"), address);
    cluster.wait_for_rollout("deployment/kuard");
    let server = cluster.node_port(30080);
    eventually("the app answers again", || {
        host.inside(|| http::get(server, "/healthy")).is_ok_and(|body| body == "ok")
    });
    let again = cluster.skiff(&["start"]).ok();
    assert!(again.contains("running already"), "{again}");
}

#[test]
fn stop_with_a_grace_period_ends_pods_and_the_critical_ones_last() {
    let host = Host::new("grace");
    let cluster = Cluster::start_with(
        &host,
        &[
            "--server-arg=--shutdown-grace-period=12",
            "--server-arg=--shutdown-grace-period-critical-pods=6",
        ],
    );
    for (name, class) in [("plain", ""), ("critical", "system-node-critical")] {
        let mut pod = kuard_pod(name);
        pod["spec"]["priorityClassName"] = class.into();
        pod["spec"]["terminationGracePeriodSeconds"] = 2.into();
        pod["spec"]["containers"][0]["command"] = serde_json::json!(["sleep", "100000"]);
        cluster.apply(&pod);
        cluster.wait_until_ready(name);
    }
    cluster.skiff(&["stop"]).ok();
    cluster.skiff(&["start"]).ok();
    let ended = |pod: &str| {
        let pod = format!("pod {pod}");
        assert_eq!(cluster.field(&pod, "{.status.phase} {.status.reason}"), "Failed Terminated");
        assert_eq!(
            cluster.field(&pod, "{.status.message}"),
            "Pod was terminated in response to imminent node shutdown."
        );
        cluster.field(&pod, "{.status.containerStatuses[0].state.terminated.finishedAt}")
    };
    let (plain, critical) = (ended("plain"), ended("critical"));
    assert!(plain < critical, "{plain} is not before {critical}");
    let ready = "{.items[0].status.conditions[?(@.type==\"Ready\")].status}";
    eventually("the node is ready again", || cluster.field("nodes", ready) == "True");
}

#[test]
fn two_clusters_live_side_by_side() {
    let host = Host::new("two");
    let (one, other) = (Cluster::start(&host), Cluster::start(&host));
    for cluster in [&one, &other] {
        cluster.apply(&deployment("kuard", 1));
        cluster.wait_for_rollout("deployment/kuard");
    }
    one.kubectl("create namespace only-here").ok();
    other.kubectl("get namespace only-here").fails();
    assert_ne!(one.node_address(), other.node_address());
}

#[test]
fn delete_leaves_nothing_behind() {
    let host = Host::new("delete");
    let cluster = Cluster::named(&host, "leaves-nothing");
    let before = Traces::of(&cluster);
    {
        cluster.skiff(&["start"]).ok();
        cluster.load("kuard-blue.tar");
        cluster.apply(&deployment("kuard", 2));
        cluster.apply(&service("kuard", 30080));
        cluster.wait_for_rollout("deployment/kuard");
        let name = cluster.name.clone();
        cluster.skiff(&["delete"]).ok();
        cluster.skiff(&["delete"]).ok();
        let config = fs::read_to_string(cluster.kubeconfig()).expect("the file stays");
        assert!(!config.contains(&name), "{config}");
    }
    let after = Traces::of(&cluster);
    assert_eq!(after, before);
    assert!(
        !host.dir().join("root/clusters").read_dir().is_ok_and(|mut dirs| dirs.next().is_some())
    );
}

/// Everything on a machine that a cluster could leave behind.
#[derive(Debug, PartialEq)]
struct Traces {
    mounts: Vec<String>,
    links: String,
    routes: String,
    rules: String,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Traces {
    fn of(cluster: &Cluster) -> Traces {
        let run = |program: &str, args: &[&str]| {
            e2e::Outcome::of(cluster.host.command(program).args(args), "").ok()
        };
        let own = &cluster.name;
        let mounts = run("cat", &["/proc/mounts"]);
        Traces {
            mounts: mounts
                .lines()
                .filter(|line| line.contains("skiff"))
                .map(str::to_owned)
                .collect(),
            links: run("ip", &["-o", "link"]).lines().map(link_name).collect(),
            routes: run("ip", &["route"]),
            rules: run("nft", &["list", "ruleset"]),
            cgroups: cgroups("/sys/fs/cgroup".as_ref(), 2)
                .into_iter()
                .filter(|dir| dir.contains(own.as_str()))
                .collect(),
            processes: commands()
                .into_iter()
                .filter(|command| command.contains(own.as_str()))
                .collect(),
        }
    }
}

fn link_name(line: &str) -> String {
    line.split(": ").nth(1).unwrap_or("").to_owned() + " "
}

fn cgroups(dir: &std::path::Path, depth: u32) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.flat_map(|entry| {
        let mut below = if depth > 0 { cgroups(&entry.path(), depth - 1) } else { Vec::new() };
        below.push(entry.path().display().to_string());
        below
    })
    .collect()
}

/// The command line of every process.
fn commands() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
        .collect()
}
