//! A container's termination message. Counterpart: `getTerminationMessage` of `pkg/kubelet/kuberuntime`.
//!
//! Invariant: at most 4096 bytes of a file, or 2048 bytes and 80 lines of a log.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use skiff_runtime::ContainerStatus;

use super::reader;
use crate::pod::{desired::DesiredPod, observed::exit_code};

const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

pub fn message(pod: &DesiredPod, status: &ContainerStatus) -> Option<String> {
    let container = pod.container(&status.metadata.name)?;
    let path = container.spec.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let mount = status.mounts.iter().find(|m| m.container_path == Path::new(path));
    let text = mount.and_then(|m| tail(&m.host_path)).unwrap_or_default();
    let fall_back =
        container.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if text.is_empty() && fall_back && exit_code(status) != 0 {
        return log_tail(&status.log_path);
    }
    (!text.is_empty()).then_some(text)
}

fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_MESSAGE))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_MESSAGE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn log_tail(path: &Path) -> Option<String> {
    let text = reader::last_lines(path, MAX_LOG_LINES).ok()?;
    let from = text.len().saturating_sub(MAX_LOG_BYTES);
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    (!text.is_empty()).then_some(text)
}
