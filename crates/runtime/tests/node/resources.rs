//! Limits hold, and usage is told.

use std::time::Duration;

use skiff_runtime::{LinuxContainerResources, Runtime};

use crate::fixture::{exited, on_node, script};

#[test]
fn too_much_memory_is_an_oom_kill() {
    on_node(|node| async move {
        let sandbox = node.sandbox("oom").await;
        let mut config = script("main", "head -c 200000000 /dev/zero | tail | wc -c; sleep 1000");
        config.command = ["tail", "/dev/zero"].map(str::to_owned).to_vec();
        config.linux.resources.memory_limit_bytes = 16 << 20;
        let mut events = node.runtime.events();
        let id = node.start(&sandbox, config).await;
        let status = exited(&*node.runtime, &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (Some(137), "OOMKilled"));
        let mut told = false;
        while let Ok(event) = events.try_recv() {
            let oom =
                skiff_runtime::ContainerEventKind::Stopped { exit_code: 137, oom_killed: true };
            told |= event.kind == oom;
        }
        assert!(told);
    });
}

#[test]
fn cpu_and_process_limits_hold() {
    on_node(|node| async move {
        let sandbox = node.sandbox("limits").await;
        let mut config = script("main", "while :; do :; done");
        config.linux.resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            pids_limit: 5,
            ..Default::default()
        };
        let id = node.start(&sandbox, config).await;
        let before = node.runtime.container_stats(&id).await.unwrap().cpu;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = node.runtime.container_stats(&id).await.unwrap().cpu - before;
        assert!(used < Duration::from_millis(400), "{used:?} of a fifth of a second");
        let forks = node.exec(&id, "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; true").await;
        assert!(String::from_utf8_lossy(&forks.stderr).contains("can't fork"), "{forks:?}");

        let wider = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            pids_limit: 100,
            ..Default::default()
        };
        node.runtime.update_container_resources(&id, wider).await.unwrap();
        node.output(&id, "for i in 1 2 3 4 5 6 7 8; do true & done; true").await;
        let known = node.reopen().await.container_status(&id).await.unwrap().resources;
        assert_eq!((known.pids_limit, known.cpu_quota, known.cpu_period), (100, -1, 100_000));
    });
}

#[test]
fn usage_is_told() {
    on_node(|node| async move {
        let sandbox = node.sandbox("usage").await;
        let config = script(
            "main",
            "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; echo ready; sleep 1000",
        );
        let id = node.start(&sandbox, config).await;
        let log = node.runtime.container_status(&id).await.unwrap().log_path;
        crate::fixture::eventually("the file", || crate::fixture::content(&log) == "ready\n").await;
        let stats = node.runtime.container_stats(&id).await.unwrap();
        assert!(
            stats.memory_usage_bytes > 0
                && stats.memory_working_set_bytes <= stats.memory_usage_bytes
        );
        assert!(stats.cpu > Duration::ZERO && stats.pids >= 1, "{stats:?}");
        assert!(stats.rootfs_used_bytes >= 3 << 20, "{stats:?}");
        assert_eq!(node.runtime.list_container_stats().await.unwrap().len(), 1);
        // The container sees its own group as the root.
        let group = node.output(&id, "cat /proc/self/cgroup | grep -v ':/$' | wc -l").await;
        assert_eq!(group.trim(), "0");
    });
}
