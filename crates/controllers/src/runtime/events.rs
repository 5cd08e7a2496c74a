//! Records what a controller did as core/v1 Events, without ever making it wait.
//!
//! Counterpart: client-go `tools/record` (recorder, correlator). The same event again raises `count` on the stored
//! one; more than ten distinct messages for one object and reason within ten minutes become one combined event, and who
//! says more than `BURST` things about one object is heard once in five minutes.
//! Invariant: recording is best effort and bounded; when the API server is slow, events are dropped, not reconciles.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::store::Object;

const QUEUE_LENGTH: usize = 1000;
const REMEMBERED_EVENTS: usize = 4096;
const DISTINCT_MESSAGES: u32 = 10;
const AGGREGATION_WINDOW_SECONDS: i64 = 600;
/// What may be said of one object at once, and how long until one more may be.
const BURST: u32 = 25;
const REFILL_SECONDS: i64 = 300;

#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Note>);

/// One thing worth telling, before it is an Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub regarding: ObjectReference,
    pub type_: &'static str,
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// A recorder and the task that delivers what it is told.
pub fn recorder(
    client: Client,
    component: &'static str,
    clock: Clock,
    shutdown: CancellationToken,
) -> (Recorder, impl Future<Output = ()>) {
    let (sender, mut notes) = mpsc::channel::<Note>(QUEUE_LENGTH);
    let task = async move {
        let mut correlator = Correlator::default();
        while let Some(Some(note)) = shutdown.run_until_cancelled(notes.recv()).await {
            let Some(step) = correlator.correlate(note, component, clock.now()) else { continue };
            if let Err(error) = deliver(&client, step).await {
                tracing::debug!(component, %error, "event was not recorded");
            }
        }
    };
    (Recorder(sender), task)
}

// === impl Recorder ===

impl Recorder {
    pub fn normal<K: Object>(
        &self,
        object: &K,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.note("Normal", object, reason.into(), message.into());
    }

    pub fn warning<K: Object>(
        &self,
        object: &K,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.note("Warning", object, reason.into(), message.into());
    }

    fn note<K: Object>(
        &self,
        type_: &'static str,
        object: &K,
        reason: Cow<'static, str>,
        message: String,
    ) {
        let regarding = object.object_ref(&());
        // A full queue means the API server is behind: losing an event is the lesser harm.
        let _ = self.0.try_send(Note { regarding, type_, reason, message });
    }
}

/// What has to be sent for one note.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Box<Event>),
    /// Seen before: raise the count of the stored event.
    Count {
        namespace: String,
        name: String,
        count: i32,
        last: Timestamp,
    },
}

/// Remembers recent events, so that repetition is counted instead of stored again.
#[derive(Default)]
struct Correlator {
    stored: HashMap<Subject, Stored>,
    distinct: HashMap<Subject, Distinct>,
    /// By the uid of the object that is told about.
    allowances: HashMap<String, Allowance>,
}

/// What makes two notes the same; an empty message stands for "any message".
#[derive(Clone, Hash, PartialEq, Eq)]
struct Subject {
    uid: String,
    namespace: String,
    name: String,
    kind: String,
    type_: &'static str,
    reason: Cow<'static, str>,
    message: String,
}

struct Stored {
    name: String,
    count: i32,
}

struct Distinct {
    messages: u32,
    since: Timestamp,
}

/// How much more may be said of one object: a bucket of `BURST` tokens that fills up again slowly.
struct Allowance {
    left: u32,
    since: Timestamp,
}

// === impl Correlator ===

impl Correlator {
    /// Nothing, if too much has been said of the object lately.
    fn correlate(&mut self, mut note: Note, component: &str, now: Timestamp) -> Option<Step> {
        let may_speak = self.may_speak_of(&note.regarding, now);
        let mut subject = Subject::of(&note);
        if !self.stored.contains_key(&subject) && self.too_varied(&note, now) {
            note.message = format!("(combined from similar events): {}", note.message);
            // All further messages of this kind share one event.
            subject.message = "(combined from similar events)".into();
        }
        if let Some(stored) = self.stored.get_mut(&subject) {
            stored.count += 1;
            let namespace = event_namespace(&note.regarding);
            return may_speak.then(|| Step::Count {
                namespace,
                name: stored.name.clone(),
                count: stored.count,
                last: now,
            });
        }
        if !may_speak {
            return None;
        }
        let event = first_event(note, component, now);
        self.forget_if_full();
        let name = event.metadata.name.clone().unwrap_or_default();
        self.stored.insert(subject, Stored { name, count: 1 });
        Some(Step::Create(Box::new(event)))
    }

