//! Counters of the controller loops, for whoever serves `/metrics`.
//!
//! Counterpart: `workqueue_*` and `controller_runtime_*` metrics. Invariant: counting never blocks a reconcile for
//! longer than one map lookup.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What one controller did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reconciles: u64,
    pub errors: u64,
    pub panics: u64,
    /// Without the time it waited for the API server.
    pub busy: Duration,
}

/// Shared by all controllers; cloning gives another handle on the same counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<&'static str, Counts>>>);

impl Metrics {
    pub fn snapshot(&self) -> BTreeMap<&'static str, Counts> {
        self.0.lock().expect("no panic happens while counting").clone()
    }

    /// Counts one piece of work of a controller that has its own loop.
    pub fn count(&self, controller: &'static str, failed: bool) {
        self.with(controller, |counts| {
            counts.reconciles += 1;
            counts.errors += u64::from(failed);
        });
    }

    pub(super) fn observe(&self, controller: &'static str, took: Duration) {
        self.with(controller, |counts| {
            counts.reconciles += 1;
            counts.busy += took;
        });
    }

    pub(super) fn count_error(&self, controller: &'static str) {
        self.with(controller, |counts| counts.errors += 1);
    }

    pub(super) fn count_panic(&self, controller: &'static str) {
        self.with(controller, |counts| counts.panics += 1);
    }

    fn with(&self, controller: &'static str, change: impl FnOnce(&mut Counts)) {
        change(
            self.0.lock().expect("no panic happens while counting").entry(controller).or_default(),
        );
    }
}

/// Runs `work` to its end; gives its answer and for how long it kept a thread.
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = std::pin::pin!(work);
    let mut busy = Duration::ZERO;
    let answer = std::future::poll_fn(|cx| {
        let started = Instant::now();
        let polled = work.as_mut().poll(cx);
        busy += started.elapsed();
        polled
    });
    (answer.await, busy)
}
