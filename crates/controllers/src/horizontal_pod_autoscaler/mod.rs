//! Gives workloads the size that their metrics ask for.
//!
//! An autoscaler, the size of its target and what the metrics APIs say -> a new size, conditions, events.
//! Counterpart: `pkg/controller/podautoscaler`. Differs from upstream: each autoscaler has its own fifteen seconds.
//! Invariant: metrics that cannot be read never shrink a workload.

mod evaluate;
mod measure;
mod pace;
mod ratio;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::conditions::{self, Condition};
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};
use crate::scale::Target;
use evaluate::Evaluation;
use pace::{History, Pace};

/// How often metrics are looked at.
const PERIOD: Duration = Duration::from_secs(15);

pub const DEF: ControllerDef = ControllerDef {
    name: "horizontal-pod-autoscaler",
    workers: 5,
    watches: |edges| {
        edges.mapped::<HorizontalPodAutoscaler>(|_, delta| {
            // Its own status changes with every look: only another spec is a reason to look at once.
            let spec =
                |side: Option<&Arc<HorizontalPodAutoscaler>>| side.map(|one| one.spec.clone());
            let changed = spec(delta.old) != spec(delta.new);
            changed.then(|| Key::of(delta.latest().as_ref())).into_iter().collect()
        });
        edges.reads::<Pod>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(autoscaler) = ctx.lister::<HorizontalPodAutoscaler>().get(&key) else {
        ctx.memory::<Histories>().0.lock().expect("no panic happens while locked").remove(&key);
        return Ok(Action::Done);
    };
    let spec = autoscaler.spec.clone();
    let history = ctx.memory::<Histories>().take(&key, &autoscaler);
    let mut look = Look {
        ctx: &ctx,
        status: autoscaler.status.clone().unwrap_or_default(),
        now: ctx.now(),
        autoscaler: &autoscaler,
        spec,
        history,
    };
    let outcome = look.scale(&key).await;
    let (status, history) = (look.status, look.history);
    ctx.memory::<Histories>().put(key, &autoscaler, history);
    if autoscaler.status.as_ref() != Some(&status) {
        let written =
            HorizontalPodAutoscaler { status: Some(status), ..autoscaler.as_ref().clone() };
        ctx.update_status(&written).await?;
    }
    if let Err(error) = outcome {
        // Conditions and events tell the user; trying sooner than in the next period would tell nothing new.
        tracing::debug!(%error, autoscaler = autoscaler.metadata.name, "not scaled");
    }
    Ok(Action::After(PERIOD))
}

/// One look at an autoscaler: what it knows and the status it arrives at.
struct Look<'a> {
    ctx: &'a Ctx,
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    history: History,
    now: Timestamp,
}

// === impl Look ===

