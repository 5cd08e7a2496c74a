//! Pod affinity and anti-affinity, in both directions: what this pod asks of others, and what placed pods ask of it.

use std::collections::{HashMap, HashSet};

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, MAX_SCORE, Plugin, Reason, Reasons};
use crate::pod_info::{PodInfo, PodTerm};

/// How much a placed pod's required affinity draws pods that match it.
const HARD_AFFINITY_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

/// A topology key and one of its values.
type Domain<'a> = (&'a str, &'a str);

#[derive(Default)]
struct Opinion<'a> {
    /// Where placed pods refuse this one.
    refused: HashSet<Domain<'a>>,
    /// Where pods are that this one must not be near.
    avoided: HashSet<Domain<'a>>,
    /// Per required term: where pods are that this one must be near.
    wanted: Vec<(&'a PodTerm, HashSet<&'a str>)>,
    /// No pod anywhere matches, but this one matches its own terms: it may be the first of its group.
    first_of_group: bool,
    scores: HashMap<Domain<'a>, i64>,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[NodeAdded, NodeLabels, PodRemoved, PodPlaced, NamespaceChanged]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let own = &pod.pod_affinity;
        let asks =
            !(own.required.is_empty() && own.required_anti.is_empty() && own.preferred.is_empty());
        let wanted = own.required.iter().map(|term| (term, HashSet::new())).collect();
        let mut opinion = Opinion { wanted, ..Opinion::default() };
        for node in cluster.nodes() {
            if node.pods_with_affinity > 0 {
                opinion.hear_placed(pod, node, cluster);
            }
            if asks {
                opinion.look_around(pod, node, cluster);
            }
        }
        let namespace = cluster.namespace_labels(&pod.namespace);
        opinion.first_of_group = opinion.wanted.iter().all(|(_, found)| found.is_empty())
            && own.required.iter().all(|term| term.matches(pod, namespace));
        Ok((asks || !opinion.is_silent()).then(|| Box::new(opinion) as Box<dyn Judge>))
    }
}

// === impl Opinion ===

impl<'a> Opinion<'a> {
    fn is_silent(&self) -> bool {
        self.refused.is_empty() && self.scores.is_empty()
    }

    /// What the pods on a node ask of the newcomer.
    fn hear_placed(&mut self, pod: &PodInfo, node: &'a NodeInfo, cluster: &Cluster) {
        let namespace = cluster.namespace_labels(&pod.namespace);
        for placed in &node.pods {
            let terms = &placed.pod_affinity;
            for term in terms.required_anti.iter().filter(|term| term.matches(pod, namespace)) {
                self.refused.extend(domain(node, &term.topology_key));
            }
            for term in terms.required.iter().filter(|term| term.matches(pod, namespace)) {
                self.add_score(node, term, HARD_AFFINITY_WEIGHT);
            }
            for (weight, term) in
                terms.preferred.iter().filter(|(_, term)| term.matches(pod, namespace))
            {
                self.add_score(node, term, *weight);
            }
        }
    }

    /// What the newcomer finds on a node.
    fn look_around(&mut self, pod: &'a PodInfo, node: &'a NodeInfo, cluster: &Cluster) {
        for placed in &node.pods {
            let namespace = cluster.namespace_labels(&placed.namespace);
            for (term, found) in &mut self.wanted {
                if term.matches(placed, namespace)
                    && let Some((_, value)) = domain(node, &term.topology_key)
                {
                    found.insert(value);
                }
            }
            for term in
                pod.pod_affinity.required_anti.iter().filter(|term| term.matches(placed, namespace))
            {
                self.avoided.extend(domain(node, &term.topology_key));
            }
            for (weight, term) in pod
                .pod_affinity
                .preferred
                .iter()
                .filter(|(_, term)| term.matches(placed, namespace))
            {
                self.add_score(node, term, *weight);
            }
        }
    }

    fn add_score(&mut self, node: &'a NodeInfo, term: &PodTerm, weight: i64) {
        if let Some(domain) = domain(node, &term.topology_key) {
            *self.scores.entry(domain).or_default() += weight;
        }
    }

