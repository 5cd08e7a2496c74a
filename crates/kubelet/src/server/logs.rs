//! `/containerLogs`: what `kubectl logs` shows.
//!
//! Consumes the query and a container's log files, emits their text, and with `follow` what is added until the
//! container ends. Counterpart: `getContainerLogs` of `pkg/kubelet/server` and `k8s.io/cri-client/pkg/logs`.
//! Invariant: a follower sleeps until the kernel reports a change of the log's directory or the container ends.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{self as api, ContainerState, PodStatus};
use nix::sys::inotify::AddWatchFlags;
use skiff_runtime::{ContainerEventKind, ContainerStatus};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncSeekExt, BufReader},
    sync::{broadcast, mpsc},
};

use super::{Body, Refusal, query, target::ContainerTarget};
use crate::{
    context::NodeContext,
    directory_watch::DirectoryWatch,
    logs::reader::{Formatter, LogOptions, files, tail_position},
};

const CHUNK: usize = 32 * 1024;
/// How often a follower looks where the kernel cannot tell it of changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn serve(
    ctx: &Arc<NodeContext>,
    target: &ContainerTarget,
    query_text: &str,
) -> Result<Response<Body>, Refusal> {
    let options = options(query_text)?;
    let container = pick(ctx, target, query::flag(query_text, "previous")).await?;
    let events = ctx.runtime.events();
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(8);
    let follower = Follower {
        ended: container.state != skiff_runtime::ContainerState::Running,
        id: container.id,
        path: container.log_path,
        formatter: Formatter::new(options.clone()),
        options,
        sender,
        events,
    };
    tokio::spawn(async move {
        let sender = follower.sender.clone();
        if let Err(error) = follower.run().await {
            // The client may have left, which is the usual end of a follow.
            let _ = sender.send(Err(error)).await;
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk.map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed());
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}

fn options(query_text: &str) -> Result<LogOptions, Refusal> {
    let number = |name: &str| -> Result<Option<u64>, Refusal> {
        let bad = || {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("invalid {name}: must be a non-negative number"),
            )
        };
        query::value(query_text, name).map(|v| v.parse().map_err(|_| bad())).transpose()
    };
    let since = match (query::value(query_text, "sinceTime"), number("sinceSeconds")?) {
        (Some(time), _) => {
            let bad =
                |_| Refusal::new(StatusCode::BAD_REQUEST, "invalid sinceTime: must be RFC 3339");
            Some(time.parse().map_err(bad)?)
        }
        (None, Some(seconds)) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH))
        }
        _ => None,
    };
    Ok(LogOptions {
        follow: query::flag(query_text, "follow"),
        tail_lines: number("tailLines")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        since,
        timestamps: query::flag(query_text, "timestamps"),
        limit_bytes: number("limitBytes")?,
        stream: match query::value(query_text, "stream").as_deref() {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        },
    })
}

/// The newest attempt of the container, or the one before it.
async fn pick(
    ctx: &NodeContext,
    target: &ContainerTarget,
    previous: bool,
) -> Result<ContainerStatus, Refusal> {
    let name = &target.container;
    let containers = ctx.runtime.list_containers().await.map_err(Refusal::internal)?;
    let sandboxes = ctx.runtime.list_pod_sandboxes().await.map_err(Refusal::internal)?;
    let is_ours = |c: &ContainerStatus| {
        c.metadata.name == *name
            && sandboxes
                .iter()
                .any(|s| s.id == c.sandbox_id && s.metadata.uid == target.pod.key.uid)
    };
    let mut attempts: Vec<ContainerStatus> = containers.into_iter().filter(is_ours).collect();
    attempts.sort_by_key(|c| std::cmp::Reverse((c.metadata.attempt, c.created_at)));
    attempts.into_iter().nth(usize::from(previous)).ok_or_else(|| {
        let status = target.pod.object.status.as_ref();
        let why = why_no_log(status, &target.container, &target.pod.key.name, previous);
        Refusal::new(StatusCode::BAD_REQUEST, why)
    })
}

