//! `watch`: what happens to a collection from a revision on, as a stream of events.
//!
//! Store events -> selector transitions -> frames. An object that begins to match is ADDED, one that ceases to is DELETED.
//! Watches that show a batch of events whole and as it is stored share one frame of it.
//! Counterpart: `endpoints/handlers/watch.go` and `storage/cacher`. Invariant: events come in revision order, and a
//! bookmark promises that everything up to its revision has been sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use skiff_api::codec::Format;
use skiff_api::{KindDef, Status};
use skiff_store::{Event, EventKind, Events, RangeRequest, Revision, Watch};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::selection::{RevisionError, Selection, check_list_options, revision};
use crate::call::Call;
use crate::custom::conversion;
use crate::encode::{EventEncoder, View};
use crate::negotiate::Media;
use crate::objects;
use crate::reply::{BoxError, Reply};
use crate::server::Server;
use crate::unread;

/// Without a timeout of the client's, a watch lasts this long and up to as long again.
const LASTS: u64 = 1800;
/// A frame that is this long takes no further event.
const FRAME: usize = 32 << 10;
/// A batch of events that weighs more is not worth keeping a frame of.
const SHARED_FRAME: usize = 256 << 10;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// One event on its way to a client.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: &'static str,
    pub object: Bytes,
}

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    check_list_options(&call.query, true)?;
    let media = call
        .media()
        .filter(|media| media.format != Format::Yaml)
        .ok_or_else(Media::not_streamable)?;
    let encoder = EventEncoder::new(media, kind.clone(), call)?;
    let watcher = Watcher::open(call, kind, encoder).await?;
    let frames = StreamBody::new(watcher.frames()).boxed_unsync();
    let mut response = Response::new(unread::let_go(frames, unread::PATIENCE));
    let content_type = HeaderValue::from_static(watch_content_type(media));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(Reply::Response(response))
}

fn watch_content_type(media: Media) -> &'static str {
    match media.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Format::Json if media.stream => "application/json;stream=watch",
        format => format.media_type(),
    }
}

/// The state of one watch.
struct Watcher {
    server: Arc<Server>,
    kind: Arc<KindDef>,
    selection: Selection,
    encoder: EventEncoder,
    /// Where this watch shows objects as they are stored, which is after a revision: the view of events it shares.
    shared: Option<(View, Revision)>,
    source: Option<Watch>,
    /// Events that are ready to go, oldest first.
    ready: VecDeque<WatchEvent>,
    bookmarks: bool,
    /// The revision of the last event or bookmark that was sent.
    told: Revision,
    next_bookmark: Instant,
    ends: Instant,
    /// Goes off when a bookmark is due or the time is up. Set once and not for every event, which would cost more than
    /// the event does.
    alarm: Pin<Box<Sleep>>,
    /// Tells when a custom kind may have changed.
    changes: Option<watch::Receiver<()>>,
}

/// What goes out next.
enum Next {
    Event(WatchEvent),
    /// Events that are encoded already.
    Frame(Bytes),
}

/// No frame of these events is worth keeping, or there can be none.
struct Unshared;

// === impl Watcher ===

