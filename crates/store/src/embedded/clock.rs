//! Time as the store sees it: only ever how long ago something was.
//!
//! A small trait, so that tests of what expires run on a clock they move by hand.

use std::time::{Duration, Instant};

pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed point. Never goes back.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
pub struct MonotonicClock(Instant);

impl Default for MonotonicClock {
    fn default() -> MonotonicClock {
        MonotonicClock(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
