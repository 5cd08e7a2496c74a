//! Keeps one store equal to the API: a streaming list, then a watch from that revision; a closed connection resumes
//! where it stopped, an expired revision starts over.
//!
//! Counterpart: client-go `tools/cache/reflector.go` with WatchListClient. Own loop rather than `kube::runtime::watcher`
//! because the store must know the revision the watch has reached (see `store`), which that stream does not tell.
//! Invariant: a failure never looks like an empty list; the store keeps its last state until a complete new one is here.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kube::Client;
use kube::api::WatchParams;
use kube::core::{Request, WatchEvent};
use tokio_util::sync::CancellationToken;

use super::Caches;
use super::store::{Event, Object, Store};

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Where the next watch has to start.
#[derive(Clone, Debug, PartialEq)]
enum Position {
    /// Nothing is known: ask for the complete state first.
    Start,
    /// Everything up to this resource version is in the store.
    At(String),
}

/// Runs until shutdown. `fields` narrows the watch by a field selector.
pub async fn run<K: Object>(
    client: Client,
    fields: Option<&'static str>,
    store: Arc<Store<K>>,
    caches: Arc<Caches>,
    shutdown: CancellationToken,
) {
    let mut position = Position::Start;
    let mut delay = FIRST_DELAY;
    loop {
        let before = position.clone();
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = watch_once(&client, fields, &store, &caches, &mut position) => outcome,
        };
        // A watch that ended in order or made progress says the server is well. Otherwise wait, longer each time.
        delay = if outcome.is_ok() || position != before {
            FIRST_DELAY
        } else {
            (delay * 2).min(LONGEST_DELAY)
        };
        if let Err(error) = outcome {
            if is_expired(&error) {
                position = Position::Start;
            }
            tracing::debug!(kind = %K::kind(&()), %error, "watch failed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// One watch connection, from `position` to its end; moves `position` as it goes.
async fn watch_once<K: Object>(
    client: &Client,
    fields: Option<&'static str>,
    store: &Store<K>,
    caches: &Caches,
    position: &mut Position,
) -> Result<(), kube::Error> {
    let mut params =
        WatchParams { field_selector: fields.map(str::to_owned), ..WatchParams::default() };
    params.send_initial_events = *position == Position::Start;
    let from = match position {
        Position::Start => "0".to_owned(),
        Position::At(version) => version.clone(),
    };
    let request = Request::new(K::url_path(&(), None))
        .watch(&params, &from)
        .map_err(kube::Error::BuildRequest)?;
    let events = client.request_events::<K>(request).await?;
    let mut events = std::pin::pin!(events);
    let mut initial = params.send_initial_events.then(Vec::new);
    while let Some(event) = events.try_next().await? {
        if let Some(event) = step(event, &mut initial, position)? {
            store.apply(caches, event);
        }
    }
    Ok(())
}

/// Turns one wire event into a store event; during the initial phase objects are gathered until the end mark.
fn step<K: Object>(
    event: WatchEvent<K>,
    initial: &mut Option<Vec<K>>,
    position: &mut Position,
) -> Result<Option<Event<K>>, kube::Error> {
    match event {
        WatchEvent::Error(status) => Err(kube::Error::Api(status)),
        WatchEvent::Bookmark(mark) => {
            let version = mark.metadata.resource_version;
            let revision = version.parse().unwrap_or(0);
            if let Some(objects) =
                initial.take_if(|_| mark.metadata.annotations.contains_key(INITIAL_EVENTS_END))
            {
                *position = Position::At(version);
                return Ok(Some(Event::Replaced(objects, revision)));
            }
            if initial.is_none() {
                *position = Position::At(version);
            }
            Ok(initial.is_none().then_some(Event::Bookmark(revision)))
        }
        WatchEvent::Added(object) | WatchEvent::Modified(object) => match initial {
            Some(objects) => {
                objects.push(object);
                Ok(None)
            }
            None => {
                advance(position, &object);
                Ok(Some(Event::Changed(object)))
            }
        },
        WatchEvent::Deleted(object) => {
            advance(position, &object);
            Ok(Some(Event::Deleted(object)))
        }
    }
}

fn advance<K: Object>(position: &mut Position, object: &K) {
    if let Some(version) = &object.meta().resource_version {
        *position = Position::At(version.clone());
    }
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 || status.reason == "Expired")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn event(json: serde_json::Value) -> WatchEvent<ConfigMap> {
        serde_json::from_value(json).unwrap()
    }

    fn object(kind: &str, name: &str, version: &str) -> WatchEvent<ConfigMap> {
        event(serde_json::json!({"type": kind, "object": {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "resourceVersion": version}}}))
    }

    fn bookmark(version: &str, last: bool) -> WatchEvent<ConfigMap> {
        let annotations = if last {
            serde_json::json!({INITIAL_EVENTS_END: "true"})
        } else {
            serde_json::json!({})
        };
        event(
            serde_json::json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"resourceVersion": version, "annotations": annotations}}}),
        )
    }

    #[test]
    fn initial_events_become_one_replacement() {
        let (mut initial, mut position) = (Some(Vec::new()), Position::Start);
        assert!(step(object("ADDED", "a", "3"), &mut initial, &mut position).unwrap().is_none());
        assert_eq!(position, Position::Start, "a torn initial phase must start over");
        let replaced = step(bookmark("9", true), &mut initial, &mut position).unwrap();
        assert!(matches!(replaced, Some(Event::Replaced(objects, 9)) if objects.len() == 1));
        assert_eq!(position, Position::At("9".into()));
        assert!(matches!(
            step(object("MODIFIED", "a", "11"), &mut initial, &mut position).unwrap(),
            Some(Event::Changed(_))
        ));
        assert_eq!(position, Position::At("11".into()));
    }

    #[test]
    fn an_expired_revision_is_told_apart_from_other_failures() {
        let gone = event(
            serde_json::json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
            "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}}),
        );
        let Err(error) = step(gone, &mut None, &mut Position::At("1".into())) else {
            panic!("an error event is an error")
        };
        assert!(is_expired(&error));
    }
}
