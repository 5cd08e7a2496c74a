//! Status conditions: one value per type, whose transition time moves only when its status does.
//!
//! The API has a condition type per kind with the same five fields; this is the one place that knows the rule.
//! Counterpart: SetDeploymentCondition, SetCondition and their kin.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub trait Condition: Clone {
    fn new(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self;
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> Option<&str>;
    fn message(&self) -> Option<&str>;
    fn transition_time(&mut self) -> &mut Option<Time>;
}

macro_rules! conditions {
    ($($kind:ty { $($update:ident)? }),* $(,)?) => {$(
        impl Condition for $kind {
            fn new(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self {
                #[allow(clippy::needless_update, reason = "some kinds of conditions have no further field")]
                Self {
                    type_: type_.into(),
                    status: status.into(),
                    reason: (!reason.is_empty()).then(|| reason.into()),
                    message: (!message.is_empty()).then(|| message.into()),
                    last_transition_time: Some(Time(now)),
                    $($update: Some(Time(now)),)?
                    ..Self::default()
                }
            }
            fn type_(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> Option<&str> { self.reason.as_deref() }
            fn message(&self) -> Option<&str> { self.message.as_deref() }
            fn transition_time(&mut self) -> &mut Option<Time> { &mut self.last_transition_time }
        }
    )*};
}

conditions! {
    DeploymentCondition { last_update_time },
    HorizontalPodAutoscalerCondition {},
    JobCondition { last_probe_time },
    NamespaceCondition {},
    ReplicaSetCondition {},
}

#[cfg(test)]
pub fn find<'a, C: Condition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|condition| condition.type_() == type_)
}

/// Sets a condition. Same status and reason: nothing changes, as upstream; same status: the transition time stays.
pub fn set<C: Condition>(conditions: &mut Vec<C>, mut new: C) {
    let Some(old) = conditions.iter_mut().find(|old| old.type_() == new.type_()) else {
        conditions.push(new);
        return;
    };
    if old.status() == new.status() {
        if old.reason() == new.reason() && old.message() == new.message() {
            return;
        }
        *new.transition_time() = old.transition_time().clone();
    }
    *old = new;
}

pub fn remove<C: Condition>(conditions: &mut Vec<C>, type_: &str) {
    conditions.retain(|condition| condition.type_() != type_);
}
