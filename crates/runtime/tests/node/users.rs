//! Pods whose users are not the node's.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
};

use skiff_runtime::{
    ContainerConfig, Device, Error, IdMapping, ImageMount, Mount, NamespaceMode, PodSandboxConfig,
    Runtime, UserNamespace,
};

use crate::{
    archive::{ImageBuilder, Layer, Packing},
    fixture::{Node, content, exited, on_node, script},
};

const BASE: u32 = 7 << 16;
const IDS: u32 = 1 << 16;

fn remapped(node: &Node, name: &str) -> PodSandboxConfig {
    let mapping = IdMapping { container_id: 0, host_id: BASE, length: IDS };
    let mut config = node.sandbox_config(name);
    config.linux.namespaces.user = Some(UserNamespace { uids: vec![mapping], gids: vec![mapping] });
    config
}

fn mount(host_path: &std::path::Path, container_path: &str) -> Mount {
    Mount { host_path: host_path.into(), container_path: container_path.into(), ..Mount::default() }
}

/// What a script in such a pod prints; it has to succeed.
async fn run(node: &Node, config: ContainerConfig) -> String {
    let sandbox = remapped(node, &config.metadata.name);
    let sandbox = node.runtime.run_pod_sandbox(sandbox).await.unwrap();
    let id = node.start(&sandbox, config).await;
    let status = exited(&*node.runtime, &id).await;
    let log = content(&status.log_path);
    node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(status.exit_code, Some(0), "{log}");
    log
}

