//! Which static pods run, which wait, and which mirror pods there are.
//!
//! Consumes the pods of the directory, the mirror pods seen and the ends of workers, emits what is to be started and
//! ended. Counterpart: the static pods' part of `pkg/kubelet/pod_workers.go` and `pkg/kubelet/pod/pod_manager.go`.
//! Invariant: of one name at most one pod runs; a mirror pod outlives its file until what it shows has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use tokio::sync::watch;

use super::{
    FullName, Pods, full_name,
    mirror::{self, Mirrors},
};
use crate::context::NodeContext;

#[derive(Default)]
pub struct StaticWorkers {
    /// As the directory has them.
    wanted: Pods,
    /// Those that have a worker.
    running: BTreeMap<FullName, Arc<Pod>>,
    mirrors: Pods,
    listed: bool,
    publish: Option<watch::Sender<Mirrors>>,
}

// === impl StaticWorkers ===

impl StaticWorkers {
    pub fn keep_mirrors(&mut self, ctx: Arc<NodeContext>) {
        let (publish, state) = watch::channel(Mirrors::default());
        tokio::spawn(mirror::keep(ctx, state));
        self.publish = Some(publish);
    }

    /// Takes in what the directory says; answers the running pods that have to end.
    pub fn set(&mut self, wanted: Pods) -> Vec<Arc<Pod>> {
        self.wanted = wanted;
        self.say();
        let wanted = &self.wanted;
        let ended = self.running.iter().filter(|(name, pod)| {
            wanted.get(*name).is_none_or(|new| new.metadata.uid != pod.metadata.uid)
        });
        ended.map(|(_, pod)| pod.clone()).collect()
    }

    /// The pods whose turn it is, from now on counted as running.
    pub fn startable(&mut self) -> Vec<Arc<Pod>> {
        let waiting = self.wanted.iter().filter(|(name, _)| !self.running.contains_key(*name));
        let pods: Vec<Arc<Pod>> = waiting.map(|(_, pod)| pod.clone()).collect();
        self.running.extend(pods.iter().map(|pod| (full_name(pod), pod.clone())));
        self.say();
        pods
    }

    /// Whether the worker that ended was a static pod's.
    pub fn ended(&mut self, uid: &str) -> bool {
        let before = self.running.len();
        self.running.retain(|_, pod| pod.metadata.uid.as_deref() != Some(uid));
        let ended = self.running.len() != before;
        if ended {
            self.say();
        }
        ended
    }

    pub fn runs(&self, uid: &str) -> bool {
        self.running.values().any(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }

    pub fn running(&self, name: &FullName) -> Option<&str> {
        self.running.get(name)?.metadata.uid.as_deref()
    }

    pub fn mirror(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors.get(&full_name(pod)).cloned()
    }

    pub fn mirror_seen(&mut self, mirror: Arc<Pod>) {
        self.mirrors.insert(full_name(&mirror), mirror);
        self.say();
    }

    /// False for one that has been replaced already.
    pub fn mirror_gone(&mut self, mirror: &Pod) -> bool {
        let name = full_name(mirror);
        let it = self.mirrors.get(&name).is_some_and(|m| m.metadata.uid == mirror.metadata.uid);
        if it {
            self.mirrors.remove(&name);
            self.say();
        }
        it
    }

    /// All uids the API server has are known now; answers the names of mirrors that vanished unseen.
    pub fn list_done(&mut self, listed: &BTreeSet<String>) -> Vec<FullName> {
        self.listed = true;
        let there = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| listed.contains(uid));
        let gone = self.mirrors.iter().filter(|(_, mirror)| !there(mirror));
        let gone: Vec<FullName> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| drop(self.mirrors.remove(name)));
        self.say();
        gone
    }

    /// A pod that still ends is still to be seen, whatever its file says by now.
    fn say(&self) {
        let Some(publish) = &self.publish else { return };
        let mut statics = self.wanted.clone();
        statics.extend(self.running.iter().map(|(name, pod)| (name.clone(), pod.clone())));
        let state = Mirrors { statics, mirrors: self.mirrors.clone(), listed: self.listed };
        publish.send_replace(state);
    }
}

/// The pod as its worker sees it when its file is gone: as if somebody had deleted it.
pub fn deleted(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = grace.or(Some(30));
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": name, "namespace": "ns", "uid": uid } });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn pods(all: &[(&str, &str)]) -> Pods {
        all.iter().map(|(name, uid)| pod(name, uid)).map(|pod| (full_name(&pod), pod)).collect()
    }

    fn uids(pods: Vec<Arc<Pod>>) -> Vec<String> {
        pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
    }

    #[test]
    fn a_changed_pod_waits_for_the_end_of_the_old_one() {
        let mut workers = StaticWorkers::default();
        assert!(workers.set(pods(&[("a", "1"), ("b", "2")])).is_empty());
        assert_eq!(uids(workers.startable()), ["1", "2"]);
        assert_eq!(uids(workers.set(pods(&[("a", "3"), ("b", "2")]))), ["1"]);
        assert!(workers.startable().is_empty(), "the old one still ends");
        assert!(workers.ended("1") && !workers.ended("1"));
        assert_eq!(uids(workers.startable()), ["3"]);
        assert!(workers.runs("2") && workers.runs("3") && !workers.runs("1"));
    }

    #[test]
    fn a_mirror_that_vanished_while_nobody_watched_is_missed() {
        let mut workers = StaticWorkers::default();
        workers.mirror_seen(pod("a", "m"));
        workers.mirror_seen(pod("b", "n"));
        let gone = workers.list_done(&["n".to_owned()].into());
        assert_eq!(gone, [("ns".to_owned(), "a".to_owned())]);
        assert!(workers.mirror(&pod("b", "")).is_some() && workers.mirror(&pod("a", "")).is_none());
        assert!(!workers.mirror_gone(&pod("b", "other")), "it has been replaced");
    }
}
