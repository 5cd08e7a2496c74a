//! Every controller on a bad day: whatever happens to watches and writes, what was asked for is reached, and then
//! nothing is written any more.
//!
//! A story (`days/*.yaml`) names the controllers that must keep up with it, what users do in any order and number, what
//! they do last, and how things must be in the end. Its namespace is its own; stories are told side by side, and time flies:
//! what takes controllers a minute comes in seconds.
//! Invariant: every controller is in a story.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::TestCluster;
use crate::cluster::chaos::Chaos;
use crate::cluster::testing::{Dice, yaml};

/// How often users change their minds before they know what they want.
const MOVES: usize = 12;
const LONGEST_PAUSE_MS: usize = 30;
/// What was lost on a bad day may be looked for again only after minutes, even of time that flies.
const PATIENCE: Duration = Duration::from_secs(120);

/// Kinds of these stories that have no namespace.
const CLUSTER_SCOPED: &[&str] = &[
    "CertificateSigningRequest",
    "ClusterRole",
    "DeviceClass",
    "IPAddress",
    "Namespace",
    "Node",
    "PersistentVolume",
    "ResourceSlice",
    "ServiceCIDR",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    #[serde(skip)]
    name: String,
    controllers: Vec<String>,
    moves: Vec<Move>,
    last: Vec<Move>,
    reached: Vec<Expected>,
}

/// One of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    /// The fields that are asked for; none others are touched. A status is written as the subresource. `in 60s` is the
    /// time that it will be then.
    apply: Option<Value>,
    /// Kind and name; a kind with labels is all that have them.
    delete: Option<Value>,
    /// What the user wants to see before going on.
    wait: Option<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Kind and name or labels, and fields that such objects must have; `*` is anything.
    of: Value,
    /// How many there are; nothing else is there that has the name or the labels.
    count: usize,
}

// === impl Story ===

