//! What a container may not do, and who it is.

use std::fs;

use serde_json::json;
use skiff_runtime::{
    ContainerConfig, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, Error, ImageMount, Mount,
    MountPropagation, SeccompProfile,
};

use crate::{
    archive::{ImageBuilder, Layer, Packing},
    fixture::{Node, on_node, script},
};

/// Runs the script and expects success and this log.
async fn check(node: &Node, config: ContainerConfig, expected: &str) {
    let name = config.metadata.name.clone();
    let (code, log) = node.run(config).await;
    assert_eq!((code, log.as_str()), (0, expected), "{name}");
}

#[test]
fn users_and_groups() {
    on_node(|node| async move {
        check(node, script("default", "id -u; id -g; echo $HOME"), "0\n0\n/root\n").await;

        let mut by_id = script(
            "by-id",
            "id -u; id -g; id -G; echo $HOME; touch /tmp/mine; touch /etc/not 2>&1",
        );
        by_id.linux.security.run_as_user = Some(1000);
        by_id.linux.security.supplemental_groups = vec![3000];
        let (code, log) = node.run(by_id).await;
        assert_eq!(
            log,
            "1000\n1001\n1001 2000 3000\n/home/app\ntouch: /etc/not: Permission denied\n"
        );
        assert_eq!(code, 1);

        node.load(&ImageBuilder::new("as-app:1").set("User", json!("app")).oci(Packing::Plain))
            .await;
        let mut named = script("named", "id -un; id -gn; grep CapEff /proc/self/status");
        named.image = "as-app:1".to_owned();
        check(node, named, "app\napp\nCapEff:\t0000000000000000\n").await;

        let mut streams = script("streams", "echo out >/dev/stdout; echo err 2>&1 >/dev/stderr");
        streams.linux.security.run_as_user = Some(1000);
        check(node, streams, "out\nerr\n").await;

        let sandbox = node.sandbox("nobody").await;
        let mut unknown = script("unknown", "true");
        unknown.linux.security.run_as_username = Some("ghost".to_owned());
        let id = node.runtime.create_container(&sandbox, unknown).await.unwrap();
        let error = node.runtime.start_container(&id).await.unwrap_err();
        assert!(error.to_string().contains("unable to find user ghost"), "{error}");
    });
}

#[test]
fn exec_runs_as_the_container_does() {
    on_node(|node| async move {
        let mut config = script("who", "sleep 1000");
        config.linux.security.run_as_user = Some(1000);
        config.linux.security.capabilities.drop = vec!["ALL".to_owned()];
        config.linux.security.no_new_privs = true;
        config.linux.security.seccomp = SeccompProfile::RuntimeDefault;
        config.envs = vec![("GREETING".to_owned(), "hi".to_owned())];
        config.working_dir = "/tmp".to_owned();
        let sandbox = node.sandbox("who").await;
        let id = node.start(&sandbox, config).await;
        let text =
            "id -u; pwd; echo $GREETING; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status";
        let expected = "1000\n/tmp\nhi\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(node.output(&id, text).await, expected);
    });
}

#[test]
fn capabilities_are_what_was_granted() {
    on_node(|node| async move {
        let text = "grep -E 'CapInh|CapBnd|CapEff|CapAmb' /proc/self/status";
        let usual = "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
        check(node, script("usual", text), usual).await;

        let mut few = script("few", text);
        few.linux.security.capabilities.drop = vec!["ALL".to_owned()];
        few.linux.security.capabilities.add = vec!["NET_ADMIN".to_owned()];
        let expected = usual.replace("a80425fb", "00001000");
        check(node, few, &expected).await;

        let mut ambient = script("ambient", "grep -E 'CapEff|CapAmb' /proc/self/status");
        ambient.linux.security.run_as_user = Some(1000);
        ambient.linux.security.capabilities.add_ambient = vec!["NET_BIND_SERVICE".to_owned()];
        check(node, ambient, "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n").await;

        let mut wrong = script("wrong", "true");
        wrong.linux.security.capabilities.add = vec!["SUDO".to_owned()];
        let sandbox = node.sandbox("wrong").await;
        let refused = node.runtime.create_container(&sandbox, wrong).await;
        assert!(matches!(refused, Err(Error::InvalidConfig { .. })), "{refused:?}");
    });
}

