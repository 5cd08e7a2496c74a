//! Messages of plugin registration and of CSI's node service, field by field.
//!
//! Rust values <-> protobuf. Counterpart: `csi.proto` (CSI v1) and `pluginregistration/v1`. Field numbers are those of the
//! specifications. Invariant: fields we do not know are passed over; a default value is not written.

use std::collections::{BTreeMap, BTreeSet};

use skiff_api::codec::{
    ProtoError,
    wire::{Payload, Reader, Writer},
};

/// Secrets, attributes and contexts.
pub type Texts = BTreeMap<String, String>;

/// What a plugin says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PluginInfo {
    pub kind: String,
    pub name: String,
    pub endpoint: String,
    pub versions: Vec<String>,
}

/// What a driver says of the node it runs on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub node_id: String,
    /// Zero or less: as many as anyone likes.
    pub max_volumes: i64,
    pub topology: Texts,
}

/// What a driver's node service can do, of what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    StageUnstage = 1,
    SingleNodeMultiWriter = 5,
    VolumeMountGroup = 6,
}

pub type Capabilities = BTreeSet<Capability>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    SingleNodeWriter = 1,
    MultiNodeReaderOnly = 3,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// How a volume is wanted: always as a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeCapability {
    pub fs_type: String,
    pub mount_flags: Vec<String>,
    /// The pod's `fsGroup`, where the driver gives the volume to it.
    pub group: Option<i64>,
    pub access_mode: AccessMode,
}

/// Makes the volume ready on this node, once for all its pods.
#[derive(Debug, Clone)]
pub struct StageVolume {
    pub volume_id: String,
    pub publish_context: Texts,
    pub staging_path: String,
    pub capability: VolumeCapability,
    pub secrets: Texts,
    pub volume_context: Texts,
}

/// Brings the volume to one pod.
#[derive(Debug, Clone)]
pub struct PublishVolume {
    pub volume_id: String,
    pub publish_context: Texts,
    /// Empty where the driver stages nothing.
    pub staging_path: String,
    pub target_path: String,
    pub capability: VolumeCapability,
    pub read_only: bool,
    pub secrets: Texts,
    pub volume_context: Texts,
}

// === requests ===

pub fn registration_status(error: Option<&str>) -> Vec<u8> {
    let mut message = Writer::default();
    flag(&mut message, 1, error.is_none());
    text(&mut message, 2, error.unwrap_or_default());
    message.0
}

/// `NodeUnstageVolume` and `NodeUnpublishVolume` say the same two things.
pub fn volume_at(volume_id: &str, path: &str) -> Vec<u8> {
    let mut message = Writer::default();
    text(&mut message, 1, volume_id);
    text(&mut message, 2, path);
    message.0
}

impl StageVolume {
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Writer::default();
        text(&mut message, 1, &self.volume_id);
        texts(&mut message, 2, &self.publish_context);
        text(&mut message, 3, &self.staging_path);
        message.message(4, |inner| self.capability.write(inner));
        texts(&mut message, 5, &self.secrets);
        texts(&mut message, 6, &self.volume_context);
        message.0
    }
}

impl PublishVolume {
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Writer::default();
        text(&mut message, 1, &self.volume_id);
        texts(&mut message, 2, &self.publish_context);
        text(&mut message, 3, &self.staging_path);
        text(&mut message, 4, &self.target_path);
        message.message(5, |inner| self.capability.write(inner));
        flag(&mut message, 6, self.read_only);
        texts(&mut message, 7, &self.secrets);
        texts(&mut message, 8, &self.volume_context);
        message.0
    }
}

impl VolumeCapability {
    fn write(&self, message: &mut Writer) {
        message.message(2, |mount| {
            text(mount, 1, &self.fs_type);
            for option in &self.mount_flags {
                mount.bytes(2, option.as_bytes());
            }
            text(mount, 3, &self.group.map(|group| group.to_string()).unwrap_or_default());
        });
        message.message(3, |mode| mode.varint(1, self.access_mode as u64));
    }
}

fn text(message: &mut Writer, number: u32, value: &str) {
    if !value.is_empty() {
        message.bytes(number, value.as_bytes());
    }
}

fn flag(message: &mut Writer, number: u32, value: bool) {
    if value {
        message.varint(number, 1);
    }
}

fn texts(message: &mut Writer, number: u32, values: &Texts) {
    for (key, value) in values {
        message.message(number, |entry| {
            text(entry, 1, key);
            text(entry, 2, value);
        });
    }
}

// === answers ===

