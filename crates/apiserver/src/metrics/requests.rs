//! Requests, counted and timed under upstream's names and labels.
//!
//! Counterpart: `endpoints/metrics`. Invariant: labels come from closed sets or served resources, so a client cannot make
//! up series; recording a request that was seen before allocates nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::StatusCode;

use super::exposition::{Exposition, Histogram};
use crate::request_info::RequestInfo;

#[derive(Default)]
pub struct Requests {
    /// By the hash of their [`Key`]; few share one.
    series: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    hasher: RandomState,
    mutating: AtomicI64,
    read_only: AtomicI64,
    long_running: AtomicI64,
    terminated: AtomicU64,
}

/// What tells series apart, borrowed from a request.
#[derive(Hash, PartialEq, Eq)]
struct Key<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
    dry_run: bool,
    code: u16,
}

struct Series {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    dry_run: bool,
    code: u16,
    count: AtomicU64,
    seconds: Histogram,
}

/// Counts one request as in flight while it lives.
pub struct InFlight<'a>(&'a AtomicI64);

const BOUNDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

// === impl Requests ===

impl Requests {
    pub fn observe(&self, info: &RequestInfo, dry_run: bool, code: StatusCode, took: Duration) {
        let key = Key::of(info, dry_run, code);
        let series = self.find(&key).unwrap_or_else(|| self.insert(&key));
        series.count.fetch_add(1, Relaxed);
        series.seconds.took(took);
        if code == StatusCode::TOO_MANY_REQUESTS || code == StatusCode::GATEWAY_TIMEOUT {
            self.terminated.fetch_add(1, Relaxed);
        }
    }

    /// Until the answer's head is ready.
    pub fn begin(&self, info: &RequestInfo) -> InFlight<'_> {
        let gauge = match info.verb.as_str() {
            _ if info.is_long_running() => &self.long_running,
            "get" | "list" => &self.read_only,
            _ => &self.mutating,
        };
        gauge.fetch_add(1, Relaxed);
        InFlight(gauge)
    }

    fn find(&self, key: &Key<'_>) -> Option<Arc<Series>> {
        let all = self.series.read().expect("no panic while held");
        let alike = all.get(&self.hasher.hash_one(key))?;
        alike.iter().find(|series| series.key() == *key).cloned()
    }

    fn insert(&self, key: &Key<'_>) -> Arc<Series> {
        let mut all = self.series.write().expect("no panic while held");
        let alike = all.entry(self.hasher.hash_one(key)).or_default();
        match alike.iter().find(|series| series.key() == *key) {
            Some(known) => known.clone(),
            None => {
                alike.push(Arc::new(Series::new(key)));
                alike[alike.len() - 1].clone()
            }
        }
    }

    pub fn expose(&self, out: &mut Exposition) {
        let mut all: Vec<(String, Arc<Series>)> = {
            let series = self.series.read().expect("no panic while held");
            series.values().flatten().map(|series| (series.labels(), series.clone())).collect()
        };
        all.sort_by(|(one, a), (other, b)| (one, a.code).cmp(&(other, b.code)));
        let name = "apiserver_request_total";
        out.family(name, "counter", "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.");
        for (labels, series) in &all {
            let labels = format!("code=\"{}\",{labels}", series.code);
            out.sample(name, &labels, series.count.load(Relaxed));
        }
        durations(out, &all);
        self.expose_gauges(out);
    }

    fn expose_gauges(&self, out: &mut Exposition) {
        let name = "apiserver_current_inflight_requests";
        out.family(name, "gauge", "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.");
        out.sample(name, "request_kind=\"mutating\"", self.mutating.load(Relaxed));
        out.sample(name, "request_kind=\"readOnly\"", self.read_only.load(Relaxed));
        out.single(
            "apiserver_longrunning_requests",
            "gauge",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
            self.long_running.load(Relaxed),
        );
        out.single(
            "apiserver_request_terminations_total",
            "counter",
            "[ALPHA] Number of requests which apiserver terminated in self-defense.",
            self.terminated.load(Relaxed),
        );
    }
}

