//! `nfs` volumes, of pods and of PersistentVolumes: mounted by the machine's `mount` and the helper it finds.
//!
//! A server, an export and options -> a mount in the pod's directory. Counterpart: `pkg/volume/nfs`. Differs from upstream: a
//! mount that takes longer than [`PATIENCE`] is given up, and a kernel without NFS is named as the reason.
//! Invariant: a server that does not answer keeps its own pods waiting and nobody else; what was mounted is unmounted lazily,
//! without a word to the server.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{NFSVolumeSource, PersistentVolumeSpec, Volume};
use tokio::process::Command;

use super::{IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest, tmpfs};

const NAME: &str = "kubernetes.io~nfs";
const KIND: &str = "nfs";
/// Longer than `mount.nfs` tries by itself.
const PATIENCE: Duration = Duration::from_secs(180);
const MODE: u32 = 0o750;

pub struct NfsVolume;

/// What is to be mounted.
#[derive(Debug, PartialEq)]
struct Export {
    source: String,
    options: Vec<String>,
}

#[async_trait]
impl VolumePlugin for NfsVolume {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let source = request.volume.nfs.as_ref().expect("claimed");
        let export = Export::of(source, &[], source.read_only.unwrap_or(false));
        ensure(&export, &request.dir).await
    }
}

/// Makes the export of a PersistentVolume ready for the request's pod.
pub async fn set_up_persistent(
    request: &VolumeRequest<'_>,
    name: &str,
    spec: &PersistentVolumeSpec,
    source: &NFSVolumeSource,
    read_only: bool,
) -> Result<Ready, VolumeError> {
    let options = spec.mount_options.as_deref().unwrap_or_default();
    let read_only = read_only || source.read_only.unwrap_or(false);
    let pod_dir = request.ctx.config.pod_dir(&request.pod.key.uid);
    let dir = pod_dir.join("volumes").join(NAME).join(name);
    ensure(&Export::of(source, options, read_only), &dir).await
}

// === impl Export ===

impl Export {
    fn of(source: &NFSVolumeSource, options: &[String], read_only: bool) -> Self {
        let server = match source.server.contains(':') {
            true => format!("[{}]", source.server),
            false => source.server.clone(),
        };
        let mut options = options.to_vec();
        options.extend(read_only.then(|| "ro".to_owned()));
        options.sort();
        options.dedup();
        Export { source: format!("{server}:{}", source.path), options }
    }

    fn arguments(&self, dir: &Path) -> Vec<String> {
        let mut arguments = vec!["-t".to_owned(), KIND.to_owned()];
        if !self.options.is_empty() {
            arguments.extend(["-o".to_owned(), self.options.join(",")]);
        }
        arguments.extend([self.source.clone(), dir.display().to_string()]);
        arguments
    }
}

async fn ensure(export: &Export, dir: &Path) -> Result<Ready, VolumeError> {
    if tmpfs::is_mount_point(dir).unwrap_or(false) {
        return Ok(Ready::at(dir));
    }
    make(dir).at("create", dir)?;
    if let Err(why) = mount(&export.arguments(dir)).await {
        let gone = PathBuf::from(dir);
        // It may have come half way.
        let removed = tokio::task::spawn_blocking(move || {
            tmpfs::unmount_below(&gone)?;
            std::fs::remove_dir(&gone)
        });
        if let Ok(Err(error)) = removed.await {
            tracing::debug!(dir = %dir.display(), %error, "not removed after a failed mount");
        }
        return Err(VolumeError::Mount(why));
    }
    Ok(Ready::at(dir))
}

fn make(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(MODE).create(dir)
}

async fn mount(arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new("mount");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let how = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => return Ok(()),
        Ok(Ok(output)) => {
            let code = output
                .status
                .code()
                .map_or("signal: killed".into(), |code| format!("exit status {code}"));
            let said = [output.stdout, output.stderr].concat();
            (code, String::from_utf8_lossy(&said).into_owned())
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            (r#"exec: "mount": executable file not found in $PATH"#.to_owned(), String::new())
        }
        Ok(Err(error)) => (error.to_string(), String::new()),
        Err(_) => (format!("no answer within {} seconds", PATIENCE.as_secs()), String::new()),
    };
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    Err(failure(&how.0, arguments, &how.1, &known))
}

/// In upstream's words; `file_systems` are those that the kernel knows.
fn failure(how: &str, arguments: &[String], output: &str, file_systems: &str) -> String {
    let arguments = arguments.join(" ");
    let mut text = format!(
        "mount failed: {how}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {output}"
    );
    let mut names = file_systems.lines().filter_map(|line| line.split_whitespace().last());
    if !names.any(|name| name.starts_with(KIND)) {
        text.push_str(
            "\nThe kernel of this node does not support NFS: /proc/filesystems has no nfs",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(server: &str) -> NFSVolumeSource {
        NFSVolumeSource { server: server.into(), path: "/export".into(), read_only: None }
    }

    #[test]
    fn an_export_is_mounted_with_its_volumes_options() {
        let options = ["vers=4.1".to_owned(), "hard".to_owned(), "ro".to_owned()];
        let export = Export::of(&source("files.example.com"), &options, true);
        let arguments = export.arguments(Path::new("/at"));
        assert_eq!(
            arguments,
            ["-t", "nfs", "-o", "hard,ro,vers=4.1", "files.example.com:/export", "/at"]
        );
        let plain = Export::of(&source("fd00::1"), &[], false).arguments(Path::new("/at"));
        assert_eq!(plain, ["-t", "nfs", "[fd00::1]:/export", "/at"]);
    }

    #[test]
    fn a_kernel_without_nfs_is_named() {
        let arguments = ["-t".to_owned(), "nfs".to_owned()];
        let text =
            failure("exit status 32", &arguments, "mount: bad option", "nodev\tproc\n\text4\n");
        assert_eq!(
            text,
            "mount failed: exit status 32\nMounting command: mount\nMounting arguments: -t nfs\n\
             Output: mount: bad option\nThe kernel of this node does not support NFS: /proc/filesystems has no nfs"
        );
        let text = failure("exit status 32", &arguments, "", "nodev\tnfs4\n");
        assert!(text.ends_with("Output: "), "{text}");
    }

    #[tokio::test]
    async fn what_could_not_be_mounted_leaves_no_directory() {
        let dir = std::env::temp_dir().join(format!("skiff-nfs-{}", std::process::id()));
        let export = Export { source: "nowhere".into(), options: vec!["no=such,,option".into()] };
        let error = ensure(&export, &dir.join("v")).await.err().expect("it is not an export");
        assert!(error.to_string().starts_with("mount failed: "), "{error}");
        assert!(!dir.join("v").exists());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
