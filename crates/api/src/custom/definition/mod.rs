//! The CustomResourceDefinition object itself: its defaults, its status on writes, and what can be wrong with it.
//!
//! Counterpart: `apiextensions/validation` and `registry/customresourcedefinition`. What all versions have in common is
//! reported at the place where releases before `v1` had it ([`Shared`]). One file per part of the definition.

mod defaults;
mod names;
mod printed;
mod rules;
mod schema;
mod structure;
mod topology;
mod versions;

use serde_json::{Value, json};

use super::rules::formats;
use super::structural::{children, flag, junctors};
use super::{list, text, texts};
use crate::field::{ErrorList, Path};
use crate::kind::{KindDef, Strategy};
use crate::kinds::admissionregistration::validate_client;
use crate::kinds::at::At;
use crate::kinds::fill::made;
use crate::meta::meta;
use crate::validation::dns_subdomain;
use versions::Shared;

pub(super) use printed::field_path;

/// Says where the API of a group of the project itself was reviewed.
pub const APPROVAL: &str = "api-approved.kubernetes.io";
const IMMUTABLE: &str = "field is immutable";

/// The strategy of the CustomResourceDefinition kind.
pub struct Definition;

impl Strategy for Definition {
    fn without_tables(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn default(&self, object: &mut Value) {
        let kind = text(&object["spec"]["names"], "kind").to_owned();
        let filled = [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))];
        let Some(spec) = object.as_object_mut().and_then(|root| made(root, "spec")) else { return };
        let conversion = spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        let service = conversion.pointer_mut("/webhook/clientConfig/service");
        if let Some(service) = service.and_then(Value::as_object_mut) {
            service.entry("port").or_insert_with(|| 443.into());
        }
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
            for (field, value) in filled {
                if !kind.is_empty() && !names.contains_key(field) {
                    names.insert(field.to_owned(), value.into());
                }
            }
        }
    }

    /// The stored versions are known from the start; everything else of the status is the server's.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({"conditions": null, "storedVersions": null,
            "acceptedNames": {"plural": "", "kind": ""}});
        remember_storage_version(object);
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        crate::kind::keep(object, old, "status");
        remember_storage_version(object);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        Checked { object, old: None }.validate(errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        Checked { object, old: Some(old) }.validate(errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        accepted_names(object, errors);
    }

    /// Formats that mean nothing, unless the definition had them before.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let known = old.map(unrecognized_formats).unwrap_or_default();
        let new = unrecognized_formats(object).into_iter().filter(|format| !known.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Objects may be in the storage version from now on.
fn remember_storage_version(object: &mut Value) {
    let versions = list(&object["spec"], "versions");
    let Some(storage) = versions.iter().find(|version| flag(version, "storage")) else { return };
    let name = storage["name"].clone();
    let stored = &mut object["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(stored) if stored.contains(&name) => {}
        Some(stored) => stored.push(name),
        None => *stored = json!([name]),
    }
}

// === what is wrong with a definition ===

/// A definition that is written, and what it replaces.
struct Checked<'a> {
    object: &'a Value,
    old: Option<&'a Value>,
}

impl Checked<'_> {
    /// Faults apart from metadata, which is validated with every kind's.
    fn validate(&self, errors: &mut ErrorList) {
        if self.old.is_none() {
            self.name(errors);
        }
        let (spec, at) = (&self.object["spec"], Path::new("spec"));
        self.spec(spec, &at, errors);
        if let Some(old) = self.old {
            immutable(spec, &old["spec"], is_established(old), &at, errors);
        }
        accepted_names(self.object, errors);
        versions::stored(self.object, errors);
        self.approval(errors);
        self.preserving_unknown_fields(errors);
    }

    fn name(&self, errors: &mut ErrorList) {
        let (spec, meta) = (&self.object["spec"], meta(self.object));
        let wanted = format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group"));
        for (field, name) in [("generateName", meta.generate_name()), ("name", meta.name())] {
            if !name.is_empty() && name != wanted {
                let detail = "must be spec.names.plural+\".\"+spec.group";
                errors.invalid(&Path::new("metadata").child(field), name, detail);
            }
        }
    }

    fn spec(&self, spec: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        let shared = Shared::of(spec);
        group(text(spec, "group"), &at.child("group"), errors);
        match text(spec, "scope") {
            "" => errors.required(&at.child("scope"), ""),
            "Cluster" | "Namespaced" => {}
            other => errors.not_supported(&at.child("scope"), other, &["Cluster", "Namespaced"]),
        }
        versions::missing_schemas(spec, at, errors);
        let old = self.old.map(|old| &old["spec"]);
        versions::validate(spec, old, &shared, at, errors);
        names::required(&spec["names"], &at.child("names"), errors);
        names::validate(&spec["names"], &at.child("names"), errors);
        versions::validate_shared(spec, old, &shared, at, errors);
        conversion(&spec["conversion"], &at.child("conversion"), errors);
    }

    /// Groups of the project itself need a link to the review of their API, unless they never had one.
    fn approval(&self, errors: &mut ErrorList) {
        let protected = is_protected(text(&self.object["spec"], "group"));
        let given = |object| meta(object).annotation(APPROVAL).unwrap_or("");
        let state = |object| approval_of(given(object));
        if !protected || self.old.is_some_and(|old| state(old) == state(self.object)) {
            return;
        }
        let metadata = Path::new("metadata");
        let annotations = metadata.child("annotations");
        let (place, given) = (annotations.key(APPROVAL), given(self.object));
        match approval_of(given) {
            Approval::Missing => errors.required(&place, approval_reason(given)),
            Approval::Invalid => errors.invalid(&place, given, approval_reason(given)),
            Approval::Bypassed | Approval::Given => {}
        }
    }

    fn preserving_unknown_fields(&self, errors: &mut ErrorList) {
        let preserves = |object: &Value| flag(&object["spec"], "preserveUnknownFields");
        if preserves(self.object) && !self.old.is_some_and(preserves) {
            let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.invalid(&Path::new("spec").child("preserveUnknownFields"), true, detail);
        }
    }
}