    fn may_speak_of(&mut self, object: &ObjectReference, now: Timestamp) -> bool {
        let uid = object.uid.clone().unwrap_or_default();
        let full = || Allowance { left: BURST, since: now };
        let allowance = self.allowances.entry(uid).or_insert_with(full);
        let earned = (now.as_second() - allowance.since.as_second()).max(0) / REFILL_SECONDS;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
            *allowance = Allowance { left: (allowance.left + earned).min(BURST), since: now };
        }
        let may = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        may
    }

    fn too_varied(&mut self, note: &Note, now: Timestamp) -> bool {
        let subject = Subject { message: String::new(), ..Subject::of(note) };
        let distinct = self.distinct.entry(subject).or_insert(Distinct { messages: 0, since: now });
        if now.as_second() - distinct.since.as_second() > AGGREGATION_WINDOW_SECONDS {
            *distinct = Distinct { messages: 0, since: now };
        }
        distinct.messages += 1;
        distinct.messages > DISTINCT_MESSAGES
    }

    /// Forgetting everything at once costs a few duplicate events, and needs no bookkeeping of age.
    fn forget_if_full(&mut self) {
        if self.stored.len() >= REMEMBERED_EVENTS {
            self.stored.clear();
            self.distinct.clear();
            self.allowances.clear();
        }
    }
}

impl Subject {
    fn of(note: &Note) -> Subject {
        let object = &note.regarding;
        Subject {
            uid: object.uid.clone().unwrap_or_default(),
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
            kind: object.kind.clone().unwrap_or_default(),
            type_: note.type_,
            reason: note.reason.clone(),
            message: note.message.clone(),
        }
    }
}

/// Events of cluster-scoped objects live in the default namespace, as upstream's do.
fn event_namespace(object: &ObjectReference) -> String {
    object
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| "default".into())
}

fn first_event(note: Note, component: &str, now: Timestamp) -> Event {
    let name =
        format!("{}.{:x}", note.regarding.name.as_deref().unwrap_or_default(), unique_nanos(now));
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(event_namespace(&note.regarding)),
            ..ObjectMeta::default()
        },
        involved_object: note.regarding,
        reason: Some(note.reason.into()),
        message: Some(note.message),
        type_: Some(note.type_.into()),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

/// Event names are made from the time; two events of one nanosecond must still differ.
fn unique_nanos(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(now.as_nanosecond()).unwrap_or(0);
    let last =
        LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(last.expect("the update never refuses") + 1)
}

async fn deliver(client: &Client, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let api = Api::<Event>::namespaced(client.clone(), &namespace);
            api.create(&PostParams::default(), &event).await.map(|_| ())
        }
        Step::Count { namespace, name, count, last } => {
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(last)});
            let api = Api::<Event>::namespaced(client.clone(), &namespace);
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let regarding = ObjectReference {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            ..Default::default()
        };
        Note { regarding, type_: "Normal", reason: "Tested".into(), message: message.into() }
    }

    #[test]
    fn repetition_is_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(note("a"), "test", Timestamp::UNIX_EPOCH);
        let Some(Step::Create(event)) = first else { panic!("the first event is created") };
        let again = correlator.correlate(note("a"), "test", Timestamp::UNIX_EPOCH);
        let name = event.metadata.name.unwrap();
        assert_eq!(
            again,
            Some(Step::Count {
                namespace: "ns".into(),
                name,
                count: 2,
                last: Timestamp::UNIX_EPOCH
            })
        );
    }

    #[test]
    fn many_messages_become_one_combined_event() {
        let mut correlator = Correlator::default();
        let steps: Vec<Step> = (0..13)
            .filter_map(|i| {
                correlator.correlate(note(&format!("m{i}")), "test", Timestamp::UNIX_EPOCH)
            })
            .collect();
        let created = steps.iter().filter(|step| matches!(step, Step::Create(_))).count();
        assert_eq!(created, 11, "ten distinct ones and the combined one");
        assert!(matches!(&steps[12], Step::Count { count: 3, .. }));
    }

    #[test]
    fn of_one_object_not_everything_is_told_at_once() {
        let mut correlator = Correlator::default();
        let mut told = |seconds: i64, notes: usize| {
            let now = Timestamp::from_second(seconds).unwrap();
            (0..notes).filter_map(|_| correlator.correlate(note("a"), "test", now)).last()
        };
        assert!(matches!(told(0, 25), Some(Step::Count { count: 25, .. })));
        assert_eq!(told(299, 10), None);
        // What was not told is counted all the same.
        assert!(matches!(told(300, 1), Some(Step::Count { count: 36, .. })));
        assert_eq!(told(300, 1), None);
    }
}
