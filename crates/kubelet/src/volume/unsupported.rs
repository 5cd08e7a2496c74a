//! Types of volumes that this node does not mount, and what it says of each.
//!
//! The member of a volume's source that is set -> the reason why a pod waits. The same list serves pods' own volumes and
//! PersistentVolumes. Counterpart: the plugins that upstream still has, has moved to CSI drivers, or has removed.
//! Invariant: no type is passed over in silence.

use super::VolumeError;

/// Types of upstream that are mounted by programs this node does not run.
const ABSENT: [&str; 3] = ["fc", "flexVolume", "iscsi"];

/// Types whose volumes upstream hands to a CSI driver.
const MOVED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

/// Types that upstream has given up; these are its own words for any type that it does not know.
const REMOVED: [&str; 8] = [
    "cephfs",
    "flocker",
    "glusterfs",
    "photonPersistentDisk",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
];

/// Why a volume of this type is not mounted.
pub fn error(kind: &str) -> VolumeError {
    let driver = MOVED.iter().find(|(name, _)| *name == kind).map(|(_, driver)| driver);
    let why = match (kind, driver) {
        ("gitRepo", _) => "git-repo volume plugin has been disabled".to_owned(),
        (_, Some(driver)) => format!(
            "volume type {kind} has moved to the CSI driver {driver} and is not translated by this node: name the driver in a \
             PersistentVolume instead"
        ),
        _ if REMOVED.contains(&kind) => "no volume plugin matched".to_owned(),
        _ if ABSENT.contains(&kind) => format!("volume type {kind} is not supported by this node"),
        _ => return VolumeError::Unsupported(kind.to_owned()),
    };
    VolumeError::NoPlugin(why)
}

/// The member of a source that is set and names its type; the others are given by `besides`.
pub fn kind_of(source: &impl serde::Serialize, besides: &[&str]) -> String {
    let value = serde_json::to_value(source).unwrap_or_default();
    let members = value.as_object().into_iter().flat_map(serde_json::Map::keys);
    let mut kinds = members.filter(|member| !besides.contains(&member.as_str()));
    kinds.next().cloned().unwrap_or_else(|| "(none)".into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Volume;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_type_says_why_it_is_not_mounted() {
        let said = |source: serde_json::Value| {
            let mut volume = source;
            volume["name"] = json!("v");
            let volume: Volume = serde_json::from_value(volume).expect("a volume");
            error(&kind_of(&volume, &["name"])).to_string()
        };
        let iscsi = json!({ "iscsi": { "targetPortal": "p", "iqn": "i", "lun": 0 } });
        assert_eq!(said(iscsi), "volume type iscsi is not supported by this node");
        let rbd = json!({ "rbd": { "monitors": ["m"], "image": "i" } });
        assert_eq!(said(rbd), "no volume plugin matched");
        let moved = said(json!({ "awsElasticBlockStore": { "volumeID": "v" } }));
        assert!(moved.contains("the CSI driver ebs.csi.aws.com"), "{moved}");
        let git = said(json!({ "gitRepo": { "repository": "r" } }));
        assert_eq!(git, "git-repo volume plugin has been disabled");
    }
}