#[test]
fn a_read_only_root_refuses_writes_but_volumes_take_them() {
    on_node(|node| async move {
        let volume = node.dir.join("volume");
        fs::create_dir(&volume).unwrap();
        let mut config = script(
            "rofs",
            "touch /x 2>&1; touch /data/x && touch /dev/shm/x && ls /data; touch /ro/y 2>&1",
        );
        config.linux.security.readonly_rootfs = true;
        let mount = |target: &str, readonly| Mount {
            container_path: target.into(),
            host_path: volume.clone(),
            readonly,
            ..Mount::default()
        };
        config.mounts = vec![mount("/data", false), mount("/ro", true)];
        let (code, log) = node.run(config).await;
        assert_eq!(
            log,
            "touch: /x: Read-only file system\nx\ntouch: /ro/y: Read-only file system\n"
        );
        assert_eq!(code, 1);
        assert!(volume.join("x").exists());
    });
}

#[test]
fn masked_and_protected_paths() {
    on_node(|node| async move {
        let mut config = script(
            "masked",
            "cat /proc/interrupts | wc -c; ls /sys/firmware | wc -l; echo 1 2>&1 >/proc/sys/kernel/domainname; \
             mkdir /sys/fs/cgroup/x 2>&1; touch /sys/kernel/x 2>&1; true",
        );
        let strings =
            |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        config.linux.security.masked_paths = strings(DEFAULT_MASKED_PATHS);
        config.linux.security.readonly_paths = strings(DEFAULT_READONLY_PATHS);
        let (_, log) = node.run(config).await;
        assert!(log.starts_with("0\n0\n"), "{log}");
        assert_eq!(log.matches("Read-only file system").count(), 3, "{log}");

        let mut unmasked = script(
            "unmasked",
            "echo 1 >/proc/sys/kernel/domainname && cat /proc/sys/kernel/domainname",
        );
        unmasked.linux.security.capabilities.add = vec!["SYS_ADMIN".to_owned()];
        check(node, unmasked, "1\n").await;
    });
}

