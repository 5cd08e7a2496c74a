//! The resources one pod may use, and their file in the pod's directory.
//!
//! Counterpart: `PodResourceInfo` and the checkpoint `allocated_pods_state`; one file per pod here, so that it goes
//! when the pod's directory goes.

use std::{borrow::Cow, collections::BTreeMap, fs, io, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

const FILE: &str = "allocation.json";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

// === impl Grant ===

impl Grant {
    pub fn of(spec: &PodSpec) -> Self {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        Grant {
            pod: spec.resources.clone(),
            containers: containers
                .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
                .collect(),
        }
    }

    pub fn apply_to<'a>(&self, spec: &'a PodSpec) -> Cow<'a, PodSpec> {
        if *self == Grant::of(spec) {
            return Cow::Borrowed(spec);
        }
        let mut spec = spec.clone();
        spec.resources.clone_from(&self.pod);
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(|container| self.apply_to_container(container));
        Cow::Owned(spec)
    }

    fn apply_to_container(&self, container: &mut Container) {
        if let Some(granted) = self.containers.get(&container.name)
            && container.resources.clone().unwrap_or_default() != *granted
        {
            container.resources = Some(granted.clone());
        }
    }

    /// The same pod if it asks for nothing else.
    pub fn apply(&self, pod: Arc<Pod>) -> Arc<Pod> {
        match pod.spec.as_ref().map(|spec| self.apply_to(spec)) {
            Some(Cow::Owned(spec)) => Arc::new(Pod { spec: Some(spec), ..(*pod).clone() }),
            _ => pod,
        }
    }
}

/// What was written for the pod; a file that cannot be read counts as none.
pub fn read(pod_dir: &Path) -> Option<Grant> {
    let bytes = fs::read(pod_dir.join(FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes beside the old file and takes its place, so that a reader finds one or the other.
pub fn write(pod_dir: &Path, grant: &Grant) -> io::Result<()> {
    fs::create_dir_all(pod_dir)?;
    let next = pod_dir.join(format!("{FILE}.next"));
    fs::write(&next, serde_json::to_vec(grant)?)?;
    fs::rename(next, pod_dir.join(FILE))
}
