//! What a pod asks of a CSI driver, read once from wherever it is written.
//!
//! A PersistentVolume or a pod's own volume, and the pod -> [`Source`]. Counterpart: `getSourceFromSpec` of `pkg/volume/csi`.
//! Invariant: pure.

use k8s_openapi::api::{
    core::v1::{CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, SecretReference},
    storage::v1::CSIDriver,
};
use skiff_api::csi::sha256_hex;

use super::{CsiError, expand::Sizes};
use crate::{
    csi::{
        AccessMode, AccessType, Capabilities, Capability, MountVolume, Texts, VolumeAccessMode,
        VolumeCapability, VolumeId,
    },
    pod::desired::PodKey,
};

/// Namespace and name of a Secret.
pub type SecretName = (String, String);

#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The PersistentVolume, or the pod's volume.
    pub name: String,
    pub id: VolumeId,
    pub fs_type: String,
    pub read_only: bool,
    /// Wanted as a raw device.
    pub block: bool,
    pub attributes: Texts,
    pub publish_secret: Option<SecretName>,
    /// What only a PersistentVolume has.
    pub persistent: Option<Persistent>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Persistent {
    /// The claim, in the pod's namespace.
    pub claim: String,
    pub sizes: Sizes,
    pub stage_secret: Option<SecretName>,
    pub expand_secret: Option<SecretName>,
    pub access_modes: Vec<String>,
    pub mount_options: Vec<String>,
}

// === impl Source ===

impl Source {
    /// A volume that lives as long as its pod. Its handle is made up, the same each time.
    pub fn inline(pod: &PodKey, name: &str, source: &CSIVolumeSource) -> Self {
        let handle = format!("csi-{}", sha256_hex(&[&pod.uid, name]));
        let secret = source.node_publish_secret_ref.as_ref();
        Source {
            name: name.to_owned(),
            id: VolumeId { driver: source.driver.clone(), handle },
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only.unwrap_or(false),
            block: false,
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret.map(|secret| (pod.namespace.clone(), secret.name.clone())),
            persistent: None,
        }
    }

    /// `None` unless the volume is a CSI driver's.
    pub fn persistent(
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        read_only: bool,
    ) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        Some(Source {
            name: volume.metadata.name.clone().unwrap_or_default(),
            id: VolumeId { driver: source.driver.clone(), handle: source.volume_handle.clone() },
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: read_only || source.read_only.unwrap_or(false),
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret_name(source.node_publish_secret_ref.as_ref()),
            persistent: Some(Persistent {
                stage_secret: secret_name(source.node_stage_secret_ref.as_ref()),
                expand_secret: secret_name(source.node_expand_secret_ref.as_ref()),
                claim: claim.metadata.name.clone().unwrap_or_default(),
                sizes: Sizes::of(claim, volume),
                access_modes: spec.access_modes.clone().unwrap_or_default(),
                mount_options: spec.mount_options.clone().unwrap_or_default(),
            }),
        })
    }

    pub fn lifecycle(&self) -> &'static str {
        if self.persistent.is_some() { "Persistent" } else { "Ephemeral" }
    }

    /// A driver nobody described is taken to know persistent volumes only.
    pub fn check_lifecycle(&self, driver: Option<&CSIDriver>) -> Result<(), CsiError> {
        let mode = self.lifecycle();
        let modes = driver.map(|driver| driver.spec.volume_lifecycle_modes.as_deref());
        let why = match modes {
            None if self.persistent.is_some() => return Ok(()),
            None => "no CSIDriver object".to_owned(),
            Some(modes) => {
                let modes = modes.unwrap_or_default();
                if modes.iter().any(|known| known == mode) {
                    return Ok(());
                }
                format!(
                    "only supports [{}]",
                    modes.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>().join(" ")
                )
            }
        };
        Err(CsiError::Lifecycle { mode, driver: self.id.driver.clone(), why })
    }

    /// The first of the volume's access modes, as drivers tell them apart.
    pub fn access_mode(&self, capabilities: &Capabilities) -> AccessMode {
        let modes = self.persistent.as_ref().map(|persistent| persistent.access_modes.as_slice());
        let first = modes.and_then(|modes| modes.first()).map_or("ReadWriteOnce", String::as_str);
        let tells_apart = capabilities.contains(&Capability::SingleNodeMultiWriter);
        match (first, tells_apart) {
            ("ReadOnlyMany", _) => AccessMode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => AccessMode::MultiNodeMultiWriter,
            ("ReadWriteOncePod", true) => AccessMode::SingleNodeSingleWriter,
            (_, true) => AccessMode::SingleNodeMultiWriter,
            (_, false) => AccessMode::SingleNodeWriter,
        }
    }

    /// How the volume is wanted; `group` is the pod's, where the driver gives the volume to it.
    pub fn capability(&self, capabilities: &Capabilities, group: Option<u32>) -> VolumeCapability {
        let options = self.persistent.as_ref().map(|persistent| persistent.mount_options.clone());
        let access_type = match self.block {
            true => AccessType::Block(()),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: options.unwrap_or_default(),
                volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
            }),
        };
        let mode = self.access_mode(capabilities).into();
        VolumeCapability { access_type: Some(access_type), access_mode: VolumeAccessMode { mode } }
    }

    /// Whether the volume is given to the pod's group here, rather than left as the driver made it.
    pub fn takes_group(&self, driver: Option<&CSIDriver>) -> bool {
        let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
        match policy {
            _ if self.read_only || self.block => false,
            Some("None") => false,
            Some("File") => true,
            _ => {
                let single = |p: &super::source::Persistent| {
                    p.access_modes.iter().any(|mode| mode == "ReadWriteOnce")
                };
                !self.fs_type.is_empty() && self.persistent.as_ref().is_none_or(single)
            }
        }
    }
}

