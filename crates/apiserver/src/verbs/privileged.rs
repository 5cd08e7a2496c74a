//! Privileged containers, where a cluster does not allow them.
//!
//! Counterpart: `pkg/capabilities` and its use in pod validation. It is a rule of the server and not of a kind, so it stands here.

use serde_json::Value;
use skiff_api::KindDef;
use skiff_api::field::{ErrorList, Path};

const WHY: &str = "disallowed by cluster policy";

/// Adds a fault for each privileged container of a pod, or of a workload's template.
pub fn check(allowed: bool, kind: &KindDef, object: &Value, errors: &mut ErrorList) {
    if allowed {
        return;
    }
    let steps: &[&str] = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &["spec"],
        ("", "PodTemplate") => &["template", "spec"],
        ("apps", _) | ("batch", "Job") | ("", "ReplicationController") => {
            &["spec", "template", "spec"]
        }
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return,
    };
    let spec = steps.iter().fold(object, |value, step| &value[*step]);
    walk(steps, &Path::ROOT, spec, errors);
}

fn walk(steps: &[&str], path: &Path<'_>, spec: &Value, errors: &mut ErrorList) {
    match steps {
        [step, rest @ ..] => walk(rest, &path.child(step), spec, errors),
        [] => containers(path, spec, errors),
    }
}

fn containers(path: &Path<'_>, spec: &Value, errors: &mut ErrorList) {
    if spec["securityContext"]["windowsOptions"]["hostProcess"] == true {
        errors.forbidden(path, "hostProcess containers are disallowed by cluster policy");
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            if container["securityContext"]["privileged"] == true {
                let list = path.child(list);
                let context = list.index(at);
                errors.forbidden(&context.child("securityContext").child("privileged"), WHY);
            }
        }
    }
}
