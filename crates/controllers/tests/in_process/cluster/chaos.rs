//! A bad day between clients and the API server: watches break, repeat themselves, lag and forget; writes fail, or
//! succeed without anybody hearing of it.
//!
//! Wraps the way to the server, so whatever is built on a `Client` can be put through it unchanged. A seed makes a day
//! that can be had again, as far as tasks run in the same order. What reaches the server is noted, on good days too.
//! Invariant: nothing happens that a real network and a real API server could not do to a client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use skiff_apiserver::LocalService;
use tower::{BoxError, Service};

use super::testing::Dice;

/// One in so many.
const WRITE_REFUSED: usize = 30;
const ANSWER_LOST: usize = 30;
const WATCH_CUT: usize = 25;
const REVISION_FORGOTTEN: usize = 60;
const EVENT_REPEATED: usize = 6;
const EARLIER_EVENT_REPLAYED: usize = 10;
const EVENT_LATE: usize = 5;
const LONGEST_DELAY_MS: usize = 25;

#[derive(Clone)]
pub struct Chaos(Arc<Day>);

struct Day {
    dice: Mutex<Dice>,
    good: bool,
    /// The resource whose watches never open.
    deaf_to: Option<&'static str>,
    /// Who wrote what, but for events.
    writes: Mutex<Vec<String>>,
}

type Lines = BoxStream<'static, Result<Frame<Bytes>, BoxError>>;

// === impl Chaos ===

impl Chaos {
    pub fn of_seed(seed: u64) -> Chaos {
        Chaos::new(Dice::new(seed), false, None)
    }

    /// A day on which nothing happens.
    pub fn none() -> Chaos {
        Chaos::new(Dice::new(0), true, None)
    }

    /// A good day, but for the watches of one resource: none ever opens.
    pub fn deaf_to(resource: &'static str) -> Chaos {
        Chaos::new(Dice::new(0), true, Some(resource))
    }

    fn new(dice: Dice, good: bool, deaf_to: Option<&'static str>) -> Chaos {
        let (dice, writes) = (Mutex::new(dice), Mutex::default());
        Chaos(Arc::new(Day { dice, good, deaf_to, writes }))
    }

    /// The way to the server for `user`.
    pub fn client(&self, user: &str, server: LocalService) -> Client {
        let (chaos, user) = (self.clone(), user.to_owned());
        let service = tower::service_fn(move |request| {
            chaos.note(&user, &request);
            chaos.clone().pass(server.clone(), request)
        });
        Client::new(service, "default")
    }

    pub fn writes(&self) -> Vec<String> {
        self.0.writes.lock().expect("no panic happens while writes are noted").clone()
    }

    fn note(&self, user: &str, request: &Request<Body>) {
        let path = request.uri().path();
        if request.method() == Method::GET || path.contains("/events") {
            return;
        }
        let mut writes = self.0.writes.lock().expect("no panic happens while writes are noted");
        writes.push(format!("{user}: {} {path}", request.method()));
    }

    async fn pass(
        self,
        mut server: LocalService,
        request: Request<Body>,
    ) -> Result<Response<StreamBody<Lines>>, BoxError> {
        let writes = request.method() != Method::GET;
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let heard = self.0.deaf_to.is_none_or(|resource| !request.uri().path().ends_with(resource));
        if writes && self.happens(WRITE_REFUSED) || watches && !heard {
            return Ok(refusal());
        }
        let response = server.call(request).await?;
        if writes && self.happens(ANSWER_LOST) {
            return Err("the connection broke before the answer came".into());
        }
        Ok(response.map(|body| {
            let frames = body.into_data_stream().map(|data| Ok(Frame::data(data?)));
            let frames: Lines = frames.boxed();
            StreamBody::new(if watches { self.disturb(frames) } else { frames })
        }))
    }

    fn happens(&self, one_in: usize) -> bool {
        !self.0.good && self.below(one_in) == 0
    }

    fn below(&self, limit: usize) -> usize {
        self.0.dice.lock().expect("no panic happens while dice are thrown").below(limit)
    }

    /// The lines of a watch, as they arrive on a bad day.
    fn disturb(self, frames: Lines) -> Lines {
        let lines = Watched { frames, buffer: Vec::new(), seen: Vec::new(), ended: false };
        let steps = futures::stream::unfold(lines, move |mut lines| {
            let chaos = self.clone();
            async move {
                let line = lines.next().await?;
                let data = chaos.spoil(&mut lines, line).await?;
                Some((Ok(Frame::data(Bytes::from(data))), lines))
            }
        });
        steps.boxed()
    }

    /// What comes instead of a line; none ends the watch.
    async fn spoil(&self, lines: &mut Watched, line: Vec<u8>) -> Option<Vec<u8>> {
        // What has held for long breaks seldom, or a large list would never come through whole.
        let steady = 1 + lines.seen.len() / 8;
        if self.happens(WATCH_CUT * steady) {
            return None;
        }
        if self.happens(REVISION_FORGOTTEN * steady) {
            lines.ended = true;
            return Some(expired());
        }
        if self.happens(EVENT_LATE) {
            // Watches of other kinds overtake this one meanwhile.
            let wait = self.below(LONGEST_DELAY_MS) as u64;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let mut data = line.clone();
        if self.happens(EVENT_REPEATED) {
            data.extend(&line);
        }
        if !lines.seen.is_empty() && self.happens(EARLIER_EVENT_REPLAYED) {
            data.extend(&lines.seen[self.below(lines.seen.len())]);
        }
        lines.seen.push(line);
        Some(data)
    }
}

/// A watch being read line by line.
struct Watched {
    frames: Lines,
    buffer: Vec<u8>,
    /// Events that went through on this connection.
    seen: Vec<Vec<u8>>,
    ended: bool,
}

// === impl Watched ===

impl Watched {
    async fn next(&mut self) -> Option<Vec<u8>> {
        while !self.ended {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            let frame = self.frames.next().await?.ok()?;
            self.buffer.extend(frame.into_data().ok()?);
        }
        None
    }
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": "a bad day"})
}

fn expired() -> Vec<u8> {
    let mut line = json!({"type": "ERROR", "object": status(410, "Expired")}).to_string();
    line.push('\n');
    line.into_bytes()
}

fn refusal() -> Response<StreamBody<Lines>> {
    let body = Bytes::from(status(500, "InternalError").to_string());
    let frames: Lines = futures::stream::iter([Ok(Frame::data(body))]).boxed();
    let mut response = Response::new(StreamBody::new(frames));
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}