/// What is said of a container that has not run, or not before.
fn why_no_log(status: Option<&PodStatus>, container: &str, pod: &str, previous: bool) -> String {
    let found = status.and_then(|status| status_of(status, container));
    if previous && found.is_some() {
        return format!("previous terminated container {container:?} in pod {pod:?} not found");
    }
    let state = found.map(|found| found.state.clone().unwrap_or_default());
    let how = match state {
        None => "is not available".to_owned(),
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            let reason = waiting.reason.unwrap_or_default();
            let said = REASONS.iter().find(|(known, _)| *known == reason);
            format!("is waiting to start: {}", said.map_or(&*reason, |(_, said)| said))
        }
        Some(ContainerState { terminated: Some(_), .. }) => "is terminated".to_owned(),
        Some(_) => "is waiting to start - no logs yet".to_owned(),
    };
    format!("container {container:?} in pod {pod:?} {how}")
}

/// Reasons to wait that are told in words.
const REASONS: [(&str, &str); 2] = [
    ("ErrImagePull", "image can't be pulled"),
    ("ImagePullBackOff", "trying and failing to pull image"),
];

fn status_of<'a>(status: &'a PodStatus, container: &str) -> Option<&'a api::ContainerStatus> {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

struct Follower {
    id: String,
    path: PathBuf,
    options: LogOptions,
    formatter: Formatter,
    sender: mpsc::Sender<io::Result<Bytes>>,
    events: broadcast::Receiver<skiff_runtime::ContainerEvent>,
    /// The container writes no more.
    ended: bool,
}

/// One open log file and the beginning of a line that is not complete yet.
struct OpenLog {
    reader: BufReader<File>,
    inode: u64,
    rest: Vec<u8>,
}

// === impl OpenLog ===

impl OpenLog {
    async fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(OpenLog { reader: BufReader::new(file), inode, rest: Vec::new() })
    }
}

// === impl Follower ===

impl Follower {
    async fn run(mut self) -> io::Result<()> {
        // Watching begins before the first read, so that nothing falls in between.
        let mut changes = if self.options.follow { Some(Changes::of(&self.path)) } else { None };
        let Some((earlier, mut live)) = self.open().await? else { return Ok(()) };
        for mut log in earlier {
            if !self.drain(&mut log).await? {
                return Ok(());
            }
        }
        loop {
            if !self.drain(&mut live).await? {
                return Ok(());
            }
            if let Some(next) = self.rotated(&live).await? {
                if !self.drain(&mut live).await? {
                    return Ok(());
                }
                live = next;
                continue;
            }
            let Some(changes) = changes.as_mut().filter(|_| !self.ended) else { return Ok(()) };
            self.wait(changes).await?;
        }
    }

