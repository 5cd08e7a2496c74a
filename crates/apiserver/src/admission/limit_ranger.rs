//! LimitRanger: a namespace's LimitRanges fill in what containers leave open and refuse what is out of bounds.
//!
//! Counterpart: `plugin/pkg/admission/limitranger`.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use skiff_api::Status;
use skiff_api::meta::{meta, meta_mut};
use skiff_api::quantity::Quantity;
use skiff_api::quota::{Amounts, amounts, pod_total};

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct LimitRanger;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "pods")
            || (request.operation == Operation::Update
                && request.kind.group.is_empty()
                && request.kind.resource == "pods"
                && request.subresource == "resize")
            || (request.is("", "persistentvolumeclaims") && request.operation != Operation::Delete)
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        if request.creates("", "pods") {
            for range in ranges(request).await? {
                fill(object, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        if request.old.is_some_and(|old| meta(old).deletion_timestamp().is_some()) {
            return Ok(());
        }
        for range in ranges(request).await? {
            let faults = match request.kind.resource.as_str() {
                "pods" => pod_faults(object, &range),
                _ => claim_faults(object, &range),
            };
            match faults.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(object, one)),
                many => {
                    return Err(request.forbidden(object, &format!("[{}]", many.join(", "))));
                }
            }
        }
        Ok(())
    }
}

async fn ranges(request: &Request<'_>) -> Result<Vec<Value>, Status> {
    objects::all(request.server, &format!("limitranges/{}/", request.namespace)).await
}

fn items<'a>(range: &'a Value, of: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"].as_array().into_iter().flatten().filter(move |item| item["type"] == of)
}

// === defaults ===

fn fill(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits): (Map<String, Value>, Map<String, Value>) = Default::default();
    for item in items(range, "Container") {
        requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(item["default"].as_object().cloned().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in
            pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
        {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (field, defaults, what) in
                [("requests", &requests, "request"), ("limits", &limits, "limit")]
            {
                let added = fill_list(container, field, defaults);
                if !added.is_empty() {
                    notes.push(format!("{} {what} for {word} {name}", added.join(", ")));
                }
            }
        }
    }
    if let (false, Some(meta)) = (notes.is_empty(), meta_mut(pod)) {
        let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
        annotations[ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

fn fill_list(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut added = Vec::new();
    for (resource, amount) in defaults {
        if container["resources"][field].get(resource).is_none() {
            container["resources"][field][resource] = amount.clone();
            added.push(resource.clone());
        }
    }
    if let Some(resources) = container["resources"].as_object_mut() {
        resources.retain(|_, value| !value.is_null());
    }
    added
}

// === bounds ===

/// Resource -> amount, of one container, or of a pod.
fn pod_faults(pod: &Value, range: &Value) -> Vec<String> {
    let containers = || {
        let lists = ["containers", "initContainers"].into_iter();
        lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
    };
    let mut faults = Vec::new();
    for item in range["spec"]["limits"].as_array().into_iter().flatten() {
        match item["type"].as_str() {
            Some("Container") => {
                for container in containers() {
                    let [requests, limits] =
                        ["requests", "limits"].map(|field| amounts(&container["resources"][field]));
                    check(item, "Container", &requests, &limits, &mut faults);
                }
            }
            Some("Pod") => {
                let [requests, limits] = ["requests", "limits"].map(|field| pod_total(pod, field));
                check(item, "Pod", &requests, &limits, &mut faults);
            }
            _ => {}
        }
    }
    faults
}

fn claim_faults(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let mut faults = Vec::new();
    for item in items(range, "PersistentVolumeClaim") {
        for (resource, least) in amounts(&item["min"]) {
            faults.extend(too_little(
                "PersistentVolumeClaim",
                &resource,
                least,
                requests.get(&resource),
                None,
            ));
        }
        for (resource, most) in amounts(&item["max"]) {
            let asked = requests.get(&resource);
            faults.extend(too_much(
                "PersistentVolumeClaim",
                &resource,
                most,
                asked,
                asked,
                "request",
            ));
        }
    }
    faults
}

fn check(item: &Value, of: &str, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    for (resource, least) in amounts(&item["min"]) {
        faults.extend(too_little(
            of,
            &resource,
            least,
            requests.get(&resource),
            limits.get(&resource),
        ));
    }
    for (resource, most) in amounts(&item["max"]) {
        faults.extend(too_much(
            of,
            &resource,
            most,
            limits.get(&resource),
            requests.get(&resource),
            "limit",
        ));
    }
    for (resource, most) in amounts(&item["maxLimitRequestRatio"]) {
        faults.extend(bad_ratio(
            of,
            &resource,
            most,
            requests.get(&resource),
            limits.get(&resource),
        ));
    }
}

fn too_little(
    of: &str,
    resource: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let Some(request) = request else {
        return Some(format!(
            "minimum {resource} usage per {of} is {least}.  No request is specified"
        ));
    };
    if *request < least {
        return Some(format!(
            "minimum {resource} usage per {of} is {least}, but request is {request}"
        ));
    }
    let limit = limit.filter(|limit| **limit < least)?;
    Some(format!("minimum {resource} usage per {of} is {least}, but limit is {limit}"))
}

fn too_much(
    of: &str,
    resource: &str,
    most: Quantity,
    limit: Option<&Quantity>,
    request: Option<&Quantity>,
    word: &str,
) -> Option<String> {
    let Some(limit) = limit else {
        return Some(format!(
            "maximum {resource} usage per {of} is {most}.  No {word} is specified"
        ));
    };
    if *limit > most {
        return Some(format!("maximum {resource} usage per {of} is {most}, but {word} is {limit}"));
    }
    let request = request.filter(|request| **request > most)?;
    Some(format!("maximum {resource} usage per {of} is {most}, but request is {request}"))
}

fn bad_ratio(
    of: &str,
    resource: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let set = |amount: Option<&Quantity>| amount.copied().filter(|amount| !amount.is_zero());
    let (Some(request), Some(limit)) = (set(request), set(limit)) else {
        let what = if set(request).is_none() { "request" } else { "limit" };
        return Some(format!(
            "{resource} max limit to request ratio per {of} is {most}, but no {what} is specified or {what} is 0"
        ));
    };
    let ratio = limit.milli() as f64 / request.milli() as f64;
    (ratio > most.milli() as f64 / 1000.0)
        .then(|| format!("{resource} max limit to request ratio per {of} is {most}, but provided ratio is {ratio:.6}"))
}