#[test]
fn root_of_a_pod_is_somebody_else_on_the_node() {
    on_node(|node| async move {
        assert!(node.runtime.features().await.unwrap().user_namespaces);
        let sandbox = node.runtime.run_pod_sandbox(remapped(node, "root")).await.unwrap();
        let id = node.start(&sandbox, script("root", "exec sleep 1000")).await;
        let status = node.runtime.container_status(&id).await.unwrap();
        assert_eq!(status.user.map(|user| (user.uid, user.gid)), Some((0, 0)));
        let outside = fs::metadata(format!("/proc/{}", status.pid.unwrap())).unwrap();
        assert_eq!((outside.uid(), outside.gid()), (BASE, BASE));

        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for map in ["uid_map", "gid_map"] {
            let seen = node.output(&id, &format!("cat /proc/self/{map}")).await;
            assert_eq!(words(&seen), format!("0 {BASE} {IDS}"), "of exec");
            let seen = node.output(&id, &format!("cat /proc/1/{map}")).await;
            assert_eq!(words(&seen), format!("0 {BASE} {IDS}"), "of the container");
        }
        // Exec is in the same namespaces as the container, all of them the pod's own.
        for kind in ["user", "net", "ipc", "uts", "pid", "mnt", "cgroup"] {
            let link = format!("readlink /proc/self/ns/{kind}; readlink /proc/1/ns/{kind}");
            let seen = node.output(&id, &link).await;
            let (exec, init) = seen.trim().split_once('\n').unwrap();
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_eq!(exec, init, "{kind}");
            assert_ne!(init, ours.to_str().unwrap(), "{kind}");
        }
        assert_eq!(node.output(&id, "head -c 5 /proc/1/cmdline; id -u").await, "sleep0\n");
        let list = "ls -ldn / /bin /proc/1/ /dev/shm | awk '{ print $3 \":\" $4 }' | sort -u";
        assert_eq!(node.output(&id, list).await, "0:0\n");
        let devices = "echo x >/dev/null && head -c 1 /dev/zero | wc -c; \
                       mknod /tmp/sda b 8 0 2>/dev/null || echo refused; ls /dev/pts | head -1";
        assert_eq!(node.output(&id, devices).await, "1\nrefused\nptmx\n");
        node.output(&id, "sysctl -q -w net.ipv4.ip_forward=1 2>&1 || true; hostname").await;
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn files_keep_their_owners_across_a_pods_own_users() {
    on_node(|node| async move {
        let volume = node.dir.join("volume");
        fs::create_dir(&volume).unwrap();
        for (name, owner) in [("root", 0), ("app", 1000)] {
            fs::write(volume.join(name), name).unwrap();
            chown(volume.join(name), Some(owner), Some(owner)).unwrap();
        }
        chown(&volume, Some(1000), Some(1000)).unwrap();
        let mut config = script(
            "owners",
            "cd /data && stat -c '%n %u %g' app root . && touch mine && cat app; \
             touch /home/x /tmp/y && stat -c '%u' /home/x /tmp/y; echo out >/dev/stdout; stat -c %u /etc/hostname",
        );
        config.linux.security.run_as_user = Some(1000);
        config.linux.security.run_as_group = Some(1000);
        config.mounts = vec![mount(&volume, "/data")];
        let base = Layer::new().dir("home", 0o777);
        node.load(&ImageBuilder::new("homely:1").layer(base).oci(Packing::Plain)).await;
        config.image = "homely:1".into();
        let log = run(node, config).await;
        assert_eq!(log, "app 1000 1000\nroot 0 0\n. 1000 1000\napp1000\n1000\nout\n0\n");
        let made = fs::metadata(volume.join("mine")).unwrap();
        assert_eq!((made.uid(), made.gid()), (1000, 1000), "on the node, too");
    });
}

#[test]
fn images_and_devices_are_shown_to_a_pods_own_users() {
    on_node(|node| async move {
        let layer = Layer::new().dir("conf", 0o755).file("conf/kept", 0o600, "kept");
        let loaded =
            node.load(&ImageBuilder::new("files:1").layer(layer).oci(Packing::Plain)).await;
        let mut config = script(
            "shown",
            "stat -c %u /image/kept; cat /image/kept; head -c 3 /dev/nothing | wc -c",
        );
        config.mounts = vec![Mount {
            container_path: "/image".into(),
            image: Some(ImageMount { id: loaded[0].id.clone(), sub_path: "conf".into() }),
            ..Mount::default()
        }];
        config.devices = vec![Device {
            container_path: "/dev/nothing".into(),
            host_path: "/dev/zero".into(),
            permissions: "rwm".into(),
        }];
        assert_eq!(run(node, config).await, "0\nkept3\n");
    });
}

#[test]
fn privileges_among_a_pods_own_users_end_at_the_pod() {
    on_node(|node| async move {
        let mut config = script(
            "strong",
            "mount -t tmpfs none /mnt && echo mounted; ip addr add 10.9.9.9/32 dev lo && echo addressed; \
             echo 1 2>/dev/null >/proc/sys/kernel/panic || echo kept",
        );
        config.linux.security.privileged = true;
        let base = Layer::new().dir("mnt", 0o755);
        node.load(&ImageBuilder::new("mnt:1").layer(base).oci(Packing::Plain)).await;
        config.image = "mnt:1".into();
        assert_eq!(run(node, config).await, "mounted\naddressed\nkept\n");
    });
}

#[test]
fn a_pid_namespace_is_shared_among_a_pods_own_users() {
    on_node(|node| async move {
        let mut config = remapped(node, "shared");
        config.linux.namespaces.pid = NamespaceMode::Pod;
        let sandbox = node.runtime.run_pod_sandbox(config).await.unwrap();
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let mut config = script(name, "exec sleep 1000");
            config.linux.security.namespaces.pid = NamespaceMode::Pod;
            ids.push(node.start(&sandbox, config).await);
        }
        let seen = node.output(&ids[1], "cat /proc/1/comm; ps | grep -c 'sleep 1000$'").await;
        assert_eq!(seen, "pause\n2\n");
        assert_eq!(node.output(&ids[0], "stat -c %u /proc/1").await.len(), 2);
        let second = node.reopen().await;
        second.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn a_pod_of_other_users_outlives_the_daemon() {
    on_node(|node| async move {
        let sandbox = node.runtime.run_pod_sandbox(remapped(node, "again")).await.unwrap();
        let id = node
            .start(&sandbox, script("main", "trap 'exit 4' TERM; while :; do sleep 0.05; done"))
            .await;
        let second = node.reopen().await;
        let command = ["id", "-u"].map(str::to_owned);
        let output = second.exec_sync(&id, &command, None).await.unwrap();
        assert_eq!((output.exit_code, output.stdout.as_slice()), (0, &b"0\n"[..]));
        second.stop_container(&id, std::time::Duration::from_secs(10)).await.unwrap();
        assert_eq!(second.container_status(&id).await.unwrap().exit_code, Some(4));
        // And one that cannot start says why.
        let mut wrong = script("wrong", "true");
        wrong.command = vec!["/nowhere".to_owned()];
        let wrong = second.create_container(&sandbox, wrong).await.unwrap();
        let error = second.start_container(&wrong).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
        second.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

/// The kernel refuses to map the owners of files of `/proc`.
#[test]
fn a_file_system_that_cannot_map_owners_is_told_of() {
    on_node(|node| async move {
        let sandbox = node.runtime.run_pod_sandbox(remapped(node, "unmapped")).await.unwrap();
        let mut config = script("main", "true");
        config.mounts = vec![mount(std::path::Path::new("/proc/sys"), "/data")];
        let id = node.runtime.create_container(&sandbox, config).await.unwrap();
        let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
        assert!(error.contains("failed to set MOUNT_ATTR_IDMAP on /proc/sys"), "{error}");

        let mut config = remapped(node, "host");
        config.linux.namespaces.network = NamespaceMode::Node;
        let refused = node.runtime.run_pod_sandbox(config).await;
        assert!(matches!(refused, Err(Error::InvalidConfig { .. })), "{refused:?}");
    });
}
