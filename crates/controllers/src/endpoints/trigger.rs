//! When what a Service's endpoints follow from last changed: how late the network learns of it is measured from there.
//!
//! A Service and its pods -> the earliest change since the last look, which goes into an annotation of what is written because of
//! it. Counterpart: `endpointslice/util/trigger_time_tracker.go`. Invariant: only a write carries the time; it never causes one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::pod;
use crate::runtime::Key;

const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What was seen of each Service.
#[derive(Default)]
pub struct Triggers(Mutex<HashMap<Key, Seen>>);

/// Creation of the Service, and when each pod last became ready or ceased to be.
#[derive(Default)]
struct Seen {
    created: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

// === impl Triggers ===

impl Triggers {
    /// The earliest change that no call before has seen.
    pub fn take(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let now = Seen {
            created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            pods: pods.iter().filter_map(|pod| changed(pod)).collect(),
        };
        let mut known = self.known();
        let seen = known.entry(Key::of(service)).or_default();
        let first = seen.created.is_none();
        let new_pods = now.pods.iter().filter(|(name, time)| seen.pods.get(*name) < Some(time));
        let newest = (now.created > seen.created).then_some(now.created).flatten();
        let earliest = new_pods.map(|(_, time)| *time).chain(newest).min();
        let trigger = if first { now.created } else { earliest };
        *seen = now;
        trigger
    }

    pub fn forget(&self, service: &Key) {
        self.known().remove(service);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Seen>> {
        self.0.lock().expect("no panic happens while locked")
    }
}

fn changed(pod: &Arc<Pod>) -> Option<(String, Timestamp)> {
    let ready = pod::condition(pod, "Ready")?;
    Some((pod.metadata.name.clone()?, ready.last_transition_time.as_ref()?.0))
}

/// Notes the trigger on what is written because of it.
pub fn mark(meta: &mut ObjectMeta, trigger: Option<Timestamp>) {
    let annotations = meta.annotations.get_or_insert_default();
    match trigger {
        Some(trigger) => drop(annotations.insert(ANNOTATION.into(), text(trigger))),
        None => drop(annotations.remove(ANNOTATION)),
    }
    if annotations.is_empty() {
        meta.annotations = None;
    }
}

fn text(time: Timestamp) -> String {
    match serde_json::to_value(Time(time)) {
        Ok(serde_json::Value::String(text)) => text,
        _ => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(created: &str) -> Service {
        let service =
            json!({"metadata": {"namespace": "a", "name": "web", "creationTimestamp": created}});
        serde_json::from_value(service).expect("a Service")
    }

    fn ready(name: &str, since: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": since}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn a_trigger_is_the_earliest_change_that_is_new() {
        let triggers = Triggers::default();
        let web = service("2026-01-01T00:00:00Z");
        let check = |pods: &[Arc<Pod>], expected: Option<&str>| {
            assert_eq!(triggers.take(&web, pods).map(text).as_deref(), expected);
        };
        check(&[ready("old", "2025-01-01T00:00:00Z")], Some("2026-01-01T00:00:00Z"));
        check(&[ready("old", "2025-01-01T00:00:00Z")], None);
        let both = [ready("b", "2026-01-03T00:00:00Z"), ready("a", "2026-01-02T00:00:00Z")];
        check(&both, Some("2026-01-02T00:00:00Z"));
        check(&[ready("b", "2026-01-03T00:00:00Z")], None);
        triggers.forget(&Key::of(&web));
        check(&both, Some("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn a_write_without_a_trigger_drops_the_one_before() {
        let mut meta = ObjectMeta::default();
        mark(&mut meta, "2026-01-02T00:00:00Z".parse().ok());
        assert_eq!(meta.annotations.as_ref().expect("marked")[ANNOTATION], "2026-01-02T00:00:00Z");
        mark(&mut meta, None);
        assert_eq!(meta, ObjectMeta::default());
    }
}
