//! Builds image archives: layers from entries, OCI layouts and `docker save` files from layers.

use std::{io::Write, path::Path};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Names and contents, in the order of the archive.
pub type Files = Vec<(String, Vec<u8>)>;

/// A layer under construction: an uncompressed tar.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header
    }

    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.file_of(path, mode, (0, 0), content)
    }

    pub fn file_of(
        mut self,
        path: &str,
        mode: u32,
        owner: (u64, u64),
        content: impl AsRef<[u8]>,
    ) -> Self {
        let content = content.as_ref();
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub fn xattr(mut self, name: &str, value: &str) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value.as_bytes())]).unwrap();
        self
    }

    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub fn hardlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Link, 0o644);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// A path as written, which the tar library would refuse.
    pub fn raw(mut self, path: &str, content: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A busybox with every applet the tests use, and the users they run as.
pub fn base_layer() -> Vec<u8> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("these tests need a static busybox: apt-get install busybox-static");
    let mut layer =
        Layer::new().dir("bin/", 0o755).dir("tmp/", 0o1777).dir("etc/", 0o755).dir("root/", 0o700);
    layer = layer.file("bin/busybox", 0o755, busybox);
    for applet in APPLETS {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\napp:x:1001:\nextra:x:2000:app\n")
        .finish()
}

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "true", "false", "id", "ls", "mkdir", "mount", "grep", "kill",
    "env", "pwd", "tty", "stty", "touch", "dd", "nc", "ps", "hostname", "ipcs", "wc", "head",
    "tail", "stat", "readlink", "chmod", "unshare", "ping", "test", "seq", "yes", "printf", "trap",
    "stdbuf", "mknod", "rm", "df",
];

/// An image, packed one way or another.
pub struct ImageBuilder {
    pub name: String,
    pub config: Value,
    pub layers: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl ImageBuilder {
    pub fn new(name: &str) -> Self {
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
        ImageBuilder { name: name.to_owned(), config, layers: vec![base_layer()] }
    }

    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.finish());
        self
    }

    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn config_file(&self, architecture: &str) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let file = json!({"architecture": architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        serde_json::to_vec(&file).unwrap()
    }

    /// An OCI layout with an index of two platforms, ours second.
    pub fn oci(&self, packing: Packing) -> Files {
        let mut blobs = Vec::new();
        let mut manifests = Vec::new();
        for architecture in ["riscv64", host_architecture()] {
            let layers: Vec<Value> = self
                .layers
                .iter()
                .map(|layer| {
                    put(&mut blobs, &pack(layer, packing), "application/vnd.oci.image.layer.v1.tar")
                })
                .collect();
            let config = put(
                &mut blobs,
                &self.config_file(architecture),
                "application/vnd.oci.image.config.v1+json",
            );
            let manifest = serde_json::to_vec(
                &json!({"schemaVersion": 2, "config": config, "layers": layers}),
            )
            .unwrap();
            let mut descriptor =
                put(&mut blobs, &manifest, "application/vnd.oci.image.manifest.v1+json");
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            manifests.push(descriptor);
        }
        let inner =
            serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests})).unwrap();
        let mut top = put(&mut blobs, &inner, "application/vnd.oci.image.index.v1+json");
        top["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [top]})).unwrap();
        blobs.insert(0, ("index.json".to_owned(), index));
        blobs
    }

    /// As `docker save` wrote it before it learnt OCI.
    pub fn docker(&self) -> Files {
        let mut files = vec![("config.json".to_owned(), self.config_file(host_architecture()))];
        let names: Vec<String> =
            (0..self.layers.len()).map(|at| format!("{at}/layer.tar")).collect();
        files.extend(names.iter().cloned().zip(self.layers.iter().cloned()));
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": names}]);
        files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
        files
    }
}

pub fn write_archive(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap();
}

pub fn pack(layer: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => layer.to_vec(),
        Packing::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(layer, 1).unwrap(),
    }
}

fn put(blobs: &mut Files, content: &[u8], media_type: &str) -> Value {
    let digest = digest(content);
    let path = format!("blobs/{}", digest.replace(':', "/"));
    if !blobs.iter().any(|(known, _)| *known == path) {
        blobs.push((path, content.to_vec()));
    }
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