    /// The files to read, each at its first position of interest; nothing if there is no log yet.
    async fn open(&self) -> io::Result<Option<(Vec<OpenLog>, OpenLog)>> {
        let (path, tail) = (self.path.clone(), self.options.tail_lines);
        let start = tokio::task::spawn_blocking(move || start(&path, tail))
            .await
            .map_err(io::Error::other)??;
        let mut logs = Vec::new();
        for (path, offset) in start {
            match OpenLog::open(&path, offset).await {
                Ok(log) => logs.push(log),
                // Rotated away or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let live = logs.pop();
        Ok(live.map(|live| (logs, live)))
    }

    /// Sends all whole lines; false when there is nothing more to send, ever.
    async fn drain(&mut self, log: &mut OpenLog) -> io::Result<bool> {
        let mut out = Vec::new();
        loop {
            let n = log.reader.read_until(b'\n', &mut log.rest).await?;
            let complete = log.rest.ends_with(b"\n");
            if complete {
                let more = self.formatter.line(&log.rest, &mut out);
                log.rest.clear();
                if !more {
                    self.send(&mut out).await;
                    return Ok(false);
                }
            }
            if (n == 0 || !complete || out.len() >= CHUNK) && !self.send(&mut out).await {
                return Ok(false);
            }
            if n == 0 || !complete {
                return Ok(true);
            }
        }
    }

    /// False when the client has left.
    async fn send(&self, out: &mut Vec<u8>) -> bool {
        out.is_empty() || self.sender.send(Ok(std::mem::take(out).into())).await.is_ok()
    }

    /// The new live file, if the one being read was renamed.
    async fn rotated(&self, live: &OpenLog) -> io::Result<Option<OpenLog>> {
        match tokio::fs::metadata(&self.path).await {
            Ok(meta) if meta.ino() != live.inode => OpenLog::open(&self.path, 0).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn wait(&mut self, changes: &mut Changes) -> io::Result<()> {
        tokio::select! {
            changed = changes.next() => changed,
            () = self.sender.closed() => Err(io::ErrorKind::BrokenPipe.into()),
            event = self.events.recv() => {
                self.ended = match event {
                    Ok(event) => {
                        let ends = matches!(event.kind, ContainerEventKind::Stopped { .. } | ContainerEventKind::Deleted);
                        ends && event.container_id == self.id
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => false,
                    Err(broadcast::error::RecvError::Closed) => true,
                };
                Ok(())
            }
        }
    }
}

/// Files and offsets from which the wanted number of lines follows.
fn start(path: &Path, tail: Option<usize>) -> io::Result<Vec<(PathBuf, u64)>> {
    let all = files(path);
    let Some(mut wanted) = tail else {
        return Ok(all.into_iter().map(|p| (p, 0)).collect());
    };
    let mut chosen = Vec::new();
    for path in all.into_iter().rev() {
        let (offset, found) = match tail_position(&path, wanted) {
            Ok(position) => position,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        chosen.push((path, offset));
        wanted = wanted.saturating_sub(found);
        if wanted == 0 {
            break;
        }
    }
    chosen.reverse();
    Ok(chosen)
}

/// Tells when something in the log's directory has changed.
enum Changes {
    Kernel(DirectoryWatch),
    /// The kernel refused another watch: look now and then.
    Clock,
}

// === impl Changes ===

impl Changes {
    fn of(path: &Path) -> Self {
        let dir = path.parent().unwrap_or(path);
        let changes =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        DirectoryWatch::of([dir], changes).map_or_else(
            |error| {
                tracing::debug!(%error, "log is followed by the clock");
                Changes::Clock
            },
            Changes::Kernel,
        )
    }

    async fn next(&mut self) -> io::Result<()> {
        match self {
            Changes::Clock => tokio::time::sleep(LOOK_EVERY).await,
            Changes::Kernel(watch) => drop(watch.next().await?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_container_without_a_log_says_what_it_waits_for() {
        #[track_caller]
        fn check(state: Value, previous: bool, expected: &str) {
            let status = json!({ "initContainerStatuses": [{ "name": "app", "ready": false, "image": "",
                "imageID": "", "restartCount": 0, "state": state }] });
            let status: PodStatus = serde_json::from_value(status).expect("a status");
            assert_eq!(why_no_log(Some(&status), "app", "web", previous), expected);
        }
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
        let pod = r#"container "app" in pod "web""#;
        for (reason, said) in [
            ("ContainerCreating", "ContainerCreating"),
            ("CreateContainerConfigError", "CreateContainerConfigError"),
            ("ErrImagePull", "image can't be pulled"),
            ("ImagePullBackOff", "trying and failing to pull image"),
        ] {
            check(waiting(reason), false, &format!("{pod} is waiting to start: {said}"));
        }
        check(json!({}), false, &format!("{pod} is waiting to start - no logs yet"));
        check(json!({ "terminated": { "exitCode": 137 } }), false, &format!("{pod} is terminated"));
        check(json!({}), true, &format!("previous terminated {pod} not found"));
        assert_eq!(why_no_log(None, "app", "web", false), format!("{pod} is not available"));
    }
}
