//! The watches of Services and EndpointSlices, as one stream.

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tracing::warn;

#[expect(clippy::large_enum_variant, reason = "one at a time, and never stored")]
pub enum Change {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
}

/// Every change, from a list on, without end.
pub fn changes(client: Client) -> impl Stream<Item = Change> {
    let services = events(Api::<Service>::all(client.clone())).map(Change::Service);
    let slices = events(Api::<EndpointSlice>::all(client)).map(Change::Slice);
    futures::stream::select(services, slices)
}

/// Watch events of one kind: errors are logged, and the watch resumes after a pause.
fn events<K>(api: Api<K>) -> impl Stream<Item = Event<K>>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events.filter_map(|event| async {
        event.inspect_err(|error| warn!(kind = %K::kind(&()), %error, "watch interrupted")).ok()
    })
}
