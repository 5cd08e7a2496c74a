//! A container's life: create, start, log, stop, remove, and nothing left.

use std::{fs, time::Duration};

use skiff_runtime::{ContainerEventKind, ContainerState, Error, PodSandboxState};

use crate::fixture::{IMAGE, content, eventually, exited, on_both, on_node, script};

#[test]
fn a_container_runs_logs_and_exits() {
    on_node(|node| async move {
        let mut events = node.runtime.events();
        let sandbox = node.sandbox("life").await;
        let config = script("main", "echo out; echo err >&2; printf half; exit 7");
        let id = node.runtime.create_container(&sandbox, config).await.unwrap();
        let created = node.runtime.container_status(&id).await.unwrap();
        assert_eq!(
            (created.state, created.pid, created.exit_code),
            (ContainerState::Created, None, None)
        );

        node.runtime.start_container(&id).await.unwrap();
        let status = exited(&*node.runtime, &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (Some(7), "Error"));
        assert!(status.started_at.unwrap() <= status.finished_at.unwrap());
        assert_eq!(status.image, IMAGE);
        assert!(
            status.image_ref.starts_with("docker.io/library/busybox@sha256:"),
            "{}",
            status.image_ref
        );

        let log = fs::read_to_string(&status.log_path).unwrap();
        for record in [" stdout F out\n", " stderr F err\n", " stdout P half\n"] {
            assert!(log.contains(record), "{record:?} in {log:?}");
        }
        let mut kinds = Vec::new();
        while let Ok(event) = events.try_recv() {
            assert_eq!(
                (event.container_id.as_str(), event.pod_uid.as_str()),
                (id.as_str(), "uid-life")
            );
            kinds.push(event.kind);
        }
        let stopped = ContainerEventKind::Stopped { exit_code: 7, oom_killed: false };
        assert_eq!(kinds, [ContainerEventKind::Created, ContainerEventKind::Started, stopped]);
    });
}