/// Durations are not told apart by code; watches last as long as clients like, and tell nothing.
fn durations(out: &mut Exposition, all: &[(String, Arc<Series>)]) {
    let timed = all.iter().filter(|(_, series)| series.verb != "WATCH");
    let mut merged: Vec<(&str, Histogram)> = Vec::new();
    for (labels, series) in timed {
        if merged.last().is_none_or(|(last, _)| last != labels) {
            merged.push((labels, Histogram::new(BOUNDS)));
        }
        if let Some((_, sum)) = merged.last() {
            sum.add(&series.seconds);
        }
    }
    for (name, help) in [
        (
            "apiserver_request_duration_seconds",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        ),
        (
            "apiserver_request_sli_duration_seconds",
            "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        ),
    ] {
        out.family(name, "histogram", help);
        merged.iter().for_each(|(labels, histogram)| out.histogram(name, labels, histogram));
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// === impl Key ===

impl<'a> Key<'a> {
    fn of(info: &'a RequestInfo, dry_run: bool, code: StatusCode) -> Key<'a> {
        // What nobody serves is one series, whatever it was called.
        let known = |text: &'a str| match info.is_resource && code != StatusCode::NOT_FOUND {
            true => text,
            false => "",
        };
        Key {
            verb: verb(info),
            group: known(&info.group),
            version: known(&info.version),
            resource: known(&info.resource),
            subresource: known(&info.subresource),
            scope: scope(info),
            dry_run,
            code: code.as_u16(),
        }
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

/// A closed set: a client cannot make up labels.
fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "list" => "LIST",
        "watch" => "WATCH",
        "get" => "GET",
        _ => "other",
    }
}

// === impl Series ===

impl Series {
    fn new(key: &Key<'_>) -> Series {
        Series {
            verb: key.verb,
            group: key.group.to_owned(),
            version: key.version.to_owned(),
            resource: key.resource.to_owned(),
            subresource: key.subresource.to_owned(),
            scope: key.scope,
            dry_run: key.dry_run,
            code: key.code,
            count: AtomicU64::default(),
            seconds: Histogram::new(BOUNDS),
        }
    }

    fn key(&self) -> Key<'_> {
        let Series { verb, scope, dry_run, code, .. } = *self;
        let Series { group, version, resource, subresource, .. } = self;
        Key { verb, group, version, resource, subresource, scope, dry_run, code }
    }

    fn labels(&self) -> String {
        let Series { verb, group, version, resource, subresource, scope, .. } = self;
        let dry_run = if self.dry_run { "All" } else { "" };
        format!(
            "component=\"apiserver\",dry_run=\"{dry_run}\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::query::Query;

    fn text(paths: &[(&str, u16)]) -> String {
        let requests = Requests::default();
        for (path, code) in paths {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let info = RequestInfo::read(&Method::GET, path, &Query::parse(query));
            let code = StatusCode::from_u16(*code).expect("a code");
            requests.observe(&info, false, code, Duration::from_millis(30));
        }
        let mut out = Exposition::default();
        requests.expose(&mut out);
        out.into_text()
    }

    #[test]
    fn requests_are_told_apart_by_code_and_durations_are_not() {
        let text = text(&[("/api/v1/pods", 200), ("/api/v1/pods", 200), ("/api/v1/pods", 403)]);
        let labels = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"";
        assert!(text.contains(&format!("apiserver_request_total{{code=\"200\",{labels}}} 2\n")));
        assert!(text.contains(&format!("apiserver_request_total{{code=\"403\",{labels}}} 1\n")));
        assert!(
            text.contains(&format!("apiserver_request_duration_seconds_count{{{labels}}} 3\n"))
        );
        assert!(text.contains(&format!(
            "apiserver_request_duration_seconds_bucket{{{labels},le=\"0.05\"}} 3\n"
        )));
    }

    #[test]
    fn made_up_resources_make_no_series_of_their_own() {
        let text = text(&[("/apis/a.b/v1/xs", 404), ("/apis/c.d/v1/ys", 404)]);
        let series = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        assert_eq!(series.count(), 1, "{text}");
    }

    #[test]
    fn watches_are_counted_but_not_timed() {
        let text = text(&[("/api/v1/pods?watch=1", 200)]);
        assert!(text.contains("verb=\"WATCH\""));
        assert!(!text.contains("apiserver_request_duration_seconds_count{"));
    }
}