impl Look<'_> {
    async fn scale(&mut self, key: &Key) -> Result<()> {
        let reference = self.spec.scale_target_ref.clone();
        let target = Target {
            api_version: reference.api_version.as_deref().unwrap_or("v1"),
            kind: &reference.kind,
            namespace: &key.namespace,
            name: &reference.name,
        };
        let mut scale = self.read(&target).await?;
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        self.history.begin(current, self.now);
        let (desired, reason) = match self.desired(key, &scale, current).await {
            Ok(desired) => desired,
            Err(error) => {
                self.show_replicas(current, current, false);
                let message = error.message();
                self.warn("FailedComputeMetricsReplicas", message);
                return Err(error);
            }
        };
        if desired == current {
            self.show_replicas(current, current, false);
            return Ok(());
        }
        scale.spec.get_or_insert_default().replicas = Some(desired);
        if let Err(error) = target.write(self.ctx, &scale).await {
            self.show_replicas(current, current, false);
            let why = error.message();
            self.warn(
                "FailedRescale",
                format!("New size: {desired}; reason: {reason}; error: {why}"),
            );
            let message =
                format!("the HPA controller was unable to update the target scale: {why}");
            self.set("AbleToScale", "False", "FailedUpdateScale", &message);
            return Err(error);
        }
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        self.set("AbleToScale", "True", "SucceededRescale", &message);
        let message = format!("New size: {desired}; reason: {reason}");
        self.ctx.recorder.normal(self.autoscaler, "SuccessfulRescale", message);
        self.history.scaled(current, desired, self.now);
        self.show_replicas(current, desired, true);
        Ok(())
    }

    async fn read(&mut self, target: &Target<'_>) -> Result<Scale> {
        let found = target.read(self.ctx).await.and_then(|found| {
            let Target { kind, name, .. } = target;
            found.ok_or_else(|| {
                Error::Invalid(format!("{} {name:?} not found", kind.to_lowercase()))
            })
        });
        match &found {
            Ok(_) => {
                let message = "the HPA controller was able to get the target's current scale";
                self.set("AbleToScale", "True", "SucceededGetScale", message);
            }
            Err(error) => {
                let why = error.message();
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                self.set("AbleToScale", "False", "FailedGetScale", &message);
                self.warn("FailedGetScale", why);
            }
        }
        found
    }

    /// The size wanted, and why.
    async fn desired(&mut self, key: &Key, scale: &Scale, current: i32) -> Result<(i32, String)> {
        let least = self.spec.min_replicas.unwrap_or(1);
        if current == 0 && least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.set("ScalingActive", "False", "ScalingDisabled", message);
            return Ok((0, String::new()));
        }
        if current > self.spec.max_replicas {
            let reason = "Current number of replicas above Spec.MaxReplicas".to_owned();
            return Ok((self.spec.max_replicas, reason));
        }
        if current < least {
            return Ok((least, "Current number of replicas below Spec.MinReplicas".to_owned()));
        }
        let evaluation = evaluate::evaluate(self.ctx, key, &self.spec, scale, self.now).await;
        let (proposed, metric) = self.judge(evaluation, current)?;
        let pace = pace::pace(&self.spec, &mut self.history, current, proposed, self.now);
        let Pace { desired, able, limited } = pace;
        self.set("AbleToScale", "True", able.0, able.1);
        let is_limited = if limited.0 == "DesiredWithinRange" { "False" } else { "True" };
        self.set("ScalingLimited", is_limited, limited.0, limited.1);
        let reason = match desired.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{metric} above target"),
            _ => "All metrics below target".to_owned(),
        };
        Ok((desired, reason))
    }

    /// What the metrics agree on: the largest size any asks for. With unreadable ones among them, nothing smaller than now.
    fn judge(&mut self, evaluation: Evaluation, current: i32) -> Result<(i32, String)> {
        let Evaluation { proposals, failures, statuses, total } = evaluation;
        for failure in &failures {
            self.warn(failure.reason, failure.message.clone());
        }
        self.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        // Of equals the first counts.
        let largest = proposals.iter().rev().max_by_key(|proposal| proposal.replicas);
        let trusted = largest.filter(|one| failures.is_empty() || one.replicas >= current);
        if let Some(proposal) = trusted {
            let message = format!(
                "the HPA was able to successfully calculate a replica count from {}",
                proposal.metric
            );
            self.set("ScalingActive", "True", "ValidMetricFound", &message);
            return Ok((proposal.replicas, proposal.metric.clone()));
        }
        let Some(first) = failures.first() else { return Ok((current, String::new())) };
        let message = format!("the HPA was unable to compute the replica count: {}", first.message);
        self.set("ScalingActive", "False", first.reason, &message);
        Err(Error::Invalid(format!(
            "invalid metrics ({} invalid out of {total}), first error is: {}",
            failures.len(),
            first.context
        )))
    }

    fn show_replicas(&mut self, current: i32, desired: i32, scaled: bool) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        if scaled {
            self.status.last_scale_time = Some(Time(self.now));
        }
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let condition =
            HorizontalPodAutoscalerCondition::new(type_, status, reason, message, self.now);
        conditions::set(self.status.conditions.get_or_insert_default(), condition);
    }

    fn warn(&self, reason: &'static str, message: String) {
        self.ctx.recorder.warning(self.autoscaler, reason, message);
    }
}

/// What is remembered of each autoscaler, with the uid it was remembered for.
#[derive(Default)]
struct Histories(Mutex<HashMap<Key, (Option<String>, History)>>);

// === impl Histories ===

impl Histories {
    /// No other look at the same autoscaler happens meanwhile.
    fn take(&self, key: &Key, autoscaler: &HorizontalPodAutoscaler) -> History {
        let known = self.0.lock().expect("no panic happens while locked").remove(key);
        let known = known.filter(|(uid, _)| *uid == autoscaler.metadata.uid);
        known.map(|(_, history)| history).unwrap_or_default()
    }

    fn put(&self, key: Key, autoscaler: &HorizontalPodAutoscaler, history: History) {
        let mut known = self.0.lock().expect("no panic happens while locked");
        known.insert(key, (autoscaler.metadata.uid.clone(), history));
    }
}
