//! Taints keep pods away unless tolerated: NoSchedule and NoExecute strictly, PreferNoSchedule by score.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, Plugin, Reason, Reasons, normalize_by_largest};
use crate::pod_info::PodInfo;

pub struct TaintToleration;

struct Opinion<'a>(&'a [Toleration]);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeTaints]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        Ok(Some(Box::new(Opinion(&pod.tolerations))))
    }
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        let strict = node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
        match strict.into_iter().find(|taint| !tolerates(self.0, taint)) {
            None => Ok(()),
            Some(Taint { key, value, .. }) => {
                let value = value.as_deref().unwrap_or_default();
                let reason = format!("node(s) had untolerated taint {{{key}: {value}}}");
                Err(Reasons::One(Cow::Owned(reason)))
            }
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerates(self.0, taint)).map(|_| 1).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_largest(scores, true);
    }
}

pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates_one(toleration, taint))
}

fn tolerates_one(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if given(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            given(&toleration.key).is_some() && given(&toleration.value) == given(&taint.value)
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn tolerations() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        };
        for (toleration, expected) in [
            ("{key: k, operator: Equal, value: v, effect: NoSchedule}", true),
            ("{key: k, value: v}", true),
            ("{key: k, operator: Exists}", true),
            ("{operator: Exists}", true),
            ("{key: k, value: other}", false),
            ("{key: other, operator: Exists}", false),
            ("{key: k, operator: Exists, effect: NoExecute}", false),
            ("{key: k, operator: Strange}", false),
        ] {
            let toleration: Toleration = serde_saphyr::from_str(toleration).unwrap();
            assert_eq!(
                tolerates(std::slice::from_ref(&toleration), &taint),
                expected,
                "{toleration:?}"
            );
        }
    }

    #[test]
    fn soft_taints_only_cost_points() {
        let soft = "{metadata: {name: soft}, spec: {taints: [{key: k, effect: PreferNoSchedule}]}}";
        let hard =
            "{metadata: {name: hard}, spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}";
        let pod = "{spec: {containers: []}}";
        assert_eq!(
            choose(&[&TaintToleration], &cluster(&[soft, "{metadata: {name: clean}}"], &[]), pod)
                .unwrap(),
            "clean"
        );
        assert_eq!(choose(&[&TaintToleration], &cluster(&[soft, hard], &[]), pod).unwrap(), "soft");
        let rejected = choose(&[&TaintToleration], &cluster(&[hard], &[]), pod).unwrap_err();
        assert_eq!(rejected, "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.");
    }
}
