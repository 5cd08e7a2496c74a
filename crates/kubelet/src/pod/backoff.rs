//! Delays that double: how long after a failure the next try may start.
//!
//! Consumes failure times, emits the time of the next try. Counterpart: `k8s.io/client-go/util/flowcontrol.Backoff`.
//! Invariant: a backoff never exceeds its maximum, and one left alone for twice the maximum starts anew.

use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    pub initial: SignedDuration,
    pub max: SignedDuration,
}

/// Crashed containers and images that could not be had.
pub const CONTAINER: BackoffPolicy =
    BackoffPolicy { initial: SignedDuration::from_secs(10), max: SignedDuration::from_secs(300) };

/// Volumes, sandboxes and configuration that may be repaired at any moment.
pub const SETUP: BackoffPolicy = BackoffPolicy {
    initial: SignedDuration::from_millis(500),
    max: SignedDuration::from_secs(122),
};

/// What somebody else has to do first, and may have done at any moment.
pub const WAIT: BackoffPolicy =
    BackoffPolicy { initial: SignedDuration::from_millis(500), max: SignedDuration::from_secs(4) };

/// What another rule already delays.
pub const NONE: BackoffPolicy =
    BackoffPolicy { initial: SignedDuration::ZERO, max: SignedDuration::ZERO };

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub delay: SignedDuration,
    updated: Timestamp,
}

// === impl Backoff ===

impl Backoff {
    /// The entry after one more failure at `failed`.
    pub fn next(previous: Option<Backoff>, policy: BackoffPolicy, failed: Timestamp) -> Backoff {
        let delay = match previous {
            Some(b) if failed.duration_since(b.updated) <= policy.max * 2 => {
                (b.delay * 2).min(policy.max)
            }
            _ => policy.initial,
        };
        Backoff { delay, updated: failed }
    }

    /// Whether this began with the failure at `failed`, after which the next try came at once: it delays only what fails later.
    pub fn begins_with(&self, failed: Timestamp, policy: BackoffPolicy) -> bool {
        self.updated == failed && self.delay == policy.initial
    }

    /// When a thing that failed at `failed` may be tried again.
    pub fn retry_at(&self, failed: Timestamp) -> Timestamp {
        failed.checked_add(self.delay).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_delays_nothing() {
        let failed = Timestamp::UNIX_EPOCH;
        let first = Backoff::next(None, CONTAINER, failed);
        assert!(first.begins_with(failed, CONTAINER));
        let again = first.retry_at(failed);
        assert!(!first.begins_with(again, CONTAINER), "what fails later waits");
        assert!(!Backoff::next(Some(first), CONTAINER, again).begins_with(again, CONTAINER));
    }

    #[test]
    fn doubles_to_the_maximum_and_is_forgotten_after_twice_that() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut entry = None;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let b = Backoff::next(entry, CONTAINER, now);
            delays.push(b.delay.as_secs());
            now = b.retry_at(now);
            entry = Some(b);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + SignedDuration::from_secs(900);
        assert_eq!(Backoff::next(entry, CONTAINER, later).delay.as_secs(), 10);
    }
}
