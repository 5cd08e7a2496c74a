//! Empties a terminating namespace and then lets it go.
//!
//! Terminating Namespace in -> delete collections of every namespaced resource found by discovery (custom ones too)
//! -> status conditions saying what remains and why -> `finalize` without our finalizer once nothing remains.
//! Counterpart: `pkg/controller/namespace`. Invariant: the finalizer `kubernetes` is dropped only after a pass that
//! listed every resource successfully and found nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, PartialObjectMeta, Request};
use kube::discovery::{ApiCapabilities, Scope, verbs};
use kube::{Api, Discovery};

use crate::conditions;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};

const FINALIZER: &str = "kubernetes";
/// How often to look again while contents go away by themselves: pods ending, foreign finalizers.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(15);
const COLLECTIONS_AT_A_TIME: usize = 16;

pub const DEF: ControllerDef = ControllerDef {
    name: "namespace-controller",
    workers: 10,
    watches: |edges| {
        edges.primary::<Namespace>();
        // The last pod to go usually is what the namespace waits for.
        edges.mapped::<Pod>(|caches, delta| {
            let namespace =
                Key::cluster(delta.latest().metadata.namespace.clone().unwrap_or_default());
            let waiting = delta.new.is_none()
                && caches
                    .store::<Namespace>()
                    .get(&namespace)
                    .is_some_and(|namespace| !is_active(&namespace));
            waiting.then_some(namespace).into_iter().collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(namespace) = ctx.lister::<Namespace>().get(&key) else {
        return Ok(Action::Done);
    };
    if namespace.metadata.deletion_timestamp.is_none() || !holds_finalizer(&namespace) {
        return Ok(Action::Done);
    }
    let contents = empty(&ctx, &key.name).await;
    let now = ctx.now();
    let updated = with_conditions(&namespace, &contents, now);
    let namespace = match updated {
        Some(changed) => ctx.update_status(&changed).await?,
        None => namespace,
    };
    if contents.is_empty() {
        finalize(&ctx, &namespace).await?;
        return Ok(Action::Done);
    }
    Ok(Action::After(look_again(&namespace, now)))
}

/// What a pass over all resources of the namespace found.
#[derive(Debug, Default, PartialEq)]
struct Contents {
    /// Remaining objects by resource, as `pods.` or `widgets.example.com`.
    remaining: BTreeMap<String, usize>,
    /// Remaining objects that carry a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
    discovery_failure: Option<String>,
    deletion_failures: Vec<String>,
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.remaining.is_empty()
            && self.discovery_failure.is_none()
            && self.deletion_failures.is_empty()
    }

    fn add(&mut self, resource: &ApiResource, left: Result<Vec<PartialObjectMeta<DynamicObject>>>) {
        match left {
            Err(error) => self.deletion_failures.push(error.to_string()),
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                *self
                    .remaining
                    .entry(format!("{}.{}", resource.plural, resource.group))
                    .or_default() += left.len();
                let finalizers =
                    left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten());
                finalizers.for_each(|finalizer| {
                    *self.finalizers.entry(finalizer.clone()).or_default() += 1
                });
            }
        }
    }
}

/// Deletes everything in the namespace, pods before the rest, and reports what is still there.
async fn empty(ctx: &Ctx, namespace: &str) -> Contents {
    let mut contents = Contents::default();
    let resources = match Discovery::new(ctx.client.clone()).run_aggregated().await {
        Ok(discovery) => deletable(&discovery),
        Err(error) => {
            contents.discovery_failure = Some(error.to_string());
            return contents;
        }
    };
    // What a pod uses must be there until the pod is not.
    let (pods, resources): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|(resource, _)| is_pods(resource));
    for (resource, capabilities) in pods {
        let left = empty_collection(ctx, namespace, &resource, &capabilities).await;
        contents.add(&resource, left);
    }
    if !contents.is_empty() {
        return contents;
    }
    let passes = futures::stream::iter(resources).map(|(resource, capabilities)| async move {
        let left = empty_collection(ctx, namespace, &resource, &capabilities).await;
        (resource, left)
    });
    let results: Vec<_> = passes.buffer_unordered(COLLECTIONS_AT_A_TIME).collect().await;
    results.into_iter().for_each(|(resource, left)| contents.add(&resource, left));
    contents
}

/// Namespaced resources that can be listed and deleted; Events last, since deleting the others makes some.
fn deletable(discovery: &Discovery) -> Vec<(ApiResource, ApiCapabilities)> {
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let mut found: Vec<_> = all
        .filter(|(_, can)| can.scope == Scope::Namespaced && can.supports_operation(verbs::LIST))
        .filter(|(_, can)| can.supports_operation(verbs::DELETE))
        .collect();
    found.sort_by_key(|(resource, _)| resource.kind == "Event");
    found
}

fn is_pods(resource: &ApiResource) -> bool {
    (resource.group.as_str(), resource.plural.as_str()) == ("", "pods")
}

async fn empty_collection(
    ctx: &Ctx,
    namespace: &str,
    resource: &ApiResource,
    capabilities: &ApiCapabilities,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>> {
    let api = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), namespace, resource);
    let failed =
        |source| Error::Read { what: format!("{} in {namespace}", resource.plural), source };
    let background = DeleteParams::background();
    let present = api.list_metadata(&ListParams::default()).await.map_err(failed)?.items;
    if present.is_empty() {
        return Ok(present);
    }
    if capabilities.supports_operation(verbs::DELETE_COLLECTION) {
        api.delete_collection(&background, &ListParams::default()).await.map_err(failed)?;
    } else {
        for object in &present {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &background).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other.map_err(failed)?),
            }
        }
    }
    Ok(api.list_metadata(&ListParams::default()).await.map_err(failed)?.items)
}

