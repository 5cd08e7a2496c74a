//! Which claims have been brought to this node, for which pods, and what their drivers made of them.
//!
//! [`State`] <-> `dra_manager_state`, replaced as a whole. Counterpart: `pkg/kubelet/cm/dra/state`, whose form it does not share.
//! Invariant: a claim is written before its drivers are asked, and gone only after they have let go of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::messages::{Claim, Device};

/// By uid.
pub type State = BTreeMap<String, ClaimState>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimState {
    pub namespace: String,
    pub name: String,
    /// Uids.
    pub pods: BTreeSet<String>,
    pub prepared: bool,
    pub devices: BTreeMap<String, Vec<Device>>,
}

// === impl ClaimState ===

impl ClaimState {
    pub fn message(&self, uid: &str) -> Claim {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        Claim { namespace, uid: uid.to_owned(), name }
    }

    /// The names of the devices for a request; an empty one is for all.
    pub fn cdi_devices(&self, request: &str) -> impl Iterator<Item = &String> {
        let devices = self.devices.values().flatten().filter(move |device| {
            let names = &device.request_names;
            request.is_empty() || names.is_empty() || names.iter().any(|name| name == request)
        });
        devices.flat_map(|device| &device.cdi_device_ids)
    }
}

pub fn read(path: &Path) -> io::Result<State> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::new()),
        read => Ok(serde_json::from_slice(&read?)?),
    }
}

pub fn write(state: &State, path: &Path) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_the_devices_of_its_request_and_the_state_outlives_the_agent() {
        let device = |request: &str, id: &str| Device {
            request_names: [request]
                .iter()
                .filter(|it| !it.is_empty())
                .map(|it| (*it).into())
                .collect(),
            cdi_device_ids: vec![id.into()],
            ..Device::default()
        };
        let claim = ClaimState {
            namespace: "ns".into(),
            name: "gpu".into(),
            pods: ["p".to_owned()].into(),
            prepared: true,
            devices: [(
                "d".to_owned(),
                vec![device("one", "a"), device("two", "b"), device("", "c")],
            )]
            .into(),
        };
        let ids = |request| claim.cdi_devices(request).map(String::as_str).collect::<Vec<_>>();
        assert_eq!((ids("one"), ids("")), (vec!["a", "c"], vec!["a", "b", "c"]));
        let path = std::env::temp_dir().join(format!("skiff-dra-{}", std::process::id()));
        assert!(read(&path).expect("nothing is fine").is_empty());
        let state: State = [("u".to_owned(), claim)].into();
        write(&state, &path).expect("written");
        assert_eq!(read(&path).expect("it reads"), state);
        std::fs::remove_file(&path).expect("removed");
    }
}
