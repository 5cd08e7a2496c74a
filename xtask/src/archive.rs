//! OCI image archives: one layer from a directory, readable by every loader.
//!
//! The archive is an OCI layout that also has Docker's `manifest.json`. The same directory gives
//! the same digest: order and times are fixed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Result;

/// What an image says of itself.
pub struct Image<'a> {
    /// Full names, such as `docker.io/library/kuard:blue`.
    pub names: &'a [&'a str],
    pub env: &'a [&'a str],
    pub cmd: &'a [&'a str],
    pub user: &'a str,
    pub working_dir: &'a str,
    pub ports: &'a [&'a str],
}

/// A packed root file system; several images may share it.
pub struct Layer {
    packed: Vec<u8>,
    /// Digest of the tar before compression.
    diff_id: String,
}

impl Layer {
    /// Packs a directory. `owners` are paths in it and the owner of each, below included; all
    /// else is root's.
    pub fn of(root: &Path, owners: &[(&str, u64)]) -> Result<Layer> {
        let raw = tar_of(root, owners)?;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
        gzip.write_all(&raw)?;
        Ok(Layer { packed: gzip.finish()?, diff_id: digest(&raw) })
    }
}

/// Writes the archive of an image.
pub fn write(layer: &Layer, image: &Image<'_>, out: &Path) -> Result<()> {
    let mut blobs = Blobs::default();
    let config = blobs.add_json(&config(image, &layer.diff_id));
    let layer = blobs.add(layer.packed.clone());
    let manifest = blobs.add_json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.with("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.with("application/vnd.oci.image.layer.v1.tar+gzip")],
    }));
    let mut files = blobs.files(image, &manifest);
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    let docker =
        json!([{ "Config": config.path(), "RepoTags": image.names, "Layers": [layer.path()] }]);
    files.insert("manifest.json".into(), docker.to_string().into_bytes());
    save(&files, out)
}

#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

/// A blob by digest and size.
struct Blob {
    digest: String,
    size: usize,
}

impl Blobs {
    fn add(&mut self, data: Vec<u8>) -> Blob {
        let blob = Blob { digest: digest(&data), size: data.len() };
        self.0.insert(blob.path(), data);
        blob
    }

    fn add_json(&mut self, value: &Value) -> Blob {
        self.add(value.to_string().into_bytes())
    }

    fn files(self, image: &Image<'_>, manifest: &Blob) -> BTreeMap<String, Vec<u8>> {
        let entry = |name: &&str| {
            let mut entry = manifest.with("application/vnd.oci.image.manifest.v1+json");
            entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            });
            entry
        };
        let manifests: Vec<Value> = image.names.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let mut files = self.0;
        files.insert("index.json".into(), index.to_string().into_bytes());
        files
    }
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn with(&self, media_type: &str) -> Value {
        let digest = format!("sha256:{}", self.digest);
        json!({ "mediaType": media_type, "digest": digest, "size": self.size })
    }
}

fn config(image: &Image<'_>, diff_id: &str) -> Value {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env: Vec<&str> = std::iter::once(path).chain(image.env.iter().copied()).collect();
    let ports: serde_json::Map<String, Value> =
        image.ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": env,
            "Cmd": image.cmd,
            "User": image.user,
            "WorkingDir": image.working_dir,
            "ExposedPorts": ports,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    })
}

/// The directory as an uncompressed tar.
fn tar_of(root: &Path, owners: &[(&str, u64)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.mode(tar::HeaderMode::Deterministic);
    tar.follow_symlinks(false);
    for path in sorted(root)? {
        append(&mut tar, root, &path, owners)?;
    }
    Ok(tar.into_inner()?)
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    root: &Path,
    path: &Path,
    owners: &[(&str, u64)],
) -> Result<()> {
    let name = path.strip_prefix(root)?;
    let meta = fs::symlink_metadata(path)?;
    let owner = owners.iter().find(|(place, _)| name.starts_with(place)).map_or(0, |(_, id)| *id);
    let mut header = tar::Header::new_gnu();
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_mode(meta.permissions().mode() & 0o7777);
    match () {
        _ if meta.is_symlink() => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, fs::read_link(path)?)?;
        }
        _ if meta.is_dir() => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, name, std::io::empty())?;
        }
        _ if meta.is_file() => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(meta.size());
            tar.append_data(&mut header, name, File::open(path)?)?;
        }
        // Sockets and devices have no place in these images.
        _ => {}
    }
    Ok(())
}

/// Everything below, parents first, in a fixed order.
fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    entries.sort();
    let mut all = Vec::new();
    for entry in entries {
        let below = match fs::symlink_metadata(&entry)?.is_dir() {
            true => sorted(&entry)?,
            false => Vec::new(),
        };
        all.push(entry);
        all.extend(below);
    }
    Ok(all)
}

fn save(files: &BTreeMap<String, Vec<u8>>, out: &Path) -> Result<()> {
    if let Some(dir) = out.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut tar = tar::Builder::new(File::create(out)?);
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, name, data.as_slice())?;
    }
    tar.finish()?;
    Ok(())
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As images spell it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
