//! Stops one container: pre-stop hook, stop signal, and what remains of the grace before the kill.
//!
//! Counterpart: `killContainer` of `pkg/kubelet/kuberuntime`.
//! Invariant: hook and signal share one grace period, with at least two seconds left for the signal when any grace
//! was given at all.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::LifecycleHandler;
use tokio::sync::watch;

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
    let pre_stop = container.and_then(|c| c.spec.lifecycle.as_ref()?.pre_stop.as_ref());
    let gentle = async {
        let left = match (container, pre_stop) {
            (Some(container), Some(handler)) if !grace.is_zero() => {
                let (id, sandbox) = (&kill.id, input.sandbox.as_ref());
                let target = HookTarget { pod: &input.pod, container, id, sandbox };
                let used = run_pre_stop(ctx, handler, &target, grace).await;
                grace.saturating_sub(used).max(MIN_GRACE.min(grace))
            }
            _ => grace,
        };
        ctx.runtime.stop_container(&kill.id, left).await
    };
    let mut granted = input.grace.clone();
    let stopped = tokio::select! {
        stopped = gentle => stopped,
        less = shorter(&mut granted, kill.grace) => ctx.runtime.stop_container(&kill.id, less).await,
    };
    match stopped {
        Ok(()) => Ok(Outcome::ContainerStopped { id: kill.id }),
        Err(error) => Err(StepError::setup("KillContainerError", error)),
    }
}

/// Waits until less grace is granted than `grace`, as a second and more impatient deletion does.
async fn shorter(granted: &mut watch::Receiver<SignedDuration>, grace: SignedDuration) -> Duration {
    let less = granted.wait_for(|granted| *granted < grace).await.map(|granted| *granted);
    match less {
        Ok(less) => Duration::try_from(less).unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

/// Runs the hook for as long as the grace allows; answers how long that was.
async fn run_pre_stop(
    ctx: &NodeContext,
    handler: &LifecycleHandler,
    target: &HookTarget<'_>,
    grace: Duration,
) -> Duration {
    let started = Instant::now();
    match tokio::time::timeout(grace, hook::run(ctx, handler, target)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let message = format!("PreStopHook failed: {error}");
            let (pod, container) = (target.pod, target.container);
            ctx.recorder.container(
                pod,
                container,
                EventType::Warning,
                "FailedPreStopHook",
                message,
            );
        }
        Err(_) => tracing::debug!(id = target.id, "pre-stop hook used up the grace period"),
    }
    started.elapsed()
}
