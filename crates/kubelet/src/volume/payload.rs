//! What ConfigMaps, Secrets and the downward API contribute to a volume's files.
//!
//! Shared by the volume type of each and by projected volumes. Counterpart: `MakePayload` and `CollectData` of
//! `pkg/volume/{configmap,secret,downwardapi}`.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath};

use super::{
    VolumeError, VolumeRequest,
    atomic_writer::{File, Payload, is_safe},
};
use crate::container::env::{metadata_field, resource_field};

pub const DEFAULT_MODE: i32 = 0o644;

/// Names of the wire source of some keyed content, and how strict it is.
pub struct Source<'a> {
    pub kind: &'static str,
    pub name: &'a str,
    pub items: Option<&'a [KeyToPath]>,
    pub optional: bool,
    pub default_mode: i32,
}

type Content = BTreeMap<String, Vec<u8>>;

// === impl Source ===

impl Source<'_> {
    pub async fn config_map(&self, request: &VolumeRequest<'_>) -> Result<Payload, VolumeError> {
        let found =
            request.ctx.objects.config_maps.get(&request.pod.key.namespace, self.name).await;
        let content = self.found(found)?.map(|map| {
            let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
            text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())))
                .collect()
        });
        self.files(content)
    }

    pub async fn secret(&self, request: &VolumeRequest<'_>) -> Result<Payload, VolumeError> {
        let found = request.ctx.objects.secrets.get(&request.pod.key.namespace, self.name).await;
        let content = self.found(found)?.map(|secret| {
            secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
        });
        self.files(content)
    }

    fn found<K>(&self, lookup: Result<Option<K>, String>) -> Result<Option<K>, VolumeError> {
        match lookup {
            Ok(None) if !self.optional => {
                Err(VolumeError::NoObject { kind: self.kind, name: self.name.into() })
            }
            Ok(found) => Ok(found),
            Err(reason) => {
                Err(VolumeError::Unreadable { kind: self.kind, name: self.name.into(), reason })
            }
        }
    }

    /// All keys by their name, or the items by their path.
    fn files(&self, content: Option<Content>) -> Result<Payload, VolumeError> {
        let mut content = content.unwrap_or_default();
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            let file = |content| File { content, mode: mode(self.default_mode), uid: None };
            return Ok(content
                .into_iter()
                .map(|(key, bytes)| (PathBuf::from(key), file(bytes)))
                .collect());
        };
        let mut payload = Payload::new();
        for item in items {
            match content.remove(&item.key) {
                Some(bytes) => {
                    let mode = mode(item.mode.unwrap_or(self.default_mode));
                    payload.insert(safe(&item.path)?, File { content: bytes, mode, uid: None });
                }
                None if self.optional => {}
                None => return Err(VolumeError::NoKey { kind: self.kind, key: item.key.clone() }),
            }
        }
        Ok(payload)
    }
}

pub fn downward_api(
    request: &VolumeRequest<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for item in items {
        let content = downward_field(request, item)?.into_bytes();
        let mode = mode(item.mode.unwrap_or(default_mode));
        payload.insert(safe(&item.path)?, File { content, mode, uid: None });
    }
    Ok(payload)
}

fn downward_field(
    request: &VolumeRequest<'_>,
    item: &DownwardAPIVolumeFile,
) -> Result<String, VolumeError> {
    if let Some(field) = &item.field_ref {
        let value = metadata_field(&field.field_path, request.pod);
        return value.ok_or_else(|| {
            VolumeError::Field(format!("unsupported fieldPath: {}", field.field_path))
        });
    }
    let selector = item.resource_field_ref.as_ref();
    let selector = selector.ok_or_else(|| {
        VolumeError::Field("neither fieldRef nor resourceFieldRef is given".into())
    })?;
    let none = k8s_openapi::api::core::v1::Container::default();
    let allocatable = request.ctx.machine.allocatable();
    resource_field(selector, &none, request.pod, &allocatable)
        .map_err(|e| VolumeError::Field(e.to_string()))
}

pub fn safe(path: &str) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(path);
    if is_safe(&path) { Ok(path) } else { Err(VolumeError::BadPath(path.display().to_string())) }
}

pub fn mode(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}

/// Writes the payload into the volume's directory, which the caller has made.
pub async fn write(request: &VolumeRequest<'_>, payload: Payload) -> Result<(), VolumeError> {
    use super::IoContext;
    let dir = request.dir.clone();
    let group = request.fs_group();
    let written =
        tokio::task::spawn_blocking(move || super::atomic_writer::write(&dir, &payload, group))
            .await;
    written.unwrap_or_else(|e| Err(std::io::Error::other(e))).at("write", &request.dir).map(drop)
}

impl VolumeRequest<'_> {
    /// The group that owns the pod's volumes.
    pub fn fs_group(&self) -> Option<u32> {
        self.pod.security().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok())
    }
}