fn holds_finalizer(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    finalizers.into_iter().any(|finalizer| finalizer == FINALIZER)
}

/// Drops our finalizer through the `finalize` subresource; the API server then removes the namespace.
async fn finalize(ctx: &Ctx, namespace: &Namespace) -> Result<()> {
    let mut finalized = namespace.clone();
    if let Some(finalizers) = finalized.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let key = Key::of(namespace);
    let body = serde_json::to_vec(&finalized).expect("a namespace always encodes");
    let request = Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", &key.name, &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest);
    let answer = match request {
        Ok(request) => ctx.client.request::<Namespace>(request).await,
        Err(error) => Err(error),
    };
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => {
            Err(Error::Write { verb: "finalize", object: format!("namespace {key}"), source })
        }
        Ok(_) => Ok(()),
    }
}

/// Young deletions are looked at often, stuck ones rarely: a tenth of the time already spent.
fn look_again(namespace: &Namespace, now: Timestamp) -> Duration {
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let spent = u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0);
    Duration::from_millis(spent / 10).clamp(LOOK_AGAIN, LOOK_AGAIN_AT_MOST)
}

/// The namespace with its deletion conditions brought up to date, or none if they already say so.
fn with_conditions(
    namespace: &Namespace,
    contents: &Contents,
    now: Timestamp,
) -> Option<Namespace> {
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    let list = status.conditions.get_or_insert_default();
    for (type_, status, reason, message) in deletion_conditions(contents) {
        conditions::set(
            list,
            <NamespaceCondition as conditions::Condition>::new(
                type_, status, reason, &message, now,
            ),
        );
    }
    (changed != *namespace).then_some(changed)
}

type Fact = (&'static str, &'static str, &'static str, String);

fn deletion_conditions(contents: &Contents) -> [Fact; 5] {
    let failures = contents.deletion_failures.join(", ");
    [
        fact(
            "NamespaceDeletionDiscoveryFailure",
            contents.discovery_failure.clone(),
            ("DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"),
        ),
        fact(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            (
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        fact(
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then_some(failures),
            (
                "ContentDeletionFailed",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        fact(
            "NamespaceContentRemaining",
            remaining_message(&contents.remaining),
            ("SomeResourcesRemain", "ContentRemoved", "All content successfully removed"),
        ),
        fact(
            "NamespaceFinalizersRemaining",
            finalizers_message(&contents.finalizers),
            (
                "SomeFinalizersRemain",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ]
}

/// True with the trouble's own message, or False with the standing all-is-well one.
fn fact(
    type_: &'static str,
    trouble: Option<String>,
    words: (&'static str, &'static str, &'static str),
) -> Fact {
    let (bad, good, all_well) = words;
    match trouble {
        Some(message) => (type_, "True", bad, message),
        None => (type_, "False", good, all_well.to_owned()),
    }
}

fn remaining_message(remaining: &BTreeMap<String, usize>) -> Option<String> {
    let parts: Vec<String> = remaining
        .iter()
        .map(|(resource, count)| format!("{resource} has {count} resource instances"))
        .collect();
    (!parts.is_empty()).then(|| format!("Some resources are remaining: {}", parts.join(", ")))
}

fn finalizers_message(finalizers: &BTreeMap<String, usize>) -> Option<String> {
    let parts: Vec<String> = finalizers
        .iter()
        .map(|(name, count)| format!("{name} in {count} resource instances"))
        .collect();
    (!parts.is_empty()).then(|| {
        format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn terminating() -> Namespace {
        yaml(
            "{metadata: {name: team, deletionTimestamp: 2026-01-01T00:00:00Z}, spec: {finalizers: [kubernetes]}}",
        )
    }

    fn condition<'a>(namespace: &'a Namespace, type_: &str) -> &'a NamespaceCondition {
        conditions::find(namespace.status.as_ref().unwrap().conditions.as_ref().unwrap(), type_)
            .unwrap()
    }

    #[test]
    fn conditions_say_what_remains_and_settle() {
        let contents = Contents {
            remaining: BTreeMap::from([("pods.".into(), 2)]),
            finalizers: BTreeMap::from([("example.com/guard".into(), 1)]),
            ..Contents::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let told =
            with_conditions(&terminating(), &contents, now).expect("conditions were missing");
        let remaining = condition(&told, "NamespaceContentRemaining");
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        let finalizers = condition(&told, "NamespaceFinalizersRemaining").message.as_deref();
        let expected = "Some content in the namespace has finalizers remaining: example.com/guard in 1 resource instances";
        assert_eq!(finalizers, Some(expected));
        assert_eq!(condition(&told, "NamespaceDeletionContentFailure").status, "False");
        assert_eq!(with_conditions(&told, &contents, now), None, "a second look writes nothing");
    }

    #[test]
    fn a_failed_listing_is_not_emptiness() {
        let mut contents = Contents::default();
        assert!(contents.is_empty());
        contents.add(&ApiResource::erase::<Pod>(&()), Err(Error::Invalid("no answer".into())));
        assert!(!contents.is_empty());
    }

    #[test]
    fn stuck_namespaces_are_looked_at_rarely() {
        let deleted: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |seconds| look_again(&terminating(), deleted + Duration::from_secs(seconds));
        assert_eq!(after(0), LOOK_AGAIN);
        assert_eq!(after(60), Duration::from_secs(6));
        assert_eq!(after(6000), LOOK_AGAIN_AT_MOST);
    }
}
