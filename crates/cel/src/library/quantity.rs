//! Quantities: `500m`, `2Gi`.
//!
//! Counterpart: `library/quantity.go` of `k8s.io/apiserver`, and of `apimachinery` what it uses.
//! Differs: a number too large for 128 bits of billionths is the largest there is.
//! Invariant: nothing finer than a billionth exists; what is finer is rounded up.

use std::any::Any;
use std::cmp::Ordering;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Opaque, Value};

const NAME: &str = "kubernetes.Quantity";
const BILLION: i128 = 1_000_000_000;

macro_rules! quantity {
    () => {
        "kubernetes.Quantity"
    };
}

pub(super) const TABLE: &[Row] = &[
    row("quantity", "string_to_quantity", concat!("(string) -> ", quantity!()), parse)
        .costs(Cost::Parse(1.0)),
    row("isQuantity", "is_quantity_string", "(string) -> bool", is_quantity)
        .costs(Cost::Parse(1.0)),
    row("sign", "quantity_sign", concat!("(", quantity!(), ") -> int"), |args| {
        of_one(args, |q| Ok(Value::Int(q.nanos.signum() as i64)))
    }),
    row(
        "isGreaterThan",
        "quantity_is_greater_than",
        concat!(quantity!(), ".(", quantity!(), ") -> bool"),
        |args| compared(args, |order| Value::Bool(order.is_gt())),
    ),
    row(
        "isLessThan",
        "quantity_is_less_than",
        concat!(quantity!(), ".(", quantity!(), ") -> bool"),
        |args| compared(args, |order| Value::Bool(order.is_lt())),
    ),
    row(
        "compareTo",
        "quantity_compare_to",
        concat!(quantity!(), ".(", quantity!(), ") -> int"),
        |args| compared(args, |order| Value::Int(order as i64)),
    ),
    row(
        "asApproximateFloat",
        "quantity_get_float",
        concat!(quantity!(), ".() -> double"),
        |args| of_one(args, |q| Ok(Value::Double(q.nanos as f64 / BILLION as f64))),
    ),
    row("asInteger", "quantity_get_int", concat!(quantity!(), ".() -> int"), |args| {
        let message = "cannot convert value to integer";
        of_one(args, |q| q.integer.map(Value::Int).ok_or_else(|| EvalError::other(message)))
    }),
    row("isInteger", "quantity_is_integer", concat!(quantity!(), ".() -> bool"), |args| {
        of_one(args, |q| Ok(Value::Bool(q.integer.is_some())))
    }),
    row(
        "add",
        "quantity_add",
        concat!(quantity!(), ".(", quantity!(), ") -> ", quantity!()),
        |args| sum(args, 1),
    ),
    row("add", "quantity_add_int", concat!(quantity!(), ".(int) -> ", quantity!()), |args| {
        sum(args, 1)
    }),
    row(
        "sub",
        "quantity_sub",
        concat!(quantity!(), ".(", quantity!(), ") -> ", quantity!()),
        |args| sum(args, -1),
    ),
    row("sub", "quantity_sub_int", concat!(quantity!(), ".(int) -> ", quantity!()), |args| {
        sum(args, -1)
    }),
];

#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    /// The number as it is, when it was written as a whole one: `1000m` was not.
    integer: Option<i64>,
}

impl Type {
    /// The type of amounts: `quantity('1Gi')`.
    pub fn quantity() -> Type {
        Type::object(NAME)
    }
}

impl Opaque for Quantity {
    fn cel_type(&self) -> Type {
        Type::object(NAME)
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Quantity>().is_some_and(|other| other.nanos == self.nanos)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// === reading ===

/// Powers of ten, or of two, a suffix stands for.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "" => Scale::Ten(0),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            Scale::Ten(digits.parse().ok()?)
        }
    })
}

