//! A question put to a remote service as an object that comes back with a status: TokenReview, SubjectAccessReview.
//!
//! Spec -> status, asked again for a while when the other side cannot be reached. Counterpart:
//! `webhook.GenericWebhook` with its exponential back-off. Invariant: an answer of the other kind is an error.

use std::time::Duration;

use serde_json::{Value, json};

use super::kubeconfig::Target;
use super::{CallError, Post, WebhookClient};

/// How often a question is put, and how long to wait before the first repetition.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub attempts: u32,
    pub first_wait: Duration,
    pub timeout: Duration,
}

/// One remote service.
#[derive(Clone, Debug)]
pub struct Reviewer {
    pub target: Target,
    pub api_version: String,
    pub kind: &'static str,
    pub patience: Patience,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            timeout: Duration::from_secs(30),
        }
    }
}

impl Reviewer {
    pub async fn ask(&self, client: &WebhookClient, spec: &Value) -> Result<Value, CallError> {
        let review = json!({ "kind": self.kind, "apiVersion": self.api_version,
            "metadata": { "creationTimestamp": null }, "spec": spec, "status": {} });
        let body = bytes::Bytes::from(review.to_string());
        let mut wait = self.patience.first_wait;
        let mut attempt = 1;
        loop {
            let post = Post {
                config: &self.target.config,
                body: body.clone(),
                timeout: self.patience.timeout,
                tell_timeout: false,
                headers: self.target.headers.clone(),
            };
            match client.post(post).await {
                Ok(answer) if answer["kind"] == self.kind => return Ok(answer["status"].clone()),
                Ok(answer) => {
                    let (kind, wanted) = (&answer["kind"], self.kind);
                    return Err(CallError::Malformed(format!("got {kind} instead of {wanted}")));
                }
                Err(error) if attempt < self.patience.attempts && may_pass(&error) => {
                    tracing::warn!(%error, kind = self.kind, "a webhook is asked again");
                    tokio::time::sleep(wait).await;
                    wait = wait.mul_f64(1.5);
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether asking again may help.
fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Unreachable { .. } => true,
        CallError::Refused(status) => matches!(status.code, 429 | 500 | 502..=504),
        _ => false,
    }
}
