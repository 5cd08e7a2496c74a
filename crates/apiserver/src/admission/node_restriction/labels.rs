//! Which labels of its Node a kubelet may set.
//!
//! Labels decide where pods go; a node that set any could draw pods to itself. Counterpart: `kubelet/pkg/apis`.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_api::meta::meta;

/// Labels under `kubernetes.io` that a kubelet knows best.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESERVED_DOMAINS: &[&str] = &["kubernetes.io", "k8s.io"];
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Labels that differ from before and are not for the node to set, in order.
pub fn forbidden(old: Option<&Value>, new: &Value) -> Vec<String> {
    let of = |object: Option<&Value>, key: &str| {
        object.and_then(|object| meta(object).label(key)).map(str::to_owned)
    };
    let both = [old, Some(new)].into_iter().flatten();
    let keys = both.filter_map(|object| meta(object).labels()).flat_map(|labels| labels.keys());
    let changed = keys.filter(|key| of(old, key) != of(Some(new), key) && !may_set(key));
    changed.cloned().collect::<BTreeSet<String>>().into_iter().collect()
}

fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |of: &&str| {
        domain.strip_suffix(*of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within(&RESTRICTED) {
        return false;
    }
    !RESERVED_DOMAINS.iter().any(within)
        || OWN_LABELS.contains(&label)
        || OWN_DOMAINS.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sets_its_own_labels_and_those_nobody_reserved() {
        for (label, allowed) in [
            ("plain", true),
            ("example.com/x", true),
            ("notkubernetes.io/x", true),
            ("kubernetes.io/hostname", true),
            ("a.kubelet.kubernetes.io/x", true),
            ("node.kubernetes.io/x", true),
            ("kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("x.k8s.io/y", false),
            ("node-restriction.kubernetes.io/x", false),
            ("a.node-restriction.kubernetes.io/x", false),
        ] {
            assert_eq!(may_set(label), allowed, "{label}");
        }
    }

    #[test]
    fn labels_that_stay_as_they_are_do_not_count() {
        let node = |labels: Value| serde_json::json!({ "metadata": { "labels": labels } });
        let old = node(serde_json::json!({ "kubernetes.io/a": "1", "kubernetes.io/b": "1" }));
        let new = node(serde_json::json!({ "kubernetes.io/a": "1", "kubernetes.io/c": "1" }));
        assert_eq!(forbidden(Some(&old), &new), ["kubernetes.io/b", "kubernetes.io/c"]);
    }
}
