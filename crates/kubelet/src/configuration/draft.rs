//! A configuration while a file is read into it, and the values that take more than a line to read or show.
//!
//! Thresholds of eviction come in five fields that only together say something: they are collected here and decided at
//! the end. Counterpart: the conversions and `ParseThresholdConfig` behind upstream's fields.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value, json};
use skiff_api::{duration, scheduling::resources};

use crate::{
    config::KubeletConfig,
    eviction::{Amount, EvictionStatements, Threshold},
};

type Pairs = Vec<(String, String)>;

pub struct Draft {
    pub config: KubeletConfig,
    /// `None` keeps what the configuration has.
    pub hard: Option<Pairs>,
    pub soft: Pairs,
    pub soft_grace: Pairs,
    pub reclaim: Pairs,
    /// Signals that `hard` does not name keep their defaults.
    pub merge_defaults: bool,
}

// === impl Draft ===

impl Draft {
    pub fn of(config: KubeletConfig) -> Self {
        let (soft, soft_grace, reclaim) = Default::default();
        Draft { config, hard: None, soft, soft_grace, reclaim, merge_defaults: false }
    }

    pub fn finish(mut self) -> Result<KubeletConfig, String> {
        let said = [&self.soft, &self.soft_grace, &self.reclaim];
        if self.hard.is_none() && said.iter().all(|pairs| pairs.is_empty()) {
            return Ok(self.config);
        }
        let hard = self.hard.as_ref().map(|pairs| statements(pairs, '<'));
        let defaults = std::mem::take(&mut self.config.eviction.thresholds);
        let set = self.config.eviction.set(&EvictionStatements {
            hard: hard.as_deref(),
            soft: &statements(&self.soft, '<'),
            soft_grace: &statements(&self.soft_grace, '='),
            minimum_reclaim: &statements(&self.reclaim, '='),
        });
        set.map_err(|error| error.to_string())?;
        if self.merge_defaults {
            let named = |threshold: &Threshold| {
                let name = threshold.signal.name();
                self.hard.iter().flatten().any(|(signal, _)| signal == name)
            };
            let kept = defaults.into_iter().filter(|default| default.is_hard() && !named(default));
            let thresholds = &mut self.config.eviction.thresholds;
            thresholds.retain(|threshold| !threshold.is_hard() || named(threshold));
            thresholds.extend(kept);
        }
        Ok(self.config)
    }
}

fn statements(pairs: &Pairs, sign: char) -> String {
    pairs.iter().map(|(signal, value)| format!("{signal}{sign}{value},")).collect()
}

// === reading ===

pub fn quantity(value: &Value) -> Result<u64, String> {
    let text = value.as_str().unwrap_or_default();
    let found = resources::value(&Quantity(text.to_owned())).and_then(|n| u64::try_from(n).ok());
    found.filter(|n| *n > 0).ok_or_else(|| format!("{text:?} must be a positive quantity"))
}

pub fn seconds(value: &Value) -> Result<Duration, String> {
    let text = value.as_str().unwrap_or_default();
    duration::parse_span(text).ok_or_else(|| format!("{text} must not be negative"))
}

/// What may be kept back from pods.
pub fn quantities(value: &Value) -> Result<BTreeMap<String, Quantity>, String> {
    const KNOWN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let each = value.as_object().into_iter().flatten().map(|(name, amount)| {
        if !KNOWN.contains(&name.as_str()) {
            return Err(format!("cannot reserve {name:?} resource"));
        }
        let amount = Quantity(amount.as_str().unwrap_or_default().to_owned());
        match resources::milli_value(&amount) {
            Some(0..) => Ok((name.clone(), amount)),
            Some(_) => {
                Err(format!("resource quantity for {name:?} cannot be negative: {}", amount.0))
            }
            None => Err(format!("failed to parse quantity {:?} for {name:?} resource", amount.0)),
        }
    });
    each.collect()
}

// === showing ===

pub fn show_amounts(config: &KubeletConfig, hard: bool) -> Value {
    of_thresholds(config, |t| (t.is_hard() == hard).then(|| amount(t.amount)))
}

pub fn show_graces(config: &KubeletConfig) -> Value {
    let grace =
        |t: &Threshold| duration::print(i64::try_from(t.grace.as_nanos()).unwrap_or(i64::MAX));
    of_thresholds(config, |t| (!t.is_hard()).then(|| grace(t)))
}

pub fn show_reclaims(config: &KubeletConfig) -> Value {
    of_thresholds(config, |t| t.min_reclaim.map(amount))
}

fn of_thresholds(config: &KubeletConfig, show: impl Fn(&Threshold) -> Option<String>) -> Value {
    let thresholds = config.eviction.thresholds.iter();
    let shown = thresholds.filter_map(|t| Some((t.signal.name().to_owned(), json!(show(t)?))));
    Value::Object(shown.collect::<Map<_, _>>())
}

/// Of the lesser of two the share is shown: the other has no words upstream.
fn amount(amount: Amount) -> String {
    match amount {
        Amount::Absolute(bytes) if bytes % (1 << 20) == 0 => format!("{}Mi", bytes >> 20),
        Amount::Absolute(count) => count.to_string(),
        Amount::Share(part) | Amount::Lesser(part, _) => format!("{}%", part * 100.0),
    }
}