    fn near_wanted(&self, node: &NodeInfo) -> bool {
        let near = |(term, found): &(&PodTerm, HashSet<&str>)| {
            let value = node.labels.get(&term.topology_key);
            value.is_some_and(|value| self.first_of_group || found.contains(value.as_str()))
        };
        self.wanted.iter().all(near)
    }

    fn in_any(node: &NodeInfo, domains: &HashSet<Domain<'_>>) -> bool {
        domains.iter().any(|(key, value)| node.labels.get(*key).is_some_and(|label| label == value))
    }
}

/// The node's own copy of key and value, so that the result lives as long as the node.
fn domain<'a>(node: &'a NodeInfo, key: &str) -> Option<Domain<'a>> {
    node.labels.get_key_value(key).map(|(key, value)| (key.as_str(), value.as_str()))
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        if !self.near_wanted(node) {
            return Err("node(s) didn't match pod affinity rules".into());
        }
        if Self::in_any(node, &self.avoided) {
            return Err("node(s) didn't match pod anti-affinity rules".into());
        }
        if Self::in_any(node, &self.refused) {
            return Err("node(s) didn't satisfy existing pods anti-affinity rules".into());
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let here =
            |(key, value): &Domain<'_>| node.labels.get(*key).is_some_and(|label| label == value);
        self.scores.iter().filter(|(domain, _)| here(domain)).map(|(_, score)| score).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let largest = scores.iter().copied().max().unwrap_or(0);
        let smallest = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = if largest == smallest {
                0
            } else {
                MAX_SCORE * (*score - smallest) / (largest - smallest)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    const NODES: [&str; 2] =
        ["{metadata: {name: a, labels: {h: a}}}", "{metadata: {name: b, labels: {h: b}}}"];
    const DB: &str = "{metadata: {labels: {app: db}}, spec: {containers: []}}";

    fn pod(app: &str, affinity: &str) -> String {
        format!(
            "{{metadata: {{labels: {{app: {app}}}}}, spec: {{containers: [], affinity: {{{affinity}}}}}}}"
        )
    }

    fn required(kind: &str, app: &str) -> String {
        format!(
            "{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [
            {{topologyKey: h, labelSelector: {{matchLabels: {{app: {app}}}}}}}]}}"
        )
    }

    fn choose_on(placed: &[(&str, &str)], pod: &str) -> Result<String, String> {
        choose(&[&InterPodAffinity], &cluster(&NODES, placed), pod)
    }

    #[test]
    fn required_terms() {
        let near_db = pod("web", &required("podAffinity", "db"));
        assert_eq!(choose_on(&[("b", DB)], &near_db).unwrap(), "b");
        let message = choose_on(&[], &near_db).unwrap_err();
        assert_eq!(message, "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
        let away = pod("web", &required("podAntiAffinity", "db"));
        assert_eq!(choose_on(&[("b", DB)], &away).unwrap(), "a");
    }

    #[test]
    fn the_first_of_a_group_may_start_anywhere() {
        assert!(choose_on(&[], &pod("web", &required("podAffinity", "web"))).is_ok());
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let hermit = pod("hermit", &required("podAntiAffinity", "web"));
        assert_eq!(choose_on(&[("a", &hermit)], &pod("web", "")).unwrap(), "b");
        let message = choose_on(&[("a", &hermit), ("b", &hermit)], &pod("web", "")).unwrap_err();
        assert_eq!(
            message,
            "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
        );
    }

    #[test]
    fn preferences_draw_and_push() {
        let term = "podAffinityTerm: {topologyKey: h, labelSelector: {matchLabels: {app: db}}}";
        let preferred = |kind: &str| {
            pod(
                "web",
                &format!(
                    "{kind}: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 5, {term}}}]}}"
                ),
            )
        };
        assert_eq!(choose_on(&[("b", DB)], &preferred("podAffinity")).unwrap(), "b");
        assert_eq!(choose_on(&[("b", DB)], &preferred("podAntiAffinity")).unwrap(), "a");
    }
}