fn secret_name(reference: Option<&SecretReference>) -> Option<SecretName> {
    let reference = reference?;
    Some((reference.namespace.clone()?, reference.name.clone()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn persistent(spec: Value) -> Source {
        let mut volume = json!({ "metadata": { "name": "pv" }, "spec": { "csi": { "driver": "d", "volumeHandle": "h" } } });
        let merged = volume["spec"].as_object_mut().expect("an object");
        merged.extend(spec.as_object().expect("an object").clone());
        let volume = serde_json::from_value(volume).expect("a volume");
        let claim = PersistentVolumeClaim::default();
        Source::persistent(&claim, &volume, false).expect("a CSI volume")
    }

    fn driver(spec: Value) -> CSIDriver {
        serde_json::from_value(json!({ "metadata": { "name": "d" }, "spec": spec }))
            .expect("a driver")
    }

    fn inline() -> Source {
        let pod = PodKey { namespace: "ns".into(), name: "web".into(), uid: "u1".into() };
        let source =
            json!({ "driver": "d", "fsType": "ext4", "nodePublishSecretRef": { "name": "s" } });
        Source::inline(&pod, "data", &serde_json::from_value(source).expect("a source"))
    }

    #[test]
    fn an_inline_volume_has_a_handle_of_its_own_and_its_pods_secret() {
        let source = inline();
        assert_eq!(source, inline(), "the same each time");
        assert_eq!(source.id.handle.len(), "csi-".len() + 64);
        assert_eq!(source.publish_secret, Some(("ns".into(), "s".into())));
    }

    #[test]
    fn an_inline_volume_needs_a_driver_that_says_so() {
        let check = |driver: Option<&CSIDriver>| {
            inline().check_lifecycle(driver).map_err(|e| e.to_string())
        };
        assert!(
            check(Some(&driver(json!({ "volumeLifecycleModes": ["Persistent", "Ephemeral"] }))))
                .is_ok()
        );
        let error = check(Some(&driver(json!({ "volumeLifecycleModes": ["Persistent"] }))));
        assert_eq!(
            error.expect_err("refused"),
            r#"volume mode "Ephemeral" not supported by driver d (only supports ["Persistent"])"#
        );
        let error = check(None).expect_err("refused");
        assert_eq!(
            error,
            r#"volume mode "Ephemeral" not supported by driver d (no CSIDriver object)"#
        );
        assert!(persistent(json!({})).check_lifecycle(None).is_ok());
    }

    #[test]
    fn access_modes_are_told_apart_by_drivers_that_can() {
        let mode = |name: &str, capable: bool| {
            let capabilities = capable.then_some(Capability::SingleNodeMultiWriter);
            let source = persistent(json!({ "accessModes": [name] }));
            source.access_mode(&capabilities.into_iter().collect())
        };
        assert_eq!(mode("ReadWriteOnce", false), AccessMode::SingleNodeWriter);
        assert_eq!(mode("ReadWriteOnce", true), AccessMode::SingleNodeMultiWriter);
        assert_eq!(mode("ReadWriteOncePod", false), AccessMode::SingleNodeWriter);
        assert_eq!(mode("ReadWriteOncePod", true), AccessMode::SingleNodeSingleWriter);
        assert_eq!(mode("ReadOnlyMany", true), AccessMode::MultiNodeReaderOnly);
        assert_eq!(mode("ReadWriteMany", false), AccessMode::MultiNodeMultiWriter);
    }

    #[test]
    fn the_drivers_policy_says_whether_a_volume_is_given_to_the_group() {
        let csi = |fs_type: &str| json!({ "driver": "d", "volumeHandle": "h", "fsType": fs_type });
        let once = persistent(json!({ "csi": csi("ext4"), "accessModes": ["ReadWriteOnce"] }));
        let many = persistent(json!({ "csi": csi("ext4"), "accessModes": ["ReadWriteMany"] }));
        let bare = persistent(json!({ "accessModes": ["ReadWriteOnce"] }));
        let policy = |name: &str| driver(json!({ "fsGroupPolicy": name }));
        assert!(once.takes_group(None) && !many.takes_group(None) && !bare.takes_group(None));
        assert!(once.takes_group(Some(&policy("ReadWriteOnceWithFSType"))));
        assert!(many.takes_group(Some(&policy("File"))) && bare.takes_group(Some(&policy("File"))));
        assert!(!once.takes_group(Some(&policy("None"))));
        let read_only = Source { read_only: true, ..once.clone() };
        assert!(!read_only.takes_group(Some(&policy("File"))));
        let raw = Source { block: true, ..once };
        assert!(!raw.takes_group(Some(&policy("File"))));
        assert!(inline().takes_group(None));
    }
}