// === approval ===

/// What a definition says of the review of its API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    Missing,
    Invalid,
    /// A word that there is none.
    Bypassed,
    /// A link.
    Given,
}

/// Whether a group is the project's own.
pub fn is_protected(group: &str) -> bool {
    let is_below = |domain| {
        let rest: Option<&str> = group.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    is_below("k8s.io") || is_below("kubernetes.io")
}

pub fn approval_of(annotation: &str) -> Approval {
    let is_link = || {
        annotation.split_once("://").is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !rest.starts_with(['/', '?'])
        })
    };
    match annotation {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Bypassed,
        _ if is_link() => Approval::Given,
        _ => Approval::Invalid,
    }
}

/// Why it is so, for faults and conditions.
pub fn approval_reason(annotation: &str) -> String {
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let needed = format!("protected groups must have approval annotation {APPROVAL:?}");
    match approval_of(annotation) {
        Approval::Missing => format!("{needed}, {see}"),
        Approval::Invalid => {
            format!("{needed} with either a URL or a reason starting with \"unapproved\", {see}")
        }
        Approval::Bypassed => format!("not approved: {annotation:?}"),
        Approval::Given => format!("approved in {annotation}"),
    }
}

fn is_established(object: &Value) -> bool {
    let mut conditions = list(&object["status"], "conditions").iter();
    conditions.any(|it| it["type"] == "Established" && it["status"] == "True")
}

fn accepted_names(object: &Value, errors: &mut ErrorList) {
    let status = Path::new("status");
    names::validate(&object["status"]["acceptedNames"], &status.child("acceptedNames"), errors);
}

fn group(group: &str, at: &Path<'_>, errors: &mut ErrorList) {
    let faults = dns_subdomain(group);
    if group.is_empty() {
        errors.required(at, "");
    } else if !faults.is_empty() {
        errors.invalid(at, group, faults.join(","));
    } else if !group.contains('.') {
        errors.invalid(at, group, "should be a domain with at least one dot");
    }
}

/// What decides where objects are stored, and what is served once the names are established.
fn immutable(spec: &Value, old: &Value, established: bool, at: &Path<'_>, errors: &mut ErrorList) {
    for (fields, only_established) in [
        (&["scope"][..], true),
        (&["names", "kind"], true),
        (&["group"], false),
        (&["names", "plural"], false),
    ] {
        let of =
            |spec: &Value| fields.iter().fold(spec.clone(), |value, field| value[*field].clone());
        if (established || !only_established) && of(spec) != of(old) {
            let place = at.child(fields[0]);
            match fields.get(1) {
                None => errors.invalid(&place, of(spec), IMMUTABLE),
                Some(field) => errors.invalid(&place.child(field), of(spec), IMMUTABLE),
            }
        }
    }
}

fn conversion(conversion: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let webhook = &conversion["webhook"];
    let client = at.child("webhookClientConfig");
    let (config, versions) = (&webhook["clientConfig"], texts(webhook, "conversionReviewVersions"));
    match text(conversion, "strategy") {
        "" => errors.required(&at.child("strategy"), ""),
        "None" | "Webhook" => {}
        other => errors.not_supported(&at.child("strategy"), other, &["None", "Webhook"]),
    }
    if text(conversion, "strategy") == "Webhook" {
        match config.is_null() {
            true => errors.required(&client, "required when strategy is set to Webhook"),
            false => validate_client(&At::new(config, client), errors),
        }
        review_versions(&versions, &at.child("conversionReviewVersions"), errors);
        return;
    }
    let detail = "should not be set when strategy is not set to Webhook";
    if !config.is_null() {
        errors.forbidden(&client, detail);
    }
    if !versions.is_empty() {
        errors.forbidden(&at.child("conversionReviewVersions"), detail);
    }
}

fn review_versions(versions: &[String], at: &Path<'_>, errors: &mut ErrorList) {
    if versions.is_empty() {
        return errors.required(at, "");
    }
    for (index, version) in versions.iter().enumerate() {
        let place = at.index(index);
        if versions[..index].contains(version) {
            errors.invalid(&place, version.as_str(), "duplicate version");
            continue;
        }
        for fault in crate::validation::dns_1035_label(version) {
            errors.invalid(&place, version.as_str(), fault);
        }
    }
    if !versions.iter().any(|version| matches!(version.as_str(), "v1" | "v1beta1")) {
        errors.invalid(at, versions.to_vec(), "must include at least one of v1, v1beta1");
    }
}

// === formats ===

fn unrecognized_formats(object: &Value) -> Vec<String> {
    let shared = Shared::of(&object["spec"]);
    let versions = list(&object["spec"], "versions");
    let seen = if shared.schema { &versions[..versions.len().min(1)] } else { versions };
    let mut found = Vec::new();
    for version in seen {
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            formats_below(schema, &mut found);
        }
    }
    found
}

fn formats_below(node: &Value, found: &mut Vec<String>) {
    let format = text(node, "format");
    if !format.is_empty() && !formats::is_recognized(text(node, "type"), format) {
        found.push(format.to_owned());
    }
    for (_, child) in children(node).into_iter().chain(junctors(node)) {
        formats_below(child, found);
    }
}
