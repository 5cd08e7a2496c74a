//! Makes a pod's volumes ready, and takes them down again, with the devices of its claims.

use super::{Outcome, StepError, StepInput};
use crate::{
    context::NodeContext,
    events::EventType,
    pod::backoff::{SETUP, WAIT},
    volume,
};

pub async fn set_up(ctx: &NodeContext, input: &StepInput) -> Result<Outcome, StepError> {
    match volume::set_up_pod(ctx, &input.pod).await {
        Ok(refresh_at) => Ok(Outcome::VolumesUp { refresh_at }),
        Err((volume, error)) => {
            if let Some((reason, message)) = error.event(&volume) {
                ctx.recorder.pod(&input.pod, EventType::Warning, reason, message);
            }
            let policy = if error.is_wait() { WAIT } else { SETUP };
            Err(StepError { policy, ..StepError::setup("ContainerCreating", error) })
        }
    }
}

pub async fn tear_down(ctx: &NodeContext, input: &StepInput) -> Result<Outcome, StepError> {
    volume::tear_down_volumes(ctx, &input.pod.key.uid)
        .await
        .map_err(|error| StepError::setup("FailedUnmount", error))?;
    let released = ctx.claims.unprepare(&input.pod.key.uid).await;
    released.map_err(|error| StepError::setup("FailedUnprepareDynamicResources", error))?;
    Ok(Outcome::VolumesDown)
}
