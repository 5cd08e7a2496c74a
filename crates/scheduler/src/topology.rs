//! Numbers per topology domain: all nodes that share the value of a label count together.
//!
//! Counterpart: `topologyToMatchedTermCount` and the pair counts of PodTopologySpread.

use std::collections::HashMap;

use crate::node_info::NodeInfo;

/// One number per value of each topology key; keys and values are borrowed from the nodes.
#[derive(Default)]
pub struct Domains<'a>(Vec<(&'a str, HashMap<&'a str, i64>)>);

// === impl Domains ===

impl<'a> Domains<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node without the key is in no domain.
    pub fn add(&mut self, node: &'a NodeInfo, key: &str, amount: i64) {
        let Some((key, value)) = node.facts.labels.get_key_value(key) else { return };
        let at = self.0.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.0.push((key, HashMap::new()));
            self.0.len() - 1
        });
        *self.0[at].1.entry(value).or_default() += amount;
    }

    /// The number of the node's domain.
    pub fn at(&self, node: &NodeInfo, key: &str) -> i64 {
        let of_key = self.0.iter().find(|(known, _)| *known == key);
        of_key.map_or(0, |(key, values)| value(values, node, key))
    }

    /// The sum over all domains the node is in.
    pub fn sum(&self, node: &NodeInfo) -> i64 {
        self.0.iter().map(|(key, values)| value(values, node, key)).sum()
    }
}

fn value(values: &HashMap<&str, i64>, node: &NodeInfo, key: &str) -> i64 {
    let label = node.facts.labels.get(key);
    label.and_then(|label| values.get(label.as_str())).copied().unwrap_or(0)
}
