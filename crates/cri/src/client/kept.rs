//! What the trait promises to remember and CRI does not, kept as an annotation on the object itself.
//!
//! A config -> one annotation; the annotations of a status -> what was said. A file beside the runtime could disagree with it; an
//! annotation is there exactly as long as its object. Invariant: an object without the annotation is somebody else's, and is
//! told of as well as CRI can.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use skiff_runtime::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};

const ANNOTATION: &str = "skiff.dev/kept";

type Annotations = BTreeMap<String, String>;

/// Of a sandbox: what its containers are created with, beside what a status says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptSandbox {
    pub hostname: String,
    pub log_directory: PathBuf,
    /// As the runtime knows it.
    pub cgroup_parent: String,
    /// As the kubelet knows it.
    pub cgroup: String,
    pub privileged: bool,
    pub resources: LinuxContainerResources,
}

/// Of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptContainer {
    /// As the config named it; runtimes tell a full name or an id.
    pub image: String,
    pub resources: LinuxContainerResources,
    pub stop_signal: String,
}

impl KeptSandbox {
    pub fn of(config: &PodSandboxConfig, cgroup_parent: String) -> Self {
        KeptSandbox {
            hostname: config.hostname.clone(),
            log_directory: config.log_directory.clone(),
            cgroup_parent,
            cgroup: config.linux.cgroup_parent.clone(),
            privileged: config.linux.privileged,
            resources: config.linux.resources.clone(),
        }
    }
}

impl KeptContainer {
    pub fn of(config: &ContainerConfig) -> Self {
        KeptContainer {
            image: config.image.clone(),
            resources: config.linux.resources.clone(),
            stop_signal: config.stop_signal.clone().unwrap_or_default(),
        }
    }
}

pub fn keep(what: &impl Serialize, annotations: &mut Annotations) {
    let text = serde_json::to_string(what).expect("plain fields make JSON");
    annotations.insert(ANNOTATION.to_owned(), text);
}

/// Takes it out again: whoever set the annotations does not see ours among them.
pub fn take<T: DeserializeOwned>(annotations: &mut Annotations) -> Option<T> {
    serde_json::from_str(&annotations.remove(ANNOTATION)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_taken_out_again_and_nothing_else() {
        let before: Annotations = [("a".to_owned(), "b".to_owned())].into();
        let mut annotations = before.clone();
        let kept = KeptContainer { image: "kuard:blue".into(), ..KeptContainer::default() };
        keep(&kept, &mut annotations);
        assert_eq!(take(&mut annotations), Some(kept));
        assert_eq!(annotations, before);
        assert_eq!(take::<KeptContainer>(&mut annotations), None);
    }
}
