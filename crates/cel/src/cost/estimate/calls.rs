//! Bounds of what calls cost, and of the size of what they yield.

use super::Estimator;
use crate::ast::{Expr, Kind, Literal};
use crate::cost::{Cost, FORMAT_PATTERN, LIST_COST, PATTERN, Range, STRUCT_COST, TEXT};
use crate::types::Type;

/// A call that makes a list.
fn making(factor: f64, size: Range) -> (Range, Option<Range>) {
    (size.scaled(factor).plus(Range::exactly(1 + LIST_COST)), Some(size))
}

impl Estimator<'_> {
    /// What a call costs besides its arguments, and the size of what it yields.
    pub(super) fn work(&mut self, cost: Cost, args: &[&Expr]) -> (Range, Option<Range>) {
        let first = self.size_of(args, 0);
        match cost {
            Cost::Fixed(units) => (Range::exactly(units), None),
            Cost::Traverse => (self.traverse(args[0], first), None),
            Cost::Search => (self.size_of(args, 1).scaled(1.0), None),
            Cost::Compare => (compared(first, self.size_of(args, 1)), None),
            Cost::Equality => (self.equality(args, first), None),
            Cost::ConcatLists => (Range::exactly(1), Some(first.plus(self.size_of(args, 1)))),
            Cost::Product(times) => {
                let pairs = first.times(self.size_of(args, 1));
                (pairs.scaled(times).plus(Range::exactly(1)), None)
            }
            Cost::Slice | Cost::Range | Cost::Flatten | Cost::Copy | Cost::Pairs(..) => {
                self.list_work(cost, args, first)
            }
            Cost::ContainsIp(_) | Cost::ContainsCidr(_) => (self.network_work(cost, args), None),
            text => self.text_work(text, args, first),
        }
    }

    fn size_of(&mut self, args: &[&Expr], at: usize) -> Range {
        args.get(at).map_or(Range::UNKNOWN, |arg| self.size_or_unknown(arg))
    }

    /// Calls that make lists.
    fn list_work(&mut self, cost: Cost, args: &[&Expr], first: Range) -> (Range, Option<Range>) {
        match cost {
            Cost::Slice => {
                let start = int_literal(args[1]).unwrap_or(0);
                let end = int_literal(args[2]).unwrap_or(first.max);
                making(1.0, Range::exactly(end.wrapping_sub(start)))
            }
            Cost::Range => making(1.0, Range::exactly(int_literal(args[0]).unwrap_or(u64::MAX))),
            Cost::Flatten => {
                let depth = args.get(1).map_or(1, |depth| int_literal(depth).unwrap_or(u64::MAX));
                making(depth as f64, first)
            }
            Cost::Pairs(at, text) => {
                let size = self.size_of(args, at);
                making(if text { 2.0 + TEXT } else { 2.0 }, size.times(size))
            }
            _ => making(1.0, first),
        }
    }

    /// Looking for an address or network in a network, all of four or sixteen bytes.
    fn network_work(&mut self, cost: Cost, args: &[&Expr]) -> Range {
        let address = Range { min: 4, max: 16 };
        let network = address.plus(address).scaled(TEXT);
        match cost {
            Cost::ContainsIp(parse) => network.plus(self.parsed(parse, args)),
            Cost::ContainsCidr(parse) => {
                let masked = address.scaled(TEXT).plus(Range::exactly(1));
                network.plus(masked).plus(self.parsed(parse, args))
            }
            _ => network,
        }
    }

    /// Calls on text.
    fn text_work(&mut self, cost: Cost, args: &[&Expr], first: Range) -> (Range, Option<Range>) {
        let second = self.size_of(args, 1);
        let scan = first.scaled(TEXT);
        let pattern = first.plus(Range::exactly(1)).scaled(TEXT).times(second.scaled(PATTERN));
        match cost {
            Cost::Parse(times) => (first.scaled(times * TEXT), None),
            Cost::Affix => (second.scaled(TEXT), None),
            Cost::Quote => {
                let max = first.max.saturating_mul(2).saturating_add(2);
                (scan, Some(Range { min: first.min.saturating_add(2), max }))
            }
            Cost::ToBytes => {
                (scan, Some(Range { min: first.min, max: first.max.saturating_mul(4) }))
            }
            Cost::FromBytes => (scan, Some(Range { min: first.min / 4, max: first.max })),
            Cost::Replace => {
                let result = replaced(first, second, self.size_of(args, 2));
                (first.scaled(2.0 * TEXT), Some(result))
            }
            Cost::Split => {
                let max = args.get(2).and_then(|limit| int_literal(limit)).unwrap_or(first.max);
                (first.scaled(2.0 * TEXT), Some(Range { min: 0, max }))
            }
            Cost::Join => {
                let joined = self.joined(args, first);
                (joined.scaled(TEXT), Some(joined))
            }
            Cost::Regex => (pattern, None),
            Cost::Find => (pattern, Some(Range { min: 0, max: first.max })),
            Cost::Contains => (scan.times(second.scaled(TEXT)), None),
            Cost::Concat => {
                let sum = first.plus(second);
                (sum.scaled(TEXT), Some(sum))
            }
            Cost::Selector => (selector(second), None),
            Cost::Validate => (second.scaled(TEXT).scaled(FORMAT_PATTERN as f64 * PATTERN), None),
            _ => (scan, Some(first)),
        }
    }

    fn traverse(&mut self, list: &Expr, size: Range) -> Range {
        let one = Range::exactly(1);
        match self.checked.type_of(list) {
            Type::List(element) if matches!(**element, Type::String | Type::Bytes) => {
                size.times(one.plus(self.element_size(list).scaled(TEXT)))
            }
            Type::List(_) => size.times(one),
            _ => size.scaled(TEXT),
        }
    }

    fn joined(&mut self, args: &[&Expr], count: Range) -> Range {
        let text = match self.checked.type_of(args[0]) {
            Type::List(_) => count.times(self.element_size(args[0])),
            _ => Range::exactly(0),
        };
        let Some(separator) = args.get(1) else { return text };
        let separators =
            Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
        text.plus(self.size_or_unknown(separator).times(separators))
    }

    fn parsed(&mut self, parse: bool, args: &[&Expr]) -> Range {
        match (parse, args.get(1)) {
            (true, Some(text)) => self.size_or_unknown(text).scaled(TEXT),
            _ => Range::exactly(0),
        }
    }

    fn equality(&mut self, args: &[&Expr], first: Range) -> Range {
        let kind = self.checked.type_of(args[0]);
        if kind == self.checked.type_of(args[1]) {
            match kind.name() {
                "kubernetes.NamedFormat" => return Range { min: 1, max: 64 }.scaled(TEXT),
                "kubernetes.URL" => {
                    let max = self.sizes.get(&args[1].id).map_or(1, |size| size.max);
                    return Range { min: 1, max }.scaled(TEXT);
                }
                "net.IP" | "net.CIDR" => return Range::exactly(1),
                name if name.starts_with("kubernetes.") => return Range::exactly(1),
                _ => {}
            }
        }
        compared(first, self.size_or_unknown(args[1]))
    }
}

fn compared(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.scaled(TEXT)
}

fn selector(length: Range) -> Range {
    let requirements = length.scaled(0.5).scaled((LIST_COST + STRUCT_COST) as f64);
    Range::exactly(LIST_COST).plus(length.scaled(TEXT)).plus(requirements)
}

/// The length of text in which something is replaced.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    let mut count = Range::exactly(0);
    let mut kept = Range::exactly(0);
    // The longest: the shortest is replaced by the longest as often as possible.
    if from.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if to.max <= from.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / from.min as f64).ceil() as u64;
    }
    // The shortest: the longest is replaced by the shortest as often as possible.
    if from.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if from.max <= to.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / from.max as f64).ceil() as u64;
    }
    count.times(to).plus(kept)
}

fn int_literal(expr: &Expr) -> Option<u64> {
    match expr.kind {
        Kind::Literal(Literal::Int(value)) => Some(u64::try_from(value).unwrap_or(0)),
        _ => None,
    }
}
