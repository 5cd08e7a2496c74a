//! The set and the pods that the tests of this directory look at.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::testing::yaml;

const SET: &str = "
    metadata: {name: web, namespace: ns, uid: set-1, generation: 2}
    spec:
      replicas: 3
      selector: {matchLabels: {app: web}}
      template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}";

pub fn set() -> ReplicaSet {
    yaml(SET)
}

/// A ready pod of the set, with changes laid over it.
pub fn member(name: &str, changes: &str) -> Arc<Pod> {
    let mut pod: Pod = yaml(&format!(
        "{{metadata: {{name: {name}, namespace: ns, uid: {name}, labels: {{app: web}},
           ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: set-1, controller: true}}]}},
           spec: {{nodeName: n1, containers: []}},
           status: {{phase: Running, conditions: [
             {{type: Ready, status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
    ));
    let changes: Pod = yaml(changes);
    k8s_openapi::DeepMerge::merge_from(&mut pod, changes);
    Arc::new(pod)
}
