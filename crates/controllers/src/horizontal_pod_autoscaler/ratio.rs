//! From what pods use to how many there should be.
//!
//! Pods, their metrics and a target -> the size at which each would use what it should.
//! Counterpart: `replica_calculator.go`. Pure.
//! Invariant: pods that say nothing are taken to be in favour of the size there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// How long after its start a pod's use of CPU may come from starting.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// How long a pod may take to be ready for the first time.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
const DEFAULT_TOLERANCE: f64 = 0.1;

/// What one pod uses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub at: Timestamp,
    pub window: SignedDuration,
    pub value: i64,
}

pub type Samples = BTreeMap<String, Sample>;

/// How far from the target nothing is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    up: f64,
    down: f64,
}

/// What each pod should use.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    /// The average over pods.
    Average(i64),
    /// A percentage of what each pod requests.
    Utilization { percent: i32, requests: &'a BTreeMap<String, i64> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    pub replicas: i32,
    pub average: i64,
    pub utilization: Option<i32>,
}

// === impl Tolerance ===

impl Tolerance {
    pub fn of(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
        let behavior = spec.behavior.as_ref();
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
        let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            let own = rules.and_then(|rules| rules.tolerance.as_ref());
            let own = own.and_then(super::measure::milli);
            own.map_or(DEFAULT_TOLERANCE, |milli| milli as f64 / 1000.0)
        };
        Tolerance { up: of(up), down: of(down) }
    }

    pub fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// Pods by what their metrics are worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let sample = samples.get(&name);
        if pod::is_terminating(pod) || pod::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pod::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = sample {
            match is_cpu && is_starting(pod, sample, now) {
                true => drop(groups.unready.insert(name)),
                false => groups.ready += 1,
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// What a pod uses to start says nothing about what it uses to work.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pod::condition(pod, "Ready"), started) else {
        return true;
    };
    let is_unready = ready.status == "False";
    let Some(changed) = ready.last_transition_time.as_ref().map(|time| time.0) else {
        return is_unready;
    };
    match started.0 + CPU_INITIALIZATION > now {
        true => is_unready || sample.at < changed + sample.window,
        false => is_unready && started.0 + INITIAL_READINESS > changed,
    }
}

/// How many pods there should be; an error in the words that conditions show.
pub fn answer(
    pods: &[Arc<Pod>],
    mut samples: Samples,
    goal: Goal,
    current: i32,
    tolerance: Tolerance,
    (is_cpu, now): (bool, Timestamp),
) -> Result<Answer, String> {
    let groups = group(pods, &samples, is_cpu, now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (ratio, average, utilization) = measure(&samples, goal)?;
    let answer = |replicas| Ok(Answer { replicas, average, utilization });
    let counts_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !counts_unready && groups.missing.is_empty() {
        let replicas = if tolerance.covers(ratio) { current } else { times(ratio, groups.ready) };
        return answer(replicas);
    }
    // Pods without metrics speak against the change: as much as they should, or nothing at all.
    let spoken = |value| Sample { at: now, window: SignedDuration::ZERO, value };
    for name in &groups.missing {
        let value = if ratio < 1.0 { fallback(goal, name) } else { 0 };
        if ratio != 1.0 {
            samples.insert(name.clone(), spoken(value));
        }
    }
    if counts_unready {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), spoken(0))));
    }
    let (new, ..) = measure(&samples, goal)?;
    let turned = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    let replicas = times(new, samples.len());
    let backwards = (new < 1.0 && replicas > current) || (new > 1.0 && replicas < current);
    answer(if tolerance.covers(new) || turned || backwards { current } else { replicas })
}

/// The ratio of use to target, the average use and, where asked for, the utilization.
fn measure(samples: &Samples, goal: Goal) -> Result<(f64, i64, Option<i32>), String> {
    match goal {
        Goal::Average(target) => {
            let total: i64 = samples.values().map(|sample| sample.value).sum();
            let average = total / samples.len() as i64;
            Ok((average as f64 / target as f64, average, None))
        }
        Goal::Utilization { percent, requests } => {
            let known = samples
                .iter()
                .filter_map(|(name, sample)| Some((sample.value, requests.get(name)?)));
            let (used, requested, count) = known
                .fold((0, 0, 0), |(used, requested, count), one| {
                    (used + one.0, requested + one.1, count + 1)
                });
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            let ratio = f64::from(utilization) / f64::from(percent);
            Ok((ratio, used / count, Some(utilization)))
        }
    }
}

