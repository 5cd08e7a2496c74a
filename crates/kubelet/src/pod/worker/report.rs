//! What a worker tells of its pod: its status when that is another than was told, and events of waiting containers.
//!
//! Counterpart: `generateAPIPodStatus` and the back-off events of `kuberuntime`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus as ApiContainerStatus, PodStatus};
use skiff_runtime::ContainerStatus;

use super::PodWorker;
use crate::{
    events::EventType,
    logs::termination,
    pod::status::{StatusContext, status},
};

impl PodWorker {
    pub(super) fn report(&mut self) {
        self.note_resize_end();
        let ctx = StatusContext {
            node_ips: &self.ctx.config.node_ips,
            runtime: &self.ctx.config.container_runtime,
            now: Timestamp::now(),
            previous: &self.reported,
            termination_message: &|c: &ContainerStatus| termination::message(&self.pod, c),
        };
        let status = status(&self.pod, &self.seen, &ctx);
        if status != self.reported {
            self.announce_backoffs(&status);
            if let Some(writer) = &self.writer {
                writer.write(status.clone());
            }
            self.reported = status;
        }
    }

    /// An event for each container that has begun to wait for its next try.
    fn announce_backoffs(&self, status: &PodStatus) {
        for now in container_statuses(status) {
            let before = container_statuses(&self.reported).find(|s| s.name == now.name);
            let (reason, message) = waiting(Some(now));
            let Some(container) =
                self.pod.container(&now.name).filter(|_| reason != waiting(before).0)
            else {
                continue;
            };
            let recorder = &self.ctx.recorder;
            match reason {
                "CrashLoopBackOff" => {
                    let message = format!(
                        "Back-off restarting failed container {} in pod {}",
                        now.name, self.pod.key
                    );
                    recorder.container(
                        &self.pod,
                        container,
                        EventType::Warning,
                        "BackOff",
                        message,
                    );
                }
                "ImagePullBackOff" => {
                    recorder.container(&self.pod, container, EventType::Normal, "BackOff", message);
                    let message = "Error: ImagePullBackOff";
                    recorder.container(&self.pod, container, EventType::Warning, "Failed", message);
                }
                _ => {}
            }
        }
    }
}

pub(super) fn container_statuses(status: &PodStatus) -> impl Iterator<Item = &ApiContainerStatus> {
    [&status.init_container_statuses, &status.container_statuses]
        .into_iter()
        .flat_map(|l| l.iter().flatten())
}

/// Reason and message of a waiting container; empty for one that does not wait.
fn waiting(status: Option<&ApiContainerStatus>) -> (&str, &str) {
    let waiting = status.and_then(|s| s.state.as_ref()?.waiting.as_ref());
    waiting.map_or(("", ""), |w| {
        (w.reason.as_deref().unwrap_or_default(), w.message.as_deref().unwrap_or_default())
    })
}
