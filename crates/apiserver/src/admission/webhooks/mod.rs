//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: other programs that change or refuse what is written.
//!
//! Request -> the [`Hook`]s it matches -> an AdmissionReview to each -> patches, warnings, or a refusal. Mutating ones
//! are asked one after the other, in the order of their configurations' names; validating ones all at once.
//! Counterpart: `k8s.io/apiserver/pkg/admission/plugin/webhook`. Invariant: nothing that configures admission is itself
//! subject to it, so that a broken webhook can always be removed.

mod call;
mod hook;
pub mod review;

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use skiff_api::Status;

use self::call::{Fault, Reviewed};
use self::hook::Hook;
pub use self::hook::Hooks;
use super::configured::{Configuration, Phase};
use super::matching::{Interest, Match};
use super::{Plugin, Request, versions};
use crate::objects;

pub struct MutatingAdmissionWebhook;
pub struct ValidatingAdmissionWebhook;

impl Configuration for Hooks {
    fn interest(&self) -> &Interest {
        &self.interest
    }

    async fn load(request: &Request<'_>, phase: Phase) -> Result<Hooks, Status> {
        let resource = format!("{}webhookconfigurations/", phase.prefix());
        let all = objects::all(request.server, &resource).await?;
        Ok(Hooks::read(&all, phase == Phase::Mutating))
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.server.admission.webhooks.may_concern(request, Phase::Mutating)
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let all = &request.server.admission.webhooks;
        let Some(hooks) = all.concerning(request, Phase::Mutating).await? else { return Ok(()) };
        let second = request.reinvocation.is_second();
        invoked(request).begin(second, object);
        for hook in &hooks.hooks {
            mutate_by(hook, request, object).await?;
        }
        invoked(request).end(object);
        Ok(())
    }
}

fn invoked<'a>(
    request: &'a Request<'_>,
) -> std::sync::MutexGuard<'a, super::reinvocation::Invoked> {
    request.reinvocation.webhooks.lock().expect("no panic while held")
}

async fn mutate_by(hook: &Hook, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    let Some(found) = hook.asked_about(request, object).await? else { return Ok(()) };
    if request.reinvocation.is_second() && !invoked(request).is_due(&hook.id) {
        return Ok(());
    }
    let shown = versions::shown(request, &found.kind, object)?;
    let reviewed = review(hook, request, &found, &shown).await?;
    let patched = reviewed.patched(hook, request, &found, shown)?;
    if let Some(changed) = patched.filter(|patched| patched != object) {
        *object = changed;
        invoked(request).changed();
        request.reinvocation.want();
    }
    if hook.reinvoke {
        invoked(request).ran(&hook.id);
    }
    Ok(())
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.server.admission.webhooks.may_concern(request, Phase::Validating)
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let all = &request.server.admission.webhooks;
        let Some(hooks) = all.concerning(request, Phase::Validating).await? else { return Ok(()) };
        let mut asked = Vec::new();
        for hook in &hooks.hooks {
            if let Some(found) = hook.asked_about(request, object).await? {
                let shown = versions::shown(request, &found.kind, object)?;
                asked.push((hook, found, shown));
            }
        }
        let reviews = asked.iter().map(|(hook, found, shown)| review(hook, request, found, shown));
        join_all(reviews).await.into_iter().try_for_each(|reviewed| reviewed.map(drop))
    }
}

/// Asks one hook. What it cannot answer is an allowance or a refusal, as its failure policy says.
async fn review(
    hook: &Hook,
    request: &Request<'_>,
    found: &Match,
    shown: &Value,
) -> Result<Reviewed, Status> {
    match call::ask(hook, request, found, shown).await {
        Ok(reviewed) => Ok(reviewed),
        Err(Fault::Denied(status)) => Err(*status),
        Err(Fault::Unanswered(why)) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, %why, "a webhook failed and is passed over");
            Ok(Reviewed::default())
        }
        Err(Fault::Unanswered(why)) => {
            Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
        }
    }
}