impl Quantity {
    fn read(text: &str) -> Result<Quantity, &'static str> {
        const FORMAT: &str = "quantities must match the regular expression \
                              '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let letters = suffix.trim_end_matches(|c: char| c.is_ascii_digit());
        let letters = letters.strip_suffix(['+', '-']).unwrap_or(letters);
        if number.is_empty() || !letters.chars().all(|c| "eEinumkKMGTP".contains(c)) {
            return Err(FORMAT);
        }
        if fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
            return Err(FORMAT);
        }
        let scale = scale(suffix).ok_or("unable to parse quantity's suffix")?;
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        // More digits than this are more than anything can be.
        if digits.len() > 38 {
            return Ok(Quantity { nanos: i128::MAX, integer: None });
        }
        let value: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| FORMAT)? };
        let value = if text.starts_with('-') { -value } else { value };
        let places = fraction.len() as i32;
        Ok(match scale {
            Scale::Ten(power) => Quantity {
                nanos: times_power_of_ten(value, power.saturating_add(9).saturating_sub(places)),
                integer: whole_number(value, power.saturating_sub(places), digits.len()),
            },
            Scale::Two(power) => {
                let scaled = value.saturating_mul(1 << power);
                let whole = (places == 0).then(|| i64::try_from(scaled).ok()).flatten();
                Quantity { nanos: times_power_of_ten(scaled, 9 - places), integer: whole }
            }
        })
    }
}

fn whole_number(value: i128, power: i32, digits: usize) -> Option<i64> {
    let power = u32::try_from(power).ok().filter(|power| *power <= 18 && digits <= 18)?;
    i64::try_from(value.checked_mul(10i128.pow(power))?).ok()
}

/// Rounded away from zero, as quantities are.
fn times_power_of_ten(value: i128, power: i32) -> i128 {
    match u32::try_from(power) {
        Ok(power) if power > 38 => {
            if value == 0 {
                0
            } else {
                value.signum() * i128::MAX
            }
        }
        Ok(power) => value.saturating_mul(10i128.pow(power)),
        Err(_) if power < -38 => value.signum(),
        Err(_) => {
            let divisor = 10i128.pow(power.unsigned_abs());
            let rest = value % divisor;
            value / divisor + rest.signum()
        }
    }
}

// === functions ===

pub(crate) fn value(text: &str) -> Option<Value<'static>> {
    Quantity::read(text).ok().map(Value::opaque)
}

fn parse<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Quantity::read(text).map(Value::opaque).map_err(EvalError::other),
        _ => no_overload(),
    }
}

fn is_quantity<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Quantity::read(text).is_ok())),
        _ => no_overload(),
    }
}

fn of_one<'a>(
    args: Args<'_, 'a>,
    answer: impl FnOnce(&Quantity) -> Evaluated<'a>,
) -> Evaluated<'a> {
    match args {
        [value] => value.downcast().map_or_else(no_overload, answer),
        _ => no_overload(),
    }
}

fn compared<'a>(args: Args<'_, 'a>, answer: fn(Ordering) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [a, b] => match (a.downcast::<Quantity>(), b.downcast::<Quantity>()) {
            (Some(a), Some(b)) => Ok(answer(a.nanos.cmp(&b.nanos))),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}

fn sum<'a>(args: Args<'_, 'a>, sign: i64) -> Evaluated<'a> {
    let [a, b] = args else { return no_overload() };
    let Some(a) = a.downcast::<Quantity>() else { return no_overload() };
    let b = match (b, b.downcast::<Quantity>()) {
        (_, Some(b)) => *b,
        (Value::Int(b), _) => Quantity { nanos: i128::from(*b) * BILLION, integer: Some(*b) },
        _ => return no_overload(),
    };
    let integer = a.integer.zip(b.integer).and_then(|(a, b)| a.checked_add(b.checked_mul(sign)?));
    let nanos = a.nanos.saturating_add(b.nanos.saturating_mul(sign.into()));
    Ok(Value::opaque(Quantity { nanos, integer }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_suffixes() {
        let nanos = |text: &str| Quantity::read(text).map(|q| q.nanos).ok();
        assert_eq!(nanos("1500m"), nanos("1.5"));
        assert_eq!(nanos("1Ki"), nanos("1024"));
        assert_eq!(nanos("1e3"), nanos("1k"));
        assert_eq!(nanos("0.1n"), nanos("1n"));
        assert_eq!(nanos("-0.1n"), nanos("-1n"));
        for wrong in ["", ".", "-", "1.2.3", "1x", "e3", "1e"] {
            assert_eq!(nanos(wrong), None, "{wrong}");
        }
        assert_eq!(nanos("1e999999999"), Some(i128::MAX));
        assert_eq!(nanos(&"9".repeat(60)), Some(i128::MAX));
    }
}
