//! Messages of CSI's node service, as far as they are used.
//!
//! Counterpart: `csi.proto` (CSI v1); names and field numbers are those of the specification where a shorter name would not say
//! more. Invariant: fields we do not know are passed over; a default value is not written.

use std::collections::{BTreeMap, BTreeSet};

use prost::{Enumeration, Message, Oneof};

/// Secrets, attributes and contexts.
pub type Texts = BTreeMap<String, String>;

// === what a driver says of itself and its node ===

/// `NodeGetInfoResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// Zero or less: as many as anyone likes.
    #[prost(int64, tag = "2")]
    pub max_volumes: i64,
    #[prost(message, required, tag = "3")]
    pub topology: Topology,
}

#[derive(Clone, PartialEq, Message)]
pub struct Topology {
    #[prost(btree_map = "string, string", tag = "1")]
    pub segments: Texts,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeCapabilities {
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<NodeServiceCapability>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeServiceCapability {
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<NodeServiceRpc>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeServiceRpc {
    #[prost(enumeration = "Capability", tag = "1")]
    pub kind: i32,
}

/// What a driver's node service can do, of what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
pub enum Capability {
    Unknown = 0,
    StageUnstage = 1,
    GetVolumeStats = 2,
    ExpandVolume = 3,
    SingleNodeMultiWriter = 5,
    VolumeMountGroup = 6,
}

pub type Capabilities = BTreeSet<Capability>;

// === impl NodeCapabilities ===

impl NodeCapabilities {
    /// Those that are known here.
    pub fn known(&self) -> Capabilities {
        let kinds = self.capabilities.iter().filter_map(|capability| capability.rpc.as_ref());
        kinds.filter_map(|rpc| Capability::try_from(rpc.kind).ok()).collect()
    }
}

// === volumes ===

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
pub enum AccessMode {
    Unknown = 0,
    SingleNodeWriter = 1,
    MultiNodeReaderOnly = 3,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// How a volume is wanted.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeCapability {
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub access_type: Option<AccessType>,
    #[prost(message, required, tag = "3")]
    pub access_mode: VolumeAccessMode,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum AccessType {
    /// A volume as a raw device.
    #[prost(message, tag = "1")]
    Block(()),
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// A volume as a file system.
#[derive(Clone, PartialEq, Message)]
pub struct MountVolume {
    #[prost(string, tag = "1")]
    pub fs_type: String,
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    /// The pod's `fsGroup`, where the driver gives the volume to it.
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct VolumeAccessMode {
    #[prost(enumeration = "AccessMode", tag = "1")]
    pub mode: i32,
}

/// Makes the volume ready on this node, once for all its pods.
#[derive(Clone, PartialEq, Message)]
pub struct StageVolume {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub publish_context: Texts,
    #[prost(string, tag = "3")]
    pub staging_path: String,
    #[prost(message, required, tag = "4")]
    pub capability: VolumeCapability,
    #[prost(btree_map = "string, string", tag = "5")]
    pub secrets: Texts,
    #[prost(btree_map = "string, string", tag = "6")]
    pub volume_context: Texts,
}

/// Brings the volume to one pod.
#[derive(Clone, PartialEq, Message)]
pub struct PublishVolume {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub publish_context: Texts,
    /// Empty where the driver stages nothing.
    #[prost(string, tag = "3")]
    pub staging_path: String,
    #[prost(string, tag = "4")]
    pub target_path: String,
    #[prost(message, required, tag = "5")]
    pub capability: VolumeCapability,
    #[prost(bool, tag = "6")]
    pub read_only: bool,
    #[prost(btree_map = "string, string", tag = "7")]
    pub secrets: Texts,
    #[prost(btree_map = "string, string", tag = "8")]
    pub volume_context: Texts,
}

/// Makes a volume's file system as large as the volume has become.
#[derive(Clone, PartialEq, Message)]
pub struct ExpandVolume {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(string, tag = "2")]
    pub volume_path: String,
    #[prost(message, required, tag = "3")]
    pub capacity_range: CapacityRange,
    /// Empty where the driver stages nothing.
    #[prost(string, tag = "4")]
    pub staging_path: String,
    #[prost(message, required, tag = "5")]
    pub capability: VolumeCapability,
    #[prost(btree_map = "string, string", tag = "6")]
    pub secrets: Texts,
}

#[derive(Clone, PartialEq, Message)]
pub struct CapacityRange {
    #[prost(int64, tag = "1")]
    pub required_bytes: i64,
}

/// `NodeGetVolumeStatsResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeStats {
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
    #[prost(message, optional, tag = "2")]
    pub condition: Option<VolumeCondition>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VolumeUsage {
    #[prost(int64, tag = "1")]
    pub available: i64,
    #[prost(int64, tag = "2")]
    pub total: i64,
    #[prost(int64, tag = "3")]
    pub used: i64,
    #[prost(enumeration = "UsageUnit", tag = "4")]
    pub unit: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
pub enum UsageUnit {
    Unknown = 0,
    Bytes = 1,
    Inodes = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct VolumeCondition {
    #[prost(bool, tag = "1")]
    pub abnormal: bool,
}

/// `NodeUnstageVolumeRequest`, `NodeGetVolumeStatsRequest` and `NodeUnpublishVolumeRequest` begin with the same two things.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeAt {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_with_its_topology_or_without() {
        let sent = b"\x0a\x02n1\x10\x07\x1a\x0b\x0a\x09\x0a\x04zone\x12\x01a";
        let info = NodeInfo::decode(&sent[..]).expect("it reads");
        assert_eq!((&*info.node_id, info.max_volumes), ("n1", 7));
        assert_eq!(info.topology.segments, [("zone".to_owned(), "a".to_owned())].into());
        let info = NodeInfo::decode(&sent[..4]).expect("it reads");
        assert!(info.topology.segments.is_empty());
    }

    #[test]
    fn capabilities_are_read_and_unknown_ones_passed_over() {
        let sent: Vec<u8> =
            [1, 4, 6, 99].iter().flat_map(|kind| [10, 4, 10, 2, 8, *kind]).collect();
        let found = NodeCapabilities::decode(&*sent).expect("it reads").known();
        assert_eq!(found, [Capability::StageUnstage, Capability::VolumeMountGroup].into());
        assert!(NodeCapabilities::decode(&[8, 1][..]).is_err(), "a number where a message belongs");
    }

    #[test]
    fn a_volume_is_published_as_the_specification_numbers_it() {
        let mount = MountVolume {
            fs_type: "ext4".into(),
            mount_flags: vec!["noatime".into()],
            volume_mount_group: "2000".into(),
        };
        let request = PublishVolume {
            volume_id: "v".into(),
            staging_path: "/s".into(),
            target_path: "/t".into(),
            capability: VolumeCapability {
                access_type: Some(AccessType::Mount(mount)),
                access_mode: VolumeAccessMode { mode: AccessMode::SingleNodeWriter.into() },
            },
            read_only: true,
            secrets: [("user".to_owned(), "u".to_owned())].into(),
            ..PublishVolume::default()
        };
        let expected = b"\x0a\x01v\x1a\x02/s\x22\x02/t\
            \x2a\x1b\x12\x15\x0a\x04ext4\x12\x07noatime\x1a\x042000\x1a\x02\x08\x01\
            \x30\x01\x3a\x09\x0a\x04user\x12\x01u";
        assert_eq!(request.encode_to_vec(), expected);
    }

    #[test]
    fn a_raw_device_is_asked_for_without_a_file_system() {
        let request = ExpandVolume {
            volume_id: "v".into(),
            volume_path: "/dev".into(),
            capacity_range: CapacityRange { required_bytes: 300 },
            capability: VolumeCapability {
                access_type: Some(AccessType::Block(())),
                access_mode: VolumeAccessMode { mode: AccessMode::SingleNodeWriter.into() },
            },
            ..ExpandVolume::default()
        };
        let expected = b"\x0a\x01v\x12\x04/dev\x1a\x03\x08\xac\x02\x2a\x06\x0a\x00\x1a\x02\x08\x01";
        assert_eq!(request.encode_to_vec(), expected);
    }
}
