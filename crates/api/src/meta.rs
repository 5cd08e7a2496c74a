//! Reading and writing `metadata` of an object held as JSON.
//!
//! The few fields that every part of the request path touches, so that nobody else spells their
//! JSON paths. Counterpart: `meta.Accessor`.

use serde_json::{Map, Value};

/// Borrowed view of an object's metadata.
#[derive(Clone, Copy)]
pub struct Meta<'a>(Option<&'a Map<String, Value>>);

/// The metadata of an object; every reader answers "empty" when there is none.
pub fn meta(object: &Value) -> Meta<'_> {
    Meta(object.get("metadata").and_then(Value::as_object))
}

/// The metadata map, made if it is missing. `None` if the object or its metadata is no JSON object.
pub fn meta_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

impl<'a> Meta<'a> {
    pub fn name(self) -> &'a str {
        self.text("name")
    }

    pub fn generate_name(self) -> &'a str {
        self.text("generateName")
    }

    pub fn namespace(self) -> &'a str {
        self.text("namespace")
    }

    pub fn uid(self) -> &'a str {
        self.text("uid")
    }

    pub fn resource_version(self) -> &'a str {
        self.text("resourceVersion")
    }

    pub fn creation_timestamp(self) -> &'a str {
        self.text("creationTimestamp")
    }

    pub fn deletion_timestamp(self) -> Option<&'a str> {
        self.0?.get("deletionTimestamp")?.as_str()
    }

    pub fn deletion_grace_period_seconds(self) -> Option<i64> {
        self.0?.get("deletionGracePeriodSeconds")?.as_i64()
    }

    pub fn generation(self) -> i64 {
        self.0.and_then(|meta| meta.get("generation")?.as_i64()).unwrap_or(0)
    }

    pub fn label(self, key: &str) -> Option<&'a str> {
        self.0?.get("labels")?.get(key)?.as_str()
    }

    pub fn labels(self) -> Option<&'a Map<String, Value>> {
        self.0?.get("labels")?.as_object()
    }

    pub fn annotation(self, key: &str) -> Option<&'a str> {
        self.0?.get("annotations")?.get(key)?.as_str()
    }

    pub fn finalizers(self) -> impl Iterator<Item = &'a str> {
        self.list("finalizers").iter().filter_map(Value::as_str)
    }

    pub fn owner_references(self) -> &'a [Value] {
        self.list("ownerReferences")
    }

    fn text(self, key: &str) -> &'a str {
        self.0.and_then(|meta| meta.get(key)?.as_str()).unwrap_or("")
    }

    fn list(self, key: &str) -> &'a [Value] {
        self.0.and_then(|meta| meta.get(key)?.as_array()).map_or(&[], Vec::as_slice)
    }
}
