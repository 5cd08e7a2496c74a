//! `pods/binding`: the scheduler's decision, written into the pod once.
//!
//! Counterpart: `pkg/registry/core/pod/storage` `BindingREST`. Invariant: a pod that has a node never gets another.

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::codec::Target;
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::{meta, meta_mut};
use skiff_api::{GroupResource, Reason, Status};

use crate::admission::{self, Operation, Request};
use crate::call::Call;
use crate::reply::Reply;
use crate::verbs::write::{Proposed, Write};

/// `pod` is empty for a POST to `bindings`, where the object names it.
pub async fn run(call: &Call, pod: &str) -> Result<Reply, Status> {
    let target = Target::known("", "v1", "Binding").ok_or_else(Status::no_such_path)?;
    let mut binding = call.decode_order(&target)?;
    let kind =
        call.server.kinds().get("", "v1", "pods").cloned().ok_or_else(Status::no_such_path)?;
    let part = kind.subresource("binding").ok_or_else(Status::no_such_path)?;
    if pod.is_empty() && meta(&binding).name().is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let request = Request::of_part(call, &kind, part, Operation::Create);
    admission::admit_part(request, &mut binding).await?;
    check(&binding, pod)?;
    let write = Write::new(call, kind.clone(), "binding", call.write_options("CreateOptions")?);
    let name = if pod.is_empty() { meta(&binding).name() } else { pod };
    write
        .update(name, |current| {
            let current = current.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
            Ok(Proposed { object: bound(current, &binding)?, owned: true, fixed: false })
        })
        .await?;
    Ok(Reply::Value {
        code: StatusCode::CREATED,
        value: json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }),
    })
}

fn check(binding: &Value, pod: &str) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let target = Path::new("target");
    let of = binding["target"]["kind"].as_str().unwrap_or("");
    if !matches!(of, "" | "Node") {
        errors.not_supported(&target.child("kind"), of, &["Node", "<empty>"]);
    }
    if binding["target"]["name"].as_str().unwrap_or("").is_empty() {
        errors.required(&target.child("name"), "");
    }
    if !errors.is_empty() {
        // Upstream reports the faults of a binding as they are.
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        return Err(Status::new(500, Reason::Unknown, texts.join(", ")));
    }
    match meta(binding).name() {
        given if pod.is_empty() || given == pod || given.is_empty() => Ok(()),
        _ => Err(Status::bad_request("name in URL does not match name in Binding object")),
    }
}

fn bound(mut pod: Value, binding: &Value) -> Result<Value, Status> {
    let name = meta(&pod).name().to_owned();
    let refuse =
        |why: &str| Err(Status::conflict(&GroupResource::new("", "pods/binding"), &name, why));
    check_preconditions(&pod, binding)?;
    if meta(&pod).deletion_timestamp().is_some() {
        return refuse(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return refuse(&format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    copy_annotations(&mut pod, binding);
    set_scheduled(&mut pod);
    Ok(pod)
}

/// A binding that says which pod it means is of no other, in the words of upstream's store.
fn check_preconditions(pod: &Value, binding: &Value) -> Result<(), Status> {
    let (asked, live) = (meta(binding), meta(pod));
    let pairs = [
        ("UID", asked.uid(), live.uid()),
        ("ResourceVersion", asked.resource_version(), live.resource_version()),
    ];
    match pairs.into_iter().find(|(_, asked, live)| !asked.is_empty() && asked != live) {
        None => Ok(()),
        Some((what, asked, found)) => {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/pods/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}",
                live.namespace(),
                live.name()
            );
            Err(Status::conflict(&GroupResource::new("", "pods"), live.name(), &why))
        }
    }
}

fn copy_annotations(pod: &mut Value, binding: &Value) {
    for of in ["annotations", "labels"] {
        let Some(from) = binding["metadata"][of].as_object().filter(|map| !map.is_empty()) else {
            continue;
        };
        let Some(meta) = meta_mut(pod) else { return };
        let into = meta.entry(of).or_insert_with(|| json!({}));
        if let Some(into) = into.as_object_mut() {
            into.extend(from.clone());
        }
    }
}

fn set_scheduled(pod: &mut Value) {
    let now = skiff_api::time::format(skiff_api::time::now());
    let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": now });
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(scheduled);
    }
}
