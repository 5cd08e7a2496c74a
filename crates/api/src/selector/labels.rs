//! Label selectors: `a=b,c!=d,e in (x,y),f notin (z),g,!h,n>1`, and the LabelSelector object.
//!
//! Errors read as upstream's parser prints them.

use std::fmt;

use serde_json::{Map, Value};

use crate::status::Status;
use crate::validation::{label_key, label_value};

/// Requirements that must all hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
    /// Selects nothing, as a null LabelSelector object does.
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, each once.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

// === impl Labels ===

impl Labels {
    pub const NOTHING: Labels = Labels { requirements: Vec::new(), nothing: true };

    /// Reads the text of a `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Labels, Status> {
        let tokens = tokens(text);
        let requirements =
            Parser { tokens: &tokens, at: 0 }.requirements().map_err(Status::bad_request)?;
        Ok(Labels { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`: null selects nothing, empty selects everything.
    pub fn from_object(selector: &Value) -> Result<Labels, String> {
        let Value::Object(selector) = selector else { return Ok(Labels::NOTHING) };
        let mut requirements = Vec::new();
        for (key, value) in
            selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten()
        {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(Requirement::new(key, Operator::Equals, values)?);
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(Requirement::from_expression(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Labels { requirements, nothing: false })
    }

    /// Reads a plain map of labels that must all be there, such as a Service's selector.
    pub fn from_map(map: &Map<String, Value>) -> Labels {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Labels { requirements: map.iter().map(requirement).collect(), nothing: false }
    }

    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_by(|key| labels?.get(key)?.as_str())
    }

    /// Decides with a function that looks a label up.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.holds(label(&one.key)))
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

// === impl Requirement ===

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, String> {
        check(key, operator, &values)?;
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn from_expression(expression: &Value) -> Result<Requirement, String> {
        let text = |field| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let operator = match text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(format!("{other:?} is not a valid label selector operator")),
        };
        let values = expression.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Requirement::new(text("key"), operator, values.collect())
    }

    fn holds(&self, label: Option<&str>) -> bool {
        let listed = |label: &str| self.values.iter().any(|value| value == label);
        match (self.operator, label) {
            (Operator::Equals | Operator::In, found) => found.is_some_and(listed),
            (Operator::NotEquals | Operator::NotIn, found) => !found.is_some_and(listed),
            (Operator::Exists, found) => found.is_some(),
            (Operator::DoesNotExist, found) => found.is_none(),
            (Operator::GreaterThan, found) => self.compare(found, |a, b| a > b),
            (Operator::LessThan, found) => self.compare(found, |a, b| a < b),
        }
    }

    fn compare(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        match (label.and_then(number), self.values.first().and_then(|text| number(text))) {
            (Some(label), Some(limit)) => holds(label, limit),
            _ => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = self;
        let first = values.first().map_or("", String::as_str);
        match operator {
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

/// Faults of one requirement, several in brackets.
fn check(key: &str, operator: Operator, values: &[String]) -> Result<(), String> {
    let mut faults = Vec::new();
    let about = |place: &str, text: &str, found: &[String]| {
        (!found.is_empty())
            .then(|| format!("{place}: Invalid value: {text:?}: {}", found.join("; ")))
    };
    faults.extend(about("<nil>", key, &label_key(key)));
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            faults.push(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                    .into(),
            );
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            let list = serde_json::to_string(values).unwrap_or_default();
            faults.push(format!("values: Invalid value: {list}: values set must be empty for exists and does not exist"));
        }
        Operator::GreaterThan | Operator::LessThan => {
            let bad = values.iter().enumerate().filter(|(_, text)| text.parse::<i64>().is_err());
            faults.extend(bad.map(|(at, text)| {
                format!("values[{at}]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
            }));
        }
        _ => {}
    }
    for (at, value) in values.iter().enumerate() {
        faults.extend(about(&format!("values[{at}][{key}]"), value, &label_value(value)));
    }
    match faults.len() {
        0 => Ok(()),
        1 => Err(faults.remove(0)),
        _ => Err(format!("[{}]", faults.join(", "))),
    }
}

// === the text form ===

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    End,
    Close,
    Comma,
    NotExists,
    DoubleEquals,
    Equals,
    Greater,
    Identifier(&'a str),
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

impl<'a> Token<'a> {
    fn text(&self) -> &'a str {
        match self {
            Token::End => "",
            Token::Close => ")",
            Token::Comma => ",",
            Token::NotExists => "!",
            Token::DoubleEquals => "==",
            Token::Equals => "=",
            Token::Greater => ">",
            Token::Identifier(text) => text,
            Token::In => "in",
            Token::Less => "<",
            Token::NotEquals => "!=",
            Token::NotIn => "notin",
            Token::Open => "(",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let special = |c: char| "=!(),><".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '=' if rest.starts_with("==") => (Token::DoubleEquals, 2),
            '!' if rest.starts_with("!=") => (Token::NotEquals, 2),
            '=' => (Token::Equals, 1),
            '!' => (Token::NotExists, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            _ => {
                let end = rest.find(|c: char| special(c) || c.is_ascii_whitespace());
                let word = &rest[..end.unwrap_or(rest.len())];
                let token = match word {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier(word),
                };
                (token, word.len())
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
}

impl<'a> Parser<'_, 'a> {
    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Identifier(_) | Token::NotExists | Token::In | Token::NotIn => {
                    let one = self.requirement();
                    requirements
                        .push(one.map_err(|e| format!("unable to parse requirement: {e}"))?);
                }
                other => {
                    let found = other.text();
                    return Err(format!(
                        "found '{found}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Comma => self.after_comma()?,
                other => {
                    let found = other.text();
                    return Err(format!("found '{found}', expected: ',' or 'end of string'"));
                }
            }
        }
    }

    fn after_comma(&mut self) -> Result<(), String> {
        match self.peek() {
            Token::Identifier(_) | Token::NotExists | Token::In | Token::NotIn => Ok(()),
            other => Err(format!("found '{}', expected: identifier after ','", other.text())),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::NotExists;
        self.at += usize::from(absent);
        let key = match self.next() {
            token @ (Token::Identifier(_) | Token::In | Token::NotIn) => token.text(),
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        check(key, Operator::Exists, &[])?;
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next() {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals | Token::DoubleEquals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            other => {
                let found = other.text();
                return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Identifier(_) | Token::In | Token::NotIn => Ok(self.next().text().to_owned()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if *self.next() != Token::Open {
            return Err(format!("found '{}' expected: '('", self.tokens[self.at - 1].text()));
        }
        let mut values = Vec::new();
        let mut open = true;
        loop {
            match self.next() {
                token @ (Token::Identifier(_) | Token::In | Token::NotIn) => {
                    values.push(token.text().to_owned());
                    open = false;
                    if !matches!(self.peek(), Token::Comma | Token::Close) {
                        let found = self.peek().text();
                        return Err(format!("found '{found}', expected: ',' or ')'"));
                    }
                }
                Token::Comma => {
                    if open {
                        values.push(String::new());
                    }
                    open = true;
                }
                Token::Close => {
                    if open {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other => {
                    let found = other.text();
                    return Err(format!("found '{found}', expected: ',', ')' or identifier"));
                }
            }
        }
    }

    fn peek(&self) -> &Token<'a> {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> &Token<'a> {
        let at = self.at;
        self.at += 1;
        self.tokens.get(at).unwrap_or(&Token::End)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    fn selects(selector: &str, labels: Value) -> bool {
        Labels::parse(selector).expect(selector).matches(labels.as_object())
    }

    #[test]
    fn every_operator_selects() {
        let labels = || json!({"t": "x", "n": "2", "e": ""});
        for (selector, wanted) in [
            ("", true),
            ("t=x", true),
            ("t==y", false),
            ("t!=y", true),
            ("zz!=y", true),
            ("t in (x, y)", true),
            ("t notin (x,y)", false),
            ("t", true),
            ("!t", false),
            ("!zz", true),
            ("n>1,n<3", true),
            ("n>2", false),
            ("e=", true),
            ("e in ()", true),
            ("t=x,t=y", false),
            ("t   in ( x ,y )", true),
        ] {
            assert_eq!(selects(selector, labels()), wanted, "{selector}");
        }
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        for (selector, message) in [
            ("t in", "unable to parse requirement: found '' expected: '('"),
            ("t in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a b=c",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("t=x,", "found '', expected: identifier after ','"),
            ("!t=x", "found '=', expected: ',' or 'end of string'"),
            ("!!t", "unable to parse requirement: found '!', expected: identifier"),
            ("()", "found '(', expected: !, identifier, or 'end of string'"),
        ] {
            assert_eq!(Labels::parse(selector).unwrap_err().message, message, "{selector}");
        }
        let slash = Labels::parse("t=a/b").unwrap_err().message;
        let start = "unable to parse requirement: values[0][t]: Invalid value: \"a/b\": a valid label must be an empty string";
        assert!(slash.starts_with(start), "{slash}");
        let both = Labels::parse("a/").unwrap_err().message;
        let start = "unable to parse requirement: <nil>: Invalid value: \"a/\": name part must be non-empty; name part must consist";
        assert!(both.starts_with(start), "{both}");
        let long = Labels::parse(&format!("{}/x", "a".repeat(254))).unwrap_err().message;
        assert!(long.ends_with(": prefix part must be no more than 253 bytes"), "{long}");
        let key = Labels::parse("a/b/c=d").unwrap_err().message;
        assert!(key.starts_with("unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must"), "{key}");
    }

    #[test]
    fn selector_objects_select() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["d"]}, {"key": "e", "operator": "Exists"}]});
        let labels = Labels::from_object(&selector).expect("valid");
        assert_eq!(labels.to_string(), "a=b,c notin (d),e");
        assert!(labels.matches(json!({"a": "b", "e": "1"}).as_object()));
        assert!(!labels.matches(json!({"a": "b", "c": "d", "e": "1"}).as_object()));
        assert!(!Labels::from_object(&Value::Null).expect("valid").matches(None));
        assert!(Labels::from_object(&json!({})).expect("valid").matches(None));
    }

    #[test]
    fn what_parses_prints_and_parses_again() {
        mutation::each(b"a=b,c!=d,e in (x,y),f notin (z),!g,h>1", 20_000, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(labels) = Labels::parse(text) {
                assert_eq!(Labels::parse(&labels.to_string()), Ok(labels), "{text}");
            }
        });
    }
}
