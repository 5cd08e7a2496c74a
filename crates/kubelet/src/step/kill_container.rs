//! Stops one container: pre-stop hook, stop signal, and what remains of the grace before the kill.
//!
//! Counterpart: `killContainer` of `pkg/kubelet/kuberuntime`.
//! Invariant: hook and signal share one grace period, with at least two seconds left for the signal when any grace
//! was given at all.

use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::{
    Outcome, StepError, StepInput,
    hook::{self, HookTarget},
};
use crate::{context::NodeContext, events::EventType};

const MIN_GRACE: Duration = Duration::from_secs(2);

pub struct Kill {
    pub name: String,
    pub id: String,
    pub grace: SignedDuration,
    pub message: String,
}

pub async fn run(ctx: &NodeContext, input: &StepInput, kill: Kill) -> Result<Outcome, StepError> {
    let container = input.pod.container(&kill.name);
    if let Some(container) = container {
        ctx.recorder.container(&input.pod, container, EventType::Normal, "Killing", &kill.message);
    }
    let grace = Duration::try_from(kill.grace).unwrap_or_default();
    let started = Instant::now();
    let pre_stop = container.and_then(|c| c.spec.lifecycle.as_ref()?.pre_stop.as_ref());
    if let (Some(container), Some(handler), false) = (container, pre_stop, grace.is_zero()) {
        let target = HookTarget {
            pod: &input.pod,
            container,
            id: &kill.id,
            sandbox: input.sandbox.as_ref(),
        };
        match tokio::time::timeout(grace, hook::run(ctx, handler, &target)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let message = format!("PreStopHook failed: {error}");
                ctx.recorder.container(
                    &input.pod,
                    container,
                    EventType::Warning,
                    "FailedPreStopHook",
                    message,
                );
            }
            Err(_) => {
                tracing::debug!(container = kill.name, "pre-stop hook used up the grace period")
            }
        }
    }
    let left = grace.saturating_sub(started.elapsed());
    let left = if grace.is_zero() { grace } else { left.max(MIN_GRACE.min(grace)) };
    match ctx.runtime.stop_container(&kill.id, left).await {
        Ok(()) => Ok(Outcome::ContainerStopped { id: kill.id }),
        Err(error) => Err(StepError::setup("KillContainerError", error)),
    }
}
