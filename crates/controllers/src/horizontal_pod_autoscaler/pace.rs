//! How fast a size may follow its metrics.
//!
//! Proposed size, what was proposed and done lately, and the rules -> the size to go to, and what held it back.
//! Counterpart: `normalizeDesiredReplicasWithBehaviors`. Pure.
//! Invariant: the result lies between the autoscaler's bounds, and on the same side of the current size as the proposal.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec,
};

const DOWN_WINDOW: i32 = 300;

/// What an autoscaler remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    proposals: Vec<(Timestamp, i32)>,
    /// By how much the size was changed.
    changes: Vec<(Timestamp, i32)>,
}

/// A reason and a message of a condition.
type Why = (&'static str, &'static str);

#[derive(Debug, PartialEq)]
pub struct Pace {
    pub desired: i32,
    pub able: Why,
    pub limited: Why,
}

// === impl History ===

impl History {
    /// The size that is found first counts as a proposal: it is not given up sooner than others.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.proposals.is_empty() {
            self.proposals.push((now, current));
        }
    }

    pub fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        self.changes.push((now, to - from));
    }

    fn propose(&mut self, proposal: i32, now: Timestamp) {
        // The longest window and the longest period that validation allows.
        self.proposals.retain(|(at, _)| seconds_since(*at, now) <= 3600);
        self.changes.retain(|(at, _)| seconds_since(*at, now) <= 1800);
        self.proposals.push((now, proposal));
    }

    fn within(&self, window: i32, now: Timestamp) -> impl Iterator<Item = i32> {
        let recent = self.proposals.iter();
        recent.filter(move |(at, _)| seconds_since(*at, now) < i64::from(window)).map(|(_, n)| *n)
    }

    /// The size at the beginning of a period, before what was done in it.
    fn size_before(&self, current: i32, period: i32, now: Timestamp) -> i32 {
        let done = self.changes.iter();
        let done = done.filter(|(at, _)| seconds_since(*at, now) < i64::from(period));
        current - done.map(|(_, change)| change).sum::<i32>()
    }
}

fn seconds_since(at: Timestamp, now: Timestamp) -> i64 {
    now.as_second() - at.as_second()
}

