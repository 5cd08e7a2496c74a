//! Brings the image of one container or volume here, as its pull policy wants.
//!
//! Consumes what names an image and what the runtime has, decides whether to fetch, emits events and the
//! image, or the reason why not. Counterpart: `pkg/kubelet/images/image_manager.go`; reasons and
//! texts are upstream's.
//! Invariant: no more pulls are under way than configured; the order of waiting is the order of
//! asking.

use std::{sync::Arc, time::Duration, time::Instant};

use k8s_openapi::api::core::v1::{ImageVolumeSource, Secret};
use skiff_api::duration;
use skiff_runtime::{AuthConfig, Error as RuntimeError, Image, PullImage, Reference};
use tokio::sync::Semaphore;

use super::keyring::Keyring;
use crate::{
    context::NodeContext,
    events::EventType,
    pod::desired::{DesiredContainer, DesiredPod},
    step::StepError,
};

/// How many pulls the node makes at once.
pub struct PullSlots(Semaphore);

impl PullSlots {
    /// One after another, or so many; `None` is without a limit.
    pub fn new(serialize: bool, max_parallel: Option<usize>) -> Self {
        let slots = if serialize { 1 } else { max_parallel.unwrap_or(Semaphore::MAX_PERMITS) };
        PullSlots(Semaphore::new(slots))
    }
}

/// The image of one container or volume of one pod.
pub struct Ensure<'a> {
    pub ctx: &'a NodeContext,
    pub pod: &'a DesiredPod,
    pub image: &'a str,
    pub policy: Option<&'a str>,
    /// Whom events are about; the pod, for a volume.
    pub container: Option<&'a DesiredContainer>,
}

// === impl Ensure ===

impl<'a> Ensure<'a> {
    pub fn of_container(
        ctx: &'a NodeContext,
        pod: &'a DesiredPod,
        container: &'a DesiredContainer,
    ) -> Self {
        let policy = container.spec.image_pull_policy.as_deref();
        Ensure { ctx, pod, image: container.image(), policy, container: Some(container) }
    }

    pub fn of_volume(
        ctx: &'a NodeContext,
        pod: &'a DesiredPod,
        source: &'a ImageVolumeSource,
    ) -> Self {
        let image = source.reference.as_deref().unwrap_or_default();
        Ensure { ctx, pod, image, policy: source.pull_policy.as_deref(), container: None }
    }

