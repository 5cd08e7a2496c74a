//! Requests counted for Prometheus, as one histogram.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use hyper::{Method, StatusCode};

const NAME: &str = "request_duration_seconds";
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Default)]
pub struct Metrics(Mutex<BTreeMap<(String, &'static str, u16), Histogram>>);

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Metrics {
    pub fn count(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let mut all = self.0.lock().expect("no counter panics");
        let histogram = all.entry((method.to_string(), route, status.as_u16())).or_default();
        let seconds = took.as_secs_f64();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    pub fn text(&self) -> String {
        let mut text = format!("# TYPE {NAME} histogram\n");
        for ((method, route, status), histogram) in &*self.0.lock().expect("no counter panics") {
            let labels = format!(r#"method="{method}",route="{route}",status_code="{status}""#);
            histogram.write(&mut text, &labels).expect("text takes what is written");
        }
        text
    }
}

impl Histogram {
    fn write(&self, text: &mut String, labels: &str) -> std::fmt::Result {
        for (count, bound) in self.buckets.iter().zip(BUCKETS) {
            writeln!(text, r#"{NAME}_bucket{{{labels},le="{bound}"}} {count}"#)?;
        }
        writeln!(text, r#"{NAME}_bucket{{{labels},le="+Inf"}} {}"#, self.count)?;
        writeln!(text, "{NAME}_sum{{{labels}}} {}", self.sum)?;
        writeln!(text, "{NAME}_count{{{labels}}} {}", self.count)
    }
}