impl Watcher {
    async fn open(
        call: &Call,
        kind: Arc<KindDef>,
        encoder: EventEncoder,
    ) -> Result<Watcher, Status> {
        let selection = Selection::read(call, &kind)?;
        let asked =
            revision(call.query.text("resourceVersion")).map_err(RevisionError::into_status)?;
        let initial = call.query.optional_flag("sendInitialEvents");
        let now = Instant::now();
        let ends = now + timeout(call)?;
        let view = encoder.view().filter(|_| selection.is_everything());
        let shared = view.zip(conversion::stored_since(&kind).map(Revision));
        let mut watcher = Watcher {
            server: call.server.clone(),
            selection,
            kind,
            encoder,
            shared,
            source: None,
            ready: VecDeque::new(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            told: Revision(asked),
            next_bookmark: now + BOOKMARK_EVERY,
            ends,
            alarm: Box::pin(tokio::time::sleep_until(ends)),
            changes: None,
        };
        watcher.set_alarm();
        watcher.changes = watcher.kind.custom.then(|| watcher.server.kind_changes());
        // The definition may have changed since the kind was looked up.
        watcher.changes.iter_mut().for_each(watch::Receiver::mark_changed);
        // Revision 0 means "from any state you have": the state first, then what follows.
        let state_first = initial.unwrap_or(asked == 0);
        let store = &call.server.store;
        let after = match state_first {
            true => watcher.send_state(store, initial == Some(true)).await?,
            false if asked == 0 => store.current_revision().await.map_err(objects::store_status)?,
            false => Revision(asked),
        };
        watcher.told = after;
        match store.watch(watcher.selection.range.clone(), after).await {
            Ok(source) => watcher.source = Some(source),
            Err(error) => watcher.fail(&error),
        }
        Ok(watcher)
    }

    /// Queues the current state as ADDED events; returns its revision.
    async fn send_state(
        &mut self,
        store: &skiff_store::Store,
        announce_end: bool,
    ) -> Result<Revision, Status> {
        let found = store
            .range(RangeRequest::new(self.selection.range.clone()))
            .await
            .map_err(objects::store_status)?;
        if self.told > found.revision {
            return Err(objects::store_status(skiff_store::Error::FutureRevision {
                requested: self.told,
                current: found.revision,
            }));
        }
        let (server, kind, selection) = (&self.server, &self.kind, &self.selection);
        let chosen = objects::selected(server, kind, selection, found.entries).await?;
        let shown = objects::all_at_version(server, kind, &chosen).await?;
        let added = shown.into_iter().map(|object| WatchEvent { kind: "ADDED", object });
        self.ready.extend(added);
        if announce_end && self.bookmarks {
            let object = bookmark(&self.kind, found.revision, true);
            self.ready.push_back(WatchEvent { kind: "BOOKMARK", object });
        }
        Ok(found.revision)
    }

    async fn push(
        &mut self,
        kind: &'static str,
        stored: &Bytes,
        revision: Revision,
    ) -> Result<(), Status> {
        let object = objects::at_version(&self.server, &self.kind, stored, revision).await?;
        self.ready.push_back(WatchEvent { kind, object });
        Ok(())
    }

    /// Frames until the time is up, the store cuts the watch, or the client goes away and drops the stream.
    fn frames(self) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
        stream::unfold(self, |mut watcher| async move {
            let frame = watcher.frame().await?;
            Some((frame.map(Frame::data).map_err(BoxError::from), watcher))
        })
    }

    /// Everything that is ready goes in one frame: with many watchers, what costs is each frame, not its bytes.
    async fn frame(&mut self) -> Option<Result<Bytes, Status>> {
        let mut event = match self.next().await? {
            Next::Frame(frame) => return Some(Ok(frame)),
            Next::Event(event) => Some(event),
        };
        let mut out = Vec::new();
        while let Some(ready) = event {
            if let Err(status) = self.encoder.write(&ready, &mut out) {
                return Some(Err(status));
            }
            event = if out.len() < FRAME { self.ready.pop_front() } else { None };
        }
        Some(Ok(out.into()))
    }