#[test]
fn seccomp_profiles() {
    on_node(|node| async move {
        let text = "grep Seccomp: /proc/self/status; unshare -m true 2>&1 | head -1; chmod 700 /tmp 2>&1; true";
        let mut default = script("default", text);
        default.linux.security.seccomp = SeccompProfile::RuntimeDefault;
        check(
            node,
            default.clone(),
            "Seccomp:\t2\nunshare: unshare(0x20000): Operation not permitted\n",
        )
        .await;

        let mut with_privilege = script("admin", "unshare -m true && echo fine");
        with_privilege.linux.security.seccomp = SeccompProfile::RuntimeDefault;
        with_privilege.linux.security.capabilities.add = vec!["SYS_ADMIN".to_owned()];
        check(node, with_privilege, "fine\n").await;

        let profile = node.dir.join("profile.json");
        let deny_chmod = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
        fs::write(&profile, deny_chmod.to_string()).unwrap();
        let mut local = script("local", "chmod 700 /tmp 2>&1; true");
        local.linux.security.seccomp = SeccompProfile::Localhost(profile.clone());
        for no_new_privs in [false, true] {
            local.linux.security.no_new_privs = no_new_privs;
            check(node, local.clone(), "chmod: /tmp: Permission denied\n").await;
        }

        fs::write(&profile, "{").unwrap();
        let sandbox = node.sandbox("broken").await;
        let refused = node.runtime.create_container(&sandbox, local).await;
        assert!(
            matches!(refused, Err(Error::InvalidConfig { what: "seccomp profile", .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn devices_are_few_unless_privileged() {
    on_node(|node| async move {
        let text = "echo x >/dev/null && head -c 4 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c; \
                    ls -l /dev/fd | wc -l; mknod /tmp/mem c 1 1 && cat /tmp/mem 2>&1 | head -c 60";
        let (_, log) = node.run(script("usual", text)).await;
        assert!(log.starts_with("4\n3\n1\n"), "{log}");
        assert!(log.contains("Operation not permitted"), "{log}");

        let mut privileged = script(
            "privileged",
            "grep CapEff /proc/self/status; test -e /dev/kmsg && echo kmsg; mount -t tmpfs none /tmp && echo mounted; mkdir /sys/fs/cgroup/cpu/x /sys/fs/cgroup/x 2>/dev/null; echo $?",
        );
        privileged.linux.security.privileged = true;
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap().to_owned();
        let (_, log) = node.run(privileged).await;
        assert!(log.starts_with(&format!("{own}\nkmsg\nmounted\n")), "{log}");
    });
}

#[test]
fn volumes_may_be_files_and_lie_in_one_another() {
    on_node(|node| async move {
        let volume = node.dir.join("volume");
        fs::create_dir_all(volume.join("inner")).unwrap();
        fs::write(volume.join("file"), "content").unwrap();
        let mount = |container_path: &str, host: &str, readonly| Mount {
            container_path: container_path.into(),
            host_path: volume.join(host),
            readonly,
            ..Mount::default()
        };
        let mut config = script(
            "main",
            "cat /etc/new/app.conf /etc/passwd; echo; ls /data/inner/deep; touch /data/inner/x 2>&1; touch /data/y",
        );
        // Out of order on purpose: the outer one must be mounted first.
        config.mounts = vec![
            mount("/data/inner/deep", "", false),
            mount("/data/inner", "inner", true),
            mount("/data", "", false),
            mount("/etc/new/app.conf", "file", true),
            mount("/etc/passwd", "file", true),
        ];
        fs::create_dir_all(volume.join("inner/deep")).unwrap();
        let (code, log) = node.run(config).await;
        assert_eq!(code, 0);
        let expected = "contentcontent\nfile\ninner\ntouch: /data/inner/x: Read-only file system\n";
        assert_eq!(log, expected);

        let sandbox = node.sandbox("absent").await;
        let mut config = script("absent", "true");
        config.mounts = vec![mount("/data", "no-such", false)];
        let id = node.runtime.create_container(&sandbox, config).await.unwrap();
        let error = node.runtime.start_container(&id).await.unwrap_err();
        assert!(error.to_string().contains("no-such"), "{error}");
    });
}

#[test]
fn links_in_an_image_cannot_lead_a_mount_out() {
    on_node(|node| async move {
        let trap = node.dir.join("trap");
        fs::create_dir(&trap).unwrap();
        let layer = Layer::new().symlink("data", trap.to_str().unwrap());
        node.load(&ImageBuilder::new("trap:1").layer(layer).oci(Packing::Plain)).await;
        let volume = node.dir.join("volume");
        fs::create_dir(&volume).unwrap();
        let mut config = script("main", "touch /data/inside");
        config.image = "trap:1".to_owned();
        let mount =
            Mount { container_path: "/data".into(), host_path: volume.clone(), ..Mount::default() };
        config.mounts = vec![mount];
        check(node, config, "").await;
        assert!(volume.join("inside").exists());
        assert_eq!(
            fs::read_dir(&trap).unwrap().count(),
            0,
            "the link was followed inside the container's root"
        );
    });
}

#[test]
fn mounts_come_and_go_as_propagation_says() {
    on_node(|node| async move {
        let shared = node.dir.join("shared");
        fs::create_dir_all(shared.join("late")).unwrap();
        let _mounted = Mounted::shared(&shared);
        fs::create_dir_all(shared.join("late")).unwrap();
        fs::create_dir_all(shared.join("back")).unwrap();
        let sandbox = node.sandbox("prop").await;
        let mut ids = Vec::new();
        for propagation in [
            MountPropagation::Private,
            MountPropagation::HostToContainer,
            MountPropagation::Bidirectional,
        ] {
            let mut config = script(&format!("{propagation:?}"), "sleep 1000");
            config.linux.security.privileged = true;
            let (container_path, host_path) = ("/data".into(), shared.clone());
            config.mounts =
                vec![Mount { container_path, host_path, propagation, ..Mount::default() }];
            ids.push(node.start(&sandbox, config).await);
        }
        let late = Mounted::tmpfs(&shared.join("late"));
        fs::write(shared.join("late/file"), "").unwrap();
        for (id, seen) in ids.iter().zip(["0", "1", "1"]) {
            assert_eq!(node.output(id, "ls /data/late | wc -l").await.trim(), seen);
        }
        drop(late);
        node.output(&ids[2], "mount -t tmpfs none /data/back && touch /data/back/mark").await;
        assert!(shared.join("back/mark").exists(), "a bidirectional mount reaches the node");
        node.output(&ids[1], "mount -t tmpfs none /data/late && touch /data/late/mark").await;
        assert!(!shared.join("late/mark").exists(), "any other does not");
    });
}

/// A mount of the test's own, taken off whatever happens.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &std::path::Path) -> Self {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, None::<&str>).unwrap();
        Mounted(path.to_owned())
    }

    fn shared(path: &std::path::Path) -> Self {
        let mounted = Self::tmpfs(path);
        let none = None::<&str>;
        nix::mount::mount(none, path, none, nix::mount::MsFlags::MS_SHARED, none).unwrap();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for below in ["back", "late", ""] {
            let _ = nix::mount::umount2(&self.0.join(below), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn a_mounted_image_shows_its_layers_and_can_be_neither_changed_nor_run_nor_left() {
    on_node(|node| async move {
        let below = Layer::new().dir("conf", 0o755).file("conf/hidden", 0o644, "below").file(
            "conf/kept",
            0o644,
            "kept",
        );
        let above = Layer::new()
            .file("conf/hidden", 0o644, "above")
            .file("tool", 0o755, "#!/bin/sh\necho ran\n")
            .symlink("out", "/conf");
        let builder = ImageBuilder::new("files:1").layer(below).layer(above);
        let loaded = node.load(&builder.oci(Packing::Plain)).await;
        let mount = |container_path: &str, sub_path: &str| Mount {
            container_path: container_path.into(),
            image: Some(ImageMount { id: loaded[0].id.clone(), sub_path: sub_path.into() }),
            ..Mount::default()
        };
        let mut config = script(
            "main",
            "cat /all/conf/hidden /all/conf/kept /part/kept; echo; chmod +x /all/tool 2>&1; touch /all/x 2>&1; ls /beneath; /all/tool 2>&1; true",
        );
        // What a link of the image names is looked for in the image.
        config.mounts = vec![mount("/all", ""), mount("/part", "conf"), mount("/beneath", "out")];
        let (code, log) = node.run(config).await;
        assert_eq!(code, 0, "{log}");
        let refused =
            "chmod: /all/tool: Read-only file system\ntouch: /all/x: Read-only file system\n";
        assert_eq!(
            log,
            format!("abovekeptkept\n{refused}hidden\nkept\nsh: /all/tool: Permission denied\n")
        );

        let sandbox = node.sandbox("absent").await;
        let mut config = script("absent", "true");
        config.mounts = vec![Mount {
            image: Some(ImageMount { id: "sha256:0000".into(), ..ImageMount::default() }),
            container_path: "/all".into(),
            ..Mount::default()
        }];
        let error = node.runtime.create_container(&sandbox, config).await.unwrap_err();
        assert!(matches!(error, Error::ImageNotFound(_)), "{error}");
    });
}
