//! PodSecurity: the three Pod Security Standards, chosen by labels of the namespace.
//!
//! Namespace labels -> [`Standard`] per mode; pod -> violations. `enforce` refuses pods, `audit` annotates the audit event, `warn` warns
//! about pods and about what makes them; a namespace that is tightened is warned of the pods in it. Counterpart: `k8s.io/pod-security-admission`.

mod controls;
mod standard;

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;

use self::controls::Pod;
use self::standard::{Level, Standard, Version};
use super::{Operation, Plugin, Request};
use crate::objects;

pub struct PodSecurity;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// How many pods of a namespace are looked at when it is tightened.
const MAX_PODS: usize = 3000;

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        if matches!(request.operation, Operation::Delete | Operation::Connect) {
            return false;
        }
        let pods = request.is("", "pods")
            || (request.kind.resource == "pods" && request.subresource == "ephemeralcontainers");
        pods || request.is("", "namespaces")
            || (request.subresource.is_empty() && template_pointer(request).is_some())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        match request.kind.resource.as_str() {
            "namespaces" => on_namespace(request, object).await,
            "pods" => on_pod(request, object).await,
            _ => on_template(request, object).await,
        }
    }
}

async fn on_pod(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    // What a change leaves as it was needs no new permission.
    if request.old.is_some_and(|old| old["spec"] == pod["spec"]) {
        return Ok(());
    }
    let Some(namespace) = namespace(request).await? else { return Ok(()) };
    let standard = chosen(&namespace, "enforce");
    request.annotate(&format!("{PREFIX}enforce-policy"), &standard.to_string());
    let pod_of = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
    let found = standard.violations(&pod_of);
    audit(request, &namespace, &pod_of);
    if !found.is_empty() {
        let why = format!("violates PodSecurity \"{standard}\": {}", found.join(", "));
        return Err(request.forbidden(pod, &why));
    }
    warn(request, &namespace, &pod_of);
    Ok(())
}

async fn on_template(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let template = template_pointer(request).and_then(|pointer| object.pointer(pointer));
    let Some(template) = template else { return Ok(()) };
    let Some(namespace) = namespace(request).await? else { return Ok(()) };
    let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
    audit(request, &namespace, &pod);
    warn(request, &namespace, &pod);
    Ok(())
}

async fn namespace(request: &Request<'_>) -> Result<Option<Value>, Status> {
    objects::find(request.server, "namespaces", "", request.namespace).await
}

fn warn(request: &Request<'_>, namespace: &Value, pod: &Pod<'_>) {
    if let Some(text) = would_violate(namespace, "warn", pod) {
        request.call.warn(text);
    }
}

fn audit(request: &Request<'_>, namespace: &Value, pod: &Pod<'_>) {
    if let Some(text) = would_violate(namespace, "audit", pod) {
        request.annotate(&format!("{PREFIX}audit-violations"), &text);
    }
}

fn would_violate(namespace: &Value, mode: &str, pod: &Pod<'_>) -> Option<String> {
    let standard = chosen(namespace, mode);
    let found = standard.violations(pod);
    (!found.is_empty())
        .then(|| format!("would violate PodSecurity \"{standard}\": {}", found.join(", ")))
}

/// Where a workload keeps its pod template.
fn template_pointer(request: &Request<'_>) -> Option<&'static str> {
    match (request.kind.group.as_str(), request.kind.resource.as_str()) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs")
        | ("", "replicationcontrollers") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        ("", "podtemplates") => Some("/template"),
        _ => None,
    }
}

/// The standard of a mode; a value that is no level is the strictest, as nobody knows what was meant.
fn chosen(namespace: &Value, mode: &str) -> Standard {
    let label = |key: String| meta(namespace).label(&key).unwrap_or("");
    let level = match label(format!("{PREFIX}{mode}")) {
        "" => Level::Privileged,
        text => Level::read(text).unwrap_or(Level::Restricted),
    };
    let version = Version::read(label(format!("{PREFIX}{mode}-version")));
    Standard { level, version: version.unwrap_or(Version::LATEST) }
}