pub fn pace(
    spec: &HorizontalPodAutoscalerSpec,
    history: &mut History,
    current: i32,
    proposed: i32,
    now: Timestamp,
) -> Pace {
    let behavior = spec.behavior.as_ref();
    let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
    let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
    history.propose(proposed, now);
    let window = |rules: Option<&HPAScalingRules>, default| {
        rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(default)
    };
    let lowest = history.within(window(up, 0), now).min().unwrap_or(proposed).min(proposed);
    let highest = history.within(window(down, DOWN_WINDOW), now).max().unwrap_or(proposed);
    let steady = current.max(lowest).min(highest.max(proposed));
    let able = match steady {
        steady if steady == proposed => {
            ("ReadyForNewScale", "recommended size matches current size")
        }
        _ if proposed >= current => (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
        _ => (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
    };
    let (desired, limited) = if steady > current {
        let limit = match behavior {
            // Without rules of its own an autoscaler may double, and get to four from any size.
            None => current.saturating_mul(2).max(4),
            Some(_) => furthest(up, history, current, now, Direction::Up),
        };
        at_most(steady, limit.max(current), spec.max_replicas)
    } else {
        let limit = match behavior {
            None => 0,
            Some(_) => furthest(down, history, current, now, Direction::Down),
        };
        at_least(steady, limit.min(current), spec.min_replicas.unwrap_or(1), spec.max_replicas)
    };
    Pace { desired, able, limited }
}

const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");

fn at_most(size: i32, limit: i32, most: i32) -> (i32, Why) {
    match size {
        size if size <= limit.min(most) => (size, WITHIN),
        _ if most <= limit => (
            most,
            ("TooManyReplicas", "the desired replica count is more than the maximum replica count"),
        ),
        _ => (
            limit,
            (
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            ),
        ),
    }
}

fn at_least(size: i32, limit: i32, least: i32, most: i32) -> (i32, Why) {
    match size {
        size if size > most => at_most(size, i32::MAX, most),
        size if size >= limit.max(least) => (size, WITHIN),
        _ if least >= limit => (
            least,
            ("TooFewReplicas", "the desired replica count is less than the minimum replica count"),
        ),
        _ => (
            limit,
            (
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            ),
        ),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

/// How far the rules let the size go.
fn furthest(
    rules: Option<&HPAScalingRules>,
    history: &History,
    current: i32,
    now: Timestamp,
    direction: Direction,
) -> i32 {
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let policies = rules.and_then(|rules| rules.policies.clone());
    let policies = policies.filter(|all| !all.is_empty()).unwrap_or_else(|| defaults(direction));
    let sizes = policies.iter().map(|policy| {
        let before = history.size_before(current, policy.period_seconds, now);
        let (value, percent) = (policy.value, f64::from(policy.value) / 100.0);
        // Sizes are 32-bit numbers; the casts saturate.
        match (policy.type_.as_str(), direction) {
            ("Percent", Direction::Up) => (f64::from(before) * (1.0 + percent)).ceil() as i32,
            ("Percent", Direction::Down) => (f64::from(before) * (1.0 - percent)) as i32,
            (_, Direction::Up) => before.saturating_add(value),
            (_, Direction::Down) => before.saturating_sub(value),
        }
    });
    match (select, direction) {
        ("Min", Direction::Up) | ("Max", Direction::Down) => sizes.min(),
        _ => sizes.max(),
    }
    .unwrap_or(current)
}

fn defaults(direction: Direction) -> Vec<HPAScalingPolicy> {
    let policy =
        |type_: &str, value| HPAScalingPolicy { period_seconds: 15, type_: type_.into(), value };
    match direction {
        Direction::Up => vec![policy("Pods", 4), policy("Percent", 100)],
        Direction::Down => vec![policy("Percent", 100)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dice, yaml};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn spec(text: &str) -> HorizontalPodAutoscalerSpec {
        yaml(&format!("{{scaleTargetRef: {{kind: Deployment, name: d}}, {text}}}"))
    }

    #[test]
    fn growing_is_bounded_by_the_rate_and_the_maximum() {
        for (rules, current, proposed, desired, why) in [
            ("maxReplicas: 10", 1, 9, 4, "ScaleUpLimit"),
            ("maxReplicas: 10", 3, 5, 5, "DesiredWithinRange"),
            ("maxReplicas: 5", 3, 9, 5, "TooManyReplicas"),
            (
                "maxReplicas: 50, behavior: {scaleUp: {policies: [{type: Pods, value: 2, periodSeconds: 60}]}}",
                3,
                9,
                5,
                "ScaleUpLimit",
            ),
            (
                "maxReplicas: 50, behavior: {scaleUp: {selectPolicy: Disabled}}",
                3,
                9,
                3,
                "ScaleUpLimit",
            ),
            (
                "maxReplicas: 50, behavior: {scaleDown: {selectPolicy: Disabled}}",
                3,
                19,
                7,
                "ScaleUpLimit",
            ),
        ] {
            let pace = pace(&spec(rules), &mut History::default(), current, proposed, at(0));
            assert_eq!((pace.desired, pace.limited.0), (desired, why), "{rules}");
        }
    }

    #[test]
    fn shrinking_waits_for_the_window_and_keeps_the_minimum() {
        let spec = spec("maxReplicas: 10, minReplicas: 2");
        let mut history = History::default();
        history.begin(6, at(0));
        let early = pace(&spec, &mut history, 6, 1, at(299));
        assert_eq!((early.desired, early.able.0), (6, "ScaleDownStabilized"));
        let late = pace(&spec, &mut history, 6, 1, at(300));
        assert_eq!((late.desired, late.limited.0), (2, "TooFewReplicas"));
    }

    #[test]
    fn what_was_done_in_the_period_counts_against_the_rate() {
        let spec = spec(
            "maxReplicas: 50, behavior: {scaleDown: {stabilizationWindowSeconds: 0,
               policies: [{type: Pods, value: 4, periodSeconds: 60}, {type: Percent, value: 10, periodSeconds: 60}]}}",
        );
        let mut history = History::default();
        let first = pace(&spec, &mut history, 20, 1, at(0));
        assert_eq!(first.desired, 16);
        history.scaled(20, 16, at(0));
        assert_eq!(pace(&spec, &mut history, 16, 1, at(30)).desired, 16);
        assert_eq!(pace(&spec, &mut history, 16, 1, at(60)).desired, 12);
    }

    #[test]
    fn a_steady_proposal_is_reached_and_then_nothing_changes() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let spec = spec(
                "maxReplicas: 30, behavior: {scaleUp: {stabilizationWindowSeconds: 30}, scaleDown: {}}",
            );
            let mut history = History::default();
            let mut size = 1 + dice.below(30) as i32;
            history.begin(size, at(0));
            let mut second = 0;
            let mut follow = |size: i32, proposed: i32| {
                second += 15;
                let desired = pace(&spec, &mut history, size, proposed, at(second)).desired;
                assert!((1..=30).contains(&desired), "seed {seed}");
                history.scaled(size, desired, at(second));
                desired
            };
            for _ in 0..20 {
                size = follow(size, 1 + dice.below(40) as i32);
            }
            let steady = 1 + dice.below(30) as i32;
            (0..60).for_each(|_| size = follow(size, steady));
            assert_eq!(size, steady, "seed {seed}");
        }
    }
}
