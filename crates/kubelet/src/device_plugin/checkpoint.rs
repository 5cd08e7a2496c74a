//! Who has which devices, on disk.
//!
//! [`Inventory`] <-> `kubelet_internal_checkpoint`, in upstream's form, since agents beside the node read it. Counterpart:
//! `pkg/kubelet/cm/devicemanager/checkpoint`. Differs from upstream: without a checksum; the file is replaced as a whole.
//! Invariant: written before a container may use what it was given.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    inventory::{Allocated, Ids, Inventory, Resource},
    messages::ContainerAllocateResponse,
};

pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Vec<Entry>,
    registered_devices: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    /// By NUMA node.
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Ids>,
    /// The plugin's answer, as it came, in base64.
    #[serde(rename = "AllocResp")]
    alloc_resp: String,
}

pub fn write(inventory: &Inventory, dir: &Path) -> io::Result<()> {
    let registered = inventory.resources.iter();
    let data = Data {
        pod_device_entries: entries(inventory),
        registered_devices: registered
            .map(|(name, resource)| (name.clone(), resource.healthy()))
            .collect(),
    };
    let next = dir.join(format!(".{FILE}"));
    let mut file = std::fs::File::create(&next)?;
    file.write_all(&serde_json::to_vec(&Checkpoint { data })?)?;
    file.sync_all()?;
    std::fs::rename(next, dir.join(FILE))
}

fn entries(inventory: &Inventory) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (uid, containers) in &inventory.pods {
        for (container, resources) in containers {
            entries.extend(resources.iter().map(|(resource, allocated)| Entry {
                pod_uid: uid.clone(),
                container_name: container.clone(),
                resource_name: resource.clone(),
                device_ids: allocated.ids.clone(),
                alloc_resp: STANDARD.encode(allocated.response.encode_to_vec()),
            }));
        }
    }
    entries
}

/// What an earlier run of the agent has given out; its plugins have to come back before there is more.
pub fn read(dir: &Path) -> io::Result<Inventory> {
    let text = match std::fs::read(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inventory::default()),
        read => read?,
    };
    let Checkpoint { data } = serde_json::from_slice(&text)?;
    let mut inventory = Inventory::default();
    for name in data.registered_devices.into_keys() {
        inventory.resources.insert(name, Resource::default());
    }
    for entry in data.pod_device_entries {
        let answer = STANDARD.decode(&entry.alloc_resp).map_err(io::Error::other)?;
        let response = ContainerAllocateResponse::decode(&*answer).map_err(io::Error::other)?;
        let pod = inventory.pods.entry(entry.pod_uid).or_default();
        let container = pod.entry(entry.container_name).or_default();
        let allocated = Allocated { ids: entry.device_ids, response };
        container.insert(entry.resource_name, allocated);
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_plugin::inventory::Wish;

    #[test]
    fn what_was_given_out_is_known_again() {
        let dir = std::env::temp_dir().join(format!("skiff-devices-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        assert!(read(&dir).expect("nothing is fine").pods.is_empty());
        let mut inventory = Inventory::default();
        let wish = Wish { uid: "u", container: "c", resource: "example.com/dongle", count: 1 };
        let response = ContainerAllocateResponse {
            envs: [("DONGLE".to_owned(), "a".to_owned())].into(),
            ..ContainerAllocateResponse::default()
        };
        inventory.resources.insert(wish.resource.into(), Resource::default());
        inventory.give(wish, ["a".to_owned()].into(), response);
        write(&inventory, &dir).expect("written");
        let text = std::fs::read_to_string(dir.join(FILE)).expect("a file");
        let entry = r#""PodUID":"u","ContainerName":"c","ResourceName":"example.com/dongle","DeviceIDs":{"-1":["a"]}"#;
        assert!(
            text.starts_with(r#"{"Data":{"PodDeviceEntries":"#) && text.contains(entry),
            "{text}"
        );
        let again = read(&dir).expect("it reads");
        assert_eq!(again.pods, inventory.pods);
        assert!(again.knows("example.com/dongle"));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