#[test]
fn a_command_that_cannot_run_says_why() {
    on_node(|node| async move {
        let sandbox = node.sandbox("bad").await;
        for (command, expected) in [
            ("no-such", r#"exec: "no-such": executable file not found in $PATH"#),
            ("/no/such", r#"exec: "/no/such": stat /no/such: no such file or directory"#),
            ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
            ("/etc", r#"exec: "/etc": is a directory"#),
        ] {
            let mut config = script("main", "");
            config.command = vec![command.to_owned()];
            let id = node.runtime.create_container(&sandbox, config).await.unwrap();
            match node.runtime.start_container(&id).await {
                Err(Error::StartFailed { reason, .. }) => assert_eq!(reason, expected),
                other => panic!("{command} started: {other:?}"),
            }
            let status = node.runtime.container_status(&id).await.unwrap();
            assert_eq!((status.exit_code, status.reason.as_str()), (Some(128), "StartError"));
            assert_eq!(status.message, expected);
        }
    });
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    on_both(|node| async move {
        let sandbox = node.sandbox("stop").await;
        let polite = script("polite", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done");
        let polite = node.start(&sandbox, polite).await;
        node.exec(&polite, "true").await;
        node.runtime.stop_container(&polite, Duration::from_secs(10)).await.unwrap();
        let status = node.runtime.container_status(&polite).await.unwrap();
        assert_eq!(status.exit_code, Some(3));
        assert_eq!(content(&status.log_path), "bye\n");

        let stubborn = node
            .start(&sandbox, script("stubborn", "trap '' TERM; while :; do sleep 0.05; done"))
            .await;
        let before = std::time::Instant::now();
        node.runtime.stop_container(&stubborn, Duration::from_millis(300)).await.unwrap();
        assert!(before.elapsed() >= Duration::from_millis(300));
        assert_eq!(node.runtime.container_status(&stubborn).await.unwrap().exit_code, Some(137));

        let mut quit = script("quit", "trap 'exit 4' QUIT; while :; do sleep 0.05; done");
        quit.stop_signal = Some("SIGQUIT".to_owned());
        let quit = node.start(&sandbox, quit).await;
        node.exec(&quit, "true").await;
        node.runtime.stop_container(&quit, Duration::from_secs(10)).await.unwrap();
        assert_eq!(node.runtime.container_status(&quit).await.unwrap().exit_code, Some(4));
        // Again is fine.
        node.runtime.stop_container(&quit, Duration::from_secs(10)).await.unwrap();
    });
}

#[test]
fn a_rotated_log_is_continued_in_a_new_file() {
    on_both(|node| async move {
        let sandbox = node.sandbox("rotate").await;
        let mut config = script("main", "cat");
        config.stdin = true;
        let id = node.start(&sandbox, config).await;
        let log = node.runtime.container_status(&id).await.unwrap().log_path;
        let request = skiff_runtime::AttachRequest { stdin: true, ..Default::default() };
        let mut stdin = node.runtime.attach(&id, request).await.unwrap().stdin.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"old\n").await.unwrap();
        eventually("the first line", || content(&log) == "old\n").await;

        let rotated = log.with_extension("1");
        fs::rename(&log, &rotated).unwrap();
        node.runtime.reopen_container_log(&id).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"new\n").await.unwrap();
        eventually("the second line", || content(&log) == "new\n").await;
        assert_eq!(content(&rotated), "old\n");
    });
}

#[test]
fn removal_leaves_nothing() {
    on_both(|node| async move {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let mounted = mounts();
        let sandbox = node.sandbox("gone").await;
        node.start(&sandbox, script("one", "sleep 1000")).await;
        node.start(&sandbox, script("two", "sleep 1000 & sleep 1000")).await;
        node.runtime.create_container(&sandbox, script("three", "never started")).await.unwrap();
        assert_eq!(mounts(), mounted, "containers mount nothing on the node");
        let processes = |node: &crate::fixture::Node| -> usize {
            let groups = node.cgroup_dirs();
            let procs = groups
                .iter()
                .flat_map(|dir| walk(dir))
                .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
            procs.map(|text| text.lines().count()).sum()
        };
        assert!(processes(node) > 0);

        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(processes(node), 0);
        assert!(node.cgroup_dirs().iter().all(|dir| !dir.join("kubepods/podgone").exists()));
        assert_eq!(fs::read_dir(node.dir.join("root/sandboxes")).unwrap().count(), 0);
        assert_eq!(mounts(), mounted);
        assert!(node.runtime.list_containers().await.unwrap().is_empty());
        assert!(matches!(
            node.runtime.pod_sandbox_status(&sandbox).await,
            Err(Error::NotFound { .. })
        ));
        // Again is fine.
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in
        fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
    {
        found.extend(walk(&entry.path()));
    }
    found
}

#[test]
fn a_failed_sandbox_leaves_nothing() {
    on_both(|node| async move {
        let mut config = node.sandbox_config("failing");
        config.runtime_handler = "kata".to_owned();
        let error = node.runtime.run_pod_sandbox(config).await.unwrap_err();
        assert!(error.to_string().contains(r#"no runtime for "kata" is configured"#), "{error}");
        let mut config = node.sandbox_config("failing");
        config.linux.sysctls.insert("net.no.such".to_owned(), "1".to_owned());
        let error = node.runtime.run_pod_sandbox(config).await.unwrap_err();
        assert!(error.to_string().contains("set sysctl net.no.such=1"), "{error}");
        assert_eq!(fs::read_dir(node.dir.join("root/sandboxes")).unwrap().count(), 0);
        assert!(node.cgroup_dirs().iter().all(|dir| !dir.join("kubepods/podfailing").exists()));
    });
}

#[test]
fn a_stopped_sandbox_is_not_ready_and_keeps_its_containers() {
    on_node(|node| async move {
        let sandbox = node.sandbox("halt").await;
        let id = node.start(&sandbox, script("main", "sleep 1000")).await;
        assert_eq!(
            node.runtime.pod_sandbox_status(&sandbox).await.unwrap().state,
            PodSandboxState::Ready
        );
        node.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(
            node.runtime.pod_sandbox_status(&sandbox).await.unwrap().state,
            PodSandboxState::NotReady
        );
        assert_eq!(node.runtime.container_status(&id).await.unwrap().exit_code, Some(137));
        let refused = node.runtime.create_container(&sandbox, script("late", "true")).await;
        assert!(matches!(refused, Err(Error::ShimGone { .. })), "{refused:?}");
    });
}
