//! What flow control counts, per FlowSchema and priority level.
//!
//! Counterpart: `flowcontrol/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::metrics::exposition::{Exposition, Histogram, escaped};

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Its level has no seat left and does not queue.
    ConcurrencyLimit,
    /// Every queue of its hand is full.
    QueueFull,
    /// It waited too long.
    TimeOut,
    /// Its client or its level went away.
    Cancelled,
}

pub struct FlowCounts {
    pub schema: String,
    pub level: String,
    pub dispatched: AtomicU64,
    pub executing: AtomicI64,
    pub waiting: AtomicI64,
    pub waited: Histogram,
    pub executed: Histogram,
    rejected: [AtomicU64; REASONS.len()],
}

const REASONS: [(Rejection, &str); 4] = [
    (Rejection::ConcurrencyLimit, "concurrency-limit"),
    (Rejection::QueueFull, "queue-full"),
    (Rejection::TimeOut, "time-out"),
    (Rejection::Cancelled, "cancelled"),
];

const WAIT_BOUNDS: &[f64] =
    &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const EXECUTION_BOUNDS: &[f64] =
    &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

// === impl FlowCounts ===

impl FlowCounts {
    pub fn new(schema: &str, level: &str) -> Arc<FlowCounts> {
        Arc::new(FlowCounts {
            schema: schema.to_owned(),
            level: level.to_owned(),
            dispatched: AtomicU64::default(),
            executing: AtomicI64::default(),
            waiting: AtomicI64::default(),
            waited: Histogram::new(WAIT_BOUNDS),
            executed: Histogram::new(EXECUTION_BOUNDS),
            rejected: Default::default(),
        })
    }

    pub fn reject(&self, why: Rejection) {
        self.slot(why).fetch_add(1, Relaxed);
    }

    pub fn rejected(&self, why: Rejection) -> u64 {
        self.slot(why).load(Relaxed)
    }

    fn slot(&self, why: Rejection) -> &AtomicU64 {
        let at = REASONS.iter().position(|(reason, _)| *reason == why);
        &self.rejected[at.expect("every reason is listed")]
    }

    fn labels(&self) -> String {
        let (schema, level) = (escaped(&self.schema), escaped(&self.level));
        format!("flow_schema=\"{schema}\",priority_level=\"{level}\"")
    }
}

/// The families that are told apart by schema and level.
pub fn expose(all: &[Arc<FlowCounts>], out: &mut Exposition) {
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    out.family(name, "counter", "[BETA] Number of requests executed by API Priority and Fairness");
    all.iter().for_each(|flow| out.sample(name, &flow.labels(), flow.dispatched.load(Relaxed)));
    let name = "apiserver_flowcontrol_rejected_requests_total";
    out.family(name, "counter", "[BETA] Number of requests rejected by API Priority and Fairness");
    for flow in all {
        for (why, reason) in REASONS.iter().filter(|(why, _)| flow.rejected(*why) > 0) {
            let labels = format!("{},reason=\"{reason}\"", flow.labels());
            out.sample(name, &labels, flow.rejected(*why));
        }
    }
    gauge(
        all,
        out,
        "apiserver_flowcontrol_current_executing_requests",
        "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage",
        |flow| &flow.executing,
    );
    gauge(
        all,
        out,
        "apiserver_flowcontrol_current_inqueue_requests",
        "[BETA] Number of requests currently pending in queues",
        |flow| &flow.waiting,
    );
    histogram(
        all,
        out,
        "apiserver_flowcontrol_request_wait_duration_seconds",
        "[BETA] Length of time a request spent waiting in its queue",
        |flow| &flow.waited,
    );
    histogram(
        all,
        out,
        "apiserver_flowcontrol_request_execution_seconds",
        "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution",
        |flow| &flow.executed,
    );
}

fn gauge(
    all: &[Arc<FlowCounts>],
    out: &mut Exposition,
    name: &str,
    help: &str,
    of: fn(&FlowCounts) -> &AtomicI64,
) {
    out.family(name, "gauge", help);
    all.iter().for_each(|flow| out.sample(name, &flow.labels(), of(flow).load(Relaxed)));
}

fn histogram(
    all: &[Arc<FlowCounts>],
    out: &mut Exposition,
    name: &str,
    help: &str,
    of: fn(&FlowCounts) -> &Histogram,
) {
    out.family(name, "histogram", help);
    for flow in all.iter().filter(|flow| of(flow).count() > 0) {
        out.histogram(name, &flow.labels(), of(flow));
    }
}
