//! Label and node selectors, compiled once per pod and matched per node without allocating.
//!
//! Counterpart: `component-helpers/scheduling/corev1/nodeaffinity` and `apimachinery/labels`.
//! Invariant: a selector that cannot be understood matches nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
    Never,
}

/// All requirements must hold; none at all matches everything.
#[derive(Clone, Debug, Default)]
pub struct Selector(Vec<Requirement>);

/// One alternative of a node selector: labels and fields (only `metadata.name` exists).
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Selector,
    fields: Selector,
}

// === impl Requirement ===

impl Requirement {
    pub fn new(key: &str, operator: &str, values: &[String]) -> Requirement {
        let number = || values.first().and_then(|value| value.parse().ok());
        let test = match operator {
            "In" => Test::In(values.to_vec()),
            "NotIn" => Test::NotIn(values.to_vec()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => number().map_or(Test::Never, Test::Greater),
            "Lt" => number().map_or(Test::Never, Test::Less),
            _ => Test::Never,
        };
        Requirement { key: key.to_owned(), test }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |values: &[String], value: &str| values.iter().any(|known| known == value);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| among(values, value)),
            Test::NotIn(values) => value.is_none_or(|value| !among(values, value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Greater(limit) => number().is_some_and(|number| number > *limit),
            Test::Less(limit) => number().is_some_and(|number| number < *limit),
            Test::Never => false,
        }
    }
}

// === impl Selector ===

impl Selector {
    pub fn nothing() -> Selector {
        Selector(vec![Requirement { key: String::new(), test: Test::Never }])
    }

    pub fn from_map(labels: &Labels) -> Selector {
        Selector(
            labels
                .iter()
                .map(|(key, value)| Requirement::new(key, "In", std::slice::from_ref(value)))
                .collect(),
        )
    }

    /// An absent selector matches nothing, an empty one everything.
    pub fn from_labels(selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else { return Selector::nothing() };
        let mut all = selector.match_labels.as_ref().map(Selector::from_map).unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.as_deref().unwrap_or_default();
            all.0.push(Requirement::new(&expression.key, &expression.operator, values));
        }
        all
    }

    pub fn require(&mut self, requirement: Requirement) {
        self.0.push(requirement);
    }

    pub fn extend(&mut self, other: Selector) {
        self.0.extend(other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            requirement.matches(labels.get(&requirement.key).map(String::as_str))
        })
    }
}

// === impl NodeTerm ===

impl NodeTerm {
    /// None for a term without any requirement: it matches no node.
    pub fn new(term: &NodeSelectorTerm) -> Option<NodeTerm> {
        let compile = |list: &Option<Vec<NodeSelectorRequirement>>| {
            let each = list.iter().flatten();
            let requirement = |r: &NodeSelectorRequirement| {
                Requirement::new(&r.key, &r.operator, r.values.as_deref().unwrap_or_default())
            };
            Selector(each.map(requirement).collect())
        };
        let term = NodeTerm {
            labels: compile(&term.match_expressions),
            fields: compile(&term.match_fields),
        };
        (!term.labels.is_empty() || !term.fields.is_empty()).then_some(term)
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |requirement: &Requirement| match requirement.key.as_str() {
            "metadata.name" => requirement.matches(Some(name)),
            _ => false,
        };
        self.fields.0.iter().all(field) && self.labels.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn operators() {
        let node = labels(&[("zone", "a"), ("cores", "8")]);
        for (key, operator, values, expected) in [
            ("zone", "In", vec!["a", "b"], true),
            ("zone", "NotIn", vec!["a"], false),
            ("rack", "NotIn", vec!["a"], true),
            ("rack", "Exists", vec![], false),
            ("rack", "DoesNotExist", vec![], true),
            ("cores", "Gt", vec!["4"], true),
            ("cores", "Lt", vec!["4"], false),
            ("zone", "Gt", vec!["4"], false),
            ("zone", "Unheard", vec!["a"], false),
        ] {
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            let selector = Selector(vec![Requirement::new(key, operator, &values)]);
            assert_eq!(selector.matches(&node), expected, "{key} {operator} {values:?}");
        }
        assert!(!Selector::from_labels(None).matches(&node));
        assert!(Selector::from_labels(Some(&LabelSelector::default())).matches(&node));
    }

    #[test]
    fn node_terms_see_the_name_as_a_field() {
        let term: NodeSelectorTerm = serde_saphyr::from_str(
            "{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}",
        )
        .unwrap();
        let term = NodeTerm::new(&term).unwrap();
        assert!(term.matches("n1", &labels(&[])));
        assert!(!term.matches("n2", &labels(&[])));
        assert!(NodeTerm::new(&NodeSelectorTerm::default()).is_none());
    }
}
