//! Steps: the only code that changes anything for a pod. One file each.
//!
//! Consumes an [`Action`] with the facts it was decided from, does exactly that, emits an [`Outcome`] or a
//! [`StepError`] that says what the pod's status should show.
//! Invariant: a step may be cancelled at any await and tried again later; each begins by finding out how far an
//! earlier try came, or cleans up after itself.

mod hook;
mod kill_container;
mod object;
mod resize;
mod sandbox;
mod start_container;
mod volumes;

use std::{pin::Pin, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceRequirements;
use skiff_runtime::{ContainerStatus, PodSandboxStatus};
use tokio::sync::watch;

use crate::{
    context::NodeContext,
    pod::{
        backoff::{BackoffPolicy, CONTAINER, NONE, SETUP},
        desired::DesiredPod,
        plan::Action,
    },
};

/// What a step may look at.
pub struct StepInput {
    pub pod: Arc<DesiredPod>,
    pub sandbox: Option<PodSandboxStatus>,
    pub containers: Vec<ContainerStatus>,
    /// The grace that is granted by now; a step that stops a container follows when it shrinks.
    pub grace: watch::Receiver<SignedDuration>,
    /// Resolves when the status decided before this step has been written.
    pub flushed: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

#[derive(Debug)]
pub enum Outcome {
    VolumesUp {
        refresh_at: Option<Timestamp>,
    },
    VolumesDown,
    SandboxChanged,
    ContainerStarted {
        id: String,
        resources: ResourceRequirements,
    },
    ContainerStopped {
        id: String,
    },
    ContainerRemoved {
        id: String,
    },
    /// By id, what each container has now.
    Resized {
        containers: Vec<(String, ResourceRequirements)>,
    },
    PodDeleted,
    PodRemoved,
}

/// Why a step failed: `reason` and `message` are what a waiting container shows.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StepError {
    pub reason: &'static str,
    pub message: String,
    pub policy: BackoffPolicy,
    /// A referenced object is missing: worth another try as soon as one changes.
    pub repairable: bool,
    /// Given up on purpose or by a panic, not refused.
    pub interrupted: bool,
}

// === impl StepError ===

impl StepError {
    /// Something a change of the node or the cluster may repair soon.
    pub fn setup(reason: &'static str, message: impl ToString) -> Self {
        StepError {
            reason,
            message: message.to_string(),
            policy: SETUP,
            repairable: true,
            interrupted: false,
        }
    }

    /// Something of the container's own making.
    pub fn container(reason: &'static str, message: impl ToString) -> Self {
        StepError { policy: CONTAINER, repairable: false, ..StepError::setup(reason, message) }
    }

    /// The container exists and has ended: it waits as any crashed one does.
    pub fn crashed(reason: &'static str, message: impl ToString) -> Self {
        StepError { policy: NONE, repairable: false, ..StepError::setup(reason, message) }
    }

    pub fn interrupted(error: &tokio::task::JoinError) -> Self {
        StepError { interrupted: true, ..StepError::setup("Interrupted", error) }
    }
}

pub async fn run(
    ctx: &Arc<NodeContext>,
    action: Action,
    input: StepInput,
) -> Result<Outcome, StepError> {
    let starts =
        matches!(action, Action::RunSandbox { .. } | Action::StartContainer { attempt: 0, .. });
    let counted = starts && input.pod.has_own_users();
    let outcome = carry_out(ctx, action, input).await;
    if counted {
        ctx.users.count(&outcome);
    }
    outcome
}

async fn carry_out(
    ctx: &Arc<NodeContext>,
    action: Action,
    input: StepInput,
) -> Result<Outcome, StepError> {
    match action {
        Action::SetUpVolumes => volumes::set_up(ctx, &input).await,
        Action::TearDownVolumes => volumes::tear_down(ctx, &input).await,
        Action::RunSandbox { attempt } => sandbox::run(ctx, &input, attempt).await,
        Action::StopSandbox { id } => sandbox::stop(ctx, &id).await,
        Action::StartContainer { name, attempt } => {
            start_container::run(ctx, &input, &name, attempt).await
        }
        Action::KillContainer { name, id, grace, message } => {
            kill_container::run(ctx, &input, kill_container::Kill { name, id, grace, message })
                .await
        }
        Action::Resize { containers } => resize::run(ctx, &input, &containers).await,
        Action::RemoveContainer { id, .. } => remove_container(ctx, id).await,
        Action::DeletePod => object::delete(ctx, input).await,
        Action::RemovePod => object::remove(ctx, &input).await,
    }
}

async fn remove_container(ctx: &NodeContext, id: String) -> Result<Outcome, StepError> {
    match ctx.runtime.remove_container(&id).await {
        Ok(()) => Ok(Outcome::ContainerRemoved { id }),
        Err(error) => Err(StepError::setup("RemoveContainerError", error)),
    }
}
