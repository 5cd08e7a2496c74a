//! Numbers per topology domain: all nodes that share the value of a label count together.
//!
//! Counterpart: `topologyToMatchedTermCount` and the pair counts of PodTopologySpread.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::node_info::NodeInfo;

/// One number per value of each topology key; keys and values are borrowed from the nodes, but for what-ifs.
#[derive(Default)]
pub struct Domains<'a> {
    by_key: Vec<(Cow<'a, str>, Values<'a>)>,
    total: i64,
}

type Values<'a> = HashMap<Cow<'a, str>, i64>;

// === impl Domains ===

impl<'a> Domains<'a> {
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// A node without the key is in no domain.
    pub fn add(&mut self, node: &'a NodeInfo, key: &str, amount: i64) {
        let Some((key, value)) = node.facts.labels.get_key_value(key) else { return };
        self.add_at(key.as_str().into(), value.as_str().into(), amount);
    }

    /// The same for a node that does not live as long.
    pub fn shift(&mut self, node: &NodeInfo, key: &str, amount: i64) {
        let Some(value) = node.facts.labels.get(key) else { return };
        self.add_at(Cow::Owned(key.to_owned()), Cow::Owned(value.clone()), amount);
    }

    /// The sum over all domains of all keys.
    pub fn total(&self) -> i64 {
        self.total
    }

    fn add_at(&mut self, key: Cow<'a, str>, value: Cow<'a, str>, amount: i64) {
        let at = self.by_key.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.by_key.push((key, HashMap::new()));
            self.by_key.len() - 1
        });
        *self.by_key[at].1.entry(value).or_default() += amount;
        self.total += amount;
    }

    /// The number of the node's domain.
    pub fn at(&self, node: &NodeInfo, key: &str) -> i64 {
        let of_key = self.by_key.iter().find(|(known, _)| *known == key);
        of_key.map_or(0, |(key, values)| value(values, node, key))
    }

    /// The sum over all domains the node is in.
    pub fn sum(&self, node: &NodeInfo) -> i64 {
        self.by_key.iter().map(|(key, values)| value(values, node, key)).sum()
    }
}

fn value(values: &Values<'_>, node: &NodeInfo, key: &str) -> i64 {
    let label = node.facts.labels.get(key);
    label.and_then(|label| values.get(label.as_str())).copied().unwrap_or(0)
}
