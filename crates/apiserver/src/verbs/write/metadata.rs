//! What the server says about an object's metadata in a write, whatever the client said.
//!
//! Counterpart: `rest.FillObjectMetaSystemFields` and the metadata half of `rest.BeforeUpdate`.

use serde_json::Value;
use skiff_api::KindDef;
use skiff_api::meta::{meta, meta_mut};

/// What a client may not say about a new object, and mutating admission does not know yet.
pub fn wipe_system_meta(object: &mut Value) {
    const FIELDS: &[&str] = &[
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ];
    FIELDS.iter().for_each(|field| remove(object, field));
}

/// What the server says about every new object, once admission has had its way with it.
pub fn fill_new_meta(object: &mut Value) {
    let prefix = meta(object).generate_name().to_owned();
    if meta(object).name().is_empty() && !prefix.is_empty() {
        set(object, "name", generated_name(&prefix).into());
    }
    set(object, "uid", uuid::Uuid::new_v4().to_string().into());
    set(object, "creationTimestamp", skiff_api::time::format(skiff_api::time::now()).into());
}

/// A prefix and five characters that spell no words.
pub fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LENGTH: usize = 63 - 5;
    let random = uuid::Uuid::new_v4();
    let suffix = random
        .as_bytes()
        .iter()
        .take(5)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    prefix.chars().take(LENGTH).chain(suffix).collect()
}

/// What an update may leave out and never changes.
pub fn carry_meta(object: &mut Value, old: &Value) {
    remove(object, "selfLink");
    if let Some(born) = old.pointer("/metadata/creationTimestamp") {
        set(object, "creationTimestamp", born.clone());
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let said =
            object.pointer(&format!("/metadata/{field}")).is_some_and(|value| !value.is_null());
        if let (false, Some(value)) = (said, old.pointer(&format!("/metadata/{field}"))) {
            set(object, field, value.clone());
        }
    }
    let generation = meta(old).generation();
    match generation {
        0 => remove(object, "generation"),
        _ => set(object, "generation", generation.into()),
    }
}

/// What of the metadata a status update may not change.
pub fn keep_settled_meta(kind: &KindDef, object: &mut Value, old: &Value) {
    let kept: Vec<String> = match (kind.custom, kind.kind.as_str()) {
        (true, _) => {
            let both =
                [&*object, old].into_iter().filter_map(|object| object["metadata"].as_object());
            both.flat_map(|meta| meta.keys())
                .filter(|name| *name != "managedFields")
                .cloned()
                .collect()
        }
        (false, "Deployment") => vec!["labels".to_owned()],
        (false, "Pod") => vec!["deletionTimestamp".to_owned(), "ownerReferences".to_owned()],
        _ => Vec::new(),
    };
    for field in kept.iter().map(String::as_str) {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => set(object, field, value.clone()),
            None => remove(object, field),
        }
    }
}

/// Whether an object says which revision it is meant to replace.
pub fn names_revision(object: &Value) -> bool {
    !matches!(meta(object).resource_version(), "" | "0")
}

pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(meta) = meta_mut(object) {
        meta.insert(field.to_owned(), value);
    }
}

pub fn remove(object: &mut Value, field: &str) {
    if let Some(meta) = meta_mut(object) {
        meta.remove(field);
    }
}
