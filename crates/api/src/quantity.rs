//! Amounts such as `500m`, `1Gi` and `1e3`: parsing, canonical form, comparing and adding.
//!
//! Text -> [`Quantity`] (an exact number of nano-units and the suffix family) -> canonical text.
//! Counterpart: `apimachinery/pkg/api/resource`. As there, what is finer than nano is rounded away
//! from zero and what exceeds 2^63-1 is capped.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

/// The suffix family an amount was written in, which its canonical form keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// An exact amount. Amounts compare by value alone: `1Ki` equals `1024`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Number,
}

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// Decimal exponent and suffix.
const DECIMAL: &[(i32, &str)] = &[
    (-9, "n"),
    (-6, "u"),
    (-3, "m"),
    (0, ""),
    (3, "k"),
    (6, "M"),
    (9, "G"),
    (12, "T"),
    (15, "P"),
    (18, "E"),
];
const BINARY: &[&str] = &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

// === impl Quantity ===

impl Quantity {
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nano: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nano: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded up: what CPU is counted in.
    pub fn milli(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// The amount in whole thousandths, if it is not already.
    pub fn rounded_to_milli(self) -> Option<Quantity> {
        let milli = NANO / 1000;
        (self.nano % milli != 0)
            .then(|| Quantity { nano: i128::from(self.milli()) * milli, format: self.format })
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = i128::from(self.nano % unit > 0) - i128::from(self.nano % unit < 0);
        i64::try_from(self.nano / unit + up).unwrap_or(match self.is_negative() {
            true => i64::MIN,
            false => i64::MAX,
        })
    }

    /// Small and fractional binary amounts are written in decimal, so that nothing is rounded.
    fn shown_as(self) -> Format {
        let small = self.nano.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if small || self.nano % NANO != 0 => Format::DecimalSi,
            format => format,
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        let (negative, digits, fraction, suffix) = split(text)?;
        let (format, base, exponent) = interpret(suffix)?;
        let number = format!("{digits}{fraction}");
        let scale = fraction.len() as i32;
        let nano = match base {
            Base::Ten => shift(&number, exponent + 9 - scale),
            Base::Two => shift_binary(&number, exponent, 9 - scale),
        };
        let nano = nano.min(MAX);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.shown_as() == Format::BinarySi {
            let mut amount = self.nano / NANO;
            let mut power = 0;
            while amount % 1024 == 0 && power + 1 < BINARY.len() {
                amount /= 1024;
                power += 1;
            }
            return write!(f, "{amount}{}", BINARY[power]);
        }
        let mut amount = self.nano;
        let mut at = 0;
        while amount % 1000 == 0 && at + 1 < DECIMAL.len() {
            amount /= 1000;
            at += 1;
        }
        match (self.shown_as(), DECIMAL[at]) {
            (Format::DecimalExponent, (0, _)) => write!(f, "{amount}"),
            (Format::DecimalExponent, (exponent, _)) => write!(f, "{amount}e{exponent}"),
            (_, (_, suffix)) => write!(f, "{amount}{suffix}"),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// A zero takes the other's suffix family, as upstream's `Add` does.
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: (self.nano + other.nano).clamp(-MAX, MAX), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, format: self.format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::default(), Quantity::add)
    }
}

// === parsing ===

enum Base {
    Ten,
    Two,
}

/// Sign, digits before and behind the point, suffix.
fn split(text: &str) -> Result<(bool, &str, &str, &str), ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        None => return Err(ParseError::Format),
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
    };
    let (digits, rest) = take(rest, |byte| byte.is_ascii_digit());
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => take(rest, |byte| byte.is_ascii_digit()),
        None => ("", rest),
    };
    let (_, tail) = take(suffix, |byte| b"eEinumkKMGTP".contains(&byte));
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !tail.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    if digits.is_empty() && fraction.is_empty() {
        return Err(ParseError::Number);
    }
    Ok((negative, digits, fraction, suffix))
}

fn take(text: &str, fits: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !fits(byte)).unwrap_or(text.len());
    text.split_at(end)
}

fn interpret(suffix: &str) -> Result<(Format, Base, i32), ParseError> {
    if let Some((exponent, _)) = DECIMAL.iter().find(|(_, name)| *name == suffix) {
        return Ok((Format::DecimalSi, Base::Ten, *exponent));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Format::BinarySi, Base::Two, power as i32));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let exponent: i64 = exponent.parse().map_err(|_| ParseError::Suffix)?;
    Ok((Format::DecimalExponent, Base::Ten, exponent.clamp(-1000, 1000) as i32))
}

/// `number * 10^exponent`, rounded up, at most [`MAX`].
fn shift(number: &str, exponent: i32) -> i128 {
    let number = number.trim_start_matches('0');
    if number.is_empty() {
        return 0;
    }
    let dropped = usize::try_from(-exponent).unwrap_or(0).min(number.len());
    let (kept, rest) = number.split_at(number.len() - dropped);
    let zeros = usize::try_from(exponent).unwrap_or(0);
    if kept.len() + zeros > 30 {
        return MAX;
    }
    let whole: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(MAX) };
    let round_up = rest.bytes().any(|byte| byte != b'0') || (kept.is_empty() && dropped > 0);
    whole * 10_i128.pow(zeros as u32) + i128::from(round_up)
}

/// `number * 1024^power * 10^exponent`, rounded up, at most [`MAX`].
fn shift_binary(number: &str, power: i32, exponent: i32) -> i128 {
    let Ok(number) = number.parse::<i128>() else { return MAX };
    let Some(scaled) = number.checked_mul(1024_i128.pow(power as u32)) else { return MAX };
    if exponent >= 0 {
        return scaled.checked_mul(10_i128.pow(exponent as u32)).unwrap_or(MAX);
    }
    let Some(divisor) = 10_i128.checked_pow(exponent.unsigned_abs()) else { return 1 };
    scaled / divisor + i128::from(scaled % divisor != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().expect(text).to_string()
    }

    #[test]
    fn amounts_have_one_canonical_form() {
        for (text, wanted) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("100000k", "100M"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("0.1n", "1n"),
            ("1.0Gi", "1Gi"),
            ("99999999999999999999E", "9223372036854775807"),
            ("+5", "5"),
        ] {
            assert_eq!(canonical(text), wanted, "{text}");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (text, error) in [
            ("", ParseError::Format),
            ("1Mix", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("x", ParseError::Format),
            ("1i", ParseError::Suffix),
            ("1kk", ParseError::Suffix),
            (".", ParseError::Number),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn amounts_add_and_compare_by_value() {
        let parse = |text: &str| text.parse::<Quantity>().expect(text);
        assert_eq!(parse("1Ki"), parse("1024"));
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!((parse("0") + parse("1Gi")).to_string(), "1Gi");
        assert_eq!((parse("600m") + parse("0.4")).to_string(), "1");
        assert_eq!((parse("1") - parse("1500m")).to_string(), "-500m");
        assert_eq!((parse("1500m").units(), parse("1500m").milli()), (2, 1500));
    }

    #[test]
    fn the_canonical_form_is_stable_under_damage() {
        mutation::each(b"+1234.5e-3Ki", 20_000, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(amount) = text.parse::<Quantity>() {
                let again: Quantity = amount.to_string().parse().expect("canonical");
                assert_eq!(again, amount, "{text}");
            }
        });
    }
}
