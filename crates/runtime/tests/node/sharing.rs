//! What the containers of a pod share, and what they do not.

use std::fs;

use skiff_runtime::{NamespaceMode, NamespaceOptions};

use crate::fixture::{on_node, script};

#[test]
fn network_ipc_hostname_and_shared_memory_are_the_pods() {
    on_node(|node| async move {
        let sandbox = node.sandbox("pair").await;
        let one = node.start(&sandbox, script("one", "sleep 1000")).await;
        let two = node.start(&sandbox, script("two", "sleep 1000")).await;
        for kind in ["net", "ipc", "uts"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            let (first, second) = (node.output(&one, &link).await, node.output(&two, &link).await);
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_eq!(first, second, "{kind}");
            assert_ne!(first.trim(), ours.to_str().unwrap(), "{kind}");
        }
        for kind in ["pid", "mnt", "cgroup"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            assert_ne!(node.output(&one, &link).await, node.output(&two, &link).await, "{kind}");
        }
        node.output(&one, "echo shared >/dev/shm/file; echo private >/tmp/file").await;
        assert_eq!(
            node.output(&two, "cat /dev/shm/file; cat /tmp/file 2>/dev/null || echo none").await,
            "shared\nnone\n"
        );
        assert_eq!(
            node.output(&two, "hostname; echo $HOSTNAME; cat /etc/hostname").await,
            "pair\npair\npair\n"
        );
        assert_eq!(node.output(&two, "cat /etc/resolv.conf").await, "nameserver 10.96.0.10\n");
        assert_eq!(
            node.output(&two, "ping -c 1 127.0.0.1 | grep -c '1 packets received'").await,
            "1\n",
            "lo is up"
        );
        assert_eq!(
            node.output(&two, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await,
            "0\n"
        );
        // The container is its own init.
        assert_eq!(node.output(&two, "head -c 5 /proc/1/cmdline").await, "sleep");
    });
}

#[test]
fn a_shared_pid_namespace_has_an_init_that_reaps() {
    on_node(|node| async move {
        let mut config = node.sandbox_config("pids");
        config.linux.namespaces.pid = NamespaceMode::Pod;
        let sandbox = node.runtime.run_pod_sandbox(config).await.unwrap();
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let mut config = script(name, &format!("(sleep 0.01 &); exec sleep 100{}", name.len()));
            config.linux.security.namespaces.pid = NamespaceMode::Pod;
            ids.push(node.start(&sandbox, config).await);
        }
        let seen = node.output(&ids[1], "cat /proc/1/comm; ps | grep -c 'sleep 1003'").await;
        assert!(seen.starts_with("pause\n") && !seen.contains("\n0\n"), "{seen}");
        crate::fixture::eventually("the reaping of orphans", || {
            let pause = children_of_comm("pause");
            pause.iter().all(|pid| !zombies_below(*pid))
        })
        .await;
        // One container's end leaves the other's processes alone.
        node.runtime.stop_container(&ids[0], std::time::Duration::ZERO).await.unwrap();
        node.output(&ids[1], "true").await;
    });
}

fn children_of_comm(comm: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == comm)
    })
    .collect()
}

fn zombies_below(pid: i32) -> bool {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().any(|child| {
        fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    })
}

#[test]
fn a_debug_container_enters_its_targets_processes() {
    on_node(|node| async move {
        let sandbox = node.sandbox("debug").await;
        let target = node.start(&sandbox, script("target", "exec sleep 1234")).await;
        let mut config = script("debugger", "exec sleep 4321");
        config.linux.security.namespaces = NamespaceOptions {
            pid: NamespaceMode::Target,
            target_id: Some(target.clone()),
            ..NamespaceOptions::default()
        };
        let debugger = node.start(&sandbox, config).await;
        assert_eq!(node.output(&debugger, "grep -c 1234 /proc/1/cmdline").await, "1\n");
        // And the next container has a namespace of its own again.
        let next = node.start(&sandbox, script("next", "exec sleep 5678")).await;
        assert_eq!(node.output(&next, "grep -c 5678 /proc/1/cmdline").await, "1\n");
    });
}

#[test]
fn the_nodes_namespaces_on_request() {
    on_node(|node| async move {
        let mut config = node.sandbox_config("host");
        let all = NamespaceOptions {
            network: NamespaceMode::Node,
            pid: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            ..NamespaceOptions::default()
        };
        config.linux.namespaces = all.clone();
        let sandbox = node.runtime.run_pod_sandbox(config).await.unwrap();
        let mut config = script("main", "sleep 1000 & exec sleep 1000");
        config.linux.security.namespaces = all;
        let id = node.start(&sandbox, config).await;
        for kind in ["net", "ipc", "uts", "pid"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let theirs = node.output(&id, &format!("readlink /proc/self/ns/{kind}")).await;
            assert_eq!(theirs.trim(), ours.to_str().unwrap(), "{kind}");
        }
        assert_eq!(node.runtime.pod_sandbox_status(&sandbox).await.unwrap().netns, None);
        // Without a PID namespace nothing but the cgroup knows what belongs to the container.
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert!(node.cgroup_dirs().iter().all(|dir| !dir.join("kubepods/podhost").exists()));
    });
}

#[test]
fn sysctls_are_the_pods_own() {
    on_node(|node| async move {
        let mut config = node.sandbox_config("sysctl");
        for (name, value) in
            [("net.ipv4.ip_local_port_range", "40000 50000"), ("kernel.shm_rmid_forced", "1")]
        {
            config.linux.sysctls.insert(name.to_owned(), value.to_owned());
        }
        let sandbox = node.runtime.run_pod_sandbox(config).await.unwrap();
        let id = node.start(&sandbox, script("main", "sleep 1000")).await;
        let seen = node
            .output(
                &id,
                "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced",
            )
            .await;
        assert_eq!(seen, "40000\t50000\n1\n");
        assert_ne!(
            fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap().trim(),
            "40000\t50000"
        );
    });
}
