//! `kill -9` of a node's daemon while pods come and go: what runs goes on running, and nothing is left behind.
//!
//! Each round kills the server at a moment that differs from round to round, and lets the node's holder start it again,
//! while batches of pods are made and deleted. `SKIFF_NODE_KILLS` sets the number of rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use e2e::{Cluster, Host, deployment, eventually, eventually_within, kuard_pod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A debug build on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);
/// Batches that live at the same time.
const ALIVE: u64 = 2;

#[test]
fn a_node_killed_under_churn_restarts_no_container_and_leaks_none() {
    let rounds: u64 = std::env::var("SKIFF_NODE_KILLS").map_or(3, |text| text.parse().unwrap());
    let host = Host::new("node-kills");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("stable", 2));
    cluster.apply(&with_sidecar("sidecar"));
    cluster.wait_for_rollout("deployment/stable");
    cluster.wait_until_ready("sidecar");
    let (containers, traces) = (containers(&cluster), Traces::of(&cluster));
    assert!(containers.len() == 4 && traces.shims.len() >= 3, "{containers:?} {traces:#?}");

    let (done, batches) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                churn(&cluster, batches.fetch_add(1, Ordering::Relaxed));
            }
        });
        for round in 0..rounds {
            // Whole periods of the churn are met at every phase.
            std::thread::sleep(Duration::from_millis(200 + 137 * (round % 11)));
            cluster.restart_server();
            let now = self::containers(&cluster);
            let same = containers.iter().all(|(name, id)| now.get(name) == Some(id));
            assert!(same, "round {round}: {now:?} was {containers:?}");
        }
        done.store(true, Ordering::Relaxed);
        churn.join().expect("the churn does not panic");
    });
    println!("{rounds} kills, {} batches of pods", batches.load(Ordering::Relaxed));

    eventually_within(PATIENCE, "every status says what became of the pod", || {
        phases(&cluster).iter().all(|(kind, phase)| match kind.as_str() {
            "runs" | "fails" => phase == "Running",
            _ => phase == "Succeeded",
        })
    });
    eventually_within(PATIENCE, "the churn's pods are gone", || {
        delete(&cluster, "churn");
        cluster.field("pods -l churn", "{.items[*].metadata.name}").is_empty()
    });
    eventually_within(PATIENCE, "every pod is ready", || {
        let ready = cluster.field("pods", "{.items[*].status.containerStatuses[*].ready}");
        !ready.contains("false") && ready.split(' ').count() == 3
    });
    assert_eq!(self::containers(&cluster), containers);
    let mut left = Traces::of(&cluster);
    eventually_within(PATIENCE, "nothing is left of the pods that are gone", || {
        left = Traces::of(&cluster);
        left == traces || {
            eprintln!("{}", left.beyond(&traces));
            std::thread::sleep(Duration::from_secs(2));
            false
        }
    });
}

#[test]
fn a_node_of_which_only_files_are_left_brings_its_pods_back() {
    let host = Host::new("node-reboot");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("stable", 2));
    cluster.apply(&with_sidecar("sidecar"));
    cluster.wait_for_rollout("deployment/stable");
    cluster.wait_until_ready("sidecar");
    let before = containers(&cluster);

    let holder = cluster.holder_pid();
    let processes = processes(&cluster.name);
    assert!(processes.len() >= 3, "the pods' processes are in its cgroups: {processes:?}");
    let killed: Vec<i32> = [holder, cluster.server_pid()].into_iter().chain(processes).collect();
    for pid in &killed {
        // Some die with another that went before them.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    eventually("all of them are gone", || killed.iter().all(|pid| is_gone(*pid)));
    cluster.skiff(&["start"]).ok();
    cluster.wait_for_rollout("deployment/stable");
    cluster.wait_until_ready("sidecar");
    eventually_within(PATIENCE, "every container has been started once more", || {
        let now = containers(&cluster);
        let again = |(name, id): (&String, &String)| {
            now.get(name).is_some_and(|now| now != id && now.ends_with(" 1"))
        };
        now.len() == before.len() && before.iter().all(again)
    });
    assert_eq!(cluster.kubectl("exec sidecar -c kuard -- echo alive").ok(), "alive\n");
}

/// A killed process lives on for as long as the kernel takes it apart; then nobody may have asked for its end yet.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// Makes a batch of pods that end in different ways, and deletes an older one. The server may be away: then the next
/// batch is as good.
fn churn(cluster: &Cluster<'_>, batch: u64) {
    let pod = |kind: &str, script: &str| {
        let mut pod = kuard_pod(&format!("churn-{batch}-{kind}"));
        pod["metadata"]["labels"] = json!({ "churn": "yes", "batch": batch.to_string() });
        pod["spec"]["restartPolicy"] = "OnFailure".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
        pod["spec"]["volumes"] = json!([{ "name": "memory", "emptyDir": { "medium": "Memory" } }]);
        let container = &mut pod["spec"]["containers"][0];
        container["command"] = json!(["sh", "-c", script]);
        container["volumeMounts"] = json!([{ "name": "memory", "mountPath": "/memory" }]);
        pod
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("runs", "sleep 1000"), pod("ends", "sleep 0.2"), pod("fails", "exit 3"),
    ] });
    cluster.kubectl_with("apply -f -", &list.to_string());
    if let Some(old) = batch.checked_sub(ALIVE) {
        delete(cluster, &format!("batch={old}"));
    }
}

