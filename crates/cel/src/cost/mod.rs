//! What evaluating costs.
//!
//! One unit is about the price of reading a variable. How the cost of a function follows from the
//! sizes of what it is given is said once per overload, as a [`Cost`], and read two ways: with the
//! sizes of actual values while evaluating, and with bounds of them before ([`estimate`]).
//! Counterpart: cel-go's `interpreter/runtimecost.go` and `checker/cost.go`,
//! `library/cost.go` of `k8s.io/apiserver`. The numbers are part of the API: they decide which
//! rules a CustomResourceDefinition may have.
//! Invariant: sums and products saturate.

mod actual;
pub(crate) mod estimate;

pub(crate) use actual::Meter;

pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const STRUCT_COST: u64 = 40;
/// Of a character or byte that is looked at.
const TEXT: f64 = 0.1;
/// Of a character of a pattern, for each character it is held against.
const PATTERN: f64 = 0.25;
/// Length of the patterns behind named formats, as far as costs go.
const FORMAT_PATTERN: u64 = 128;

/// How the cost of a call follows from its arguments, the one it is called on first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    Fixed(u64),
    /// Goes through the text once and yields text as long.
    Scan,
    /// Goes through the text so many times and yields something else.
    Parse(f64),
    /// Compares with the beginning or end.
    Affix,
    /// Goes through everything inside.
    Traverse,
    /// Puts quotes around the text.
    Quote,
    ToBytes,
    FromBytes,
    Replace,
    Split,
    Join,
    Regex,
    Find,
    Contains,
    /// Looks for an element in a list.
    Search,
    /// Orders or tells apart two values.
    Compare,
    Equality,
    Concat,
    ConcatLists,
    /// Looks for an address in a network; with whether the address is text.
    ContainsIp(bool),
    /// Looks for a network in a network; with whether the inner one is text.
    ContainsCidr(bool),
    /// Reads a label or field selector.
    Selector,
    /// Holds text against a named format.
    Validate,
    /// Holds each element of one list against each of another, so many times.
    Product(f64),
    Slice,
    Range,
    Flatten,
    /// Makes a list as long as the first.
    Copy,
    /// Holds the elements of a list, that of the given place, against each other; with whether
    /// they are text.
    Pairs(usize, bool),
}

impl Cost {
    /// Whether the cost belongs to one overload: it is not known while several may be meant.
    fn of_overload(self) -> bool {
        use Cost::*;
        matches!(
            self,
            ToBytes
                | FromBytes
                | Search
                | Compare
                | Concat
                | ConcatLists
                | Product(_)
                | Slice
                | Range
                | Flatten
                | Copy
                | Pairs(..)
        )
    }
}

/// Bounds of a cost or of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

// === impl Range ===

impl Range {
    pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub(crate) const fn exactly(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub(crate) fn plus(self, other: Range) -> Range {
        self.with(other, u64::saturating_add)
    }

    pub(crate) fn times(self, other: Range) -> Range {
        self.with(other, u64::saturating_mul)
    }

    pub(crate) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Each bound times the factor, rounded up.
    pub(crate) fn scaled(self, factor: f64) -> Range {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    fn with(self, other: Range, combine: fn(u64, u64) -> u64) -> Range {
        Range { min: combine(self.min, other.min), max: combine(self.max, other.max) }
    }
}

/// The size times the factor, rounded up. Casts from floats saturate.
fn scale(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}
