//! Tells nodes for how long they may keep what they know of Secrets and ConfigMaps: the more nodes, the longer.
//!
//! All nodes in -> the annotation [`TTL`] on those that have another. Counterpart: `pkg/controller/ttl`. Differs from upstream:
//! where two steps would do, the nodes themselves remember which one it was, so that a restart changes nothing.
//! Invariant: a cluster whose size moves within a step's range is told nothing new.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::runtime::{Action, ControllerDef, Ctx, Delta, Key, Result};

const TTL: &str = "node.alpha.kubernetes.io/ttl";

pub const DEF: ControllerDef = ControllerDef {
    name: "ttl-controller",
    workers: 1,
    watches: |edges| {
        // One key for all: what a node is told depends on how many there are.
        edges.mapped::<Node>(|_, delta| match concerns(delta) {
            true => vec![Key::cluster("nodes")],
            false => Vec::new(),
        });
    },
    reconcile: |ctx, _| reconcile(ctx).boxed(),
};

/// Fewest and most nodes, and seconds. The ranges overlap, so that a size on the edge does not go to and fro.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// A heartbeat concerns nobody.
fn concerns(delta: &Delta<Node>) -> bool {
    match (delta.old, delta.new) {
        (Some(old), Some(new)) => told(old) != told(new),
        _ => true,
    }
}

async fn reconcile(ctx: Arc<Ctx>) -> Result<Action> {
    for (node, seconds) in plan(&ctx.lister::<Node>().all()) {
        let patch = json!({ "metadata": { "annotations": { TTL: seconds.to_string() } } });
        match ctx.patch::<Node>(&node, &patch).await {
            Err(error) if error.is_not_found() => {}
            patched => drop(patched?),
        }
    }
    Ok(Action::Done)
}

/// Who has to be told what.
fn plan(nodes: &[Arc<Node>]) -> Vec<(Key, u32)> {
    let fitting = STEPS.iter().filter(|(least, most, _)| (*least..=*most).contains(&nodes.len()));
    let seconds = || fitting.clone().map(|(.., seconds)| *seconds);
    let known = seconds().rev().find(|one| nodes.iter().any(|node| told(node) == Some(*one)));
    let Some(wanted) = known.or_else(|| seconds().next()) else { return Vec::new() };
    let others = nodes.iter().filter(|node| told(node) != Some(wanted));
    others.map(|node| (Key::of(node.as_ref()), wanted)).collect()
}

fn told(node: &Node) -> Option<u32> {
    node.metadata.annotations.as_ref()?.get(TTL)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dice, yaml};

    fn node(number: usize, annotation: &str) -> Arc<Node> {
        Arc::new(yaml(&format!("{{metadata: {{name: n{number}, annotations: {{{annotation}}}}}}}")))
    }

    fn with(seconds: &str) -> String {
        format!("{TTL}: '{seconds}'")
    }

    /// What a cluster is told whose nodes have all been told the same, and how many of them.
    fn told_next(size: usize, annotation: &str) -> Option<(u32, usize)> {
        let nodes: Vec<_> = (0..size).map(|number| node(number, annotation)).collect();
        let ops = plan(&nodes);
        ops.first().map(|(_, seconds)| (*seconds, ops.len()))
    }

    #[test]
    fn the_more_nodes_the_longer_and_an_edge_is_crossed_once() {
        for (size, before, expected) in [
            (1, String::new(), Some((0, 1))),
            (100, with("0"), None),
            (101, with("0"), Some((15, 101))),
            (90, with("15"), None),
            (89, with("15"), Some((0, 89))),
            (501, with("15"), Some((30, 501))),
            (2001, with("60"), Some((300, 2001))),
            (95, String::new(), Some((0, 95))),
            (3, with("soon"), Some((0, 3))),
            (3, with("60"), Some((0, 3))),
            (0, String::new(), None),
        ] {
            assert_eq!(told_next(size, &before), expected, "{size} nodes, {before:?}");
        }
    }

    #[test]
    fn a_new_node_is_told_what_the_others_are() {
        let mut nodes: Vec<_> = (0..94).map(|number| node(number, &with("15"))).collect();
        nodes.push(node(94, ""));
        assert_eq!(plan(&nodes), [(Key::cluster("n94"), 15)]);
    }

    #[test]
    fn whatever_nodes_were_told_one_plan_settles_it() {
        let mut dice = Dice::new(7);
        let words = ["", "0", "15", "30", "60", "300", "never"];
        let kinds: Vec<Node> =
            words.iter().map(|word| node(0, &with(word)).as_ref().clone()).collect();
        for size in [1, 88, 95, 100, 101, 470, 950] {
            let mut nodes: Vec<_> =
                (0..size).map(|_| kinds[dice.below(words.len())].clone()).collect();
            for (at, node) in nodes.iter_mut().enumerate() {
                node.metadata.name = Some(at.to_string());
            }
            let shared: Vec<_> = nodes.iter().cloned().map(Arc::new).collect();
            for (key, seconds) in plan(&shared) {
                let at: usize = key.name.parse().expect("nodes are numbered");
                nodes[at].metadata.annotations = Some([(TTL.into(), seconds.to_string())].into());
            }
            let shared: Vec<_> = nodes.into_iter().map(Arc::new).collect();
            assert_eq!(plan(&shared), [], "{size} nodes");
        }
    }
}
