//! Node selectors and required node affinity, parsed once: terms in, a yes or no per node out.
//!
//! Counterpart: `component-helpers/scheduling/corev1/nodeaffinity`.
//! Invariant: a term without a requirement selects no node.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

use super::selector::{Labels, Operator, Requirement, Selector};

/// `nodeSelector` and required node affinity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequiredNodes {
    pub selector: Selector,
    pub terms: Option<Vec<NodeTerm>>,
}

/// One term of node affinity: labels and, by field, the node's name.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTerm {
    labels: Selector,
    names: Vec<Requirement>,
}

// === impl RequiredNodes ===

impl RequiredNodes {
    pub fn of(spec: &PodSpec) -> RequiredNodes {
        let nodes = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = nodes
            .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
        RequiredNodes {
            selector: spec.node_selector.as_ref().map(Selector::of_map).unwrap_or_default(),
            terms: required.map(node_terms),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.selector.0.is_empty() && self.terms.is_none()
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let any = |terms: &Vec<NodeTerm>| terms.iter().any(|term| term.matches(name, labels));
        self.selector.matches(labels) && self.terms.as_ref().is_none_or(any)
    }

    /// The few nodes the pod can be on, if every term names some: a DaemonSet's pods do.
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let terms = self.terms.as_ref()?;
        let mut names = Vec::new();
        for term in terms {
            names.extend(term.only_names()?);
        }
        Some(names)
    }
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
    use crate::scheduling::yaml;

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
