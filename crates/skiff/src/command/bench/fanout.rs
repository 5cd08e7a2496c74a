//! Many watchers of one resource while it changes at a steady rate: how long each delivery takes.
//!
//! Every change carries the moment it was sent at. Watchers look for that moment in the bytes as they come and do not
//! decode, so that 1,000 of them can share a machine with the server. A delivery counts from the sending of the write
//! to the reading of the event, so a write that waits counts against the server too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::Target;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connections over which the changes are written.
const WRITERS: u32 = 16;
/// How long the watchers wait for deliveries after the last write.
const PATIENCE: Duration = Duration::from_secs(5);
const MARK: &[u8] = b"\"sent\":\"";
const STEP: Duration = Duration::from_micros(100);

/// Deliveries by how many [`STEP`]s they took; the last entry holds everything slower.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u32>,
}

/// What was asked for, and what came.
pub struct Fanout {
    pub watchers: usize,
    pub written: u64,
    pub took: Duration,
    pub delays: Histogram,
}

/// Has `watchers` watch the namespace's ConfigMaps while `rate` of them are created every second.
pub async fn run(
    target: &Target,
    namespace: &str,
    watchers: usize,
    rate: u32,
    span: Duration,
) -> Result<Fanout> {
    let path: Arc<str> = format!("/api/v1/namespaces/{namespace}/configmaps").into();
    let total = u64::from(rate) * span.as_secs();
    let epoch = Instant::now();
    let mut listening = JoinSet::new();
    let from = newest(target, &path).await?;
    for _ in 0..watchers {
        let watch = format!("{path}?watch=1&resourceVersion={from}");
        let body = open(target, &watch).await?;
        listening.spawn(listen(body, epoch, total));
    }
    let began = Instant::now();
    let mut writing = JoinSet::new();
    for writer in 0..WRITERS {
        let pace = Pace { began, first: writer, step: WRITERS, rate };
        writing.spawn(write(target.clone(), path.clone(), epoch, pace, total));
    }
    while let Some(done) = writing.join_next().await {
        done.expect("no writer panics")?;
    }
    let took = began.elapsed();
    let mut delays = Histogram::new();
    while let Some(done) = listening.join_next().await {
        delays.add(&done.expect("no watcher panics"));
    }
    Ok(Fanout { watchers, written: total, took, delays })
}

async fn newest(target: &Target, path: &str) -> Result<String> {
    let list = target.connect().await?.ask(Method::GET, &format!("{path}?limit=1"), "").await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned())
}

async fn open(target: &Target, path: &str) -> Result<Incoming> {
    let mut connection = target.connect().await?;
    Ok(connection.send(Method::GET, path, Bytes::new()).await?.into_body())
}

/// Reads until every change has come, or none has for a while.
async fn listen(mut body: Incoming, epoch: Instant, expected: u64) -> Histogram {
    let mut delays = Histogram::new();
    let mut pending: Vec<u8> = Vec::new();
    let mut heard = 0;
    while heard < expected {
        let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, body.frame()).await else { break };
        let Ok(data) = frame.into_data() else { continue };
        let now = epoch.elapsed();
        pending.extend_from_slice(&data);
        let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for sent in moments(&pending[..whole]) {
            delays.count(now.saturating_sub(sent));
            heard += 1;
        }
        pending.drain(..whole);
    }
    delays
}

/// The moments that changes in these bytes were sent at.
fn moments(mut bytes: &[u8]) -> Vec<Duration> {
    let mut found = Vec::new();
    while let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) {
        bytes = &bytes[at + MARK.len()..];
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
        let nanos = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        found.push(Duration::from_nanos(nanos));
    }
    found
}

/// When which change is due.
struct Pace {
    began: Instant,
    first: u32,
    step: u32,
    rate: u32,
}

async fn write(
    target: Target,
    path: Arc<str>,
    epoch: Instant,
    pace: Pace,
    total: u64,
) -> Result<()> {
    let mut connection = target.connect().await?;
    for number in (u64::from(pace.first)..total).step_by(pace.step as usize) {
        let due = pace.began + Duration::from_secs_f64(number as f64 / f64::from(pace.rate));
        tokio::time::sleep_until(due.into()).await;
        let sent = epoch.elapsed().as_nanos().to_string();
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": format!("fanned-{number}") },
            "data": { "sent": sent },
        });
        connection.ask(Method::POST, &path, map.to_string()).await?;
    }
    Ok(())
}

// === impl Histogram ===

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: vec![0; 10_000] }
    }

    fn count(&mut self, delay: Duration) {
        let at = (delay.as_nanos() / STEP.as_nanos()) as usize;
        let last = self.counts.len() - 1;
        self.counts[at.min(last)] += 1;
    }

    fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The delay that this share of the deliveries kept within.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.total() as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted.max(1)
        });
        STEP * (at.map_or(0, |at| at + 1) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_in_the_bytes_is_found() {
        let bytes = b"{\"data\":{\"sent\":\"17\"}}\n{\"data\":{\"sent\":\"2000\"}}\n";
        assert_eq!(moments(bytes), [Duration::from_nanos(17), Duration::from_nanos(2000)]);
    }

    #[test]
    fn a_percentile_is_the_upper_end_of_its_step() {
        let mut delays = Histogram::new();
        for _ in 0..99 {
            delays.count(Duration::from_micros(50));
        }
        delays.count(Duration::from_millis(3));
        assert_eq!(delays.percentile(99.0), Duration::from_micros(100));
        assert_eq!(delays.percentile(100.0), Duration::from_micros(3100));
    }
}
