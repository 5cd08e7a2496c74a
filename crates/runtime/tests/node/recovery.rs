//! The daemon comes back; the shim does not.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use skiff_runtime::{ContainerEventKind, ContainerState, PodSandboxState, Runtime};

use crate::fixture::{content, eventually, exited, on_node, script};

#[test]
fn containers_outlive_the_daemon_and_are_found_again() {
    on_node(|node| async move {
        let sandbox = node.sandbox("again").await;
        let waiting = node
            .start(
                &sandbox,
                script(
                    "waiting",
                    "while ! test -e /tmp/go; do sleep 0.02; done; echo went; exit 3",
                ),
            )
            .await;
        let short = node.start(&sandbox, script("short", "exit 2")).await;
        let created =
            node.runtime.create_container(&sandbox, script("created", "exit 1")).await.unwrap();
        exited(&*node.runtime, &short).await;

        // A second daemon on the same state knows everything the first did.
        let second = node.reopen().await;
        let status = second.container_status(&waiting).await.unwrap();
        assert_eq!(status, node.runtime.container_status(&waiting).await.unwrap());
        assert_eq!(status.state, ContainerState::Running);
        assert_eq!(second.container_status(&short).await.unwrap().exit_code, Some(2));
        assert_eq!(
            second.pod_sandbox_status(&sandbox).await.unwrap().state,
            PodSandboxState::Ready
        );

        let mut events = second.events();
        let touch = ["touch", "/tmp/go"].map(str::to_owned);
        second.exec_sync(&waiting, &touch, None).await.unwrap();
        let status = exited(&*second, &waiting).await;
        assert_eq!((status.exit_code, content(&status.log_path).as_str()), (Some(3), "went\n"));
        let event = events.recv().await.unwrap();
        assert_eq!(event.kind, ContainerEventKind::Stopped { exit_code: 3, oom_killed: false });

        second.start_container(&created).await.unwrap();
        assert_eq!(exited(&*second, &created).await.exit_code, Some(1));
        second.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn an_exit_nobody_saw_is_learnt_later() {
    on_node(|node| async move {
        let sandbox = node.sandbox("unseen").await;
        let id = node.start(&sandbox, script("main", "sleep 0.3; exit 8")).await;
        // The record a daemon reads at its start, before the exit and after.
        let before = node.reopen().await;
        assert_eq!(before.container_status(&id).await.unwrap().state, ContainerState::Running);
        exited(&*before, &id).await;
        let after = node.reopen().await;
        assert_eq!(after.container_status(&id).await.unwrap().exit_code, Some(8));
    });
}

#[test]
fn a_killed_shim_takes_its_pod_down_cleanly() {
    on_node(|node| async move {
        let sandbox = node.sandbox("killed").await;
        let id = node.start(&sandbox, script("main", "sleep 1000")).await;
        let pid = node.runtime.container_status(&id).await.unwrap().pid.unwrap();
        let mut events = node.runtime.events();
        kill(Pid::from_raw(shim_pid(node, &sandbox).await), Signal::SIGKILL).unwrap();

        let status = exited(&*node.runtime, &id).await;
        assert_eq!(status.exit_code, Some(137));
        eventually("the end of the container", || {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        })
        .await;
        loop {
            let event =
                tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
            if event.kind == ContainerEventKind::SandboxStopped {
                break;
            }
        }
        assert_eq!(
            node.runtime.pod_sandbox_status(&sandbox).await.unwrap().state,
            PodSandboxState::NotReady
        );
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert!(node.cgroup_dirs().iter().all(|dir| !dir.join("kubepods/podkilled").exists()));
        // And the node still takes pods.
        node.sandbox("next").await;
    });
}

async fn shim_pid(node: &crate::fixture::Node, sandbox: &str) -> i32 {
    let netns = node.runtime.pod_sandbox_status(sandbox).await.unwrap().netns.unwrap();
    netns.components().nth(2).unwrap().as_os_str().to_str().unwrap().parse().unwrap()
}

#[test]
fn a_reboot_leaves_everything_exited() {
    on_node(|node| async move {
        let sandbox = node.sandbox("reboot").await;
        let id = node.start(&sandbox, script("main", "sleep 1000")).await;
        let shim = shim_pid(node, &sandbox).await;
        // As after a boot: the same pid now belongs to somebody else.
        let record = node.dir.join("root/sandboxes").join(&sandbox).join("sandbox.json");
        let mut text: serde_json::Value =
            serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        text["shim"]["boot_id"] = "an earlier boot".into();
        fs::write(&record, text.to_string()).unwrap();
        let second = node.reopen().await;
        assert_eq!(second.container_status(&id).await.unwrap().exit_code, Some(137));
        assert_eq!(
            second.pod_sandbox_status(&sandbox).await.unwrap().state,
            PodSandboxState::NotReady
        );
        assert!(
            std::path::Path::new(&format!("/proc/{shim}")).exists(),
            "a stranger's process is left alone"
        );
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    });
}
