//! Label and node selectors, parsed once: requirements in, a yes or no per set of labels out.
//!
//! Counterpart: `apimachinery/labels.Selector` and `component-helpers/scheduling/corev1/nodeaffinity`.
//! Invariant: a requirement that cannot be read matches nothing, never everything.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Operator {
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

    fn parse(key: &str, operator: &str, values: Option<&Vec<String>>) -> Requirement {
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

    fn accepts(&self, value: Option<&str>) -> bool {
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

/// One term of node affinity: labels and, by field, the node's name.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTerm {
    labels: Selector,
    names: Vec<Requirement>,
}

// === impl NodeTerm ===

impl NodeTerm {
    pub fn of(term: &NodeSelectorTerm) -> NodeTerm {
        let parse = |requirement: &NodeSelectorRequirement| {
            Requirement::parse(&requirement.key, &requirement.operator, requirement.values.as_ref())
        };
        let labels = term.match_expressions.iter().flatten().map(parse).collect();
        let names = term.match_fields.iter().flatten().map(|requirement| {
            let mut parsed = parse(requirement);
            // The only field a node can be selected by.
            if parsed.key != "metadata.name" {
                parsed.operator = Operator::Unreadable;
            }
            parsed
        });
        NodeTerm { labels: Selector(labels), names: names.collect() }
    }

    /// A term without any requirement selects nothing, as the API says.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let empty = self.labels.0.is_empty() && self.names.is_empty();
        !empty
            && self.names.iter().all(|requirement| requirement.accepts(Some(name)))
            && self.labels.matches(labels)
    }

    /// The node names the term is limited to by field, if it is.
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let mut named = self.names.iter().filter_map(|requirement| match &requirement.operator {
            Operator::In(names) => Some(names),
            _ => None,
        });
        let first = named.next()?.iter().map(String::as_str);
        let others: Vec<_> = named.collect();
        let in_all = |name: &&str| others.iter().all(|names| names.iter().any(|n| n == name));
        Some(first.filter(in_all).collect())
    }
}

/// Any term may match.
pub fn node_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(NodeTerm::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

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

    #[track_caller]
    fn check_node(term: &str, name: &str, labels: &str, expected: bool) {
        assert_eq!(NodeTerm::of(&yaml(term)).matches(name, &yaml(labels)), expected);
    }

    #[test]
    fn node_terms_match_labels_numbers_and_names() {
        check_node(
            "matchExpressions: [{key: cores, operator: Gt, values: ['4']}]",
            "n",
            "{cores: '8'}",
            true,
        );
        check_node(
            "matchExpressions: [{key: cores, operator: Lt, values: ['4']}]",
            "n",
            "{cores: '8'}",
            false,
        );
        check_node(
            "matchExpressions: [{key: cores, operator: Gt, values: [many]}]",
            "n",
            "{cores: '8'}",
            false,
        );
        check_node(
            "matchFields: [{key: metadata.name, operator: In, values: [n]}]",
            "n",
            "{}",
            true,
        );
        check_node(
            "matchFields: [{key: metadata.name, operator: NotIn, values: [n]}]",
            "n",
            "{}",
            false,
        );
        check_node("{}", "n", "{}", false);
    }
}
