//! What pods left behind that the API server no longer knows.
//!
//! Consumes the uids that have a worker, removes every other sandbox, container, volume, directory and log.
//! Counterpart: `HandlePodCleanups`, `cleanupOrphanedPodDirs` and the container garbage collector.
//! Invariant: runs only after a complete list of pods, so that a slow start never looks like a deletion.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use crate::{context::NodeContext, volume};

const GRACE: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);

pub async fn remove(ctx: Arc<NodeContext>, known: BTreeSet<String>) {
    remove_sandboxes(&ctx, &known).await;
    ctx.devices.keep_only(&known);
    for dir in entries(&ctx.config.log_dir).await {
        let uid = dir.rsplit('_').next().unwrap_or_default();
        if !known.contains(uid) && dir.split('_').count() == 3 {
            remove_dir(&ctx.config.log_dir.join(&dir)).await;
        }
    }
    remove_pods(&ctx, &known).await;
}

/// Those whose volumes cannot be taken down yet, for want of a driver, are tried again.
async fn remove_pods(ctx: &NodeContext, known: &BTreeSet<String>) {
    let mut left = entries(&ctx.config.pods_dir()).await;
    left.extend(
        ctx.claims.pods().into_iter().filter(|uid| !left.contains(uid)).collect::<Vec<_>>(),
    );
    left.retain(|uid| !known.contains(uid));
    let mut delay = FIRST_RETRY;
    loop {
        let mut failed = Vec::new();
        for uid in left {
            if let Err(error) = volume::tear_down_pod(ctx, &uid).await {
                tracing::warn!(uid, %error, "volumes of an orphaned pod not taken down");
                failed.push(uid);
            } else if let Err(error) = ctx.claims.unprepare(&uid).await {
                tracing::warn!(uid, error, "claims of an orphaned pod not given back");
                failed.push(uid);
            }
        }
        if failed.is_empty() {
            return;
        }
        left = failed;
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LAST_RETRY);
    }
}

async fn remove_sandboxes(ctx: &NodeContext, known: &BTreeSet<String>) {
    let sandboxes = match ctx.runtime.list_pod_sandboxes().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => return tracing::warn!(%error, "orphaned sandboxes not looked for"),
    };
    let containers = ctx.runtime.list_containers().await.unwrap_or_default();
    for sandbox in sandboxes.into_iter().filter(|s| !known.contains(&s.metadata.uid)) {
        for container in containers.iter().filter(|c| c.sandbox_id == sandbox.id) {
            if let Err(error) = ctx.runtime.stop_container(&container.id, GRACE).await {
                tracing::warn!(id = container.id, %error, "orphaned container not stopped");
            }
        }
        if let Err(error) = ctx.runtime.remove_pod_sandbox(&sandbox.id).await {
            tracing::warn!(id = sandbox.id, %error, "orphaned sandbox not removed");
        }
    }
}

async fn entries(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(mut reader) = tokio::fs::read_dir(dir).await else { return names };
    while let Ok(Some(entry)) = reader.next_entry().await {
        names.extend(entry.file_name().into_string());
    }
    names
}

/// Removes a directory with all it holds; what is not there is fine.
pub async fn remove_dir(dir: &Path) {
    match tokio::fs::remove_dir_all(dir).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "directory not removed"),
    }
}
