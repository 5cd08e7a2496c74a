//! `hostPath` volumes: a path of the node, checked or made as its type says. Counterpart: `pkg/volume/hostpath`.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest};

/// A type's name, what it wants to find, and how it is called in an error.
type Check = (&'static str, fn(&fs::FileType) -> bool, &'static str);

const CHECKS: [Check; 7] = [
    ("Directory", fs::FileType::is_dir, "a directory"),
    ("DirectoryOrCreate", fs::FileType::is_dir, "a directory"),
    ("File", fs::FileType::is_file, "a file"),
    ("FileOrCreate", fs::FileType::is_file, "a file"),
    ("Socket", |t| t.is_socket(), "a socket file"),
    ("CharDevice", |t| t.is_char_device(), "a character device"),
    ("BlockDevice", |t| t.is_block_device(), "a block device"),
];

pub struct HostPathVolume;

#[async_trait]
impl VolumePlugin for HostPathVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~host-path"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.host_path.as_ref().expect("claimed");
        ensure(&spec.path, spec.type_.as_deref().unwrap_or_default())?;
        Ok(Ready::at(&spec.path))
    }
}

/// Also serves persistent volumes that are directories of the node.
pub fn ensure(path: &str, kind: &str) -> Result<(), VolumeError> {
    let at = Path::new(path);
    match kind {
        "DirectoryOrCreate" if !at.exists() => {
            fs::create_dir_all(at).at("create", at)?;
            fs::set_permissions(at, fs::Permissions::from_mode(0o755)).at("chmod", at)?;
        }
        "FileOrCreate" if !at.exists() => {
            fs::OpenOptions::new().create(true).append(true).open(at).at("create", at)?;
            fs::set_permissions(at, fs::Permissions::from_mode(0o644)).at("chmod", at)?;
        }
        // Without a type nothing is checked; the runtime needs something to mount all the same.
        "" if !at.exists() => fs::create_dir_all(at).at("create", at)?,
        _ => {}
    }
    let Some((_, is_right, expected)) = CHECKS.iter().find(|(name, ..)| *name == kind) else {
        return Ok(());
    };
    let right = fs::metadata(at).is_ok_and(|m| is_right(&m.file_type()));
    if right { Ok(()) } else { Err(VolumeError::HostPathType { path: path.into(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_checked() {
        let dir = std::env::temp_dir().join(format!("skiff-hostpath-{}", std::process::id()));
        let at = |name: &str| dir.join(name).display().to_string();
        ensure(&at("made"), "DirectoryOrCreate").expect("made");
        ensure(&at("file"), "FileOrCreate").expect("made");
        ensure(&at("file"), "File").expect("is a file");
        ensure("/dev/null", "CharDevice").expect("is a device");
        for (path, kind) in
            [(at("file"), "Directory"), (at("none"), "File"), (at("made"), "Socket")]
        {
            assert!(matches!(ensure(&path, kind), Err(VolumeError::HostPathType { .. })), "{kind}");
        }
        fs::remove_dir_all(&dir).expect("removed");
    }
}