impl Story {
    fn all() -> Vec<Story> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in_process/days");
        let files = std::fs::read_dir(directory).expect("stories are there");
        let mut stories: Vec<Story> = files
            .map(|file| {
                let path = file.expect("a directory can be read").path();
                let text = std::fs::read_to_string(&path).expect("a story can be read");
                let name = path.file_stem().expect("a file has a name");
                Story { name: name.to_string_lossy().into_owned(), ..yaml(&text) }
            })
            .collect();
        stories.sort_by(|one, other| one.name.cmp(&other.name));
        stories
    }

    async fn tell(&self, cluster: &TestCluster, seed: u64) {
        let mut dice = Dice::new(seed);
        let space =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}});
        self.apply(cluster, &space).await;
        for _ in 0..MOVES {
            self.make(cluster, seed, &self.moves[dice.below(self.moves.len())]).await;
            let pause = dice.below(LONGEST_PAUSE_MS) as u64;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        for last in &self.last {
            self.make(cluster, seed, last).await;
        }
    }

    async fn end(&self, cluster: &TestCluster, seed: u64) {
        for expected in &self.reached {
            self.wait(cluster, seed, expected).await;
        }
    }

    async fn wait(&self, cluster: &TestCluster, seed: u64, expected: &Expected) {
        let began = tokio::time::Instant::now();
        while let Some(found) = self.unexpected(cluster, expected).await {
            assert!(
                began.elapsed() < PATIENCE,
                "seed {seed}, {}: {} of {}, and after {PATIENCE:?} there are {found}",
                self.name,
                expected.count,
                expected.of,
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn make(&self, cluster: &TestCluster, seed: u64, made: &Move) {
        if let Some(object) = &made.apply {
            let mut object = object.clone();
            tell_times(&mut object, cluster.now());
            self.apply(cluster, &object).await;
        }
        if let Some(expected) = &made.wait {
            self.wait(cluster, seed, expected).await;
        }
        if let Some(object) = &made.delete {
            self.delete(cluster, object).await;
        }
    }

    /// Tries until it is accepted: what it needs, such as a service account, may not be there yet.
    async fn apply(&self, cluster: &TestCluster, object: &Value) {
        let (api, name) = (self.api(cluster, object), text(object, "/metadata/name"));
        let params = PatchParams::apply("user").force();
        let accepted = async |_: &TestCluster| {
            let mut outcome = api.patch(&name, &params, &Patch::Apply(object)).await.map(drop);
            if outcome.is_ok() && object.get("status").is_some() {
                outcome = api.patch_status(&name, &params, &Patch::Apply(object)).await.map(drop);
            }
            if let Err(error) = &outcome {
                tracing::info!(story = self.name, name, %error, "not accepted yet");
            }
            outcome.is_ok()
        };
        cluster.eventually(&format!("{}: {name} is accepted", self.name), accepted).await;
    }

    /// What is not there need not be deleted.
    async fn delete(&self, cluster: &TestCluster, object: &Value) {
        let (api, params) = (self.api(cluster, object), DeleteParams::background());
        let _ = match object.pointer("/metadata/labels") {
            Some(_) => api.delete_collection(&params, &selection(object)).await.map(drop),
            None => api.delete(&text(object, "/metadata/name"), &params).await.map(drop),
        };
    }

    fn api(&self, cluster: &TestCluster, object: &Value) -> Api<DynamicObject> {
        let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let elsewhere = object.pointer("/metadata/namespace").and_then(Value::as_str);
        match CLUSTER_SCOPED.contains(&kind.as_str()) {
            true => Api::all_with(cluster.client(), &resource),
            false => {
                let namespace = elsewhere.unwrap_or(&self.name);
                Api::namespaced_with(cluster.client(), namespace, &resource)
            }
        }
    }

    /// What is there instead of what is expected.
    async fn unexpected(&self, cluster: &TestCluster, expected: &Expected) -> Option<Value> {
        let listed = self.api(cluster, &expected.of).list(&selection(&expected.of)).await;
        let found = listed.expect("a list is answered").items;
        let found: Vec<Value> = found.iter().map(|object| json!(object)).collect();
        // Objects of a list do not repeat of what kind they are.
        let mut asked = expected.of.clone();
        let fields = asked.as_object_mut().expect("an object is expected");
        fields.retain(|field, _| field != "apiVersion" && field != "kind");
        let right = found.iter().filter(|object| has(object, &asked)).count();
        let reached = found.len() == expected.count && right == expected.count;
        (!reached).then(|| json!(found))
    }
}

/// Makes points in time of all `in 60s`.
fn tell_times(value: &mut Value, now: Timestamp) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|one| tell_times(one, now)),
        Value::Array(entries) => entries.iter_mut().for_each(|one| tell_times(one, now)),
        Value::String(text) => {
            let span =
                text.strip_prefix("in ").and_then(|span| span.parse::<SignedDuration>().ok());
            if let Some(span) = span {
                *text = (now + span).strftime("%FT%TZ").to_string();
            }
        }
        _ => {}
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// By name or labels.
fn selection(of: &Value) -> ListParams {
    if let Some(name) = of.pointer("/metadata/name").and_then(Value::as_str) {
        return ListParams::default().fields(&format!("metadata.name={name}"));
    }
    let labels = of.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    ListParams::default().labels(&labels.join(","))
}

/// Whether `object` has all that is `asked`; of a list every asked entry must be there, null is what is
/// absent, and `*` what is not.
fn has(object: &Value, asked: &Value) -> bool {
    match asked {
        Value::Object(fields) => {
            fields.iter().all(|(key, asked)| has(object.get(key).unwrap_or(&Value::Null), asked))
        }
        Value::Array(entries) => entries.iter().all(|asked| {
            object.as_array().is_some_and(|found| found.iter().any(|entry| has(entry, asked)))
        }),
        Value::String(text) if text == "*" => !object.is_null(),
        _ => object == asked,
    }
}

async fn a_bad_day(seed: u64) {
    let stories = Story::all();
    let chaos = Chaos::of_seed(seed);
    let mut cluster = TestCluster::start_with(&format!("chaos-{seed}"), Some(chaos)).await;
    cluster.add_node("n1").await;
    cluster.add_node("n2").await;
    let time = cluster.let_time_fly();
    let told = stories.iter().enumerate().map(|(at, story)| story.tell(&cluster, seed + at as u64));
    futures::future::join_all(told).await;
    let ends = stories.iter().map(|story| story.end(&cluster, seed));
    futures::future::join_all(ends).await;
    drop(time);
    // On the first good day what the bad one left undone is done.
    cluster.look_again().await;
    let writes = cluster.look_again().await;
    assert_eq!(writes, Vec::<String>::new(), "seed {seed}: a second look writes nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_reached_whatever_happens_and_then_nothing_is_written() {
    let seeds = std::env::var("SKIFF_BAD_DAYS").ok().and_then(|days| days.parse().ok());
    for seed in 1..=seeds.unwrap_or(3) {
        a_bad_day(seed).await;
    }
}

#[test]
fn every_controller_has_a_story() {
    let stories = Story::all();
    let told = stories.iter().flat_map(|story| story.controllers.iter().map(String::as_str));
    let told: BTreeSet<&str> = told.collect();
    let there: BTreeSet<&str> = skiff_controllers::names().collect();
    assert_eq!(told, there);
}
