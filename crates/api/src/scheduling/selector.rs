//! Label selectors of typed objects, parsed once: requirements in, a yes or no per set of labels out.
//!
//! Counterpart: `apimachinery/labels.Selector`. Differs from [`crate::selector`], which reads what users send and says what
//! is wrong with it: these objects have been accepted. Invariant: what cannot be read matches nothing, never everything.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub(super) key: String,
    pub(super) operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// Not an operator or not a number: matches nothing.
    Unreadable,
}

// === impl Requirement ===

impl Requirement {
    pub fn is_in(key: &str, values: Vec<String>) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::In(values) }
    }

    pub fn is_not_in(key: &str, values: Vec<String>) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::NotIn(values) }
    }

    pub(super) fn parse(key: &str, operator: &str, values: Option<&Vec<String>>) -> Requirement {
        let values = values.cloned().unwrap_or_default();
        let number = || values.first().and_then(|value| value.parse().ok());
        let operator = match operator {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => number().map_or(Operator::Unreadable, Operator::Gt),
            "Lt" => number().map_or(Operator::Unreadable, Operator::Lt),
            _ => Operator::Unreadable,
        };
        Requirement { key: key.to_owned(), operator }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.accepts(labels.get(&self.key).map(String::as_str))
    }

    pub(super) fn accepts(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => {
                !value.is_some_and(|value| values.iter().any(|v| v == value))
            }
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => number().is_some_and(|number| number > *bound),
            Operator::Lt(bound) => number().is_some_and(|number| number < *bound),
            Operator::Unreadable => false,
        }
    }
}

/// Every requirement must match; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(pub Vec<Requirement>);

// === impl Selector ===

impl Selector {
    /// Matches no labels at all.
    pub fn nothing() -> Selector {
        Selector(vec![Requirement { key: String::new(), operator: Operator::Unreadable }])
    }

    pub fn of(selector: &LabelSelector) -> Selector {
        let exact = selector.match_labels.iter().flatten();
        let exact = exact.map(|(key, value)| Requirement::is_in(key, vec![value.clone()]));
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions.map(|requirement| {
            Requirement::parse(&requirement.key, &requirement.operator, requirement.values.as_ref())
        });
        Selector(exact.chain(expressions).collect())
    }

    /// The selector of a plain map, as `nodeSelector` and Services write it.
    pub fn of_map(map: &Labels) -> Selector {
        let exact = |(key, value): (&String, &String)| Requirement::is_in(key, vec![value.clone()]);
        Selector(map.iter().map(exact).collect())
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::yaml;

    #[track_caller]
    fn check(selector: &str, labels: &str, expected: bool) {
        let selector = Selector::of(&yaml::<LabelSelector>(selector));
        assert_eq!(selector.matches(&yaml(labels)), expected);
    }

    #[test]
    fn labels_match_by_every_operator() {
        check("{}", "{}", true);
        check("matchLabels: {app: web}", "{app: web, tier: front}", true);
        check("matchLabels: {app: web}", "{app: db}", false);
        check("matchExpressions: [{key: app, operator: In, values: [a, b]}]", "{app: b}", true);
        check("matchExpressions: [{key: app, operator: NotIn, values: [a]}]", "{}", true);
        check("matchExpressions: [{key: app, operator: Exists}]", "{}", false);
        check("matchExpressions: [{key: app, operator: DoesNotExist}]", "{app: a}", false);
        check("matchExpressions: [{key: app, operator: Near}]", "{app: a}", false);
    }
}
