//! Numbers that may be written as a part of another: `maxSurge: 25%`.
//!
//! Counterpart: `GetScaledValueFromIntOrPercent`. Pure. Invariant: the result fits, however large the percentage.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// A plain number as it is, a percentage as a part of `whole`. What is neither is zero: validation lets none pass.
pub fn resolve(value: &IntOrString, whole: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(whole));
            let rounded = match rounding {
                Rounding::Up => product.saturating_add(99) / 100,
                Rounding::Down => product / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let part = |text: &str, rounding| resolve(&IntOrString::String(text.into()), 10, rounding);
        assert_eq!((part("25%", Rounding::Up), part("25%", Rounding::Down)), (3, 2));
        assert_eq!((part("0%", Rounding::Up), part("100%", Rounding::Down)), (0, 10));
        assert_eq!(part("9223372036854775807%", Rounding::Up), i32::MAX);
        assert_eq!(resolve(&IntOrString::Int(7), 10, Rounding::Up), 7);
    }
}
