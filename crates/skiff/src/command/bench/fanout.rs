//! Many watchers of one resource while it changes at a steady rate: how long each delivery takes.
//!
//! Every change carries the moment it was sent at. Watchers look for that moment in the bytes as they come and do not
//! decode, so that 1,000 of them can share a machine with the server. A delivery counts from the sending of the write
//! to the reading of the event, so a write that waits counts against the server too. Changes of the first moments do not
//! count: buffers grow then, those of the thousand watchers most of all.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use memchr::memmem::Finder;
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::{Connection, Target};
use super::cpu::{Meter, Spent};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connections over which the changes are written.
const WRITERS: u32 = 16;
/// How long changes go on before they count.
const WARM_UP: Duration = Duration::from_millis(500);
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
    /// Without those that do not count.
    pub written: u64,
    pub took: Duration,
    pub delays: Histogram,
    pub cpu: Spent,
}

/// Has `watchers` watch the namespace's ConfigMaps while `rate` of them are created every second.
pub async fn run(
    target: &Target,
    namespace: &str,
    (watchers, rate): (usize, u32),
    span: Duration,
    meter: &Meter,
) -> Result<Fanout> {
    let path: Arc<str> = format!("/api/v1/namespaces/{namespace}/configmaps").into();
    let changes = |span: Duration| (f64::from(rate) * span.as_secs_f64()) as u64;
    let (early, written) = (changes(WARM_UP), changes(span));
    let epoch = Instant::now();
    let mut listening = JoinSet::new();
    let delays = Arc::new(Mutex::new(Histogram::new()));
    let from = newest(target, &path).await?;
    for _ in 0..watchers {
        let watch = format!("{path}?watch=1&resourceVersion={from}");
        let body = open(target, &watch).await?;
        listening.spawn(listen(body, epoch, written, delays.clone()));
    }
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        connections.push(target.connect().await?);
    }
    let began = Instant::now();
    let counted = began + WARM_UP;
    let mut writing = JoinSet::new();
    for (writer, connection) in (0..).zip(connections) {
        let pace = Pace { began, first: writer, step: WRITERS, rate };
        writing.spawn(write(connection, path.clone(), epoch, pace, early..early + written));
    }
    tokio::time::sleep_until(counted.into()).await;
    let meter = meter.start();
    while let Some(done) = writing.join_next().await {
        done.expect("no writer panics")?;
    }
    let took = counted.elapsed();
    // Kept to the end: a thousand goodbyes would hold up what others still wait for.
    let mut content = Vec::new();
    let all_heard = async {
        while let Some(watch) = listening.join_next().await {
            content.push(watch);
        }
    };
    // Whoever has not heard everything by then never will.
    let _ = tokio::time::timeout(PATIENCE, all_heard).await;
    let cpu = meter.spent();
    let delays = delays.lock().expect("no watcher panics").clone();
    Ok(Fanout { watchers, written, took, delays, cpu })
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

/// Reads until every change has come; gives the watch back, open.
async fn listen(
    mut body: Incoming,
    epoch: Instant,
    expected: u64,
    delays: Arc<Mutex<Histogram>>,
) -> Incoming {
    let mark = Finder::new(MARK);
    let mut heard = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    let mut missing = expected;
    while missing > 0 {
        let Some(Ok(frame)) = body.frame().await else { break };
        let Ok(data) = frame.into_data() else { continue };
        let now = epoch.elapsed();
        heard.clear();
        each_line_end(&data, &mut rest, |lines| moments(&mark, lines, &mut heard));
        missing = missing.saturating_sub(heard.len() as u64);
        let mut delays = delays.lock().expect("no watcher panics");
        heard.iter().for_each(|sent| delays.count(now.saturating_sub(*sent)));
    }
    body
}

/// Shows the whole lines of a stream, one or many at a time; what is left of the last one waits in `rest`.
fn each_line_end(data: &[u8], rest: &mut Vec<u8>, mut show: impl FnMut(&[u8])) {
    let Some(end) = memchr::memrchr(b'\n', data) else { return rest.extend_from_slice(data) };
    let (mut lines, after) = data.split_at(end + 1);
    if !rest.is_empty() {
        let first = memchr::memchr(b'\n', lines).unwrap_or(end) + 1;
        rest.extend_from_slice(&lines[..first]);
        show(rest);
        rest.clear();
        lines = &lines[first..];
    }
    show(lines);
    rest.extend_from_slice(after);
}

/// The moments that changes in these bytes were sent at.
fn moments(mark: &Finder<'_>, bytes: &[u8], found: &mut Vec<Duration>) {
    found.extend(mark.find_iter(bytes).map(|at| {
        let digits = bytes[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let nanos = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        Duration::from_nanos(nanos)
    }));
}

/// When which change is due.
struct Pace {
    began: Instant,
    first: u32,
    step: u32,
    rate: u32,
}

/// Makes every change up to the last of the `counted` ones, which alone carry the mark.
async fn write(
    mut connection: Connection,
    path: Arc<str>,
    epoch: Instant,
    pace: Pace,
    counted: Range<u64>,
) -> Result<()> {
    for number in (u64::from(pace.first)..counted.end).step_by(pace.step as usize) {
        let due = pace.began + Duration::from_secs_f64(number as f64 / f64::from(pace.rate));
        tokio::time::sleep_until(due.into()).await;
        let sent = epoch.elapsed().as_nanos().to_string();
        let mark = if counted.contains(&number) { "sent" } else { "early" };
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": format!("fanned-{number}") },
            "data": { mark: sent },
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
    fn every_moment_is_found_wherever_the_stream_is_cut() {
        let bytes = b"{\"data\":{\"sent\":\"17\"}}\n{\"data\":{\"sent\":\"2000\"}}\n{\"data\":{\"sent\":\"3\"}}\n";
        for cut in 0..=bytes.len() {
            let (mut rest, mut found) = (Vec::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                let show = |lines: &[u8]| moments(&Finder::new(MARK), lines, &mut found);
                each_line_end(part, &mut rest, show);
            }
            assert_eq!(found, [17, 2000, 3].map(Duration::from_nanos), "cut at {cut}");
        }
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
