//! Everything mounted into one container: its volume mounts, and the files the node agent keeps for it.
//!
//! Consumes the container's mounts with its volumes set up, emits the runtime's mounts. Counterpart: `makeMounts`
//! of `pkg/kubelet/kubelet_pods.go`.
//! Invariant: a path the container mounts itself is never covered by one of ours.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::VolumeMount;
use skiff_runtime::{ImageMount, Mount, MountPropagation, PodSandboxStatus};

use super::{host_path_of, subpath};
use crate::{
    container::{
        expand::expand,
        hosts::{host_name, host_network_hosts_file, hosts_file},
    },
    context::NodeContext,
    pod::desired::{DesiredContainer, DesiredPod},
};

pub async fn mounts(
    ctx: &NodeContext,
    pod: &DesiredPod,
    container: &DesiredContainer,
    sandbox: &PodSandboxStatus,
    attempt: u32,
    env: &[(String, String)],
    images: &HashMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let pod_dir = ctx.config.pod_dir(&pod.key.uid);
    let mut mounts = Vec::new();
    for (index, mount) in container.spec.volume_mounts.iter().flatten().enumerate() {
        if let Some(id) = images.get(&mount.name) {
            mounts.push(image(mount, id, env)?);
            continue;
        }
        let host_path = source(ctx, pod, container, mount, index, env).await?;
        mounts.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path,
            readonly: mount.read_only.unwrap_or(false),
            recursive_read_only: matches!(
                mount.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
            propagation: propagation(mount.mount_propagation.as_deref()),
            image: None,
        });
    }
    let own =
        own_files(ctx, pod, sandbox, &pod_dir).await.map_err(|e| format!("pod files: {e}"))?;
    let log = termination_log(container, &pod_dir, attempt)
        .await
        .map_err(|e| format!("termination log: {e}"))?;
    for mount in own.into_iter().chain(log) {
        if !mounts.iter().any(|m| m.container_path == mount.container_path) {
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

fn image(mount: &VolumeMount, id: &str, env: &[(String, String)]) -> Result<Mount, String> {
    let sub_path = sub_path(mount, env)?.unwrap_or_default().into();
    Ok(Mount {
        container_path: absolute(&mount.mount_path),
        image: Some(ImageMount { id: id.to_owned(), sub_path }),
        readonly: true,
        ..Mount::default()
    })
}

async fn source(
    ctx: &NodeContext,
    pod: &DesiredPod,
    container: &DesiredContainer,
    mount: &VolumeMount,
    index: usize,
    env: &[(String, String)],
) -> Result<PathBuf, String> {
    let volume = pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name);
    let volume = volume.ok_or_else(|| format!("volume {:?} is not defined", mount.name))?;
    let root = host_path_of(ctx, pod, volume)
        .await
        .map_err(|e| format!("volume {:?}: {e}", mount.name))?;
    let Some(sub) = sub_path(mount, env)? else {
        return Ok(root);
    };
    let subpaths = ctx.config.pod_dir(&pod.key.uid).join("volume-subpaths");
    let target = subpaths.join(&mount.name).join(container.name()).join(index.to_string());
    let bound = target.clone();
    tokio::task::spawn_blocking(move || subpath::bind(&root, Path::new(&sub), &bound))
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(|e| {
            format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                mount.name,
                container.name()
            )
        })?;
    Ok(target)
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
        let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let expanded = expand(expression, lookup);
        if expanded.contains("$(") {
            return Err(format!("missing value for subPathExpr {expression:?}"));
        }
        return Ok(Some(expanded));
    }
    Ok(mount.sub_path.clone().filter(|s| !s.is_empty()))
}

fn propagation(name: Option<&str>) -> MountPropagation {
    match name {
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    }
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn bind(host_path: PathBuf, container_path: &str) -> Mount {
    Mount { container_path: container_path.into(), host_path, ..Mount::default() }
}

/// `/etc/hosts` and `/etc/hostname`.
async fn own_files(
    ctx: &NodeContext,
    pod: &DesiredPod,
    sandbox: &PodSandboxStatus,
    pod_dir: &Path,
) -> std::io::Result<Vec<Mount>> {
    let aliases = pod.spec().host_aliases.clone().unwrap_or_default();
    let hosts_path = pod_dir.join("etc-hosts");
    tokio::fs::create_dir_all(pod_dir).await?;
    if pod.host_network() {
        let node_file = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
        tokio::fs::write(&hosts_path, host_network_hosts_file(&node_file, &aliases)).await?;
        return Ok(vec![bind(hosts_path, "/etc/hosts")]);
    }
    let name = host_name(pod.spec(), &pod.key.name, &pod.key.namespace, &ctx.config.cluster_domain);
    tokio::fs::write(&hosts_path, hosts_file(&sandbox.ips, &name, &aliases)).await?;
    let hostname_path = pod_dir.join("hostname");
    tokio::fs::write(&hostname_path, format!("{}\n", name.hostname)).await?;
    Ok(vec![bind(hosts_path, "/etc/hosts"), bind(hostname_path, "/etc/hostname")])
}

/// A fresh file per attempt, writable by whoever the container runs as.
async fn termination_log(
    container: &DesiredContainer,
    pod_dir: &Path,
    attempt: u32,
) -> std::io::Result<Option<Mount>> {
    use std::os::unix::fs::PermissionsExt;
    let path = container.spec.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if path.is_empty() {
        return Ok(None);
    }
    let dir = pod_dir.join("containers").join(container.name());
    tokio::fs::create_dir_all(&dir).await?;
    let file = dir.join(format!("{attempt}.termination"));
    tokio::fs::write(&file, b"").await?;
    tokio::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).await?;
    Ok(Some(bind(file, path)))
}
