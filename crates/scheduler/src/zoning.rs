//! Which topology domain each node is in, for all who ask by the same key and rules: found out once, until nodes change.
//!
//! The nodes and the rules of a spread constraint in, a table by place out. Replicas ask by the same rules, so that a pod costs
//! a look at its siblings instead of a pass over the cluster. Counterpart: the PreFilter of `podtopologyspread`, which passes
//! over all nodes for every pod. Invariant: a table is never older than what it says of a node's labels and taints.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Toleration;
use skiff_api::scheduling::RequiredNodes;

use crate::node_info::NodeInfo;
use crate::plugins::taint_toleration::untolerated_by;
use crate::pod_info::PodInfo;
use crate::pod_terms::Spread;

/// What tells nodes apart, and which of them count.
#[derive(Debug, PartialEq)]
pub struct Rules {
    topology_key: String,
    /// A node must have all of these labels.
    keys: Vec<String>,
    /// The pod's own affinity and tolerations, if the constraint honours them.
    affinity: Option<RequiredNodes>,
    tolerations: Option<Vec<Toleration>>,
}

#[derive(Debug)]
pub struct Zoning {
    pub rules: Rules,
    /// By place of the node.
    nodes: Vec<Zoned>,
    domains: usize,
}

#[derive(Clone, Copy, Debug)]
struct Zoned {
    /// `None`: the node lacks the key, or no node of its domain counts.
    domain: Option<u32>,
    counts: bool,
}

// === impl Rules ===

impl Rules {
    pub fn of(spread: &Spread, keys: Vec<String>, pod: &PodInfo) -> Rules {
        Rules {
            topology_key: spread.topology_key.clone(),
            keys,
            affinity: spread.honor_affinity.then(|| pod.node_affinity.clone()),
            tolerations: spread.honor_taints.then(|| pod.tolerations.clone()),
        }
    }

    /// What the node says of where it is.
    fn domain<'a>(&self, node: &'a NodeInfo) -> Option<&'a str> {
        node.facts.labels.get(&self.topology_key).map(String::as_str)
    }

    fn include(&self, node: &NodeInfo) -> bool {
        let facts = &node.facts;
        let wanted = |affinity: &RequiredNodes| affinity.matches(&facts.name, &facts.labels);
        let tolerated = |by: &Vec<Toleration>| untolerated_by(by, node).is_none();
        self.keys.iter().all(|key| facts.labels.contains_key(key))
            && self.affinity.as_ref().is_none_or(wanted)
            && self.tolerations.as_ref().is_none_or(tolerated)
    }
}

// === impl Zoning ===

impl Zoning {
    pub fn of(rules: Rules, nodes: &[NodeInfo]) -> Zoning {
        let counts: Vec<bool> = nodes.iter().map(|node| rules.include(node)).collect();
        let mut ids: HashMap<&str, u32> = HashMap::new();
        let counting = nodes.iter().zip(&counts).filter(|(_, counts)| **counts);
        for value in counting.filter_map(|(node, _)| rules.domain(node)) {
            let next = ids.len() as u32;
            ids.entry(value).or_insert(next);
        }
        let zoned = |(node, counts): (&NodeInfo, bool)| Zoned {
            domain: rules.domain(node).and_then(|value| ids.get(value).copied()),
            counts,
        };
        let nodes = nodes.iter().zip(counts).map(zoned).collect();
        let domains = ids.len();
        Zoning { rules, nodes, domains }
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.domains
    }

    /// The domain of the node, which need not count itself.
    pub fn domain(&self, node: &NodeInfo) -> Option<usize> {
        self.nodes.get(node.place)?.domain.map(|domain| domain as usize)
    }

    /// The domain in which pods of the node count, if they do.
    pub fn counted(&self, place: usize) -> Option<usize> {
        let zoned = self.nodes.get(place).filter(|zoned| zoned.counts)?;
        zoned.domain.map(|domain| domain as usize)
    }
}