fn delete(cluster: &Cluster<'_>, selector: &str) {
    cluster.kubectl(&format!("delete pods -l {selector} --wait=false --ignore-not-found"));
}

/// Kind and phase of the churn's pods that nobody has deleted.
fn phases(cluster: &Cluster<'_>) -> Vec<(String, String)> {
    let pods = cluster.get("pods -l churn");
    let live = pods["items"].as_array().into_iter().flatten();
    live.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let kind = name.rsplit('-').next().unwrap_or_default().to_owned();
            (kind, pod["status"]["phase"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

fn with_sidecar(name: &str) -> Value {
    let mut pod = kuard_pod(name);
    pod["metadata"]["labels"] = json!({ "stable": "yes" });
    let sidecar = json!({
        "name": "beside", "image": "kuard:blue", "restartPolicy": "Always", "command": ["sleep", "100000"],
    });
    pod["spec"]["initContainers"] = json!([sidecar]);
    pod
}

/// Id and number of restarts of every container that is to run on, by pod and name.
fn containers(cluster: &Cluster<'_>) -> BTreeMap<String, String> {
    let pods = cluster.get("pods");
    let mut found = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if name.starts_with("churn-") {
            continue;
        }
        for list in ["containerStatuses", "initContainerStatuses"] {
            for c in pod["status"][list].as_array().into_iter().flatten() {
                let key = format!("{name}/{}", c["name"]);
                found.insert(key, format!("{} {}", c["containerID"], c["restartCount"]));
            }
        }
    }
    found
}

/// Everything on a node that a pod could leave behind.
#[derive(Debug, Default, PartialEq)]
struct Traces {
    shims: BTreeSet<String>,
    sandboxes: BTreeSet<String>,
    containers: BTreeSet<String>,
    pods: BTreeSet<String>,
    logs: BTreeSet<String>,
    addresses: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    mounts: BTreeSet<String>,
}

impl Traces {
    fn of(cluster: &Cluster<'_>) -> Traces {
        let cluster_dir = cluster.host.dir().join("root/clusters").join(&cluster.name);
        let node = cluster_dir.join("data/node");
        let server = cluster.server_pid();
        let sandboxes = names(&node.join("runtime/sandboxes"));
        let inside =
            |id: &String| names(&node.join("runtime/sandboxes").join(id).join("containers"));
        let mounts = read(&PathBuf::from(format!("/proc/{server}/mounts")));
        let links = read(&PathBuf::from(format!("/proc/{server}/net/dev")));
        Traces {
            shims: shims(&node),
            containers: sandboxes.iter().flat_map(inside).collect(),
            sandboxes,
            pods: names(&node.join("kubelet/pods")),
            logs: names(&node.join("logs/pods")),
            addresses: names(&node.join("network")),
            links: links.lines().filter_map(|l| Some(l.split_once(':')?.0.trim().into())).collect(),
            cgroups: cgroups(&cluster.name),
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .filter(|at| at.starts_with(&*node.to_string_lossy()))
                .map(str::to_owned)
                .collect(),
        }
    }

    /// What is here and not there, or there and not here.
    fn beyond(&self, other: &Traces) -> String {
        let each = |t: &Traces| -> BTreeSet<String> {
            format!("{t:#?}").lines().map(str::to_owned).collect()
        };
        let (here, there) = (each(self), each(other));
        let differing: Vec<&String> = here.symmetric_difference(&there).collect();
        format!("{differing:#?}")
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Command lines of the processes that work below the node's directory, other than its server.
fn shims(node: &Path) -> BTreeSet<String> {
    let node = node.to_string_lossy().into_owned();
    let all = names(Path::new("/proc")).into_iter().filter(|pid| pid.parse::<u32>().is_ok());
    all.map(|pid| {
        format!("{pid} {}", read(&PathBuf::from(format!("/proc/{pid}/cmdline"))).replace('\0', " "))
    })
    .filter(|command| command.contains(&node))
    .collect()
}

/// The directories of pods in every hierarchy.
fn cgroups(cluster: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for name in names(&dir) {
            let path = dir.join(&name);
            if !path.is_dir() || path.is_symlink() {
                continue;
            }
            let text = path.to_string_lossy().into_owned();
            if text.contains(&format!("skiff-{cluster}")) {
                found.insert(text);
            }
            open.push(path);
        }
    }
    found
}

/// Everything that runs in the node's cgroups.
fn processes(cluster: &str) -> BTreeSet<i32> {
    let lists = cgroups(cluster).into_iter().map(|dir| read(&Path::new(&dir).join("cgroup.procs")));
    lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
