//! How a pod wants to be placed relative to others: affinity terms and spread constraints, compiled.
//!
//! Counterpart: `framework.AffinityTerm` and `plugins/podtopologyspread` `topologySpreadConstraint`.
//! Invariant: an absent label selector selects nothing, an empty one everything.

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skiff_api::scheduling::{Labels, Requirement, Selector};

use crate::groups::Group;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAffinity {
    pub required: Vec<PodTerm>,
    pub required_anti: Vec<PodTerm>,
    pub preferred: Vec<WeightedTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    selector: Selector,
    namespaces: Vec<String>,
    namespace_selector: Selector,
    pub topology_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedTerm {
    pub term: PodTerm,
    /// Negative for anti-affinity.
    pub weight: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    /// DoNotSchedule, against ScheduleAnyway.
    pub required: bool,
    pub selector: Selector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// Whose wishes are compiled: terms speak of the pod's own namespace and labels.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    pub namespace: &'a str,
    pub labels: &'a Labels,
}

// === impl PodAffinity ===

impl PodAffinity {
    pub fn of(affinity: &Affinity, own: Own) -> PodAffinity {
        let mut all = PodAffinity::default();
        let term = |term: &PodAffinityTerm| PodTerm::of(term, own);
        if let Some(with) = &affinity.pod_affinity {
            let required = with.required_during_scheduling_ignored_during_execution.iter();
            let preferred = with.preferred_during_scheduling_ignored_during_execution.iter();
            all.required.extend(required.flatten().map(term));
            all.preferred.extend(preferred.flatten().map(|term| WeightedTerm::of(term, 1, own)));
        }
        if let Some(against) = &affinity.pod_anti_affinity {
            let required = against.required_during_scheduling_ignored_during_execution.iter();
            let preferred = against.preferred_during_scheduling_ignored_during_execution.iter();
            all.required_anti.extend(required.flatten().map(term));
            all.preferred.extend(preferred.flatten().map(|term| WeightedTerm::of(term, -1, own)));
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

// === impl WeightedTerm ===

impl WeightedTerm {
    fn of(weighted: &WeightedPodAffinityTerm, sign: i64, own: Own) -> WeightedTerm {
        WeightedTerm {
            term: PodTerm::of(&weighted.pod_affinity_term, own),
            weight: sign * i64::from(weighted.weight),
        }
    }
}

// === impl PodTerm ===

impl PodTerm {
    fn of(term: &PodAffinityTerm, own: Own) -> PodTerm {
        let mut selector = compiled(term.label_selector.as_ref());
        let (same, other) = (&term.match_label_keys, &term.mismatch_label_keys);
        selector.0.extend(own_values(same, own.labels, Requirement::is_in));
        selector.0.extend(own_values(other, own.labels, Requirement::is_not_in));
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own.namespace.to_owned());
        }
        PodTerm {
            selector,
            namespaces,
            namespace_selector: compiled(term.namespace_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// `labels_of` gives the labels of a namespace.
    pub fn matches<'a>(
        &self,
        namespace: &str,
        labels: &Labels,
        labels_of: impl Fn(&str) -> &'a Labels,
    ) -> bool {
        self.selector.matches(labels)
            && (self.namespaces.iter().any(|name| name == namespace)
                || self.namespace_selector.matches(labels_of(namespace)))
    }
}

// === impl Spread ===

impl Spread {
    pub fn of(constraint: &TopologySpreadConstraint, own: Own) -> Spread {
        let mut selector = compiled(constraint.label_selector.as_ref());
        let same = &constraint.match_label_keys;
        selector.0.extend(own_values(same, own.labels, Requirement::is_in));
        Spread {
            max_skew: constraint.max_skew.into(),
            topology_key: constraint.topology_key.clone(),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// A preference for all pods of a profile; what it counts is filled in for each.
    pub fn preferred(topology_key: &str, max_skew: i64) -> Spread {
        Spread {
            max_skew,
            topology_key: topology_key.to_owned(),
            required: false,
            selector: Selector::nothing(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        }
    }

    /// Pods that are going away no longer count.
    pub fn counts(&self, group: &Group, namespace: &str) -> bool {
        group.namespace == namespace && !group.terminating && self.selector.matches(&group.labels)
    }
}

fn compiled(selector: Option<&LabelSelector>) -> Selector {
    selector.map_or_else(Selector::nothing, Selector::of)
}

/// Requirements on the keys that the pod itself has.
fn own_values(
    keys: &Option<Vec<String>>,
    labels: &Labels,
    requirement: fn(&str, Vec<String>) -> Requirement,
) -> Vec<Requirement> {
    let valued = keys.iter().flatten().filter_map(|key| Some((key, labels.get(key)?)));
    valued.map(|(key, value)| requirement(key, vec![value.clone()])).collect()
}
