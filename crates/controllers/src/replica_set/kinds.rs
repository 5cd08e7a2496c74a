//! The two kinds that keep a number of pods alike: ReplicaSet and the older ReplicationController.
//!
//! Their specs say the same in two shapes, and their statuses count the same; everything else is shared code over
//! `Replicated`. Counterpart: the conversion adapters of `pkg/controller/replication`.
//! Invariant: nothing outside of this file asks which of the two it has.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use kube::core::Selector;

use crate::claims;
use crate::runtime::Object;

pub trait Replicated: Object + PartialEq {
    fn replicas(&self) -> Option<i32>;
    fn min_ready_seconds(&self) -> i32;
    /// None selects nothing.
    fn selector(&self) -> Option<Selector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn conditions(&self) -> Vec<ReplicaSetCondition>;
    /// Takes over as much of the status as the kind has fields for.
    fn set_status(&mut self, status: ReplicaSetStatus);
}

// === impl ReplicaSet ===

impl Replicated for ReplicaSet {
    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        claims::selector(&self.spec.as_ref()?.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        self.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

// === impl ReplicationController ===

impl Replicated for ReplicationController {
    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        let labels: &BTreeMap<_, _> = self.spec.as_ref()?.selector.as_ref()?;
        (!labels.is_empty()).then(|| labels.clone().into_iter().collect())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .cloned()
            .map(|own| ReplicaSetCondition {
                type_: own.type_,
                status: own.status,
                reason: own.reason,
                message: own.message,
                last_transition_time: own.last_transition_time,
            })
            .collect()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let conditions = status.conditions.map(|conditions| {
            let own = conditions.into_iter().map(|shared| ReplicationControllerCondition {
                type_: shared.type_,
                status: shared.status,
                reason: shared.reason,
                message: shared.message,
                last_transition_time: shared.last_transition_time,
            });
            own.collect()
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        });
    }
}