    async fn next(&mut self) -> Option<Next> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Next::Event(event));
            }
            let source = self.source.as_mut()?;
            tokio::select! {
                biased;
                events = source.next() => match events {
                    Ok(events) => match self.shared_frame(&events) {
                        Some(frame) => return Some(Next::Frame(frame)),
                        None => self.take_all(&events).await,
                    },
                    Err(error) => self.fail(&error),
                },
                () = changed(&mut self.changes) => {
                    if self.is_outlived() {
                        return None;
                    }
                }
                () = &mut self.alarm => {
                    if Instant::now() >= self.ends {
                        return None;
                    }
                    self.bookmark();
                }
            }
        }
    }

    /// The frame that all watches share which show every one of these events as it is stored.
    fn shared_frame(&mut self, events: &Events) -> Option<Bytes> {
        let (view, since) = self.shared?;
        let as_stored = |event: &Arc<Event>| {
            event.previous().map_or(event.revision(), |last| last.mod_revision) > since
        };
        // Every object of most kinds was always stored as it is: nothing to look at then.
        if since > Revision(0) && !events.iter().all(as_stored) {
            return None;
        }
        // What cannot be shared goes out event by event.
        let frame = events.view(view as u32, |events| self.frame_of(events)).ok()?;
        self.told = events.last().map_or(self.told, |last| last.revision());
        Some(frame)
    }

    fn frame_of(&mut self, events: &[Arc<Event>]) -> Result<Bytes, Unshared> {
        let weight: usize = events.iter().map(|event| event.entry.value.len()).sum();
        if weight > SHARED_FRAME {
            return Err(Unshared);
        }
        let mut out = Vec::with_capacity(weight + events.len() * 64);
        for event in events.iter().filter_map(|event| stored_change(event)) {
            self.encoder.write(&event, &mut out).map_err(|_| Unshared)?;
        }
        Ok(out.into())
    }

    async fn take_all(&mut self, events: &Events) {
        for event in events.iter() {
            if let Err(status) = self.take(event).await {
                return self.end_with(&status);
            }
        }
    }

    /// An event as this watch sees it, if it concerns it at all.
    async fn take(&mut self, event: &Event) -> Result<(), Status> {
        self.told = event.revision();
        let (entry, last) = (&event.entry, event.previous());
        let (server, kind, selection) = (&self.server, &self.kind, &self.selection);
        let was = match last {
            Some(last) => objects::is_selected(server, kind, selection, last).await?,
            None => false,
        };
        let is = event.kind == EventKind::Put
            && objects::is_selected(server, kind, selection, entry).await?;
        match (was, is) {
            (false, true) => self.push("ADDED", &entry.value, entry.mod_revision).await,
            (true, true) => self.push("MODIFIED", &entry.value, entry.mod_revision).await,
            (true, false) => {
                let stored_at = last.map_or(entry.mod_revision, |last| last.mod_revision);
                self.push("DELETED", &last_state(event), stored_at).await
            }
            (false, false) => Ok(()),
        }
    }

    /// Whether the definition of the kind says something else now, so that clients have to look again.
    fn is_outlived(&self) -> bool {
        let KindDef { group, version, resource, versioning, .. } = &*self.kind;
        let kinds = self.server.kinds();
        let now = kinds.get(group, version, resource).and_then(|kind| kind.versioning.as_ref());
        match (now, versioning) {
            (Some(now), Some(then)) => !Arc::ptr_eq(&now.edition, &then.edition),
            (now, then) => now.is_some() != then.is_some(),
        }
    }

    fn bookmark(&mut self) {
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
        self.set_alarm();
        let Some(source) = &mut self.source else { return };
        let seen = source.progress();
        if seen > self.told {
            self.told = seen;
            let object = bookmark(&self.kind, seen, false);
            self.ready.push_back(WatchEvent { kind: "BOOKMARK", object });
        }
    }

    fn set_alarm(&mut self) {
        let bookmark_at = if self.bookmarks { self.next_bookmark } else { self.ends };
        self.alarm.as_mut().reset(bookmark_at.min(self.ends));
    }

    fn fail(&mut self, error: &skiff_store::Error) {
        let status = match error {
            skiff_store::Error::Compacted { oldest, .. } => {
                Status::expired(format!("too old resource version: {} ({oldest})", self.told))
            }
            other => objects::store_status(other.clone()),
        };
        self.end_with(&status);
    }

    /// The last thing a client hears is why.
    fn end_with(&mut self, status: &Status) {
        self.source = None;
        let object = Bytes::from(status.to_value().to_string());
        self.ready.push_back(WatchEvent { kind: "ERROR", object });
    }
}

/// An event as someone sees it who is shown every object of the range.
fn stored_change(event: &Event) -> Option<WatchEvent> {
    let kind = match (event.previous().is_some(), event.kind) {
        (false, EventKind::Put) => "ADDED",
        (true, EventKind::Put) => "MODIFIED",
        (true, EventKind::Delete) => "DELETED",
        (false, EventKind::Delete) => return None,
    };
    Some(WatchEvent { kind, object: event.bytes() })
}

/// Never, for a kind that does not change.
async fn changed(changes: &mut Option<watch::Receiver<()>>) {
    match changes {
        // The sender lives as long as the server, which the watch holds on to.
        Some(changes) => changes.changed().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// What a watcher is shown when an object goes or ceases to match: the state it knew, at the revision of the change.
fn last_state(event: &Event) -> Bytes {
    match event.previous() {
        Some(last) => last.at_revision(event.revision()),
        None => event.bytes(),
    }
}

fn bookmark(kind: &KindDef, revision: Revision, end_of_state: bool) -> Bytes {
    let mut object: Value = json!({
        "kind": kind.kind,
        "apiVersion": kind.api_version(),
        "metadata": { "resourceVersion": revision.to_string() },
    });
    if end_of_state {
        object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    Bytes::from(object.to_string())
}

fn timeout(call: &Call) -> Result<Duration, Status> {
    let asked = call.query.int("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let spread = u64::from(uuid::Uuid::new_v4().as_fields().0) % LASTS;
    Ok(Duration::from_secs(asked.filter(|seconds| *seconds > 0).unwrap_or(LASTS + spread)))
}
