//! What is told of sandboxes, containers and images at the CRI socket, beside what happens to them: the other files' tests run
//! there too.

use std::time::Duration;

use skiff_runtime::{
    AttachRequest, ContainerEventKind, ContainerState, Error, PodSandboxState, TerminalSize,
};

use tokio::io::AsyncReadExt;

use crate::fixture::{IMAGE, exited, on_both, script};

#[test]
fn what_was_asked_for_is_told_again() {
    on_both(|node| async move {
        let mut config = node.sandbox_config("told");
        config.labels.insert("app".to_owned(), "web".to_owned());
        config.annotations.insert("note".to_owned(), "1".to_owned());
        config.linux.resources.cpu_shares = 512;
        let sandbox = node.runtime.run_pod_sandbox(config.clone()).await.unwrap();
        let status = node.runtime.pod_sandbox_status(&sandbox).await.unwrap();
        assert_eq!(status.metadata, config.metadata);
        assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
        assert_eq!(status.resources.cpu_shares, 512);
        assert!(status.netns.is_some_and(|path| path.exists()));

        let mut config = script("main", "sleep 1000");
        config.annotations.insert("note".to_owned(), "2".to_owned());
        config.linux.resources.cpu_shares = 256;
        let id = node.start(&sandbox, config.clone()).await;
        let status = node.runtime.container_status(&id).await.unwrap();
        assert_eq!((&*status.image, &*status.sandbox_id), (IMAGE, &*sandbox));
        assert_eq!(status.annotations, config.annotations);
        assert_eq!((status.state, status.exit_code), (ContainerState::Running, None));
        assert!(status.started_at.is_some() && status.finished_at.is_none());
        assert_eq!(status.resources.cpu_shares, 256);
        let change =
            skiff_runtime::LinuxContainerResources { cpu_shares: 300, ..Default::default() };
        node.runtime.update_container_resources(&id, change).await.unwrap();
        let status = node.runtime.container_status(&id).await.unwrap();
        assert_eq!(status.resources.cpu_shares, 300);
        let all = node.runtime.list_containers().await.unwrap();
        assert_eq!(all, [status]);

        let stats = node.runtime.list_container_stats().await.unwrap();
        assert_eq!((&*stats[0].id, &*stats[0].sandbox_id), (&*id, &*sandbox));
        let image = node.runtime.image_status(IMAGE).await.unwrap().unwrap();
        assert_eq!(node.runtime.list_images().await.unwrap(), [image]);
        assert!(node.runtime.image_status("no-such:1").await.unwrap().is_none());
        assert!(node.runtime.image_fs_info().await.unwrap().capacity_bytes > 0);
    });
}

#[test]
fn who_is_not_there_is_not_found_and_gone_for_good() {
    on_both(|node| async move {
        let not_found = |error| matches!(error, Error::NotFound { .. });
        assert!(not_found(node.runtime.pod_sandbox_status("nobody").await.unwrap_err()));
        assert!(not_found(node.runtime.container_status("nobody").await.unwrap_err()));
        assert!(not_found(node.runtime.start_container("nobody").await.unwrap_err()));
        let command = ["true".to_owned()];
        let none = node.runtime.exec_sync("nobody", &command, None).await.unwrap_err();
        assert!(not_found(none));
        node.runtime.stop_container("nobody", Duration::ZERO).await.unwrap();
        node.runtime.remove_container("nobody").await.unwrap();
        node.runtime.stop_pod_sandbox("nobody").await.unwrap();
        node.runtime.remove_pod_sandbox("nobody").await.unwrap();
    });
}

#[test]
fn an_exec_out_of_time_is_told_as_such() {
    on_both(|node| async move {
        let sandbox = node.sandbox("late").await;
        let id = node.start(&sandbox, script("main", "sleep 1000")).await;
        let command = ["sleep", "30"].map(str::to_owned);
        let late = node.runtime.exec_sync(&id, &command, Some(Duration::from_millis(200))).await;
        assert!(matches!(late, Err(Error::ExecTimeout { .. })), "{late:?}");
    });
}

#[test]
fn a_terminal_hears_of_its_size_and_its_end() {
    on_both(|node| async move {
        let sandbox = node.sandbox("tty").await;
        let wait = "until stty size | grep -q '30 90'; do sleep 0.02; done; echo sized; exit 4";
        let mut config = script("main", wait);
        (config.stdin, config.tty) = (true, true);
        let id = node.start(&sandbox, config).await;
        let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: true };
        let session = node.runtime.attach(&id, request).await.unwrap();
        session.terminal.as_ref().unwrap().resize(TerminalSize { width: 90, height: 30 }).unwrap();
        let mut out = String::new();
        session.stdout.unwrap().read_to_string(&mut out).await.unwrap();
        assert!(out.contains("sized\r\n"), "{out:?}");
        assert_eq!(session.exit.await.unwrap(), 4);
    });
}

#[test]
fn what_happens_by_itself_is_told_in_order() {
    on_both(|node| async move {
        let sandbox = node.sandbox("events").await;
        // Whoever listens learns of what comes after the first look.
        let mut events = node.runtime.events();
        let warm = node.start(&sandbox, script("warm", "sleep 1000")).await;
        while events.recv().await.unwrap().container_id != warm {}
        let id = node.start(&sandbox, script("main", "exit 7")).await;
        exited(&*node.runtime, &id).await;
        node.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
        let mut told = Vec::new();
        while !told.contains(&ContainerEventKind::SandboxStopped) {
            let event = events.recv().await.unwrap();
            assert_eq!((&*event.sandbox_id, &*event.pod_uid), (&*sandbox, "uid-events"));
            if event.container_id == id || event.container_id == sandbox {
                told.push(event.kind);
            }
        }
        let stopped = ContainerEventKind::Stopped { exit_code: 7, oom_killed: false };
        let life = [ContainerEventKind::Created, ContainerEventKind::Started, stopped];
        assert_eq!(told[..3], life);
        let status = node.runtime.pod_sandbox_status(&sandbox).await.unwrap();
        assert_eq!(status.state, PodSandboxState::NotReady);
    });
}
