//! Watches one kind and hands the scheduler every change of it, already parsed.
//!
//! Counterpart: client-go informers with a transform. Parsing happens here, beside the scheduler's own task.
//! Invariant: a broken watch never looks like deletions; a complete new list comes as one `Replaced`.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use kube::runtime::watcher::{self, Config};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

#[derive(Debug)]
pub enum Change<T> {
    Set(T),
    Deleted(T),
    Replaced(Vec<T>),
}

/// Runs until the receiver is gone. `parse` keeps what matters, `event` says which kind it was.
pub async fn run<K, T, E>(
    client: Client,
    fields: Option<&'static str>,
    parse: fn(K) -> T,
    event: impl Fn(Change<T>) -> E,
    events: mpsc::Sender<E>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = Config::default().streaming_lists();
    if let Some(fields) = fields {
        config = config.fields(fields);
    }
    let mut stream = pin!(watch(Api::<K>::all(client), config).default_backoff());
    let mut initial = Vec::new();
    while let Some(step) = stream.next().await {
        let change = match step {
            Ok(watcher::Event::Apply(object)) => Change::Set(parse(object)),
            Ok(watcher::Event::Delete(object)) => Change::Deleted(parse(object)),
            Ok(watcher::Event::Init) => {
                initial.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                initial.push(parse(object));
                continue;
            }
            Ok(watcher::Event::InitDone) => Change::Replaced(std::mem::take(&mut initial)),
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watch failed");
                continue;
            }
        };
        if events.send(event(change)).await.is_err() {
            return;
        }
    }
}
