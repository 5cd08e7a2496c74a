//! What time it is for controllers, and how they wait for another.
//!
//! Decisions get `now` from here, and delays are measured and slept here, so that both move together: a test that holds the
//! clock's [`Hand`] has days pass at once. Counterpart: `k8s.io/utils/clock` with its `testing` clocks.
//! Invariant: a clock never goes back; whoever sleeps while it is moved wakes when the new time is late enough.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

/// The machine's clock, or one that a [`Hand`] has set ahead of it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead: Option<watch::Receiver<Duration>>,
}

/// Sets a clock, and all its clones, ahead.
#[derive(Debug)]
pub struct Hand(watch::Sender<Duration>);

// === impl Clock ===

impl Clock {
    /// A clock that starts as the machine's.
    pub fn by_hand() -> (Clock, Hand) {
        let (hand, ahead) = watch::channel(Duration::ZERO);
        (Clock { ahead: Some(ahead) }, Hand(hand))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead()
    }

    /// For measuring and waiting: not disturbed by whoever sets the machine's clock.
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    pub async fn sleep_until(&self, at: Instant) {
        let Some(mut ahead) = self.ahead.clone() else {
            return tokio::time::sleep_until(at).await;
        };
        loop {
            let set = *ahead.borrow_and_update();
            let left = at.saturating_duration_since(Instant::now() + set);
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                Ok(()) = ahead.changed() => {}
            }
        }
    }

    fn ahead(&self) -> Duration {
        self.ahead.as_ref().map_or(Duration::ZERO, |ahead| *ahead.borrow())
    }
}

// === impl Hand ===

impl Hand {
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|ahead| *ahead += by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_tomorrow_wakes_when_the_clock_is_set_to_it() {
        let (clock, hand) = Clock::by_hand();
        let start = Instant::now();
        let (tomorrow, before) = (clock.instant() + DAY, clock.now());
        let mut waits = std::pin::pin!(clock.sleep_until(tomorrow));
        assert!(futures::poll!(&mut waits).is_pending());
        hand.advance(DAY / 2);
        assert!(futures::poll!(&mut waits).is_pending(), "noon");
        hand.advance(DAY / 2);
        waits.await;
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(clock.now().duration_since(before).unsigned_abs() >= DAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_whose_hand_is_gone_goes_on_by_itself() {
        let (clock, hand) = Clock::by_hand();
        hand.advance(DAY);
        let (start, at) = (Instant::now(), clock.instant() + DAY);
        drop(hand);
        clock.sleep_until(at).await;
        assert_eq!(start.elapsed(), DAY);
    }
}
