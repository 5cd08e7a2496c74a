//! What the server counts about itself, under upstream's names, as Prometheus text.
//!
//! Counterpart: `endpoints/metrics`. The counters are exact; histograms have upstream's buckets.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use http::StatusCode;

use crate::request_info::RequestInfo;

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Key, Series>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Default)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

const BUCKETS: [f64; 20] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0,
];

// === impl Metrics ===

impl Metrics {
    pub fn observe(&self, info: &RequestInfo, code: StatusCode, took: Duration) {
        let mut requests = self.requests.lock().expect("no panic while held");
        let series = requests.entry(Key::of(info, code)).or_default();
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.seconds += seconds;
        if let Some(at) = BUCKETS.iter().position(|limit| seconds <= *limit) {
            series.buckets[at] += 1;
        }
    }

    /// The body of `/metrics`.
    pub fn text(&self) -> String {
        let requests = self.requests.lock().expect("no panic while held");
        let mut out = String::new();
        out.push_str("# HELP apiserver_request_total [STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.\n# TYPE apiserver_request_total counter\n");
        for (key, series) in requests.iter() {
            let _ = writeln!(
                out,
                "apiserver_request_total{{{},code=\"{}\"}} {}",
                key.labels(),
                key.code,
                series.count
            );
        }
        out.push_str("# HELP apiserver_request_duration_seconds [STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (key, series) in merged(&requests) {
            series.write(&mut out, &key);
        }
        out
    }
}

/// Durations are not told apart by code.
fn merged(requests: &BTreeMap<Key, Series>) -> BTreeMap<String, Series> {
    let mut out: BTreeMap<String, Series> = BTreeMap::new();
    for (key, series) in requests {
        let sum = out.entry(key.labels()).or_default();
        sum.count += series.count;
        sum.seconds += series.seconds;
        sum.buckets.iter_mut().zip(series.buckets).for_each(|(sum, more)| *sum += more);
    }
    out
}

// === impl Key ===

impl Key {
    fn of(info: &RequestInfo, code: StatusCode) -> Key {
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let known = |text: &str| {
            if code == StatusCode::NOT_FOUND || !info.is_resource {
                String::new()
            } else {
                text.to_owned()
            }
        };
        Key {
            verb: verb(info),
            group: known(&info.group),
            version: known(&info.version),
            resource: known(&info.resource),
            subresource: known(&info.subresource),
            scope,
            code: code.as_u16(),
        }
    }

    fn labels(&self) -> String {
        let Key { verb, group, version, resource, subresource, scope, .. } = self;
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

/// A closed set: a client cannot make up labels.
fn verb(info: &RequestInfo) -> String {
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
    .to_owned()
}

// === impl Series ===

impl Series {
    fn write(&self, out: &mut String, labels: &str) {
        let mut below = 0;
        for (limit, count) in BUCKETS.iter().zip(self.buckets) {
            below += count;
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{labels},le=\"{limit}\"}} {below}"
            );
        }
        let _ = writeln!(
            out,
            "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}",
            self.count
        );
        let _ =
            writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", self.seconds);
        let _ =
            writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", self.count);
    }
}
