//! AlwaysPullImages: every image is pulled with the pod's own credentials, so that none is used for being there.
//!
//! Counterpart: `plugin/pkg/admission/alwayspullimages`. Off unless asked for.

use std::collections::HashSet;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};

use super::{Operation, Plugin, Request};

pub struct AlwaysPullImages;

const LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];
const ALWAYS: &str = "Always";

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        written && request.is("", "pods")
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if has_new_images(request, pod) {
            for list in LISTS {
                let containers = pod["spec"].get_mut(*list).and_then(Value::as_array_mut);
                for container in containers.into_iter().flatten() {
                    container["imagePullPolicy"] = ALWAYS.into();
                }
            }
            let volumes = pod["spec"].get_mut("volumes").and_then(Value::as_array_mut);
            for volume in volumes.into_iter().flatten().filter(|v| v["image"].is_object()) {
                volume["image"]["pullPolicy"] = ALWAYS.into();
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let fault = has_new_images(request, pod).then(|| fault(pod)).flatten();
        let refused = fault.map(|why| request.forbidden(pod, &why));
        refused.map_or(Ok(()), Err)
    }
}

/// The first image that would not be pulled: another plugin or webhook changed it back.
fn fault(pod: &Value) -> Option<String> {
    let (mut errors, spec) = (ErrorList::default(), Path::new("spec"));
    for list in LISTS {
        let path = spec.child(list);
        for (at, container) in pod["spec"][list].as_array().into_iter().flatten().enumerate() {
            let policy = container["imagePullPolicy"].as_str().unwrap_or("");
            if policy != ALWAYS {
                errors.not_supported(&path.index(at).child("imagePullPolicy"), policy, &[ALWAYS]);
            }
        }
    }
    errors.0.first().map(ToString::to_string)
}

/// An update that brings no image is none of this plugin's business.
fn has_new_images(request: &Request<'_>, pod: &Value) -> bool {
    let Some(old) = request.old else { return true };
    let before: HashSet<&str> = images(old).collect();
    images(pod).any(|image| !before.contains(image))
}

fn images(pod: &Value) -> impl Iterator<Item = &str> {
    let lists = LISTS.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    lists.filter_map(|container| container["image"].as_str())
}
