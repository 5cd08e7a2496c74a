//! The objects that a binding hands to its policy as parameters.
//!
//! `paramKind` of the policy and `paramRef` of the binding -> objects read from the store, at the version that is named. Counterpart:
//! `CollectParams`. `None` stands for "no parameters": the policy is then asked once, without any.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::KindDef;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::selector::Labels;
use skiff_store::RangeRequest;

use super::policy::{Binding, Policy};
use crate::admission::Request;
use crate::objects;

/// A complaint, if the policy names a kind that is not served.
pub fn unknown_kind(policy: &Policy, request: &Request<'_>) -> Option<String> {
    let (version, kind) = policy.param_kind.as_ref()?;
    match kind_of(policy, request) {
        Some(_) => None,
        None => Some(format!(
            "failed to find resource referenced by paramKind: '{version}, Kind={kind}'"
        )),
    }
}

fn kind_of(policy: &Policy, request: &Request<'_>) -> Option<Arc<KindDef>> {
    let (version, kind) = policy.param_kind.as_ref()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    request.server.kinds().by_kind(group, version, kind).cloned()
}

pub async fn collect(
    policy: &Policy,
    binding: &Binding,
    request: &Request<'_>,
    object: &Value,
) -> Result<Vec<Option<Value>>, String> {
    let reference = &binding.param_ref;
    let Some(kind) = kind_of(policy, request).filter(|_| reference.is_object()) else {
        return Ok(vec![None]);
    };
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let namespace = match (kind.namespaced, text("namespace")) {
        (false, "") => "",
        (false, _) => {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()
            );
        }
        (true, "") => match request.attribute_namespace(object) {
            "" => {
                return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            own => own,
        },
        (true, given) => given,
    };
    let found = match text("name") {
        "" => selected(&kind, namespace, &reference["selector"], request).await?,
        name => named(&kind, namespace, name, request).await?.into_iter().collect(),
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found.into_iter().map(Some).collect())
}

async fn named(
    kind: &Arc<KindDef>,
    namespace: &str,
    name: &str,
    request: &Request<'_>,
) -> Result<Option<Value>, String> {
    let stored = objects::storage_kind(&request.server.kinds(), kind);
    let entry = objects::read(request.server, &stored.key(namespace, name)).await;
    let entry = entry.map_err(|status| status.message)?;
    let shown =
        |bytes: &[u8]| decode_stored(bytes).and_then(|o| objects::value_at_version(kind, o));
    entry.map(|entry| shown(&entry.value)).transpose().map_err(|status| status.message)
}

async fn selected(
    kind: &Arc<KindDef>,
    namespace: &str,
    selector: &Value,
    request: &Request<'_>,
) -> Result<Vec<Value>, String> {
    let labels = Labels::from_object(selector)?;
    let stored = objects::storage_kind(&request.server.kinds(), kind);
    let prefix = match namespace {
        "" => stored.key_prefix.clone(),
        namespace => format!("{}{namespace}/", stored.key_prefix),
    };
    let found = request.server.store.range(RangeRequest::prefix(prefix)).await;
    let found = found.map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for entry in &found.entries {
        let object = decode_stored(&entry.value).map_err(|status| status.message)?;
        if labels.matches(meta(&object).labels()) {
            all.push(objects::value_at_version(kind, object).map_err(|status| status.message)?);
        }
    }
    Ok(all)
}