// === namespaces ===

async fn on_namespace(request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
    let faults = label_faults(namespace);
    let known = request.old.map(label_faults);
    if !faults.is_empty() && known.as_ref().is_none_or(|known| *known != faults) {
        let kind = skiff_api::GroupKind::new("", "Namespace");
        return Err(Status::invalid(&kind, meta(namespace).name(), faults));
    }
    let Some(old) = request.old else { return Ok(()) };
    let (now, before) = (chosen(namespace, "enforce"), chosen(old, "enforce"));
    let relaxed = now.version == before.version && now.level <= before.level;
    if now.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let name = meta(namespace).name();
    let pods = objects::all(request.server, &format!("pods/{name}/")).await?;
    tightening_warnings(name, now, pods).into_iter().for_each(|text| request.call.warn(text));
    Ok(())
}

fn label_faults(namespace: &Value) -> ErrorList {
    let mut errors = ErrorList::default();
    let at = Path::new("metadata");
    let at = at.child("labels");
    for mode in ["enforce", "audit", "warn"] {
        let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
        let text = meta(namespace).label(&level).filter(|text| Level::read(text).is_none());
        if let Some(text) = text {
            let why = "must be one of privileged, baseline, restricted";
            errors.invalid(&at.key(&level), text, why);
        }
        let text = meta(namespace).label(&version).filter(|text| Version::read(text).is_none());
        if let Some(text) = text {
            errors.invalid(&at.key(&version), text, "must be \"latest\" or \"v1.x\"");
        }
    }
    errors
}

/// What a namespace's owner should know of the pods that are there already: they run on, but would not be let in again.
fn tightening_warnings(namespace: &str, standard: Standard, pods: Vec<Value>) -> Vec<String> {
    let total = pods.len();
    // Reasons without details -> the pods they apply to.
    let mut violating: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in one_of_each_controller_first(pods).into_iter().take(MAX_PODS) {
        let found = standard.violations(&Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
        let reasons: Vec<&str> =
            found.iter().map(|text| text.split(" (").next().unwrap_or(text)).collect();
        if !reasons.is_empty() {
            violating.entry(reasons.join(", ")).or_default().push(meta(&pod).name().to_owned());
        }
    }
    let mut warnings = Vec::new();
    if total > MAX_PODS {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {MAX_PODS} of {total} existing pods"));
    }
    if !violating.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""));
    }
    let mut of_pods: Vec<String> = violating.iter().map(|(why, pods)| of_pods(why, pods)).collect();
    of_pods.sort();
    warnings.extend(of_pods);
    warnings
}

fn of_pods(why: &str, pods: &[String]) -> String {
    let first = pods.iter().min().map_or("", String::as_str);
    match pods.len() {
        0 | 1 => format!("{first}: {why}"),
        2 => format!("{first} (and 1 other pod): {why}"),
        many => format!("{first} (and {} other pods): {why}", many - 1),
    }
}

/// Pods of one controller are alike: one of each is looked at before any second.
fn one_of_each_controller_first(pods: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let (mut first, further): (Vec<Value>, Vec<Value>) = pods.into_iter().partition(|pod| {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners
            .filter(|owner| owner["controller"] == true)
            .find_map(|owner| owner["uid"].as_str());
        controller.is_none_or(|uid| seen.insert(uid.to_owned()))
    });
    first.extend(further);
    first
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_with_the_same_faults_are_named_together() {
        let pod = |name: &str, host: bool| json!({ "metadata": { "name": name }, "spec": { "hostPID": host, "hostNetwork": host } });
        let standard = Standard { level: Level::Baseline, version: Version::LATEST };
        let pods = vec![pod("c", true), pod("a", true), pod("fine", false), pod("b", true)];
        assert_eq!(
            tightening_warnings("n", standard, pods),
            [
                r#"existing pods in namespace "n" violate the new PodSecurity enforce level "baseline:latest""#,
                "a (and 2 other pods): host namespaces",
            ]
        );
    }
}
