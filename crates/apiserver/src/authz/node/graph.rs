//! What belongs to which node: pods, and what they lead to.
//!
//! Pods, volumes, attachments, slices and claims in, counted edges out: `secret -> node` for every pod that names the secret,
//! and two steps where a volume stands between (`secret -> volume -> claim -> node`). A question is a few map look-ups,
//! however many pods there are. Counterpart: `plugin/pkg/auth/authorizer/node/graph.go`; differs in that pods are no
//! vertices of their own on the way. Invariant: an edge is there exactly as long as an object that made it is.

use std::collections::HashMap;

use serde_json::Value;

use crate::follow::{View, place};

/// What a node may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Node,
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    Volume,
    ResourceClaim,
    VolumeAttachment,
    ResourceSlice,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vertex {
    what: What,
    namespace: String,
    name: String,
}

#[derive(Default)]
pub struct Graph {
    /// From an object to what gives access to it, with the number of objects that say so.
    edges: HashMap<Vertex, HashMap<Vertex, u32>>,
    /// The edges that the object at a key made.
    made: HashMap<String, Vec<(Vertex, Vertex)>>,
}

type Edges = Vec<(Vertex, Vertex)>;
/// How the edges of an object beneath a prefix are read from its namespace, its name and itself.
type Reader = fn(&str, &str, &Value) -> Edges;

const READERS: &[(&str, Reader)] = &[
    ("/registry/pods/", of_pod),
    ("/registry/persistentvolumes/", of_volume),
    ("/registry/volumeattachments/", of_attachment),
    ("/registry/resourceslices/", of_slice),
];

// === impl Graph ===

impl View for Graph {
    const KEYS: &'static [&'static str] = &[
        "/registry/pods/",
        "/registry/persistentvolumes/",
        "/registry/volumeattachments/",
        "/registry/resourceslices/",
    ];

    fn put(&mut self, key: &str, object: &Value) {
        self.remove(key);
        let found = READERS.iter().find_map(|(prefix, read)| Some((place(key, prefix)?, read)));
        let Some(((namespace, name), read)) = found else { return };
        let edges = read(namespace, name, object);
        for (from, to) in &edges {
            *self.edges.entry(from.clone()).or_default().entry(to.clone()).or_default() += 1;
        }
        if !edges.is_empty() {
            self.made.insert(key.to_owned(), edges);
        }
    }

    fn remove(&mut self, key: &str) {
        for (from, to) in self.made.remove(key).into_iter().flatten() {
            let Some(targets) = self.edges.get_mut(&from) else { continue };
            match targets.get_mut(&to) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(targets.remove(&to)),
            }
            if targets.is_empty() {
                self.edges.remove(&from);
            }
        }
    }
}

impl Graph {
    /// Whether the object leads to the node.
    pub fn leads(&self, what: What, namespace: &str, name: &str, node: &str) -> bool {
        let goal = vertex(What::Node, "", node);
        let mut open = vec![vertex(what, namespace, name)];
        // Edges lead secret -> volume -> claim -> node: they cannot go round in a circle.
        while let Some(next) = open.pop() {
            let Some(targets) = self.edges.get(&next) else { continue };
            if targets.contains_key(&goal) {
                return true;
            }
            open.extend(targets.keys().filter(|target| target.what != What::Node).cloned());
        }
        false
    }
}

fn vertex(what: What, namespace: &str, name: &str) -> Vertex {
    Vertex { what, namespace: namespace.to_owned(), name: name.to_owned() }
}

// === what objects say ===

/// Where a volume of a pod names a secret.
const VOLUME_SECRETS: &[&str] = &[
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/secret/secretName",
    "/storageos/secretRef/name",
];

/// Where a PersistentVolume names a secret that the kubelet reads; the namespace is beside the name, or that of the claim.
const PERSISTENT_SECRETS: &[&str] = &[
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/csi/nodeStageSecretRef/name",
    "/csi/nodeExpandSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
];

fn of_pod(namespace: &str, name: &str, pod: &Value) -> Edges {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return Edges::new();
    }
    let mut named = vec![(What::Pod, name.to_owned())];
    // A mirror pod is made by its node, which must not gain anything by it.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none() {
        let account = text(pod, "/spec/serviceAccountName");
        named.push((What::ServiceAccount, account.to_owned()));
        add_all(&mut named, What::Secret, list(pod, "/spec/imagePullSecrets"), "/name");
        list(pod, "/spec/volumes").for_each(|volume| add_volume(&mut named, name, volume));
        for part in ["initContainers", "containers", "ephemeralContainers"] {
            list(pod, &format!("/spec/{part}")).for_each(|one| add_environment(&mut named, one));
        }
        add_all(
            &mut named,
            What::ResourceClaim,
            list(pod, "/spec/resourceClaims"),
            "/resourceClaimName",
        );
        let made = list(pod, "/status/resourceClaimStatuses");
        add_all(&mut named, What::ResourceClaim, made, "/resourceClaimName");
        add(
            &mut named,
            What::ResourceClaim,
            pod,
            "/status/extendedResourceClaimStatus/resourceClaimName",
        );
    }
    let goal = vertex(What::Node, "", node);
    let edge = |(what, name): (What, String)| (vertex(what, namespace, &name), goal.clone());
    named.into_iter().filter(|(_, name)| !name.is_empty()).map(edge).collect()
}

fn add_volume(named: &mut Vec<(What, String)>, pod: &str, volume: &Value) {
    for pointer in VOLUME_SECRETS {
        add(named, What::Secret, volume, pointer);
    }
    add(named, What::ConfigMap, volume, "/configMap/name");
    add_all(named, What::Secret, list(volume, "/projected/sources"), "/secret/name");
    add_all(named, What::ConfigMap, list(volume, "/projected/sources"), "/configMap/name");
    add(named, What::Claim, volume, "/persistentVolumeClaim/claimName");
    if volume.get("ephemeral").is_some() {
        named.push((What::Claim, format!("{pod}-{}", text(volume, "/name"))));
    }
}

