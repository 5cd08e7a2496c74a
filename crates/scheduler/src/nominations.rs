//! Which nodes are promised to pods that do not run there yet, mostly because room is being made for them.
//!
//! Counterpart: `backend/queue/nominator.go`. Invariant: a pod is promised one node at most; a promise made here stands
//! until the pod is placed or gone, or the API says that a promise it had seen is withdrawn.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod_info::PodInfo;

#[derive(Default)]
pub struct Nominations {
    by_node: HashMap<String, Vec<Arc<PodInfo>>>,
    /// By uid.
    node_of: HashMap<String, String>,
}

// === impl Nominations ===

impl Nominations {
    pub fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        self.node_of.insert(pod.uid.clone(), node.to_owned());
        self.by_node.entry(node.to_owned()).or_default().push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| pod.uid != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Takes what the API says of a waiting pod. That it says nothing yet takes no promise back: the write may be on
    /// its way.
    pub fn heard(&mut self, pod: &Arc<PodInfo>, before: Option<&PodInfo>) {
        let withdrawn = before.is_some_and(|before| before.nominated.is_some());
        match (&pod.nominated, self.node_of(&pod.uid)) {
            (Some(node), _) => self.set(pod.clone(), &node.clone()),
            (None, Some(_)) if withdrawn => self.remove(&pod.uid),
            (None, Some(node)) => {
                let node = node.to_owned();
                self.set(pod.clone(), &node);
            }
            (None, None) => {}
        }
    }

    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.node_of.get(uid).map(String::as_str)
    }

    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        // Mostly there are none at all, and this is asked for every node of every search.
        if self.by_node.is_empty() {
            return &[];
        }
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Those that a pod of this priority pushes aside.
    pub fn below(&self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        self.on(node).iter().filter(|pod| pod.priority < priority).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(nominated: Option<&str>) -> Arc<PodInfo> {
        let nominated = nominated.map(str::to_owned);
        Arc::new(PodInfo { uid: "a".into(), nominated, ..PodInfo::default() })
    }

    #[test]
    fn news_from_before_the_promise_was_written_do_not_withdraw_it() {
        let mut nominations = Nominations::default();
        nominations.set(pod(None), "one");
        nominations.heard(&pod(None), Some(&pod(None)));
        assert_eq!(nominations.node_of("a"), Some("one"));
        nominations.heard(&pod(Some("one")), Some(&pod(None)));
        nominations.heard(&pod(None), Some(&pod(Some("one"))));
        assert_eq!(nominations.node_of("a"), None);
        assert!(nominations.on("one").is_empty());
    }

    #[test]
    fn a_pod_is_promised_one_node_at_most() {
        let mut nominations = Nominations::default();
        nominations.set(pod(None), "one");
        nominations.heard(&pod(Some("two")), None);
        assert!(nominations.on("one").is_empty());
        assert_eq!(nominations.on("two").len(), 1);
    }
}