fn fallback(goal: Goal, name: &str) -> i64 {
    match goal {
        Goal::Average(target) => target,
        Goal::Utilization { percent, requests } => {
            requests.get(name).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
        }
    }
}

/// For metrics of something else than the pods: the ratio itself tells the size.
pub fn by_ratio(ratio: f64, current: i32, pods: &[Arc<Pod>], tolerance: Tolerance) -> i32 {
    match current {
        0 => times(ratio, 1),
        current if tolerance.covers(ratio) => current,
        _ => {
            let ready =
                pods.iter().filter(|pod| pod::phase(pod) == "Running" && pod::is_ready(pod));
            times(ratio, ready.count())
        }
    }
}

/// Rounded up; too much is as much as a size can be.
fn times(ratio: f64, count: usize) -> i32 {
    (ratio * count as f64).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Arc<Pod> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}}}, status: {{phase: {phase}, startTime: '2026-01-01T00:00:00Z',
               conditions: [{{type: Ready, status: '{ready}', lastTransitionTime: '2026-01-01T00:00:10Z'}}]}}}}"
        )))
    }

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|n| pod(&format!("p{n}"), "Running", "True")).collect()
    }

    fn samples(values: &[i64]) -> Samples {
        let sample = |value: &i64| Sample {
            at: now(),
            window: SignedDuration::from_secs(30),
            value: *value,
        };
        values.iter().enumerate().map(|(n, value)| (format!("p{n}"), sample(value))).collect()
    }

    fn replicas(pods: &[Arc<Pod>], values: &[i64], percent: i32) -> i32 {
        let requests = (0..pods.len()).map(|n| (format!("p{n}"), 1000)).collect();
        let goal = Goal::Utilization { percent, requests: &requests };
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let size = pods.len() as i32;
        answer(pods, samples(values), goal, size, tolerance, (true, now())).unwrap().replicas
    }

    #[test]
    fn size_follows_use_outside_of_the_tolerance() {
        assert_eq!(replicas(&pods(3), &[300, 500, 700], 30), 5);
        assert_eq!(replicas(&pods(3), &[100, 100, 100], 50), 1);
        assert_eq!(replicas(&pods(3), &[540, 540, 540], 50), 3);
    }

    #[test]
    fn pods_without_metrics_dampen_the_change() {
        assert_eq!(
            replicas(&pods(4), &[400, 400], 100),
            3,
            "missing pods may use what they should"
        );
        assert_eq!(replicas(&pods(4), &[4000, 4000], 100), 8, "missing pods may use nothing");
        assert_eq!(replicas(&pods(4), &[1200, 1200], 100), 4, "the change would turn around");
    }

    #[test]
    fn pods_that_start_end_or_failed_do_not_count() {
        let mut some = pods(2);
        some.push(pod("p2", "Pending", "False"));
        assert_eq!(replicas(&some, &[3000, 3000], 100), 6);
        some[2] = pod("p2", "Failed", "False");
        assert_eq!(replicas(&some, &[3000, 3000, 9000], 100), 6);
        let nothing = answer(
            &some,
            Samples::new(),
            Goal::Average(1),
            3,
            Tolerance { up: 0.1, down: 0.1 },
            (false, now()),
        );
        assert!(nothing.unwrap_err().starts_with("did not receive metrics"));
    }

    #[test]
    fn a_ratio_alone_scales_from_zero() {
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        assert_eq!(by_ratio(2.5, 0, &[], tolerance), 3);
        assert_eq!(by_ratio(2.5, 4, &pods(4), tolerance), 10);
        assert_eq!(by_ratio(1.05, 4, &pods(4), tolerance), 4);
    }
}