fn add_environment(named: &mut Vec<(What, String)>, container: &Value) {
    add_all(named, What::Secret, list(container, "/env"), "/valueFrom/secretKeyRef/name");
    add_all(named, What::ConfigMap, list(container, "/env"), "/valueFrom/configMapKeyRef/name");
    add_all(named, What::Secret, list(container, "/envFrom"), "/secretRef/name");
    add_all(named, What::ConfigMap, list(container, "/envFrom"), "/configMapRef/name");
}

fn of_volume(_: &str, name: &str, volume: &Value) -> Edges {
    let claim = ["/spec/claimRef/namespace", "/spec/claimRef/name"].map(|at| text(volume, at));
    if claim[1].is_empty() {
        return Edges::new();
    }
    let own = vertex(What::Volume, "", name);
    let mut edges = vec![(own.clone(), vertex(What::Claim, claim[0], claim[1]))];
    let spec = &volume["spec"];
    for pointer in PERSISTENT_SECRETS.iter().filter(|pointer| !text(spec, pointer).is_empty()) {
        let beside = match pointer.strip_suffix("/secretName") {
            Some(parent) => format!("{parent}/secretNamespace"),
            None => format!("{}/namespace", pointer.trim_end_matches("/name")),
        };
        let namespace = Some(text(spec, &beside)).filter(|given| !given.is_empty());
        let secret = vertex(What::Secret, namespace.unwrap_or(claim[0]), text(spec, pointer));
        edges.push((secret, own.clone()));
    }
    edges
}

fn of_attachment(_: &str, name: &str, attachment: &Value) -> Edges {
    on_node(What::VolumeAttachment, name, text(attachment, "/spec/nodeName"))
}

fn of_slice(_: &str, name: &str, slice: &Value) -> Edges {
    on_node(What::ResourceSlice, name, text(slice, "/spec/nodeName"))
}

fn on_node(what: What, name: &str, node: &str) -> Edges {
    let edge = || (vertex(what, "", name), vertex(What::Node, "", node));
    (!node.is_empty()).then(edge).into_iter().collect()
}

fn add(named: &mut Vec<(What, String)>, what: What, object: &Value, pointer: &str) {
    named.push((what, text(object, pointer).to_owned()));
}

fn add_all<'a>(
    named: &mut Vec<(What, String)>,
    what: What,
    items: impl Iterator<Item = &'a Value>,
    pointer: &str,
) {
    items.for_each(|item| add(named, what, item, pointer));
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, secret: &str) -> Value {
        json!({ "metadata": {}, "spec": {
            "nodeName": node, "serviceAccountName": "runner",
            "nodeSelector": { "secretName": "not-a-reference" },
            "volumes": [
                { "name": "s", "secret": { "secretName": secret } },
                { "name": "c", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "scratch", "ephemeral": {} },
            ],
            "containers": [{ "envFrom": [{ "configMapRef": { "name": "settings" } }] }],
        } })
    }

    #[test]
    fn what_a_pod_names_belongs_to_its_node_until_the_last_such_pod_goes() {
        let mut graph = Graph::default();
        graph.put("/registry/pods/n/one", &pod("here", "key"));
        graph.put("/registry/pods/n/two", &pod("here", "key"));
        let leads =
            |graph: &Graph, what, name: &str, node: &str| graph.leads(what, "n", name, node);
        for (what, name) in [
            (What::Pod, "one"),
            (What::Secret, "key"),
            (What::ConfigMap, "settings"),
            (What::ServiceAccount, "runner"),
            (What::Claim, "data"),
            (What::Claim, "one-scratch"),
        ] {
            assert!(leads(&graph, what, name, "here"), "{what:?} {name}");
            assert!(!leads(&graph, what, name, "elsewhere"), "{what:?} {name}");
        }
        assert!(!leads(&graph, What::Secret, "not-a-reference", "here"));
        graph.remove("/registry/pods/n/one");
        assert!(leads(&graph, What::Secret, "key", "here"));
        graph.put("/registry/pods/n/two", &pod("here", "other"));
        assert!(!leads(&graph, What::Secret, "key", "here"));
        graph.remove("/registry/pods/n/two");
        assert!(graph.edges.is_empty() && graph.made.is_empty());
    }

    #[test]
    fn a_secret_of_a_volume_is_reached_through_its_claim() {
        let mut graph = Graph::default();
        graph.put("/registry/pods/n/one", &pod("here", "key"));
        let volume = json!({ "spec": { "claimRef": { "namespace": "n", "name": "data" },
            "csi": { "nodeStageSecretRef": { "namespace": "vault", "name": "stage" } },
            "azureFile": { "secretName": "azure" } } });
        graph.put("/registry/persistentvolumes/disk", &volume);
        assert!(graph.leads(What::Volume, "", "disk", "here"));
        assert!(graph.leads(What::Secret, "vault", "stage", "here"));
        assert!(graph.leads(What::Secret, "n", "azure", "here"));
        graph.remove("/registry/pods/n/one");
        assert!(!graph.leads(What::Secret, "vault", "stage", "here"));
    }

    #[test]
    fn a_mirror_pod_gives_its_node_nothing() {
        let mut graph = Graph::default();
        let mut mirror = pod("here", "key");
        mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
        graph.put("/registry/pods/n/one", &mirror);
        assert!(graph.leads(What::Pod, "n", "one", "here"));
        assert!(!graph.leads(What::Secret, "n", "key", "here"));
    }
}
