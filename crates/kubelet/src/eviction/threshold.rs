//! Which shortages end pods: thresholds as people write them, parsed once.
//!
//! `memory.available<100Mi`, `nodefs.available<10%`, `memory.available=1m30s` -> [`EvictionConfig`]. Counterpart:
//! `ParseThresholdConfig` of `pkg/kubelet/eviction`.
//! Differs from upstream: by default the disk is short below a tenth (images: 15 %) *or* two gigabytes, whichever is
//! less: a tenth of a large disk is more than many clusters ever use.
//! Invariant: every soft threshold has a grace, and amounts are positive.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::duration;
use skiff_api::scheduling::resources::value;

/// What is measured of a node. In the order in which shortages are answered: memory first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

/// A condition of the node while something is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Memory,
    Disk,
    Pid,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Absolute(u64),
    /// Of the capacity: 0.1 is a tenth.
    Share(f64),
    /// The lesser of both.
    Lesser(f64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    /// Met when less than this is there.
    pub amount: Amount,
    /// How long it has to be met before pods end; zero is a hard threshold, without mercy for pods either.
    pub grace: Duration,
    /// What has to be there beyond the threshold before the shortage counts as over.
    pub min_reclaim: Option<Amount>,
}

#[derive(Debug, Clone)]
pub struct EvictionConfig {
    pub thresholds: Vec<Threshold>,
    /// How long a condition of the node stays after the last shortage.
    pub transition: Duration,
    /// The most grace a pod gets from a soft threshold.
    pub max_pod_grace: Duration,
}

/// As the flags have it: comma-separated statements.
#[derive(Debug, Clone, Default)]
pub struct EvictionStatements<'a> {
    /// `None` is the default.
    pub hard: Option<&'a str>,
    pub soft: &'a str,
    pub soft_grace: &'a str,
    pub minimum_reclaim: &'a str,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ThresholdError {
    #[error("{0:?} is not of the form signal{1}value")]
    Malformed(String, char),
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    #[error("duplicate eviction signal {0}")]
    Duplicate(&'static str),
    #[error(
        "eviction threshold {signal}: {text:?} is neither a positive quantity nor a percentage"
    )]
    Amount { signal: &'static str, text: String },
    #[error("eviction grace period {signal}: {text:?} is no duration such as 1m30s")]
    Grace { signal: &'static str, text: String },
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(&'static str),
}

const SIGNALS: [Signal; 6] = [
    Signal::MemoryAvailable,
    Signal::NodefsAvailable,
    Signal::NodefsInodesFree,
    Signal::ImagefsAvailable,
    Signal::ImagefsInodesFree,
    Signal::PidAvailable,
];

const DEFAULT_HARD: [(Signal, Amount); 5] = [
    (Signal::MemoryAvailable, Amount::Absolute(100 << 20)),
    (Signal::NodefsAvailable, Amount::Lesser(0.1, 2 << 30)),
    (Signal::NodefsInodesFree, Amount::Share(0.05)),
    (Signal::ImagefsAvailable, Amount::Lesser(0.15, 2 << 30)),
    (Signal::ImagefsInodesFree, Amount::Share(0.05)),
];

// === impl Signal ===

impl Signal {
    pub fn name(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::NodefsAvailable => "nodefs.available",
            Signal::NodefsInodesFree => "nodefs.inodesFree",
            Signal::ImagefsAvailable => "imagefs.available",
            Signal::ImagefsInodesFree => "imagefs.inodesFree",
            Signal::PidAvailable => "pid.available",
        }
    }

    /// What is short, as messages call it.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    pub fn condition(self) -> Condition {
        match self {
            Signal::MemoryAvailable => Condition::Memory,
            Signal::PidAvailable => Condition::Pid,
            _ => Condition::Disk,
        }
    }

    /// Amounts of it are bytes, not a count.
    pub fn is_bytes(self) -> bool {
        matches!(self, Signal::MemoryAvailable | Signal::NodefsAvailable | Signal::ImagefsAvailable)
    }

    fn parse(text: &str) -> Result<Self, ThresholdError> {
        let found = SIGNALS.into_iter().find(|signal| signal.name() == text);
        found.ok_or_else(|| ThresholdError::Signal(text.to_owned()))
    }
}

// === impl Condition ===

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Pid => "PIDPressure",
        }
    }
}

// === impl Amount ===

impl Amount {
    pub fn of(self, capacity: u64) -> u64 {
        let share = |share: f64| (share * capacity as f64) as u64;
        match self {
            Amount::Absolute(amount) => amount,
            Amount::Share(part) => share(part),
            Amount::Lesser(part, amount) => share(part).min(amount),
        }
    }

    /// `None` for a percentage that never matters: 0 % and 100 % switch a threshold off.
    fn parse(signal: Signal, text: &str) -> Result<Option<Self>, ThresholdError> {
        let wrong = || ThresholdError::Amount { signal: signal.name(), text: text.to_owned() };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return match percent {
                0.0 | 100.0 => Ok(None),
                percent if (0.0..100.0).contains(&percent) => {
                    Ok(Some(Amount::Share(percent / 100.0)))
                }
                _ => Err(wrong()),
            };
        }
        let amount =
            value(&Quantity(text.to_owned())).and_then(|amount| u64::try_from(amount).ok());
        amount.filter(|amount| *amount > 0).map(|a| Some(Amount::Absolute(a))).ok_or_else(wrong)
    }
}

