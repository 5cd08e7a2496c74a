//! Says of claims that ask for more than they have who is going to give it to them, which is nobody in here.
//!
//! A bound claim whose request has grown in; the event `ExternalExpanding` out, and for volumes of types that have moved to a CSI
//! driver the annotation that names the driver. Counterpart: `pkg/controller/volume/expand`, whose last plugin that expanded
//! volumes by itself is gone; `skiff.dev/host-path` expands its own (see `host_path_provisioner`).
//! Invariant: told once for each growth of a request; no size is touched.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use serde_json::json;

use crate::persistent_volume::facts::{
    annotation, asked_size, capacity, is_promised_to, volume_name, volume_spec,
};
use crate::runtime::{Action, ControllerDef, Ctx, Delta, Error, Key, Result};

const REASON: &str = "ExternalExpanding";
/// On a claim: the driver that is to expand its volume.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";

pub const DEF: ControllerDef = ControllerDef {
    name: "expand-controller",
    workers: 1,
    watches: |edges| {
        edges.mapped::<PersistentVolumeClaim>(|_, delta| {
            has_grown(delta).then(|| Key::of(delta.latest().as_ref())).into_iter().collect()
        });
        edges.reads::<PersistentVolume>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// The in-tree name of a type, the driver it has moved to, and which volumes are of the type.
type Moved = (&'static str, &'static str, fn(&PersistentVolumeSpec) -> bool);

const MOVED: [Moved; 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com", |it| it.aws_elastic_block_store.is_some()),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com", |it| it.azure_disk.is_some()),
    ("kubernetes.io/azure-file", "file.csi.azure.com", |it| it.azure_file.is_some()),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org", |it| it.cinder.is_some()),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io", |it| it.gce_persistent_disk.is_some()),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com", |it| it.portworx_volume.is_some()),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com", |it| it.vsphere_volume.is_some()),
];

fn has_grown(delta: &Delta<PersistentVolumeClaim>) -> bool {
    let bound = delta.latest().status.as_ref().and_then(|status| status.phase.as_deref());
    let grown = match (delta.old, delta.new) {
        (Some(old), Some(new)) => asked_size(new) > asked_size(old),
        (old, _) => old.is_none(),
    };
    grown && bound == Some("Bound")
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    let volume = volume_name(&claim).map(Key::cluster);
    let volume = volume.and_then(|key| ctx.lister::<PersistentVolume>().get(&key));
    let Some(Growth { driver }) = plan(&claim, volume.as_deref())? else {
        return Ok(Action::Done);
    };
    ctx.recorder.normal(claim.as_ref(), REASON, message(driver));
    if let Some((_, driver)) = driver
        && annotation(&claim.metadata, RESIZER) != Some(driver)
    {
        let patch = json!({ "metadata": { "annotations": { RESIZER: driver } } });
        ctx.patch_status::<PersistentVolumeClaim>(&key, &patch).await?;
    }
    Ok(Action::Done)
}

/// A claim that asks for more than it has, and who is going to give it, by in-tree name and name, if the type has moved.
#[derive(Debug, PartialEq)]
struct Growth {
    driver: Option<(&'static str, &'static str)>,
}

/// An error is for later: claims and volumes are heard of in any order, and a claim only once.
fn plan(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
) -> Result<Option<Growth>> {
    let Some(name) = volume_name(claim) else { return Ok(None) };
    let key = Key::of(claim);
    let Some(volume) = volume else {
        return Err(Error::Invalid(format!("persistentvolume {name:?} of {key} is not known yet")));
    };
    if !is_promised_to(volume, claim) {
        let why = format!("persistent Volume is not bound to PVC being updated : {key}");
        return Err(Error::Invalid(why));
    }
    let grows = asked_size(claim) > capacity(claim);
    Ok(grows.then(|| Growth { driver: driver_of(volume) }))
}

/// In-tree name and driver of a volume whose type has moved.
fn driver_of(volume: &PersistentVolume) -> Option<(&'static str, &'static str)> {
    let found = MOVED.into_iter().find(|(.., is_of_type)| is_of_type(volume_spec(volume)));
    found.map(|(in_tree, driver, _)| (in_tree, driver))
}

fn message(driver: Option<(&str, &str)>) -> String {
    match driver {
        Some((in_tree, _)) => format!(
            "CSI migration enabled for {in_tree}; waiting for external resizer to expand the pvc"
        ),
        None => "waiting for an external controller to expand this PVC".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn claim(asked: &str, phase: &str) -> Arc<PersistentVolumeClaim> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: data}}, spec: {{resources: {{requests: {{storage: {asked}}}}}}}, status: {{phase: {phase}}}}}"
        )))
    }

    #[test]
    fn only_a_bound_claim_that_is_new_or_asks_for_more_is_looked_at() {
        let (small, large) = (claim("1Gi", "Bound"), claim("2Gi", "Bound"));
        let grown = |old, new| has_grown(&Delta { old, new });
        assert!(grown(Some(&small), Some(&large)) && grown(None, Some(&large)));
        assert!(!grown(Some(&large), Some(&large)) && !grown(Some(&large), None));
        assert!(!grown(None, Some(&claim("1Gi", "Pending"))));
    }

    #[test]
    fn a_claim_whose_volume_is_heard_of_later_is_looked_at_again() {
        let claim: PersistentVolumeClaim = yaml(
            "{metadata: {name: data, namespace: n, uid: u}, spec: {volumeName: pv, resources: {requests: {storage: 2Gi}}},
              status: {phase: Bound, capacity: {storage: 1Gi}}}",
        );
        assert!(plan(&claim, None).is_err());
        let volume = |of: &str| -> PersistentVolume {
            let promised = format!("{{name: {of}, namespace: n, uid: u}}");
            yaml(&format!(
                "{{metadata: {{name: pv}}, spec: {{claimRef: {promised}, local: {{path: /d}}}}}}"
            ))
        };
        assert!(plan(&claim, Some(&volume("another"))).is_err());
        let grows = plan(&claim, Some(&volume("data"))).unwrap();
        assert_eq!(grows, Some(Growth { driver: None }));
        let mut served = claim.clone();
        served.status.as_mut().unwrap().capacity = Some(
            [(
                "storage".into(),
                k8s_openapi::apimachinery::pkg::api::resource::Quantity("2Gi".into()),
            )]
            .into(),
        );
        assert_eq!(plan(&served, Some(&volume("data"))).unwrap(), None);
        let unbound = PersistentVolumeClaim { spec: None, ..claim };
        assert_eq!(plan(&unbound, None).unwrap(), None);
    }

    #[test]
    fn a_type_that_has_moved_waits_for_its_driver_and_any_other_for_somebody() {
        let moved: PersistentVolume =
            yaml("{metadata: {name: pv}, spec: {awsElasticBlockStore: {volumeID: v}}}");
        assert_eq!(driver_of(&moved), Some(("kubernetes.io/aws-ebs", "ebs.csi.aws.com")));
        let own: PersistentVolume = yaml("{metadata: {name: pv}, spec: {local: {path: /d}}}");
        assert_eq!(driver_of(&own), None);
        assert_eq!(
            message(driver_of(&moved)),
            "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc"
        );
        assert_eq!(message(None), "waiting for an external controller to expand this PVC");
    }
}
