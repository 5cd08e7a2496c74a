//! The JSON paths of printer columns: `.spec.x`, `.metadata.labels['a/b']`, `.list[0].y`,
//! `.status.conditions[?(@.type=="Ready")].status`, `.list[*].name`.
//!
//! Text -> [`JsonPath`] -> values. Counterpart: `client-go/util/jsonpath`.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Negative counts from the end.
    Index(i64),
    All,
    /// Entries whose value at the path compares so with the literal.
    Filter {
        path: JsonPath,
        operator: Operator,
        literal: Value,
    },
    /// Entries that have something at the path.
    Has(JsonPath),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPERATORS: &[(&str, Operator)] = &[
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl JsonPath {
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.trim_start_matches(['$', '@']);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match rest.strip_prefix('[') {
                Some(inside) => {
                    bracket(inside).ok_or_else(|| format!("unterminated array in {text:?}"))?
                }
                None => name(rest.strip_prefix('.').unwrap_or(rest)),
            };
            steps.extend(step);
            rest = after;
        }
        Ok(JsonPath(steps))
    }

    /// Everything the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.of(value)).collect();
        }
        found
    }

    /// Values as the printer writes them: separated by spaces, text without quotes.
    pub fn print(values: &[&Value]) -> String {
        let shown = |value: &&Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        values.iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}

/// A name up to the next `.` or `[`; a backslash keeps the next character.
fn name(text: &str) -> (Option<Step>, &str) {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => out.extend(characters.next().map(|(_, c)| c)),
            '.' | '[' => return (field_or_all(out), &text[at..]),
            c => out.push(c),
        }
    }
    (field_or_all(out), "")
}

fn field_or_all(name: String) -> Option<Step> {
    match name.as_str() {
        "" => None,
        "*" => Some(Step::All),
        _ => Some(Step::Field(name)),
    }
}

/// What stands between brackets, and what follows them.
fn bracket(text: &str) -> Option<(Option<Step>, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((Some(filter_step(&filter[..end])?), &filter[end + 2..]));
    }
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let inside = &text[1..];
        let end = inside.find(quote)?;
        let after = inside[end + 1..].strip_prefix(']')?;
        return Some((Some(Step::Field(inside[..end].to_owned())), after));
    }
    let end = text.find(']')?;
    let step = match &text[..end] {
        "*" | "" => Step::All,
        number => Step::Index(number.trim().parse().ok()?),
    };
    Some((Some(step), &text[end + 1..]))
}

fn filter_step(text: &str) -> Option<Step> {
    let split =
        OPERATORS.iter().find_map(|(sign, operator)| Some((text.split_once(sign)?, *operator)));
    let Some(((left, right), operator)) = split else {
        return Some(Step::Has(JsonPath::parse(text).ok()?));
    };
    let right = right.trim();
    let unquoted = |quote: char| right.strip_prefix(quote)?.strip_suffix(quote);
    let literal = match unquoted('\'').or_else(|| unquoted('"')) {
        Some(text) => text.into(),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter { path: JsonPath::parse(left).ok()?, operator, literal })
}

impl Step {
    fn of<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Step::Index(at), Value::Array(items)) => {
                let at = if *at < 0 { at + items.len() as i64 } else { *at };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Has(path), Value::Array(items)) => {
                items.iter().filter(|item| !path.find(item).is_empty()).collect()
            }
            (Step::Filter { path, operator, literal }, Value::Array(items)) => {
                let holds = |item: &&Value| {
                    path.find(item).first().is_some_and(|found| operator.holds(found, literal))
                };
                items.iter().filter(holds).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Operator {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => {
                a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b))
            }
            _ => None,
        };
        match self {
            Operator::Equal => left == right,
            Operator::NotEqual => left != right,
            Operator::Less => order.is_some_and(|order| order.is_lt()),
            Operator::LessOrEqual => order.is_some_and(|order| order.is_le()),
            Operator::Greater => order.is_some_and(|order| order.is_gt()),
            Operator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"metadata": {"labels": {"a/b": "x", "c.d": "y"}}, "list": [{"n": 1}, {"n": 2}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]});
        for (path, wanted) in [
            (".metadata.labels['a/b']", "x"),
            (".metadata.labels.c\\.d", "y"),
            (".list[0].n", "1"),
            (".list[-1].n", "2"),
            (".list[*].n", "1 2"),
            (".list[?(@.n>1)].n", "2"),
            (".conditions[?(@.type==\"Ready\")].status", "True"),
            (".conditions[?(@.status)].type", "Ready"),
            (".missing.x", ""),
        ] {
            let found = JsonPath::parse(path).expect(path);
            assert_eq!(JsonPath::print(&found.find(&object)), wanted, "{path}");
        }
        assert!(JsonPath::parse(".a[0").is_err());
    }

    #[test]
    fn damaged_paths_never_panic() {
        mutation::each(b".a['b/c'][?(@.x==\"y\")].d[*][-1]\\.e", 10_000, |bytes| {
            if let Ok(path) = std::str::from_utf8(bytes)
                .map_err(drop)
                .and_then(|t| JsonPath::parse(t).map_err(drop))
            {
                path.find(&json!({"a": {"b/c": [{"x": "y", "d": [1]}]}}));
            }
        });
    }
}
