//! What the API says of the drivers on this node: the CSINode object, and the node's labels and annotation.
//!
//! A driver with what it says of the node -> two patches; none -> its entries gone. Counterpart: `pkg/volume/csi/nodeinfomanager`.
//! Invariant: entries of other drivers stay as they are; a topology label that is there is never given another value.

use k8s_openapi::{
    api::{
        core::v1::Node,
        storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::messages::{NodeInfo, Texts};
use crate::context::NodeContext;

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("error adding CSI driver node info: driverNodeID must not be empty")]
    NoNodeId,
    #[error(
        "detected topology value collision: driver reported {key:?}:{reported:?} but existing label is {key:?}:{existing:?}"
    )]
    Collision { key: String, reported: String, existing: String },
    #[error("failed to parse node's {NODE_ID:?} annotation: {0}")]
    Annotation(#[from] serde_json::Error),
    #[error("error updating {what} object with CSI driver node info: {source}")]
    Api { what: &'static str, source: kube::Error },
}

fn failed(what: &'static str) -> impl Fn(kube::Error) -> PublishError {
    move |source| PublishError::Api { what, source }
}

/// Makes the object, which upstream's nodes have even without drivers.
pub async fn ensure(ctx: &NodeContext) -> Result<CSINode, PublishError> {
    let api: Api<CSINode> = Api::all(ctx.client.clone());
    let name = &ctx.config.node_name;
    if let Some(found) = api.get_opt(name).await.map_err(failed("CSINode"))? {
        return Ok(found);
    }
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let node = nodes.get(name).await.map_err(failed("Node"))?;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let wanted = CSINode { metadata, spec: CSINodeSpec::default() };
    api.create(&PostParams::default(), &wanted).await.map_err(failed("CSINode"))
}

pub async fn install(ctx: &NodeContext, driver: &str, info: &NodeInfo) -> Result<(), PublishError> {
    if info.node_id.is_empty() {
        return Err(PublishError::NoNodeId);
    }
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let node = nodes.get(&ctx.config.node_name).await.map_err(failed("Node"))?;
    check_topology(&node, &info.topology.segments)?;
    let ids = node_ids(&node, driver, Some(&info.node_id))?;
    patch_node(ctx, &json!({ "labels": info.topology.segments, "annotations": { NODE_ID: ids } }))
        .await?;
    set_driver(ctx, driver, Some(entry(driver, info))).await
}

pub async fn uninstall(ctx: &NodeContext, driver: &str) -> Result<(), PublishError> {
    set_driver(ctx, driver, None).await?;
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let node = nodes.get(&ctx.config.node_name).await.map_err(failed("Node"))?;
    let ids = node_ids(&node, driver, None)?;
    patch_node(ctx, &json!({ "annotations": { NODE_ID: ids } })).await
}

fn check_topology(node: &Node, topology: &Texts) -> Result<(), PublishError> {
    for (key, reported) in topology {
        let existing = node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if let Some(existing) = existing.filter(|existing| *existing != reported) {
            return Err(PublishError::Collision {
                key: key.clone(),
                reported: reported.clone(),
                existing: existing.clone(),
            });
        }
    }
    Ok(())
}

/// The annotation with the driver's entry set or removed; `None` once it is empty.
fn node_ids(
    node: &Node,
    driver: &str,
    id: Option<&str>,
) -> Result<Option<String>, serde_json::Error> {
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_ID));
    let mut ids: Texts = annotation.map_or(Ok(Texts::new()), |text| serde_json::from_str(text))?;
    match id {
        Some(id) => ids.insert(driver.to_owned(), id.to_owned()),
        None => ids.remove(driver),
    };
    (!ids.is_empty()).then(|| serde_json::to_string(&ids)).transpose()
}

async fn patch_node(ctx: &NodeContext, metadata: &serde_json::Value) -> Result<(), PublishError> {
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let patched = nodes.patch(&ctx.config.node_name, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(failed("Node"))
}

fn entry(driver: &str, info: &NodeInfo) -> CSINodeDriver {
    let count = i32::try_from(info.max_volumes.min(i32::MAX.into())).ok().filter(|n| *n > 0);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!info.topology.segments.is_empty())
            .then(|| info.topology.segments.keys().cloned().collect()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// Replaces the driver's entry; the patch is refused if somebody else changed the object meanwhile.
async fn set_driver(
    ctx: &NodeContext,
    driver: &str,
    entry: Option<CSINodeDriver>,
) -> Result<(), PublishError> {
    let known = ensure(ctx).await?;
    let mut drivers: Vec<CSINodeDriver> = known.spec.drivers.clone();
    drivers.retain(|known| known.name != driver);
    drivers.extend(entry);
    if drivers == known.spec.drivers {
        return Ok(());
    }
    let api: Api<CSINode> = Api::all(ctx.client.clone());
    let patch = Patch::Merge(json!({
        "metadata": { "resourceVersion": known.metadata.resource_version },
        "spec": { "drivers": drivers },
    }));
    let patched = api.patch(&ctx.config.node_name, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(failed("CSINode"))
}

#[cfg(test)]
mod tests {
    use super::{super::messages::Topology, *};

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_drivers_entry_has_its_topology_and_its_limit() {
        let topology = Topology { segments: texts(&[("zone", "a"), ("rack", "4")]) };
        let info = NodeInfo { node_id: "n1".into(), max_volumes: 7, topology };
        let found = entry("disk.example.com", &info);
        assert_eq!(found.topology_keys, Some(vec!["rack".to_owned(), "zone".to_owned()]));
        assert_eq!(found.allocatable.and_then(|a| a.count), Some(7));
        for (said, count) in [(0, None), (-3, None), (i64::MAX, Some(i32::MAX))] {
            let info = NodeInfo { max_volumes: said, ..info.clone() };
            assert_eq!(entry("d", &info).allocatable.and_then(|a| a.count), count, "{said}");
        }
    }

    #[test]
    fn a_label_of_another_value_is_a_collision() {
        let labels = Some(texts(&[("zone", "a")]));
        let metadata = ObjectMeta { labels, ..ObjectMeta::default() };
        let node = Node { metadata, ..Node::default() };
        assert!(check_topology(&node, &texts(&[("zone", "a"), ("rack", "4")])).is_ok());
        let error = check_topology(&node, &texts(&[("zone", "b")])).expect_err("a collision");
        assert!(error.to_string().starts_with("detected topology value collision"), "{error}");
    }

    #[test]
    fn ids_of_other_drivers_stay() {
        let annotations = Some(texts(&[(NODE_ID, r#"{"other":"x"}"#)]));
        let metadata = ObjectMeta { annotations, ..ObjectMeta::default() };
        let node = Node { metadata, ..Node::default() };
        let both = node_ids(&node, "disk", Some("n1")).expect("JSON");
        assert_eq!(both.as_deref(), Some(r#"{"disk":"n1","other":"x"}"#));
        assert_eq!(node_ids(&node, "other", None).expect("JSON"), None);
    }
}
