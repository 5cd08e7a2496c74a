//! Whether the node is short of something, and since when.
//!
//! Consumes thresholds and readings, decides which conditions the node has and which shortage pods must end for.
//! Counterpart: the first half of `synchronize` of `pkg/kubelet/eviction/eviction_manager.go`.
//! Invariant: pure, `now` is an argument; a condition outlives its last shortage by the transition period, and a
//! shortage that has been answered lasts until its minimum is reclaimed too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::threshold::{Condition, EvictionConfig, Signal, Threshold};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub capacity: u64,
    pub available: u64,
}

/// Signals that cannot be read are not in it, and are never short.
pub type Readings = BTreeMap<Signal, Reading>;

/// What earlier looks have shown. Thresholds by their place in the configuration; times since any fixed moment.
#[derive(Debug, Default)]
pub struct Pressure {
    first_met: BTreeMap<usize, Duration>,
    answered: BTreeSet<usize>,
    last_short: BTreeMap<Condition, Duration>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Judgement {
    pub conditions: BTreeSet<Condition>,
    /// The shortage to answer now, and how things stand with it.
    pub starved: Option<Starved>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Starved {
    pub threshold: Threshold,
    pub reading: Reading,
}

// === impl Pressure ===

impl Pressure {
    pub fn judge(
        &mut self,
        config: &EvictionConfig,
        readings: &Readings,
        now: Duration,
    ) -> Judgement {
        let met = |at: &usize| {
            let threshold = &config.thresholds[*at];
            is_met(threshold, readings, false)
                || self.answered.contains(at) && is_met(threshold, readings, true)
        };
        let met: BTreeSet<usize> = (0..config.thresholds.len()).filter(met).collect();
        self.first_met.retain(|at, _| met.contains(at));
        for at in &met {
            self.first_met.entry(*at).or_insert(now);
            self.last_short.insert(config.thresholds[*at].signal.condition(), now);
        }
        let recent = |last: &Duration| now.saturating_sub(*last) < config.transition;
        self.last_short.retain(|_, last| *last == now || recent(last));
        let since = &self.first_met;
        let is_due = |at: &usize| now.saturating_sub(since[at]) >= config.thresholds[*at].grace;
        self.answered = met.into_iter().filter(is_due).collect();
        let starved = self.answered.iter().map(|at| &config.thresholds[*at]);
        let starved = starved.min_by_key(|threshold| threshold.signal);
        Judgement {
            conditions: self.last_short.keys().copied().collect(),
            starved: starved.map(|threshold| Starved {
                threshold: *threshold,
                reading: readings[&threshold.signal],
            }),
        }
    }
}

/// Whether nothing is short any more, minimum reclaims included.
pub fn is_relieved(config: &EvictionConfig, readings: &Readings) -> bool {
    !config.thresholds.iter().any(|threshold| is_met(threshold, readings, true))
}

fn is_met(threshold: &Threshold, readings: &Readings, with_reclaim: bool) -> bool {
    let Some(reading) = readings.get(&threshold.signal) else { return false };
    let reclaim = threshold.min_reclaim.filter(|_| with_reclaim);
    let wanted = threshold.amount.of(reading.capacity)
        + reclaim.map_or(0, |reclaim| reclaim.of(reading.capacity));
    reading.available < wanted
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::eviction::threshold::EvictionStatements;

    const TABLE: &str = include_str!("pressure_table.yaml");

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        name: String,
        hard: String,
        #[serde(default)]
        soft: String,
        #[serde(default)]
        soft_grace: String,
        #[serde(default)]
        minimum_reclaim: String,
        looks: Vec<Look>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Look {
        at: u64,
        /// Per signal what is available of a capacity of 1000.
        available: BTreeMap<String, u64>,
        #[serde(default)]
        conditions: Vec<String>,
        starved: Option<String>,
    }

    fn readings(available: &BTreeMap<String, u64>) -> Readings {
        let reading = |(name, available): (&String, &u64)| {
            let signals = EvictionConfig::default().thresholds.into_iter().map(|t| t.signal);
            let signal = signals.chain([Signal::PidAvailable]).find(|s| s.name() == name);
            let reading = Reading { capacity: 1000, available: *available };
            (signal.unwrap_or_else(|| panic!("no signal {name}")), reading)
        };
        available.iter().map(reading).collect()
    }

    #[test]
    fn table() {
        let cases: Vec<Case> = serde_saphyr::from_str(TABLE).expect("the table parses");
        for case in cases {
            let mut config =
                EvictionConfig { transition: Duration::from_secs(300), ..Default::default() };
            let said = EvictionStatements {
                hard: Some(&case.hard),
                soft: &case.soft,
                soft_grace: &case.soft_grace,
                minimum_reclaim: &case.minimum_reclaim,
            };
            config.set(&said).expect("the thresholds parse");
            let mut pressure = Pressure::default();
            for look in case.looks {
                let readings = readings(&look.available);
                let judged = pressure.judge(&config, &readings, Duration::from_secs(look.at));
                let conditions: Vec<&str> = judged.conditions.iter().map(|c| c.name()).collect();
                assert_eq!(conditions, look.conditions, "{} at {}", case.name, look.at);
                let starved = judged.starved.map(|s| s.threshold.signal.name().to_owned());
                assert_eq!(starved, look.starved, "{} at {}", case.name, look.at);
            }
        }
    }
}
