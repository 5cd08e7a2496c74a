//! RuntimeClass: the overhead and placement that a pod's runtime brings along.
//!
//! Counterpart: `plugin/pkg/admission/runtimeclass`.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Plugin, Request};
use crate::objects;

pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "pods")
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or("").to_owned();
        if name.is_empty() {
            return Ok(());
        }
        let Some(class) = objects::find(request.server, "runtimeclasses", "", &name).await? else {
            let why = format!("pod rejected: RuntimeClass {name:?} not found");
            return Err(request.forbidden(pod, &why));
        };
        set_overhead(request, pod, &class)?;
        set_placement(request, pod, &class)
    }

    /// Overhead without a class that has some; a class was held against it before.
    async fn validate(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let spec = &pod["spec"];
        let given = !spec["overhead"].is_null() || request.gave_empty("/spec/overhead");
        match spec["runtimeClassName"].is_null() && given {
            true => Err(request.forbidden(pod, NO_OVERHEAD)),
            false => Ok(()),
        }
    }
}

const NO_OVERHEAD: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

fn set_overhead(request: &Request<'_>, pod: &mut Value, class: &Value) -> Result<(), Status> {
    let fixed = class["overhead"].get("podFixed");
    match (pod["spec"].get("overhead"), fixed) {
        (Some(_), None) => Err(request.forbidden(pod, NO_OVERHEAD)),
        (Some(given), Some(fixed)) if fixed != given => Err(request.forbidden(
            pod,
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        )),
        (None, Some(fixed)) => {
            pod["spec"]["overhead"] = fixed.clone();
            Ok(())
        }
        _ => Ok(()),
    }
}

fn set_placement(request: &Request<'_>, pod: &mut Value, class: &Value) -> Result<(), Status> {
    for (label, wanted) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let have = pod["spec"]["nodeSelector"].get(label).cloned();
        if let Some(have) = have.filter(|have| have != wanted) {
            let [wanted, have] = [wanted, &have].map(|it| it.as_str().unwrap_or_default());
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {wanted}; pod.spec.nodeSelector[{label}] = {have}"
            );
            return Err(request.forbidden(pod, &why));
        }
        pod["spec"]["nodeSelector"][label] = wanted.clone();
    }
    if let Some(more) = class["scheduling"]["tolerations"].as_array() {
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        all.extend(
            more.iter().filter(|toleration| !all.contains(toleration)).cloned().collect::<Vec<_>>(),
        );
        pod["spec"]["tolerations"] = json!(all);
    }
    Ok(())
}
