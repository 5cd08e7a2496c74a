//! Bounds of numbers.
//!
//! A whole number is compared as one, and its bounds are cut to whole numbers; anything else is a float. A value or bound
//! that the schema's type cannot hold is reported for the whole object. Counterpart: `kube-openapi`'s `numberValidator`.

use serde_json::{Number, Value};

use super::place::Place;
use super::{Bound, Rule};
use crate::field::{ErrorType, FieldError, Path};

/// The faults of a number, in upstream's order: range, multiple, minimum, maximum.
pub fn faults(rule: &Rule, number: &Number, at: &Place<'_>, below: &Path<'_>) -> Vec<FieldError> {
    let check = Check { rule, number, at, below };
    let mut found = Vec::new();
    // As a float the largest integer would be one too many.
    let is_long = number.is_i64() && rule.of == "integer" && rule.format != "int32";
    found.extend(check.out_of_range(float(number), "Checked").filter(|_| !is_long));
    check.multiple(&mut found);
    check.bound(&rule.minimum, "Minimum boundary", &mut found);
    check.bound(&rule.maximum, "Maximum boundary", &mut found);
    found
}

struct Check<'a> {
    rule: &'a Rule,
    number: &'a Number,
    at: &'a Place<'a>,
    below: &'a Path<'a>,
}

// === impl Check ===

impl Check<'_> {
    /// What the schema's type cannot hold.
    fn out_of_range(&self, number: f64, what: &str) -> Option<FieldError> {
        let (of, format) = (self.rule.of.as_str(), self.rule.format.as_str());
        let fits = match (of, format) {
            ("integer", "int32") => is_integer(number, f64::from(i32::MIN), 2_147_483_648.0),
            ("integer", _) => {
                is_integer(number, -9_223_372_036_854_775_808.0, 9_223_372_036_854_775_808.0)
            }
            ("number", "float") => number.abs() <= f64::from(f32::MAX),
            _ => true,
        };
        let form = match format {
            "" => "(default format)".to_owned(),
            format => format!("with format {format}"),
        };
        let detail = format!("{what} value must be of type {of} {form} in {}", self.at.name());
        let field = self.below.to_string();
        let error = FieldError {
            kind: ErrorType::Invalid,
            field,
            bad_value: Some("".into()),
            printed: None,
            detail,
        };
        (!fits).then_some(error)
    }

    fn multiple(&self, found: &mut Vec<FieldError>) {
        let Some(factor) = self.rule.multiple_of else { return };
        let beyond = self.out_of_range(factor, "MultipleOf");
        let whole = self.number.as_i64().filter(|_| beyond.is_none());
        found.extend(beyond);
        let divides = match whole {
            Some(number) => (factor as i64 > 0).then(|| number % factor as i64 == 0),
            None => (factor > 0.0).then(|| {
                let number = float(self.number);
                is_whole(if factor < 1.0 { 1.0 / factor * number } else { number / factor })
            }),
        };
        let shown = if whole.is_some() { (factor as i64).into() } else { self.value_of(factor) };
        let name = self.at.name();
        match divides {
            Some(true) => {}
            Some(false) => {
                let detail = format!("{name} in body should be a multiple of {}", printed(&shown));
                found.push(self.fault(self.number.clone().into(), detail));
            }
            None => {
                let printed = printed(&shown);
                let detail =
                    format!("factor MultipleOf declared for {name} must be positive: {printed}");
                found.push(self.fault(shown, detail));
            }
        }
    }

    fn bound(&self, bound: &Option<Bound>, what: &str, found: &mut Vec<FieldError>) {
        let Some(Bound { limit, exclusive }) = bound else { return };
        let is_minimum = what.starts_with("Min");
        let beyond = self.out_of_range(*limit, what);
        let whole = self.number.as_i64().filter(|_| beyond.is_none());
        found.extend(beyond);
        let order = match whole {
            Some(number) => number.cmp(&(*limit as i64)),
            None => float(self.number).total_cmp(limit),
        };
        let order = if is_minimum { order.reverse() } else { order };
        if order.is_lt() || (order.is_eq() && !exclusive) {
            return;
        }
        let word = if is_minimum { "greater" } else { "less" };
        let or_equal = if *exclusive { "" } else { " or equal to" };
        let limit = if whole.is_some() { (*limit as i64).into() } else { self.value_of(*limit) };
        let (name, limit) = (self.at.name(), printed(&limit));
        let detail = format!("{name} in body should be {word} than{or_equal} {limit}");
        found.push(self.fault(self.number.clone().into(), detail));
    }

    fn value_of(&self, number: f64) -> Value {
        Number::from_f64(number).map_or(Value::Null, Value::Number)
    }

    fn fault(&self, value: Value, detail: String) -> FieldError {
        FieldError {
            kind: ErrorType::Invalid,
            field: self.at.field(self.below),
            printed: Some(printed(&value)),
            bad_value: Some(value),
            detail,
        }
    }
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

fn is_integer(number: f64, least: f64, beyond: f64) -> bool {
    number.fract() == 0.0 && number >= least && number < beyond
}

/// Whole but for what floats lose.
pub fn is_whole(number: f64) -> bool {
    if !number.is_finite() || number.abs() > 9_007_199_254_740_991.0 {
        return false;
    }
    let off = (number - number.trunc()).abs();
    number == number.trunc()
        || off / (number.abs() + number.trunc().abs()).max(f64::MIN_POSITIVE) < 1e-9
}

/// A number as Go prints it: whole floats without a point, very large and small ones with a signed exponent.
pub fn printed(number: &Value) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..21).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => float.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_print_as_in_go() {
        for (number, wanted) in [
            (json!(10.0), "10"),
            (json!(0.7), "0.7"),
            (json!(1e21), "1e+21"),
            (json!(1e20), "100000000000000000000"),
            (json!(0.00001), "1e-05"),
            (json!(7), "7"),
        ] {
            assert_eq!(printed(&number), wanted);
        }
    }
}
