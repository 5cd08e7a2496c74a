//! Costs of what is done, from actual sizes.

use std::sync::Arc;

use crate::error::EvalError;
use crate::library::Overload;
use crate::value::{List, Value};

use super::{Cost, LIST_COST, PATTERN, STRUCT_COST, TEXT, scale};

/// Counts what an evaluation costs and ends it when that is too much.
#[derive(Debug)]
pub(crate) struct Meter {
    cost: u64,
    limit: u64,
}

// === impl Meter ===

impl Meter {
    pub fn new(limit: u64) -> Meter {
        Meter { cost: 0, limit }
    }

    pub fn cost(&self) -> u64 {
        self.cost
    }

    pub fn charge(&mut self, units: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(units);
        if self.cost > self.limit { Err(EvalError::CostLimitExceeded) } else { Ok(()) }
    }

    pub fn refund(&mut self, units: u64) {
        self.cost = self.cost.saturating_sub(units);
    }

    pub fn charge_equality(&mut self, a: &Value<'_>, b: &Value<'_>) -> Result<(), EvalError> {
        self.charge(equality(a, b))
    }

    /// Charges for a call that one of the overloads answers.
    pub fn charge_call(
        &mut self,
        overloads: &[Arc<Overload>],
        args: &[Value<'_>],
        result: Option<&Value<'_>>,
    ) -> Result<(), EvalError> {
        let cost = match overloads.first().map(|overload| overload.cost) {
            Some(Cost::Fixed(units)) => units,
            Some(cost) if cost.of_overload() && overloads.len() > 1 => 1,
            Some(cost) => cost.actual(args, result),
            None => 1,
        };
        self.charge(cost)
    }
}

fn equality(a: &Value<'_>, b: &Value<'_>) -> u64 {
    if let Value::Opaque(_) = a {
        return 1;
    }
    scale(a.cost_size().min(b.cost_size()), TEXT)
}

// === impl Cost ===

impl Cost {
    fn actual(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |at: usize| args.get(at).map_or(1, Value::cost_size);
        let result_size = result.map_or(1, Value::cost_size);
        let pattern = |length: u64| {
            scale(size(0).saturating_add(1), TEXT).saturating_mul(scale(length, PATTERN))
        };
        let network = || scale(size(0) * 2, TEXT);
        let parsed = |parse: bool| if parse { scale(size(1), TEXT) } else { 0 };
        match self {
            Cost::Fixed(units) => units,
            Cost::Scan | Cost::Affix | Cost::Quote | Cost::ToBytes | Cost::FromBytes => {
                scale(size(0), TEXT)
            }
            Cost::Parse(times) => scale(size(0), times * TEXT),
            Cost::Traverse => args.first().map_or(0, traversal),
            Cost::Replace | Cost::Split => scale(size(0), 2.0 * TEXT),
            Cost::Join => scale(result_size, 2.0 * TEXT),
            Cost::Regex | Cost::Find => pattern(size(1)),
            Cost::Contains => scale(size(0), TEXT).saturating_mul(scale(size(1), TEXT)),
            Cost::Search => size(1),
            Cost::Compare | Cost::Equality => scale(size(0).min(size(1)), TEXT),
            Cost::Concat => scale(size(0).saturating_add(size(1)), TEXT),
            Cost::ConcatLists => 1,
            Cost::ContainsIp(parse) => network() + parsed(parse),
            Cost::ContainsCidr(parse) => network() + scale(size(0), TEXT) + 1 + parsed(parse),
            Cost::Selector => selector(size(1)),
            Cost::Validate => {
                scale(size(1).saturating_add(1), TEXT).saturating_mul(scale(size(0), PATTERN))
            }
            Cost::Product(times) => 1 + (size(0).saturating_mul(size(1)) as f64 * times) as u64,
            Cost::Slice | Cost::Range | Cost::Copy => making(1.0, result_size),
            Cost::Flatten => making(args.get(1).map_or(1.0, depth), size(0)),
            Cost::Pairs(at, _) => pairs(&args[at]),
        }
    }
}

/// A call that makes a list.
fn making(factor: f64, size: u64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_COST)
}

fn depth(argument: &Value<'_>) -> f64 {
    if let Value::Int(depth) = argument { *depth as f64 } else { 1.0 }
}

fn pairs(list: &Value<'_>) -> u64 {
    let Value::List(list) = list else { return 1 };
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let size = list.len() as u64;
    making(if text { 2.0 + TEXT } else { 2.0 }, size.saturating_mul(size))
}

fn selector(length: u64) -> u64 {
    LIST_COST + scale(length, TEXT) + scale(scale(length, 0.5), (LIST_COST + STRUCT_COST) as f64)
}

/// A tenth of all text inside, and one for everything else.
fn traversal(value: &Value<'_>) -> u64 {
    let inside = |list: &List<'_>| list.iter().flatten().map(|e| traversal(&e)).sum();
    match value {
        Value::String(text) => (text.len() as f64 * TEXT) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TEXT) as u64,
        Value::List(list) => inside(list),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| traversal(&key.into()) + value.map_or(0, |v| traversal(&v)))
            .sum(),
        _ => 1,
    }
}
