//! Devices described by files of the Container Device Interface.
//!
//! Qualified names and the directories of specifications -> what a container gets: variables, device nodes, mounts. Counterpart: the
//! CDI cache that container runtimes keep. Differs from it: directories are read when a container needs them, and hooks, which
//! would run programs of the host, are refused.
//! Invariant: a name that no file describes is an error, never a container without its device.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use skiff_runtime::{Device, Mount};

use super::DeviceOptions;

/// Later directories count more.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const ALL_ACCESS: &str = "rwm";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<SpecDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<SpecMount>,
    hooks: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// Adds what comes with the named devices.
pub fn resolve<P: AsRef<Path>>(
    names: &[String],
    dirs: &[P],
    options: &mut DeviceOptions,
) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let specs = read(dirs).map_err(|error| format!("CDI specifications: {error}"))?;
    let mut missing = Vec::new();
    let mut whole = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').unwrap_or_default();
        let found = specs.iter().enumerate().rev().find_map(|(index, spec)| {
            let device = spec.devices.iter().find(|it| spec.kind == kind && it.name == device)?;
            Some((index, device))
        });
        let Some((index, device)) = found else {
            missing.push(name.as_str());
            continue;
        };
        apply(&device.container_edits, name, options)?;
        // What a file says of all its devices is said once.
        if !whole.contains(&index) {
            whole.push(index);
            apply(&specs[index].container_edits, name, options)?;
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "CDI device injection failed: unresolvable CDI devices {}",
            missing.join(", ")
        )),
    }
}

fn read<P: AsRef<Path>>(dirs: &[P]) -> io::Result<Vec<Spec>> {
    let mut specs = Vec::new();
    for dir in dirs {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|it| it == "json" || it == "yaml"));
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            match serde_saphyr::from_str(&text) {
                Ok(spec) => specs.push(spec),
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "not a CDI specification")
                }
            }
        }
    }
    Ok(specs)
}

fn apply(edits: &Edits, name: &str, options: &mut DeviceOptions) -> Result<(), String> {
    if !edits.hooks.is_empty() {
        return Err(format!("CDI device {name}: hooks are not supported by this node"));
    }
    let pairs = edits.env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    options.envs.extend(pairs.map(|(name, text)| (name.to_owned(), text.to_owned())));
    options.devices.extend(edits.device_nodes.iter().map(|node| Device {
        container_path: node.path.clone(),
        host_path: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
        permissions: node.permissions.clone().unwrap_or_else(|| ALL_ACCESS.to_owned()),
    }));
    options.mounts.extend(edits.mounts.iter().map(|mount| Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.options.iter().any(|option| option == "ro"),
        ..Mount::default()
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{ "cdiVersion": "0.6.0", "kind": "example.com/dongle",
        "devices": [
            { "name": "a", "containerEdits": { "env": ["A=1"], "deviceNodes": [{ "path": "/dev/a", "hostPath": "/dev/null" }] } },
            { "name": "hooked", "containerEdits": { "hooks": [{ "hookName": "createRuntime", "path": "/bin/x" }] } }
        ],
        "containerEdits": { "mounts": [{ "hostPath": "/lib/d", "containerPath": "/d", "options": ["ro", "bind"] }] } }"#;

    #[test]
    fn a_device_brings_what_its_file_says_of_it_and_of_all() {
        let dir = std::env::temp_dir().join(format!("skiff-cdi-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("dongle.json"), SPEC).expect("a file");
        std::fs::write(dir.join("other.yaml"), "kind: [").expect("a file");
        let resolved = |name: &str| {
            let mut options = DeviceOptions::default();
            let dirs = [dir.as_path(), Path::new("/nowhere")];
            resolve(&[name.to_owned()], &dirs, &mut options).map(|()| options)
        };
        let options = resolved("example.com/dongle=a").expect("it is there");
        assert_eq!(options.envs, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(options.devices[0].host_path, Path::new("/dev/null"));
        assert_eq!(options.devices[0].permissions, "rwm");
        assert!(options.mounts[0].readonly);
        let error = resolved("example.com/dongle=none").expect_err("it is not");
        assert_eq!(
            error,
            "CDI device injection failed: unresolvable CDI devices example.com/dongle=none"
        );
        assert!(resolved("example.com/dongle=hooked").is_err());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
