//! Topology spread: declared constraints filter (DoNotSchedule) or score (ScheduleAnyway); pods without any are spread
//! over nodes and zones with their siblings, by score.

use std::collections::HashMap;

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, MAX_SCORE, Plugin, Reason, Reasons};
use crate::plugins::{node_affinity, taint_toleration};
use crate::pod_info::{PodInfo, Spread};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct PodTopologySpread;

struct Opinion<'a> {
    required: Vec<Domains<'a>>,
    preferred: Vec<Domains<'a>>,
}

/// How many matching pods each value of the topology key holds.
struct Domains<'a> {
    spread: Spread,
    counts: HashMap<&'a str, i64>,
    /// The pod itself matches the selector, so placing it adds one.
    own: i64,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[NodeAdded, NodeLabels, NodeTaints, PodRemoved, PodPlaced]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let declared =
            if pod.spread.is_empty() { system_default(pod, cluster) } else { pod.spread.clone() };
        if declared.is_empty() {
            return Ok(None);
        }
        // Only nodes that have the keys of all (declared) constraints of one sort count for any of them.
        let (required, preferred): (Vec<Spread>, Vec<Spread>) =
            declared.into_iter().partition(|spread| spread.required);
        let strict_keys = !pod.spread.is_empty();
        let required = domains(required, true, pod, cluster);
        let preferred = domains(preferred, strict_keys, pod, cluster);
        Ok(Some(Box::new(Opinion { required, preferred })))
    }
}

/// The defaults of the scheduler: prefer other nodes (skew 3) and other zones (skew 5) than the siblings'.
fn system_default(pod: &PodInfo, cluster: &Cluster) -> Vec<Spread> {
    let Some(selector) = cluster.default_selector(pod) else { return Vec::new() };
    let spread = |key: &str, max_skew| Spread {
        max_skew,
        topology_key: key.to_owned(),
        required: false,
        selector: selector.clone(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    vec![spread(HOSTNAME, 3), spread(ZONE, 5)]
}

fn domains<'a>(
    spreads: Vec<Spread>,
    all_keys: bool,
    pod: &PodInfo,
    cluster: &'a Cluster,
) -> Vec<Domains<'a>> {
    let keys: Vec<String> = spreads.iter().map(|spread| spread.topology_key.clone()).collect();
    let has_keys =
        |node: &NodeInfo| !all_keys || keys.iter().all(|key| node.labels.contains_key(key));
    let nodes: Vec<&NodeInfo> = cluster.nodes().iter().filter(|node| has_keys(node)).collect();
    let counted = spreads.into_iter().map(|spread| {
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for node in nodes.iter().filter(|node| is_eligible(&spread, pod, node)) {
            if let Some(value) = node.labels.get(&spread.topology_key) {
                *counts.entry(value).or_default() += matching_pods(&spread, pod, node);
            }
        }
        let own = i64::from(spread.selector.matches(&pod.labels));
        Domains { spread, counts, own }
    });
    counted.collect()
}

/// Whether the node could hold the pod as far as the constraint's policies care.
fn is_eligible(spread: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    let strict = node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
    let tolerated =
        || strict.clone().all(|taint| taint_toleration::tolerates(&pod.tolerations, taint));
    (!spread.honor_affinity || node_affinity::matches(&pod.node_affinity, node))
        && (!spread.honor_taints || tolerated())
}

fn matching_pods(spread: &Spread, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let mine =
        node.pods.iter().filter(|other| other.namespace == pod.namespace && !other.terminating);
    mine.filter(|other| spread.selector.matches(&other.labels)).map(|_| 1).sum()
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        for domains in &self.required {
            let Some(value) = node.labels.get(&domains.spread.topology_key) else {
                return Err(
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                );
            };
            let here = domains.counts.get(value.as_str()).copied().unwrap_or(0);
            if here + domains.own - domains.fewest() > domains.spread.max_skew {
                return Err("node(s) didn't match pod topology spread constraints".into());
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let parts = self.preferred.iter().filter_map(|domains| {
            let value = node.labels.get(&domains.spread.topology_key)?;
            let here = domains.counts.get(value.as_str()).copied().unwrap_or(0);
            // More domains make each of them weigh more; a large allowed skew evens out small differences.
            let weight = (domains.counts.len() as f64 + 2.0).ln();
            Some(here as f64 * weight + (domains.spread.max_skew - 1) as f64)
        });
        parts.sum::<f64>().round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let largest = scores.iter().copied().max().unwrap_or(0);
        let smallest = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = if largest == 0 {
                MAX_SCORE
            } else {
                MAX_SCORE * (largest + smallest - *score) / largest
            };
        }
    }
}

impl Domains<'_> {
    /// The emptiest domain; with fewer domains than asked for, a missing one counts as empty.
    fn fewest(&self) -> i64 {
        let domains = i64::try_from(self.counts.len()).unwrap_or(i64::MAX);
        if domains < self.spread.min_domains {
            0
        } else {
            self.counts.values().copied().min().unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster, info};
    use super::*;
    use crate::framework::Framework;
    use crate::selectors::Selector;

    const NODES: [&str; 3] = [
        "{metadata: {name: a1, labels: {zone: a, kubernetes.io/hostname: a1}}}",
        "{metadata: {name: a2, labels: {zone: a, kubernetes.io/hostname: a2}}}",
        "{metadata: {name: b1, labels: {zone: b, kubernetes.io/hostname: b1}}}",
    ];
    const WEB: &str = "{metadata: {labels: {app: web}}, spec: {containers: []}}";

    fn constrained(more: &str) -> String {
        format!(
            "{{metadata: {{labels: {{app: web}}}}, spec: {{containers: [], topologySpreadConstraints: [
               {{maxSkew: 1, topologyKey: zone, labelSelector: {{matchLabels: {{app: web}}}}, {more}}}]}}}}"
        )
    }

    #[test]
    fn skew_is_kept() {
        let uneven = cluster(&NODES, &[("a1", WEB)]);
        let pod = constrained("whenUnsatisfiable: DoNotSchedule");
        assert_eq!(choose(&[&PodTopologySpread], &uneven, &pod).unwrap(), "b1");
        let pod = constrained("whenUnsatisfiable: DoNotSchedule, minDomains: 3");
        assert!(
            choose(&[&PodTopologySpread], &cluster(&NODES, &[("a1", WEB), ("b1", WEB)]), &pod)
                .is_err()
        );
    }

    #[test]
    fn nodes_without_the_key_are_out() {
        let pod = constrained("whenUnsatisfiable: DoNotSchedule");
        let message =
            choose(&[&PodTopologySpread], &cluster(&["{metadata: {name: n}}"], &[]), &pod)
                .unwrap_err();
        assert!(message.contains("(missing required label)"), "{message}");
    }

    #[test]
    fn soft_constraints_prefer_the_emptier_zone() {
        let uneven = cluster(&NODES, &[("a1", WEB), ("a2", WEB)]);
        assert_eq!(
            choose(
                &[&PodTopologySpread],
                &uneven,
                &constrained("whenUnsatisfiable: ScheduleAnyway")
            )
            .unwrap(),
            "b1"
        );
    }

    #[test]
    fn siblings_of_a_service_spread_without_being_told() {
        let mut nodes = cluster(&NODES, &[("a1", WEB), ("b1", WEB)]);
        let labels = [("app".to_owned(), "web".to_owned())].into();
        nodes.services.insert(("ns".into(), "web".into()), Selector::from_map(&labels));
        assert_eq!(
            Framework::new(&[&PodTopologySpread]).schedule(&info(WEB), &nodes).unwrap(),
            "a2"
        );
    }
}
