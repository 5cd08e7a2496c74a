//! The user's kubeconfig: one cluster, context and user per local cluster, the rest untouched.
//!
//! Follows `$KUBECONFIG` (its first file is written, as kubectl does) or `~/.kube/config`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Doing, Error, Result};

/// What a context needs.
#[derive(Clone, Debug)]
pub struct Access {
    pub server: String,
    /// Base64 of PEM, as kubeconfig holds it.
    pub certificate_authority_data: String,
    pub client_certificate_data: String,
    pub client_key_data: String,
}

/// The file that a context is written to.
pub fn user_path() -> PathBuf {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let first = std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty());
    first.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        Path::new(&home).join(".kube/config")
    })
}

/// Makes `name` the current context, pointing at `access`.
pub fn add(path: &Path, name: &str, access: &Access) -> Result<()> {
    let mut config = load(path)?.unwrap_or_else(empty);
    put(
        &mut config,
        "clusters",
        name,
        "cluster",
        json!({
            "server": access.server,
            "certificate-authority-data": access.certificate_authority_data,
        }),
    );
    put(
        &mut config,
        "users",
        name,
        "user",
        json!({
            "client-certificate-data": access.client_certificate_data,
            "client-key-data": access.client_key_data,
        }),
    );
    put(&mut config, "contexts", name, "context", json!({ "cluster": name, "user": name }));
    config.insert("current-context".into(), name.into());
    save(path, &config)
}

/// Takes the context away, and its cluster and user.
pub fn remove(path: &Path, name: &str) -> Result<()> {
    let Some(mut config) = load(path)? else { return Ok(()) };
    let before = config.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = config.get_mut(list).and_then(Value::as_array_mut) {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if config.get("current-context").is_some_and(|current| current == name) {
        config.insert("current-context".into(), "".into());
    }
    if config == before { Ok(()) } else { save(path, &config) }
}

/// Whether the context is there and points at `server`.
pub fn has(path: &Path, name: &str, server: &str) -> bool {
    let Ok(Some(config)) = load(path) else { return false };
    let clusters = config.get("clusters").and_then(Value::as_array);
    clusters.into_iter().flatten().any(|entry| {
        entry["name"] == name && entry.pointer("/cluster/server") == Some(&server.into())
    })
}

/// Reads the access data out of a kubeconfig with a single cluster and user.
pub fn access_of(path: &Path) -> Result<Access> {
    let broken = |reason: &str| Error::Kubeconfig { path: path.into(), reason: reason.into() };
    let config = Value::Object(load(path)?.ok_or_else(|| broken("it is missing"))?);
    let text = |pointer: &str| {
        let found = config.pointer(pointer).and_then(Value::as_str);
        found.map(str::to_owned).ok_or_else(|| broken(&format!("{pointer} is missing")))
    };
    Ok(Access {
        server: text("/clusters/0/cluster/server")?,
        certificate_authority_data: text("/clusters/0/cluster/certificate-authority-data")?,
        client_certificate_data: text("/users/0/user/client-certificate-data")?,
        client_key_data: text("/users/0/user/client-key-data")?,
    })
}

fn empty() -> Map<String, Value> {
    let config = json!({ "apiVersion": "v1", "kind": "Config", "preferences": {} });
    config.as_object().expect("it is an object").clone()
}

fn put(config: &mut Map<String, Value>, list: &str, name: &str, field: &str, value: Value) {
    let entries = config.entry(list).or_insert_with(|| json!([]));
    if !entries.is_array() {
        *entries = json!([]);
    }
    let entries = entries.as_array_mut().expect("it was made a list");
    entries.retain(|entry| entry["name"] != name);
    entries.push(json!({ "name": name, field: value }));
}

fn load(path: &Path) -> Result<Option<Map<String, Value>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing(|| format!("reading {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let broken = |reason: String| Error::Kubeconfig { path: path.into(), reason };
    match serde_saphyr::from_str(&text).map_err(|error| broken(error.to_string()))? {
        Value::Object(config) => Ok(Some(config)),
        Value::Null => Ok(None),
        _ => Err(broken("it is no mapping".into())),
    }
}

/// Written beside and moved over, so that a full disk never truncates the user's file.
fn save(path: &Path, config: &Map<String, Value>) -> Result<()> {
    let broken = |reason: String| Error::Kubeconfig { path: path.into(), reason };
    let text = serde_saphyr::to_string(config).map_err(|error| broken(error.to_string()))?;
    let draft = path.with_extension(format!("skiff-{}", std::process::id()));
    let write = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().doing(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(port: u16) -> Access {
        Access {
            server: format!("https://127.0.0.1:{port}"),
            certificate_authority_data: "Q0E=".into(),
            client_certificate_data: "Q0VSVA==".into(),
            client_key_data: "S0VZ".into(),
        }
    }

    #[test]
    fn other_contexts_survive_adding_and_removing() {
        let dir = std::env::temp_dir().join(format!("skiff-kubeconfig-{}", std::process::id()));
        let path = dir.join("config");
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let other = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters:\n- name: prod\n  cluster: {server: 'https://prod'}\ncontexts: []\nusers: null\n";
        fs::write(&path, other).expect("the file is writable");
        add(&path, "skiff", &access(6443)).expect("adds");
        add(&path, "skiff", &access(7443)).expect("replaces");
        assert!(has(&path, "skiff", "https://127.0.0.1:7443"));
        assert_eq!(access_of(&path).map(|found| found.server).ok(), None, "prod has no CA");
        remove(&path, "skiff").expect("removes");
        let left = load(&path).expect("reads").expect("is there");
        assert_eq!(
            left["clusters"],
            json!([{"name": "prod", "cluster": {"server": "https://prod"}}])
        );
        fs::remove_dir_all(&dir).expect("the temporary directory is ours");
    }
}
