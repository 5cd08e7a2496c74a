//! Keeps container logs from filling the disk.
//!
//! Consumes the live log of each running container, renames one that is too big and has the runtime reopen it.
//! Counterpart: `pkg/kubelet/logs/container_log_manager.go`.
//! Differs from upstream: rotated files stay uncompressed, so that `kubectl logs` can still show them.
//! Invariant: looks only while containers run, and never touches the file a container is writing to other than by
//! renaming it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};
use skiff_runtime::ContainerState;

use super::reader;
use crate::context::NodeContext;

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>) {
    loop {
        tokio::time::sleep(ctx.config.log_rotation.look_every).await;
        let containers = match ctx.runtime.list_containers().await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "logs not looked at");
                continue;
            }
        };
        for container in containers.iter().filter(|c| c.state == ContainerState::Running) {
            if let Err(error) = look_at(&ctx, &container.id, &container.log_path).await {
                tracing::warn!(log = %container.log_path.display(), error, "log not rotated");
            }
        }
    }
}

async fn look_at(ctx: &NodeContext, id: &str, log: &Path) -> Result<(), String> {
    let Ok(meta) = tokio::fs::metadata(log).await else { return Ok(()) };
    let limits = ctx.config.log_rotation;
    if meta.len() < limits.max_bytes {
        return Ok(());
    }
    let rotated = rename(log).await.map_err(|e| e.to_string())?;
    if let Err(error) = ctx.runtime.reopen_container_log(id).await {
        // Otherwise the container would go on writing to a file nobody looks for.
        return match tokio::fs::rename(&rotated, log).await {
            Ok(()) => Err(error.to_string()),
            Err(undo) => Err(format!("{error}; and {undo}")),
        };
    }
    for old in superfluous(log, limits.max_files) {
        tokio::fs::remove_file(&old).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

async fn rename(log: &Path) -> std::io::Result<PathBuf> {
    let time = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let mut rotated = log.as_os_str().to_owned();
    rotated.push(format!(".{time}"));
    tokio::fs::rename(log, &rotated).await?;
    Ok(rotated.into())
}

fn superfluous(log: &Path, keep: usize) -> Vec<PathBuf> {
    let mut files = reader::files(log);
    let excess = files.len().saturating_sub(keep);
    files.truncate(excess);
    files
}
