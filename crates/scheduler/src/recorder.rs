//! Records what was decided as events.k8s.io/v1 Events, without ever making scheduling wait.
//!
//! Counterpart: client-go `tools/events`. The same thing told again about the same pod becomes a series on the stored
//! event. Invariant: recording is best effort and bounded; a slow API server costs events, not placements.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

const QUEUE_LENGTH: usize = 1000;
const DELIVERIES_AT_A_TIME: usize = 16;
const REMEMBERED_EVENTS: usize = 4096;
/// A series ends when nothing was added to it for so long.
const SERIES_SECONDS: i64 = 360;

#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Note>);

/// One thing worth telling, before it is an Event.
#[derive(Clone, Debug)]
pub struct Note {
    /// The scheduler's name: that of the profile.
    pub reporter: String,
    pub regarding: ObjectReference,
    pub related: Option<ObjectReference>,
    pub type_: &'static str,
    pub reason: &'static str,
    pub action: &'static str,
    pub note: String,
}

/// A recorder and the task that delivers what it is told.
pub fn recorder(
    client: Client,
    instance: String,
    clock: fn() -> Timestamp,
) -> (Recorder, impl Future<Output = ()>) {
    let (sender, mut notes) = mpsc::channel::<Note>(QUEUE_LENGTH);
    let task = async move {
        let mut correlator = Correlator { instance, known: HashMap::new() };
        let mut deliveries = FuturesUnordered::new();
        loop {
            let room = deliveries.len() < DELIVERIES_AT_A_TIME;
            tokio::select! {
                note = notes.recv(), if room => match note {
                    Some(note) => deliveries.push(deliver(client.clone(), correlator.correlate(note, clock()))),
                    None => return,
                },
                Some(delivered) = deliveries.next() => {
                    if let Err(error) = delivered {
                        tracing::debug!(%error, "event was not recorded");
                    }
                }
            }
        }
    };
    (Recorder(sender), task)
}

// === impl Recorder ===

impl Recorder {
    /// Never waits; when the API server is too slow the note is dropped.
    pub fn tell(&self, note: Note) {
        let _ = self.0.try_send(note);
    }
}

/// What has to be sent for one note.
#[derive(Debug)]
enum Step {
    Create(Box<Event>),
    Continue { namespace: String, name: String, count: i32, last: Timestamp },
}

/// Remembers recent events, so that repetition becomes a series.
struct Correlator {
    instance: String,
    known: HashMap<Subject, Known>,
}

/// What makes two notes the same. As upstream: their text does not count.
#[derive(Hash, PartialEq, Eq)]
struct Subject {
    uid: String,
    reason: &'static str,
    action: &'static str,
}

struct Known {
    name: String,
    count: i32,
    last: Timestamp,
}

// === impl Correlator ===

impl Correlator {
    fn correlate(&mut self, note: Note, now: Timestamp) -> Step {
        let subject = Subject {
            uid: note.regarding.uid.clone().unwrap_or_default(),
            reason: note.reason,
            action: note.action,
        };
        let namespace = note.regarding.namespace.clone().unwrap_or_default();
        let alive = |known: &&mut Known| now.as_second() - known.last.as_second() <= SERIES_SECONDS;
        if let Some(known) = self.known.get_mut(&subject).filter(alive) {
            known.count += 1;
            known.last = now;
            let (name, count) = (known.name.clone(), known.count);
            return Step::Continue { namespace, name, count, last: now };
        }
        // Forgetting everything at once costs a few events too many, and needs no bookkeeping of age.
        if self.known.len() >= REMEMBERED_EVENTS {
            self.known.clear();
        }
        let event = self.event(note, namespace, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        // Most pods are placed at the first try and never heard of again.
        if subject.reason != "Scheduled" {
            self.known.insert(subject, Known { name, count: 1, last: now });
        }
        Step::Create(Box::new(event))
    }

    fn event(&self, note: Note, namespace: String, now: Timestamp) -> Event {
        let about = note.regarding.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{about}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(note.reporter),
            reporting_instance: Some(self.instance.clone()),
            action: Some(note.action.into()),
            reason: Some(note.reason.into()),
            regarding: Some(note.regarding),
            related: note.related,
            note: Some(note.note),
            type_: Some(note.type_.into()),
            ..Event::default()
        }
    }
}

async fn deliver(client: Client, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let api = Api::<Event>::namespaced(client, &namespace);
            api.create(&PostParams::default(), &event).await.map(drop)
        }
        Step::Continue { namespace, name, count, last } => {
            let series = json!({"count": count, "lastObservedTime": MicroTime(last)});
            let patch = Patch::Merge(json!({ "series": series }));
            let api = Api::<Event>::namespaced(client, &namespace);
            api.patch(&name, &PatchParams::default(), &patch).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(reason: &'static str) -> Note {
        let regarding = ObjectReference {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("1".into()),
            ..ObjectReference::default()
        };
        Note {
            reporter: "default-scheduler".into(),
            regarding,
            related: None,
            type_: "Warning",
            reason,
            action: "Scheduling",
            note: "why".into(),
        }
    }

    #[test]
    fn repetition_becomes_a_series_until_it_is_old() {
        let instance = String::new();
        let mut correlator = Correlator { instance, known: HashMap::new() };
        let mut tell = |reason, second| {
            correlator.correlate(note(reason), Timestamp::from_second(second).unwrap())
        };
        let Step::Create(first) = tell("FailedScheduling", 0) else { panic!("the first is new") };
        let Step::Continue { name, count, .. } = tell("FailedScheduling", 300) else {
            panic!("the second continues it")
        };
        assert_eq!((Some(name), count), (first.metadata.name, 2));
        assert!(matches!(tell("Other", 300), Step::Create(_)));
        assert!(matches!(tell("FailedScheduling", 661), Step::Create(_)));
    }
}
