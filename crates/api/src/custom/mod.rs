//! CustomResourceDefinition -> [`KindDef`]s, the same values built-in kinds have.
//!
//! A structural schema becomes a [`Schema`](crate::Schema) graph (pruning, defaults, apply) and a
//! tree of [`rules`](rules::Rule) (validation); printer columns become Table cells. Counterpart:
//! `apiextensions-apiserver`.

mod cel;
mod columns;
pub mod definition;
mod jsonpath;
mod pattern;
mod rules;
mod strategy;
mod structural;

use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use jsonpath::JsonPath;
pub use strategy::at;

use crate::discovery::version_rank;
use crate::kind::{
    ConversionWebhook, Edition, GroupVersion, KindDef, ScalePaths, Subresource, Versioning,
};
use crate::schema::StructRef;
use rules::Rule;
use strategy::Custom;

/// The order in which upstream lists the verbs of custom resources.
const VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// The kinds of a definition, one per version.
#[derive(Clone, Default)]
pub struct Defined {
    pub served: Vec<KindDef>,
    /// Versions that may be stored but are not served.
    pub hidden: Vec<KindDef>,
}

/// The kinds that a definition serves, one per served version. The definition must be valid; what
/// cannot be read says why.
pub fn kinds(definition: &Value) -> Result<Vec<KindDef>, String> {
    define(definition, &Arc::new(Edition::of(definition, 0))).map(|defined| defined.served)
}

/// The kinds of a definition in an edition.
pub fn define(definition: &Value, edition: &Arc<Edition>) -> Result<Defined, String> {
    let spec = definition.get("spec").ok_or("the definition has no spec")?;
    let versions = list(spec, "versions");
    let storage = versions
        .iter()
        .find(|version| version["storage"] == true)
        .ok_or("no version is marked as storage version")?;
    let storage = GroupVersion::new(text(spec, "group"), text(storage, "name"));
    let mut defined = Defined::default();
    for version in versions {
        let kind = kind(definition, spec, version, &storage, edition)?;
        match version["served"] == true {
            true => defined.served.push(kind),
            false => defined.hidden.push(kind),
        }
    }
    Ok(defined)
}

fn kind(
    definition: &Value,
    spec: &Value,
    version: &Value,
    storage: &GroupVersion,
    edition: &Arc<Edition>,
) -> Result<KindDef, String> {
    let accepted = definition.pointer("/status/acceptedNames");
    let names = accepted
        .filter(|names| !text(names, "plural").is_empty())
        .or_else(|| spec.get("names"))
        .ok_or("the definition has no names")?;
    let (group, plural, kind) = (text(spec, "group"), text(names, "plural"), text(names, "kind"));
    let schema = version.pointer("/schema/openAPIV3Schema").ok_or("the version has no schema")?;
    let subresources = subresources(version, group, kind);
    let strategy = Custom {
        kind: kind.to_owned(),
        api_version: format!("{group}/{}", text(version, "name")),
        rule: Rule::compile(schema)?,
        schema: schema.clone(),
        rules: OnceLock::new(),
        columns: columns::cells(version),
        has_status: subresources.iter().any(|sub| sub.name == "status"),
        scale: scale(version),
    };
    let or = |field: &str, other: String| match text(names, field) {
        "" => other,
        given => given.to_owned(),
    };
    Ok(KindDef {
        group: group.to_owned(),
        version: text(version, "name").to_owned(),
        kind: kind.to_owned(),
        list_kind: or("listKind", format!("{kind}List")),
        resource: plural.to_owned(),
        singular: or("singular", kind.to_lowercase()),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
        subresources,
        columns: columns::columns(&strategy.columns),
        schema: StructRef::Custom(Arc::new(structural::root(schema, kind))),
        strategy: Arc::new(strategy),
        storage_version: storage.clone(),
        key_prefix: format!("/registry/{group}/{plural}/"),
        custom: true,
        selectable: selectable(version),
        scale: scale(version),
        document: Some(Arc::new(schema.clone())),
        versioning: Some(Arc::new(Versioning {
            deprecation: deprecation(spec, version, kind),
            webhook: webhook(definition, spec),
            edition: edition.clone(),
            terminating: crate::meta::meta(definition).deletion_timestamp().is_some(),
        })),
    })
}

/// The text that clients of a deprecated version are warned with: its own, or one that names the newest version that is
/// not deprecated.
fn deprecation(spec: &Value, version: &Value, kind: &str) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(own) = version["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let (group, name) = (text(spec, "group"), text(version, "name"));
    let is_better = |other: &&Value| {
        other["served"] == true
            && other["deprecated"] != true
            && version_rank(text(other, "name")) > version_rank(name)
    };
    let better = list(spec, "versions").iter().filter(is_better).map(|other| text(other, "name"));
    let instead = better.max_by_key(|version| version_rank(version));
    let instead = instead.map(|version| format!("; use {group}/{version} {kind}"));
    Some(format!("{group}/{name} {kind} is deprecated{}", instead.unwrap_or_default()))
}

fn webhook(definition: &Value, spec: &Value) -> Option<ConversionWebhook> {
    let conversion = spec.get("conversion").filter(|it| text(it, "strategy") == "Webhook")?;
    let webhook = conversion.get("webhook")?;
    Some(ConversionWebhook {
        definition: crate::meta::meta(definition).name().to_owned(),
        client: webhook.get("clientConfig")?.clone(),
        review_versions: texts(webhook, "conversionReviewVersions"),
    })
}

fn subresources(version: &Value, group: &str, kind: &str) -> Vec<Subresource> {
    let verbs: Vec<String> = ["get", "patch", "update"].map(str::to_owned).to_vec();
    let subresource = |name: &str, group: &str, version: &str, kind: &str| Subresource {
        name: name.to_owned(),
        verbs: verbs.clone(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
    };
    let mut found = Vec::new();
    let declared = |name: &str| {
        version.pointer(&format!("/subresources/{name}")).is_some_and(Value::is_object)
    };
    if declared("status") {
        found.push(subresource("status", group, text(version, "name"), kind));
    }
    if declared("scale") {
        found.push(subresource("scale", "autoscaling", "v1", "Scale"));
    }
    found
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version.pointer("/subresources/scale")?;
    let pointer = |field: &str| text(scale, field).replace('.', "/");
    let selector = Some(pointer("labelSelectorPath")).filter(|path| !path.is_empty());
    Some(ScalePaths {
        spec_replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector,
    })
}

fn selectable(version: &Value) -> Vec<(String, String)> {
    let field = |entry: &Value| {
        let path = text(entry, "jsonPath");
        (path.trim_start_matches('.').to_owned(), path.replace('.', "/"))
    };
    list(version, "selectableFields").iter().map(field).collect()
}

// === reading the definition ===

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
