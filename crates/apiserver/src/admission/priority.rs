//! Priority: the name of a priority class becomes a number, once and for all.
//!
//! Counterpart: `plugin/pkg/admission/priority`.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        (writes && request.is("", "pods")) || request.is("scheduling.k8s.io", "priorityclasses")
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        match (request.kind.resource.as_str(), request.old) {
            ("pods", None) => resolve(request, object).await,
            ("pods", Some(old)) => {
                keep_resolved(object, old);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        if request.kind.resource != "priorityclasses" {
            return Ok(());
        }
        if request.operation == Operation::Delete {
            return stays(request, object);
        }
        if object["globalDefault"] == true {
            only_default(request, object).await?;
        }
        Ok(())
    }
}

/// What was decided when the Pod was made holds for those who do not speak of it.
fn keep_resolved(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        let decided = old.pointer("/spec").and_then(|spec| spec.get(field));
        if let (None, Some(decided)) = (pod["spec"].get(field), decided) {
            pod["spec"][field] = decided.clone();
        }
    }
}

async fn resolve(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    let named = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
    let class = match named.as_str() {
        "" => default_class(request).await?,
        name => match objects::find(request.server, "priorityclasses", "", name).await? {
            Some(class) => Some(class),
            None => {
                return Err(
                    request.forbidden(pod, &format!("no PriorityClass with name {name} was found"))
                );
            }
        },
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let given = pod["spec"]["priority"].as_i64();
    if given.is_some_and(|given| given != value) {
        let given = given.unwrap_or(0);
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, &why));
    }
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = meta(class).name().into();
    }
    pod["spec"]["priority"] = value.into();
    let policy = class
        .as_ref()
        .and_then(|class| class["preemptionPolicy"].as_str())
        .unwrap_or("PreemptLowerPriority");
    let given = pod["spec"]["preemptionPolicy"].as_str();
    if let Some(given) = given.filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, &why));
    }
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// The server's own parts run by the two classes of the system.
fn stays(request: &Request<'_>, class: &Value) -> Result<(), Status> {
    const OF_THE_SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];
    match OF_THE_SYSTEM.contains(&request.name.as_str()) {
        true => {
            Err(request.forbidden(class, "this is a system priority class and cannot be deleted"))
        }
        false => Ok(()),
    }
}

/// The default with the lowest value, should there be several.
async fn default_class(request: &Request<'_>) -> Result<Option<Value>, Status> {
    let classes = objects::all(request.server, "priorityclasses/").await?;
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    Ok(defaults.min_by_key(|class| class["value"].as_i64()))
}

async fn only_default(request: &Request<'_>, class: &Value) -> Result<(), Status> {
    let Some(other) = default_class(request).await? else { return Ok(()) };
    if meta(&other).name() == meta(class).name() {
        return Ok(());
    }
    let why = format!(
        "PriorityClass {} is already marked as default. Only one default can exist",
        meta(&other).name()
    );
    Err(request.forbidden(class, &why))
}