    /// What is present and not wanted anew is never fetched.
    pub async fn run(&self) -> Result<Image, StepError> {
        let name = self.image;
        let reference = self.parse(name)?;
        if self.policy == Some("Always") {
            return self.pull(name, &reference).await;
        }
        match (self.inspect(name).await?, self.policy) {
            (Some(image), _) => {
                let message = format!(
                    "Container image {name:?} already present on machine and can be accessed by the pod"
                );
                self.event(EventType::Normal, "Pulled", message);
                Ok(image)
            }
            (None, Some("Never")) => {
                let message =
                    format!("Container image {name:?} is not present with pull policy of Never");
                self.event(EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(self.failed("ErrImageNeverPull", message))
            }
            (None, _) => self.pull(name, &reference).await,
        }
    }

    fn parse(&self, name: &str) -> Result<Reference, StepError> {
        Reference::parse(name).map_err(|error| {
            let reason = match error {
                RuntimeError::InvalidReference { reason, .. } => reason.to_owned(),
                other => other.to_string(),
            };
            let message = format!(
                "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: \
                 invalid reference format: {reason}"
            );
            self.event(EventType::Warning, "InspectFailed", message.clone());
            self.failed("InvalidImageName", message)
        })
    }

    async fn inspect(&self, name: &str) -> Result<Option<Image>, StepError> {
        self.ctx.runtime.image_status(name).await.map_err(|error| {
            let message = format!("Failed to inspect image {name:?}: {error}");
            self.event(EventType::Warning, "InspectFailed", message.clone());
            self.failed("ImageInspectError", message)
        })
    }

    async fn pull(&self, name: &str, reference: &Reference) -> Result<Image, StepError> {
        let credentials = self.credentials(reference).await?;
        self.event(EventType::Normal, "Pulling", format!("Pulling image {name:?}"));
        let asked = Instant::now();
        let slot = self.ctx.pull_slots.0.acquire().await.expect("the semaphore is never closed");
        let begun = Instant::now();
        let pulled = self.pull_with(name, credentials).await;
        drop(slot);
        match pulled {
            Ok(image) => {
                let (took, waited) = (told(begun.elapsed()), told(asked.elapsed()));
                let message = format!(
                    "Successfully pulled image {name:?} in {took} ({waited} including waiting). \
                     Image size: {} bytes.",
                    image.size
                );
                self.event(EventType::Normal, "Pulled", message);
                Ok(image)
            }
            Err(error) => {
                let message = format!("Failed to pull image {name:?}: {error}");
                self.event(EventType::Warning, "Failed", message);
                Err(self.failed("ErrImagePull", error.to_string()))
            }
        }
    }

    /// One credential after the other; the last refusal is the one told.
    async fn pull_with(
        &self,
        name: &str,
        credentials: Vec<AuthConfig>,
    ) -> Result<Image, RuntimeError> {
        let mut tries: Vec<Option<AuthConfig>> = credentials.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = None;
        for auth in tries {
            let request = PullImage { reference: name.to_owned(), auth, progress: None };
            match self.ctx.runtime.pull_image(request).await {
                Ok(id) => {
                    let image = self.ctx.runtime.image_status(&id).await?;
                    return image.ok_or_else(|| RuntimeError::ImageNotFound(name.to_owned()));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there was at least one try"))
    }

    async fn credentials(&self, reference: &Reference) -> Result<Vec<AuthConfig>, StepError> {
        let secrets = self.pull_secrets().await;
        let keyring = Keyring::from_secrets(secrets.iter().map(AsRef::as_ref))
            .map_err(|error| self.failed("ErrImagePull", error.to_string()))?;
        let mut found = keyring.lookup(&reference.name);
        found.extend(self.ctx.credential_providers.credentials(&reference.name).await);
        Ok(found)
    }

    /// Those that exist; the others are told of, and the pull goes on without them.
    async fn pull_secrets(&self) -> Vec<Arc<Secret>> {
        let (mut secrets, mut missing) = (Vec::new(), Vec::new());
        let wanted = self.pod.spec().image_pull_secrets.iter().flatten();
        for name in wanted.map(|reference| &reference.name).filter(|name| !name.is_empty()) {
            match self.ctx.objects.secrets.get(&self.pod.key.namespace, name).await {
                Ok(Some(secret)) => secrets.push(secret),
                _ => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            self.ctx.recorder.pod(self.pod, EventType::Warning, reason, message);
        }
        secrets
    }

    fn event(&self, kind: EventType, reason: &'static str, message: impl Into<String>) {
        let recorder = &self.ctx.recorder;
        match self.container {
            Some(container) => recorder.container(self.pod, container, kind, reason, message),
            None => recorder.pod(self.pod, kind, reason, message),
        }
    }

    /// Every failure of an image is told once more by its reason alone, as upstream.
    fn failed(&self, reason: &'static str, message: String) -> StepError {
        self.event(EventType::Warning, "Failed", format!("Error: {reason}"));
        StepError::container(reason, message)
    }
}

/// As events tell durations: cut to milliseconds.
fn told(duration: Duration) -> String {
    let millis = duration.as_millis() as i64;
    duration::print(millis * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_upstreams_events() {
        for (millis, text) in [
            (0, "0s"),
            (345, "345ms"),
            (1000, "1s"),
            (1234, "1.234s"),
            (1500, "1.5s"),
            (123_500, "2m3.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(told(Duration::from_millis(millis)), text);
        }
    }
}
