//! A number or a percentage: `maxSurge: 25%`, `targetPort: http`.
//!
//! Counterpart: `apimachinery/pkg/util/intstr`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage")]
pub struct NotAPercentage;

impl IntOrString {
    pub fn of(value: &Value) -> Option<IntOrString> {
        match value {
            Value::String(text) => Some(IntOrString::String(text.clone())),
            Value::Number(number) => {
                number.as_i64().and_then(|n| i32::try_from(n).ok()).map(IntOrString::Int)
            }
            _ => None,
        }
    }

    /// The number, or this percentage of `total`.
    pub fn scaled(&self, total: i64, round_up: bool) -> Result<i64, NotAPercentage> {
        let percent = match self {
            IntOrString::Int(number) => return Ok(i64::from(*number)),
            IntOrString::String(text) => text.strip_suffix('%').ok_or(NotAPercentage)?,
        };
        let percent: i64 = percent.parse().map_err(|_| NotAPercentage)?;
        let product = percent.saturating_mul(total);
        Ok(match round_up {
            true => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
            false => product.div_euclid(100),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_scale_and_round() {
        let of = |value| IntOrString::of(&value).expect("a number or text");
        assert_eq!(of(json!("25%")).scaled(10, true), Ok(3));
        assert_eq!(of(json!("25%")).scaled(10, false), Ok(2));
        assert_eq!(of(json!(7)).scaled(10, true), Ok(7));
        assert_eq!(of(json!("http")).scaled(10, true), Err(NotAPercentage));
    }
}
