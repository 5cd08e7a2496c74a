//! How long a Job waits before it replaces a pod that failed.
//!
//! Failures in a row and the last one's end in -> time left. Ten seconds, doubling, at most ten minutes.
//! Counterpart: `backoff_utils.go`. Differs from upstream: after a restart the count goes on from the finished pods that are
//! still there, not from nothing. Invariant: a success forgives the failures before it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::pod;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackOff {
    failures: u32,
    last_failure: Option<Timestamp>,
}

// === impl BackOff ===

impl BackOff {
    /// For a count of failures that is kept elsewhere.
    pub fn since(failures: u32, last_failure: Timestamp) -> BackOff {
        BackOff { failures, last_failure: Some(last_failure) }
    }

    /// What becomes of it with pods that have finished since.
    pub fn after(&self, succeeded: &[&Pod], failed: &[&Pod]) -> BackOff {
        let forgiven = succeeded.iter().map(|pod| finish_time(pod)).max();
        let failures = failed.iter().map(|pod| finish_time(pod));
        let count = |times: &mut dyn Iterator<Item = Timestamp>| {
            times.fold((0, None), |(count, last), time| (count + 1, last.max(Some(time))))
        };
        let (new, last) = match forgiven {
            Some(success) => count(&mut failures.filter(|time| *time > success)),
            None => count(&mut failures.into_iter()),
        };
        match forgiven {
            Some(_) => BackOff { failures: new, last_failure: last },
            None => {
                BackOff { failures: self.failures + new, last_failure: last.or(self.last_failure) }
            }
        }
    }

    pub fn remaining(&self, now: Timestamp) -> Duration {
        let Some(last) = self.last_failure.filter(|_| self.failures > 0) else {
            return Duration::ZERO;
        };
        let pause = FIRST.saturating_mul(2u32.saturating_pow(self.failures - 1)).min(LONGEST);
        let passed = now.duration_since(last);
        // A failure in the future (clocks differ) waits longer, as upstream's does.
        let left = pause.as_millis() as i128 - passed.as_millis();
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }
}

/// When a pod ended: its last container, else when it stopped being ready, else when it was told to end.
pub fn finish_time(pod: &Pod) -> Timestamp {
    let unready = pod::condition(pod, "Ready").filter(|ready| ready.status == "False");
    let unready = unready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        time.0.saturating_sub(jiff::SignedDuration::from_secs(grace)).unwrap_or(time.0)
    });
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    containers_finished(pod).or(unready).or(deleted).or(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The end of the last container or sidecar, once every one has ended.
fn containers_finished(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let sidecars = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> = sidecars
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let init = status.init_container_statuses.iter().flatten();
    let init = init.filter(|status| sidecars.contains(&status.name.as_str()));
    let all = status.container_statuses.iter().flatten().chain(init);
    let ends: Option<Vec<Timestamp>> = all.map(container_finished).collect();
    ends?.into_iter().max()
}

fn container_finished(status: &ContainerStatus) -> Option<Timestamp> {
    Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ended(second: i64) -> Pod {
        yaml(&format!(
            "{{status: {{containerStatuses: [{{name: c, image: i, imageID: i, ready: false, restartCount: 0,
               state: {{terminated: {{exitCode: 1, finishedAt: '{}'}}}}}}]}}}}",
            at(second)
        ))
    }

    #[test]
    fn pauses_double_up_to_ten_minutes() {
        let pause = |failures| BackOff::since(failures, at(0)).remaining(at(0)).as_secs();
        assert_eq!([0, 1, 2, 3, 6, 7, 100].map(pause), [0, 10, 20, 40, 320, 600, 600]);
        assert_eq!(BackOff::since(1, at(0)).remaining(at(4)), Duration::from_secs(6));
        assert_eq!(BackOff::since(1, at(0)).remaining(at(40)), Duration::ZERO);
    }

    #[test]
    fn a_success_forgives_the_failures_before_it() {
        let before = BackOff::since(3, at(100));
        assert_eq!(before.after(&[], &[&ended(120), &ended(110)]), BackOff::since(5, at(120)));
        assert_eq!(before.after(&[&ended(130)], &[]), BackOff::default());
        let mixed = before.after(&[&ended(130)], &[&ended(120), &ended(140)]);
        assert_eq!(mixed, BackOff::since(1, at(140)));
        assert_eq!(before.after(&[], &[]), before);
    }

    #[test]
    fn a_pod_without_containers_that_ended_counts_from_its_deletion() {
        let deleted = "{metadata: {deletionTimestamp: '1970-01-01T00:01:00Z', deletionGracePeriodSeconds: 30}}";
        assert_eq!(finish_time(&yaml(deleted)), at(30));
        let unready = "{status: {conditions: [{type: Ready, status: 'False', lastTransitionTime: '1970-01-01T00:00:07Z'}]}}";
        assert_eq!(finish_time(&yaml(unready)), at(7));
    }
}