// === impl Threshold ===

impl Threshold {
    fn hard(signal: Signal, amount: Amount) -> Self {
        Threshold { signal, amount, grace: Duration::ZERO, min_reclaim: None }
    }

    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

// === impl EvictionConfig ===

impl Default for EvictionConfig {
    fn default() -> Self {
        EvictionConfig {
            thresholds: DEFAULT_HARD.map(|(signal, amount)| Threshold::hard(signal, amount)).into(),
            transition: Duration::from_secs(300),
            max_pod_grace: Duration::ZERO,
        }
    }
}

impl EvictionConfig {
    /// Replaces the thresholds by what the statements say.
    pub fn set(&mut self, said: &EvictionStatements<'_>) -> Result<(), ThresholdError> {
        let mut thresholds = match said.hard {
            None => EvictionConfig::default().thresholds,
            Some(text) => amounts(text, '<')?
                .into_iter()
                .map(|(signal, amount)| Threshold::hard(signal, amount))
                .collect(),
        };
        let graces = graces(said.soft_grace)?;
        for (signal, amount) in amounts(said.soft, '<')? {
            let grace = graces.get(&signal).copied();
            let grace = grace.ok_or(ThresholdError::NoGrace(signal.name()))?;
            thresholds.push(Threshold { signal, amount, grace, min_reclaim: None });
        }
        let reclaims = amounts(said.minimum_reclaim, '=')?;
        for threshold in &mut thresholds {
            threshold.min_reclaim = reclaims.get(&threshold.signal).copied();
        }
        self.thresholds = thresholds;
        Ok(())
    }

    /// What the hard threshold of a signal keeps back from pods.
    pub fn reserved(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().filter(|t| t.signal == signal && t.is_hard());
        hard.map(|t| t.amount.of(capacity)).max().unwrap_or(0)
    }
}

fn amounts(text: &str, sign: char) -> Result<BTreeMap<Signal, Amount>, ThresholdError> {
    let mut found = BTreeMap::new();
    for (signal, text) in statements(text, sign)? {
        if let Some(amount) = Amount::parse(signal, &text)?
            && found.insert(signal, amount).is_some()
        {
            return Err(ThresholdError::Duplicate(signal.name()));
        }
    }
    Ok(found)
}

fn graces(text: &str) -> Result<BTreeMap<Signal, Duration>, ThresholdError> {
    let parsed = statements(text, '=')?.into_iter().map(|(signal, text)| {
        let wrong = || ThresholdError::Grace { signal: signal.name(), text: text.clone() };
        Ok((signal, duration::parse_span(&text).ok_or_else(wrong)?))
    });
    parsed.collect()
}

fn statements(text: &str, sign: char) -> Result<Vec<(Signal, String)>, ThresholdError> {
    let each = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    each.map(|part| {
        let malformed = || ThresholdError::Malformed(part.to_owned(), sign);
        let (signal, value) = part.split_once(sign).ok_or_else(malformed)?;
        Ok((Signal::parse(signal.trim())?, value.trim().to_owned()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(said: EvictionStatements<'_>) -> Result<Vec<Threshold>, String> {
        let mut config = EvictionConfig::default();
        config.set(&said).map_err(|error| error.to_string())?;
        Ok(config.thresholds)
    }

    #[test]
    fn statements_become_thresholds() {
        let said = EvictionStatements {
            hard: Some("memory.available<1Gi, nodefs.available<10%,imagefs.available<0%"),
            soft: "pid.available<100",
            soft_grace: "pid.available=1m30s",
            minimum_reclaim: "memory.available=500Mi",
        };
        let soft = Threshold {
            grace: Duration::from_secs(90),
            ..Threshold::hard(Signal::PidAvailable, Amount::Absolute(100))
        };
        let memory = Threshold {
            min_reclaim: Some(Amount::Absolute(500 << 20)),
            ..Threshold::hard(Signal::MemoryAvailable, Amount::Absolute(1 << 30))
        };
        let disk = Threshold::hard(Signal::NodefsAvailable, Amount::Share(0.1));
        assert_eq!(parse(said), Ok(vec![memory, disk, soft]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let hard = |text| EvictionStatements { hard: Some(text), ..Default::default() };
        let soft = |text| EvictionStatements { soft: text, ..Default::default() };
        for (said, error) in [
            (hard("memory.available"), "\"memory.available\" is not of the form signal<value"),
            (hard("swap.available<1Gi"), "unsupported eviction signal swap.available"),
            (
                hard("memory.available<-1"),
                "eviction threshold memory.available: \"-1\" is neither a positive quantity nor a percentage",
            ),
            (
                hard("memory.available<101%"),
                "eviction threshold memory.available: \"101%\" is neither a positive quantity nor a percentage",
            ),
            (hard("pid.available<1,pid.available<2"), "duplicate eviction signal pid.available"),
            (
                soft("pid.available<1"),
                "grace period must be specified for the soft eviction threshold pid.available",
            ),
        ] {
            assert_eq!(parse(said), Err(error.to_owned()));
        }
    }

    #[test]
    fn a_large_disk_with_room_for_gigabytes_is_not_short() {
        let config = EvictionConfig::default();
        let gib = 1 << 30;
        assert_eq!(config.reserved(Signal::NodefsAvailable, 252 * gib), 2 * gib);
        assert_eq!(config.reserved(Signal::NodefsAvailable, 10 * gib), gib);
    }
}
