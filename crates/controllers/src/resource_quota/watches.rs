//! Watches of the resources that quotas count by number: one for each, while some quota names it.
//!
//! A change of an object -> another look at the quotas of its namespace. Counterpart: `QuotaMonitor`.
//! Invariant: without quotas nothing is watched.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counting::{Resource, resolve};
use crate::runtime::{Ctx, Key};

/// How long changes are gathered before a namespace is counted again.
const GATHER: Duration = Duration::from_millis(20);

/// Which quota needs which watch.
#[derive(Default)]
pub struct Watches(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    wanted: HashMap<Key, BTreeSet<Resource>>,
    /// Dropping a guard ends its watch.
    running: HashMap<Resource, DropGuard>,
}

// === impl Watches ===

impl Watches {
    /// Sees to it that what a quota counts is watched, and nothing that no quota counts.
    pub fn keep(&self, ctx: &Arc<Ctx>, quota: &Key, resources: BTreeSet<Resource>) {
        let mut inner = self.0.lock().expect("nothing panics while the watches are locked");
        for resource in &resources {
            inner.running.entry(resource.clone()).or_insert_with(|| start(ctx, resource.clone()));
        }
        inner.wanted.insert(quota.clone(), resources);
        inner.stop_unwanted();
    }

    pub fn forget(&self, quota: &Key) {
        let mut inner = self.0.lock().expect("nothing panics while the watches are locked");
        inner.wanted.remove(quota);
        inner.stop_unwanted();
    }
}

impl Inner {
    fn stop_unwanted(&mut self) {
        let wanted = &self.wanted;
        self.running.retain(|resource, _| wanted.values().any(|of| of.contains(resource)));
    }
}

/// The watch holds on to no context: it ends when the controller does.
fn start(ctx: &Arc<Ctx>, resource: Resource) -> DropGuard {
    let stop = CancellationToken::new();
    let (ctx, token) = (Arc::downgrade(ctx), stop.clone());
    tokio::spawn(async move {
        token.run_until_cancelled(follow(ctx, resource)).await;
    });
    stop.drop_guard()
}

async fn follow(ctx: Weak<Ctx>, resource: Resource) {
    let Some(client) = ctx.upgrade().map(|ctx| ctx.client.clone()) else { return };
    let served = loop {
        match resolve(&client, &resource).await {
            Ok(Some(served)) => break served,
            // A custom resource may be on its way.
            Ok(None) => tokio::time::sleep(Duration::from_secs(30)).await,
            Err(error) => {
                tracing::debug!(resource = resource.plural, %error, "cannot watch for quotas");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    let mut events = events(client, &served).boxed();
    while let Some(event) = events.next().await {
        let Some(ctx) = ctx.upgrade() else { return };
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                concern(&ctx, object.metadata.namespace.as_deref().unwrap_or_default());
            }
            Ok(watcher::Event::InitDone) => {
                let quotas = ctx.lister::<ResourceQuota>().all();
                quotas.iter().for_each(|quota| ctx.enqueue_after(Key::of(quota.as_ref()), GATHER));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(resource = resource.plural, %error, "watch failed"),
        }
    }
}

fn events(
    client: kube::Client,
    served: &ApiResource,
) -> impl futures::Stream<Item = watcher::Result<watcher::Event<PartialObjectMeta<DynamicObject>>>>
{
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, served);
    watcher(api, watcher::Config::default().streaming_lists()).default_backoff()
}

fn concern(ctx: &Ctx, namespace: &str) {
    for quota in ctx.lister::<ResourceQuota>().in_namespace(namespace) {
        ctx.enqueue_after(Key::of(quota.as_ref()), GATHER);
    }
}
