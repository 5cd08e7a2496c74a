//! The objects a cluster starts with: namespaces, priority classes, RBAC, flow schemas, API services, the `kubernetes` Service.
//!
//! Recorded facts + this server's addresses -> one transaction for what is missing, one for roles that lost rules.
//! Counterpart: `pkg/controlplane` post-start hooks and `pkg/registry/rbac/rest`.
//! Invariant: what an administrator changed stays, except that default roles keep at least their default rules.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status, default};
use skiff_store::{Entry, Expect, Op, Txn};

use crate::authz::rbac;
use crate::authz::rules::PolicyRule;
use crate::flow_control;
use crate::objects;
use crate::ownership;
use crate::server::Server;
use crate::verbs::write::set;

const FACTS: &str = include_str!("../facts/bootstrap.json");
const NOTE: &str = r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"bootstrap"}"#;
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

pub async fn run(server: &Arc<Server>) -> Result<(), Status> {
    let kinds = server.kinds();
    let facts: Vec<Value> = serde_json::from_str(FACTS).expect("facts are valid JSON");
    let mut ops = Vec::new();
    for object in facts.into_iter().chain(own_objects(server)) {
        let kind = kind_of(&kinds, &object);
        let key = kind.key(meta(&object).namespace(), meta(&object).name());
        match objects::read(server, &key).await? {
            None => ops.push(create(kind, key, object)),
            Some(entry) => ops.extend(repair(kind, &entry, &object)?),
        }
    }
    if !ops.is_empty() {
        let txn = Txn { ops, note: NOTE.into(), ..Txn::default() };
        server.store.commit(txn).await.map_err(objects::store_status)?;
        server.rbac.changed();
    }
    flow_control::settle(server).await?;
    server.network.load(&server.store).await
}

/// The rules of a default ClusterRole.
pub fn default_cluster_role(name: &str) -> Vec<PolicyRule> {
    let facts: Vec<Value> = serde_json::from_str(FACTS).expect("facts are valid JSON");
    let found =
        facts.into_iter().find(|fact| fact["kind"] == "ClusterRole" && meta(fact).name() == name);
    let rules = found.map(|mut role| role["rules"].take()).unwrap_or_default();
    serde_json::from_value(rules).expect("the facts hold the role")
}

fn kind_of<'a>(kinds: &'a skiff_api::Kinds, object: &Value) -> &'a Arc<KindDef> {
    let version = object["apiVersion"].as_str().unwrap_or("");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().unwrap_or("");
    kinds.by_kind(group, version, kind).expect("bootstrap facts name built-in kinds")
}

fn create(kind: &Arc<KindDef>, key: String, mut object: Value) -> Op {
    default::apply(&mut object, kind);
    ownership::track_own(kind, None, &mut object, "");
    let now = skiff_api::time::format(skiff_api::time::now());
    set(&mut object, "uid", uuid::Uuid::new_v4().to_string().into());
    set(&mut object, "creationTimestamp", now.as_str().into());
    date_conditions(&mut object, &now);
    if kind.strategy.counts_generation(kind) {
        set(&mut object, "generation", 1.into());
    }
    Op::Put { key: key.into(), value: objects::encode(kind, &mut object), expect: Expect::Absent }
}

/// Facts carry no times: their conditions came about when the object did.
fn date_conditions(object: &mut Value, now: &str) {
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = now.into();
        }
    }
}

/// Gives a default role or binding back what it lost, and the `kubernetes` endpoints this server's address.
fn repair(kind: &Arc<KindDef>, entry: &Arc<Entry>, wanted: &Value) -> Result<Option<Op>, Status> {
    let mut stored = skiff_api::codec::decode_stored(&entry.value)?;
    let before = stored.clone();
    if kind.group == rbac::GROUP && meta(&stored).annotation(AUTO_UPDATE) != Some("false") {
        for map in ["labels", "annotations"] {
            add_missing_meta(&mut stored, wanted, map);
        }
        for list in ["rules", "subjects"] {
            add_missing(&mut stored, wanted, list);
        }
    } else if is_own_endpoint(kind, wanted) {
        for field in ["subsets", "endpoints", "ports"] {
            if let Some(value) = wanted.get(field) {
                stored[field] = value.clone();
            }
        }
    }
    if stored == before {
        return Ok(None);
    }
    let value = objects::encode(kind, &mut stored);
    Ok(Some(Op::Put { key: entry.key.clone(), value, expect: Expect::Mod(entry.mod_revision) }))
}

fn add_missing_meta(stored: &mut Value, wanted: &Value, map: &str) {
    for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
        let have = &mut stored["metadata"][map];
        if !have.is_object() {
            *have = json!({});
        }
        have.as_object_mut().expect("made an object").entry(key.clone()).or_insert(value.clone());
    }
}

fn add_missing(stored: &mut Value, wanted: &Value, list: &str) {
    let Some(items) = wanted[list].as_array().filter(|items| !items.is_empty()) else { return };
    if stored[list].is_null() {
        stored[list] = json!([]);
    }
    if let Some(have) = stored[list].as_array_mut() {
        let missing: Vec<Value> =
            items.iter().filter(|item| !have.contains(item)).cloned().collect();
        have.extend(missing);
    }
}

fn is_own_endpoint(kind: &KindDef, object: &Value) -> bool {
    matches!(kind.resource.as_str(), "endpoints" | "endpointslices")
        && meta(object).name() == "kubernetes"
}

/// What depends on this server: its Service, where that leads, and what clients trust.
fn own_objects(server: &Server) -> Vec<Value> {
    let config = &server.config;
    let address = config.advertise_address.to_string();
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let first = server.network.first_address().to_string();
    let cidr = server.network.cidr().to_string();
    vec![
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" }, "spec": { "cidrs": [cidr] },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
                "lastTransitionTime": skiff_api::time::format(skiff_api::time::now()) }] } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels },
            "spec": { "clusterIP": first, "clusterIPs": [first], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "type": "ClusterIP",
                "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port }] } }),
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": { "name": first, "labels": { "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" } },
            "spec": { "parentRef": { "resource": "services", "namespace": "default", "name": "kubernetes" } } }),
        json!({ "apiVersion": "v1", "kind": "Endpoints",
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
            "subsets": [{ "addresses": [{ "ip": address }], "ports": [{ "name": "https", "port": config.port, "protocol": "TCP" }] }] }),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": config.port, "protocol": "TCP" }] }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": {
                "client-ca-file": server.pki.ca_pem(),
                "requestheader-client-ca-file": server.pki.front_proxy_ca_pem(),
                "requestheader-allowed-names": "[\"front-proxy-client\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]",
                "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system" },
            "data": { "since": &skiff_api::time::format(skiff_api::time::now())[..10] } }),
        cluster_info(server),
    ]
}

/// What a joining node may read before it trusts anything: where the server is and its CA.
fn cluster_info(server: &Server) -> Value {
    use base64::Engine;
    let ca = base64::prelude::BASE64_STANDARD.encode(server.pki.ca_pem());
    let url = format!("https://{}:{}", server.config.advertise_address, server.config.port);
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {url}\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    );
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "cluster-info", "namespace": "kube-public" }, "data": { "kubeconfig": kubeconfig } })
}
