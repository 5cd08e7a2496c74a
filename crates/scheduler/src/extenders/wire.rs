//! What goes to an extender and comes back, field by field as `k8s.io/kube-scheduler/extender/v1` names it.
//!
//! Pods and nodes go through as the API server wrote them: nothing here reads them. Go takes field names in any case, and
//! extenders are mostly written in Go, so answers are read the same way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Counterpart: `ExtenderArgs`. Either whole nodes or their names.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Args<'a> {
    pub pod: &'a RawValue,
    pub nodes: Option<NodeList<'a>>,
    pub node_names: Option<&'a [String]>,
}

#[derive(Serialize)]
pub struct NodeList<'a> {
    pub metadata: Empty,
    pub items: Vec<&'a RawValue>,
}

#[derive(Serialize)]
pub struct Empty {}

/// Counterpart: `ExtenderFilterResult`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct FilterResult {
    #[serde(alias = "Nodes")]
    pub nodes: Option<Listed>,
    #[serde(rename = "nodeNames", alias = "NodeNames", alias = "nodenames")]
    pub node_names: Option<Vec<String>>,
    #[serde(rename = "failedNodes", alias = "FailedNodes", alias = "failednodes")]
    pub failed: Option<BTreeMap<String, String>>,
    #[serde(
        rename = "failedAndUnresolvableNodes",
        alias = "FailedAndUnresolvableNodes",
        alias = "failedandunresolvablenodes"
    )]
    pub unresolvable: Option<BTreeMap<String, String>>,
    #[serde(alias = "Error")]
    pub error: String,
}

/// Of a list of nodes only who they are.
#[derive(Deserialize)]
pub struct Listed {
    #[serde(default, alias = "Items")]
    pub items: Option<Vec<Named>>,
}

#[derive(Deserialize)]
pub struct Named {
    pub metadata: NamedMeta,
}

#[derive(Deserialize)]
pub struct NamedMeta {
    pub name: String,
}

/// Counterpart: `HostPriority`; a score is from 0 to 10.
#[derive(Deserialize)]
pub struct HostPriority {
    #[serde(alias = "Host")]
    pub host: String,
    #[serde(alias = "Score")]
    pub score: i64,
}

/// Counterpart: `ExtenderPreemptionArgs`. Either whole victims or their uids.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreemptionArgs<'a> {
    pub pod: &'a RawValue,
    pub node_name_to_victims: Option<BTreeMap<&'a str, Victims<&'a RawValue>>>,
    pub node_name_to_meta_victims: Option<BTreeMap<&'a str, Victims<MetaPod>>>,
}

#[derive(Serialize)]
pub struct Victims<T> {
    #[serde(rename = "Pods")]
    pub pods: Vec<T>,
    #[serde(rename = "NumPDBViolations")]
    pub violations: usize,
}

#[derive(Serialize, Deserialize)]
pub struct MetaPod {
    #[serde(rename = "UID", alias = "uid", alias = "Uid")]
    pub uid: String,
}

/// Counterpart: `ExtenderPreemptionResult`.
#[derive(Deserialize)]
pub struct PreemptionResult {
    #[serde(
        rename = "nodeNameToMetaVictims",
        alias = "NodeNameToMetaVictims",
        alias = "nodenametometavictims"
    )]
    pub victims: Option<BTreeMap<String, MetaVictims>>,
}

#[derive(Deserialize)]
pub struct MetaVictims {
    #[serde(default, alias = "Pods")]
    pub pods: Option<Vec<MetaPod>>,
    #[serde(default, rename = "numPDBViolations", alias = "NumPDBViolations")]
    pub violations: usize,
}

/// Counterpart: `ExtenderBindingArgs`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BindingArgs<'a> {
    pub pod_name: &'a str,
    pub pod_namespace: &'a str,
    #[serde(rename = "PodUID")]
    pub pod_uid: &'a str,
    pub node: &'a str,
}

/// Counterpart: `ExtenderBindingResult`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct BindingResult {
    #[serde(alias = "Error")]
    pub error: String,
}