impl PluginInfo {
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut info = PluginInfo::default();
        fields(bytes, |number, payload| {
            match number {
                1 => info.kind = string(payload)?,
                2 => info.name = string(payload)?,
                3 => info.endpoint = string(payload)?,
                4 => info.versions.push(string(payload)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

impl NodeInfo {
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut info = NodeInfo::default();
        fields(bytes, |number, payload| {
            match number {
                1 => info.node_id = string(payload)?,
                2 => info.max_volumes = integer(payload)?,
                3 => info.topology = segments(payload)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

fn segments(topology: Payload<'_>) -> Result<Texts, ProtoError> {
    let mut segments = Texts::new();
    fields(message(topology)?, |number, payload| {
        if number == 1 {
            let (mut key, mut value) = (String::new(), String::new());
            fields(message(payload)?, |number, payload| {
                match number {
                    1 => key = string(payload)?,
                    2 => value = string(payload)?,
                    _ => {}
                }
                Ok(())
            })?;
            segments.insert(key, value);
        }
        Ok(())
    })?;
    Ok(segments)
}

/// `NodeGetCapabilitiesResponse`: a list of one-of, whose only member is an RPC with its type.
pub fn capabilities(bytes: &[u8]) -> Result<Capabilities, ProtoError> {
    let mut found = Capabilities::new();
    each(bytes, 1, |capability| {
        each(message(capability)?, 1, |rpc| {
            each(message(rpc)?, 1, |kind| {
                found.extend(Capability::of(integer(kind)?));
                Ok(())
            })
        })
    })?;
    Ok(found)
}

impl Capability {
    fn of(number: i64) -> Option<Self> {
        let all = [
            Capability::StageUnstage,
            Capability::SingleNodeMultiWriter,
            Capability::VolumeMountGroup,
        ];
        all.into_iter().find(|capability| *capability as i64 == number)
    }
}

fn each<'b>(
    bytes: &'b [u8],
    wanted: u32,
    mut read: impl FnMut(Payload<'b>) -> Result<(), ProtoError>,
) -> Result<(), ProtoError> {
    fields(bytes, |number, payload| if number == wanted { read(payload) } else { Ok(()) })
}

fn fields<'b>(
    bytes: &'b [u8],
    mut read: impl FnMut(u32, Payload<'b>) -> Result<(), ProtoError>,
) -> Result<(), ProtoError> {
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        read(number, payload)?;
    }
    Ok(())
}

fn message(payload: Payload<'_>) -> Result<&[u8], ProtoError> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(ProtoError::Mismatch),
    }
}

fn string(payload: Payload<'_>) -> Result<String, ProtoError> {
    Ok(String::from_utf8_lossy(message(payload)?).into_owned())
}

/// Negative numbers are written as two's complement of 64 bits.
fn integer(payload: Payload<'_>) -> Result<i64, ProtoError> {
    match payload {
        Payload::Varint(value) => Ok(value.cast_signed()),
        _ => Err(ProtoError::Mismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_registers_is_read() {
        let mut sent = Writer::default();
        sent.bytes(1, b"CSIPlugin");
        sent.bytes(2, b"disk.example.com");
        sent.bytes(3, b"/csi.sock");
        sent.bytes(4, b"0.3.0");
        sent.bytes(4, b"1.0.0");
        let info = PluginInfo::decode(&sent.0).expect("it reads");
        assert_eq!((&*info.kind, &*info.name), ("CSIPlugin", "disk.example.com"));
        assert_eq!((&*info.endpoint, info.versions.len()), ("/csi.sock", 2));
    }

    #[test]
    fn a_node_is_read_with_its_topology() {
        let mut sent = Writer::default();
        sent.bytes(1, b"n1");
        sent.varint(2, 7);
        sent.message(3, |topology| {
            for (key, value) in [("zone", "a"), ("rack", "4")] {
                topology.message(1, |entry| {
                    entry.bytes(1, key.as_bytes());
                    entry.bytes(2, value.as_bytes());
                });
            }
        });
        let info = NodeInfo::decode(&sent.0).expect("it reads");
        let topology = [("rack", "4"), ("zone", "a")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(
            info,
            NodeInfo { node_id: "n1".into(), max_volumes: 7, topology: topology.into() }
        );
    }

    #[test]
    fn capabilities_are_read_and_unknown_ones_passed_over() {
        let mut sent = Writer::default();
        for kind in [1, 2, 6, 99] {
            sent.message(1, |capability| capability.message(1, |rpc| rpc.varint(1, kind)));
        }
        let found = capabilities(&sent.0).expect("it reads");
        assert_eq!(found, [Capability::StageUnstage, Capability::VolumeMountGroup].into());
        assert!(capabilities(&[0x08, 1]).is_err(), "a number where a message belongs");
    }

    #[test]
    fn a_volume_is_published_as_the_specification_numbers_it() {
        let request = PublishVolume {
            volume_id: "v".into(),
            publish_context: Texts::new(),
            staging_path: "/s".into(),
            target_path: "/t".into(),
            capability: VolumeCapability {
                fs_type: "ext4".into(),
                mount_flags: vec!["noatime".into()],
                group: Some(2000),
                access_mode: AccessMode::SingleNodeWriter,
            },
            read_only: true,
            secrets: [("user".to_owned(), "u".to_owned())].into(),
            volume_context: Texts::new(),
        };
        let sent = request.encode();
        let mut numbers = Vec::new();
        fields(&sent, |number, _| {
            numbers.push(number);
            Ok(())
        })
        .expect("it reads");
        assert_eq!(numbers, [1, 3, 4, 5, 6, 7]);
        let capability = b"\x12\x15\x0a\x04ext4\x12\x07noatime\x1a\x042000\x1a\x02\x08\x01";
        assert!(sent.windows(capability.len()).any(|window| window == capability));
    }
}
