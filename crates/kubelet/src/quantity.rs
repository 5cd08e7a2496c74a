//! Resource quantities as numbers.
//!
//! Consumes `Quantity` strings (`500m`, `1Gi`, `1e3`), emits whole units or thousandths, rounded up as upstream
//! rounds. Counterpart: `k8s.io/apimachinery/pkg/api/resource`.
//! Invariant: arithmetic is exact (nano units in 128 bits); what does not parse is `None`, never zero.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

const DECIMAL: [(&str, i32); 9] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// Whole units, rounded up.
pub fn value(quantity: &Quantity) -> Option<i64> {
    nanos(&quantity.0).map(|n| clamp(div_ceil(n, NANO)))
}

/// Thousandths, rounded up: CPU is counted in these.
pub fn milli_value(quantity: &Quantity) -> Option<i64> {
    nanos(&quantity.0).map(|n| clamp(div_ceil(n, NANO / 1000)))
}

/// A quantity of bytes as upstream's node status prints memory: whole `Ki`.
pub fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

pub fn number(n: impl std::fmt::Display) -> Quantity {
    Quantity(n.to_string())
}

fn nanos(text: &str) -> Option<i128> {
    let (mantissa, scale) = split_suffix(text.trim())?;
    let (mantissa, exponent) = match mantissa.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (mantissa, 0),
    };
    let base = decimal(mantissa, 9 + exponent + scale.decimal)?;
    base.checked_mul(1i128 << scale.binary)
}

#[derive(Default)]
struct Scale {
    decimal: i32,
    binary: u32,
}

fn split_suffix(text: &str) -> Option<(&str, Scale)> {
    for (suffix, binary) in BINARY {
        if let Some(rest) = text.strip_suffix(suffix) {
            return Some((rest, Scale { binary, decimal: 0 }));
        }
    }
    for (suffix, decimal) in DECIMAL {
        if let Some(rest) = text.strip_suffix(suffix) {
            return Some((rest, Scale { decimal, binary: 0 }));
        }
    }
    Some((text, Scale::default()))
}

/// `text` times ten to the `exponent`, rounded away from zero where digits fall off.
fn decimal(text: &str, exponent: i32) -> Option<i128> {
    let negative = text.starts_with('-');
    let digits = text.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let number: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let shift = exponent - fraction.len() as i32;
    let scaled = match u32::try_from(shift) {
        Ok(up) => number.checked_mul(10i128.checked_pow(up)?)?,
        Err(_) => 10i128.checked_pow(shift.unsigned_abs()).map_or(1, |d| div_ceil(number, d)),
    };
    Some(if negative { -scaled } else { scaled })
}

fn div_ceil(n: i128, d: i128) -> i128 {
    n.div_euclid(d) + i128::from(n.rem_euclid(d) != 0)
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_notation() {
        for (text, whole, thousandths) in [
            ("1", 1, 1000),
            ("500m", 1, 500),
            ("0.5", 1, 500),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("1e3", 1000, 1_000_000),
            ("2k", 2000, 2_000_000),
            ("1n", 1, 1),
            ("128Mi", 134_217_728, 134_217_728_000),
            ("-1", -1, -1000),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!(
                (value(&quantity), milli_value(&quantity)),
                (Some(whole), Some(thousandths)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "abc", "1x", "1.2.3", "Gi", "."] {
            assert_eq!(value(&Quantity(text.into())), None, "{text:?}");
        }
    }
}
