//! Strategic merge patch: a merge patch that knows how lists merge.
//!
//! Document + patch + schema -> document. A list whose field has the strategy `merge` is merged by
//! its merge key (or, for scalars, as a set); directives inside of the patch (`$patch`,
//! `$retainKeys`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`) say what else to do.
//! Counterpart: `apimachinery/pkg/util/strategicpatch`; also there, entries that the patch adds
//! come before those it does not mention.

mod lists;

use serde_json::{Map, Value};

use self::lists::{delete_from, merge_list_field, ordered_lists};
use super::{PatchError, go_syntax};
use crate::codec::{self, Node};
use crate::schema::{Field, PatchStrategy, Schema, StructRef, StructSchema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Reads the patch, which must be an object, and what strict decoding finds in it.
pub fn read(text: &[u8]) -> Result<(Map<String, Value>, Vec<String>), PatchError> {
    match super::parse(text).map_err(PatchError::Malformed)? {
        Node::Null => Ok((Map::new(), Vec::new())),
        node @ Node::Map(_) => {
            let findings = codec::repeated_fields(node.clone());
            // The tree is converted without passing through JSON, where 2.0 is no integer.
            match codec::whole_numbers(node.into_value()) {
                Value::Object(map) => Ok((map, findings)),
                _ => unreachable!("a map node is a map value"),
            }
        }
        other => Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            other.type_name()
        ))),
    }
}

/// Applies a strategic merge patch to a document with this schema.
pub fn apply(
    document: Value,
    patch: Map<String, Value>,
    schema: &StructSchema,
) -> Result<Value, PatchError> {
    let Value::Object(document) = document else {
        return Err(PatchError::Unusable("invalid JSON document".to_owned()));
    };
    merge_map(document, patch, Level::Struct(schema)).map(Value::Object)
}

/// What the schema says about the object that is merged.
#[derive(Clone, Copy)]
enum Level<'a> {
    Struct(&'a StructSchema),
    /// A map: every entry has this schema.
    Entries(&'a Schema),
    Unknown,
}

impl<'a> Level<'a> {
    fn field(self, name: &str) -> Option<&'a Field> {
        match self {
            Level::Struct(schema) => schema.field(name),
            _ => None,
        }
    }

    fn of_field(self, name: &str) -> Option<&'a Schema> {
        match self {
            Level::Struct(schema) => schema.field(name).map(|field| &field.schema),
            Level::Entries(values) => Some(values),
            Level::Unknown => None,
        }
    }

    /// The object in a field.
    fn map(self, name: &str) -> Level<'a> {
        self.of_field(name).map_or(Level::Unknown, Level::of)
    }

    /// The entries of the list in a field.
    fn items(self, name: &str) -> Level<'a> {
        match self.of_field(name) {
            Some(Schema::List(list)) => Level::of(&list.items),
            _ => Level::Unknown,
        }
    }

    fn of(schema: &'a Schema) -> Level<'a> {
        match schema {
            Schema::Struct(StructRef::Custom(of)) => Level::Struct(of),
            Schema::Struct(of @ StructRef::Builtin(_)) => Level::Struct(of),
            Schema::Map(map) => Level::Entries(&map.values),
            _ => Level::Unknown,
        }
    }

    /// Whether the object in a field is replaced as a whole.
    fn replaces(self, name: &str) -> bool {
        self.field(name).is_some_and(|field| field.patch.replace)
    }

    /// How the list in a field merges: `None` is replaced as a whole.
    fn list_strategy(self, name: &str) -> Option<&'a PatchStrategy> {
        self.field(name).map(|field| &field.patch).filter(|patch| patch.merge)
    }
}

type Object = Map<String, Value>;

fn merge_map(
    mut original: Object,
    mut patch: Object,
    level: Level<'_>,
) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(&patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, level)?;
    for (key, value) in patch {
        match key.strip_prefix(DELETE_FROM) {
            Some(name) => delete_from(&mut original, name, value),
            None => merge_field(&mut original, key, value, level)?,
        }
    }
    Ok(original)
}

fn merge_field(
    original: &mut Object,
    key: String,
    value: Value,
    level: Level<'_>,
) -> Result<(), PatchError> {
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let merged = match (original.remove(&key), value) {
        (Some(Value::Object(_)), new @ Value::Object(_)) if level.replaces(&key) => new,
        (Some(Value::Object(old)), Value::Object(new)) => {
            Value::Object(merge_map(old, new, level.map(&key))?)
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            Value::Array(merge_list_field(old, new, level, &key)?)
        }
        (_, value) if value.get(DIRECTIVE).is_some() => return Ok(()),
        (_, value) => without_directives(value),
    };
    original.insert(key, merged);
    Ok(())
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad_format("retainKeys")) };
    let kept = |name: &str| keys.iter().any(|key| key == name);
    let directive = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER);
    let stray =
        |(name, value): (&String, &Value)| !value.is_null() && !directive(name) && !kept(name);
    if patch.iter().any(stray) {
        return Err(bad_format("retainKeys"));
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// A value that is new to the document: nulls and directives have nothing to act on, and an object with
/// [`DIRECTIVE`] has no place there at all.
fn without_directives(value: Value) -> Value {
    let acts = |value: &Value| value.get(DIRECTIVE).is_some();
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(name, value)| !value.is_null() && !is_directive(name) && !acts(value))
                .map(|(name, value)| (name, without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => {
            items.into_iter().filter(|item| !acts(item)).map(without_directives).collect()
        }
        scalar => scalar,
    }
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE
        || name == RETAIN_KEYS
        || name.starts_with(DELETE_FROM)
        || name.starts_with(ELEMENT_ORDER)
}

fn bad_format(what: &str) -> PatchError {
    PatchError::Malformed(format!("invalid patch format of {what}"))
}

fn unknown_directive(patch: &Object) -> PatchError {
    let directive = match &patch[DIRECTIVE] {
        Value::String(text) => text.clone(),
        // Where a text is printed, Go shows anything else with its type.
        other => format!("%!s({}={})", super::go_type(other), go_syntax(other)),
    };
    let shown = go_syntax(&Value::Object(patch.clone()));
    PatchError::Unusable(format!("unknown patch type: {directive} in map: {shown}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;
    use crate::schema::struct_named;

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/1", "x/2"]},
               "spec": {"containers": containers, "tolerations": [{"key": "x"}]}})
    }

    fn patched(patch: Value) -> Result<Value, PatchError> {
        let document = pod(json!([
            {"name": "one", "image": "i:1", "args": ["-a"], "env": [{"name": "A", "value": "1"}],
             "ports": [{"containerPort": 80, "name": "web"}]},
            {"name": "two", "image": "i:2"},
        ]));
        let schema = struct_named("core.v1.Pod").expect("known");
        let (patch, _) = read(patch.to_string().as_bytes())?;
        apply(document, patch, schema)
    }

    fn names(document: &Value, pointer: &str) -> Vec<String> {
        let list = document.pointer(pointer).and_then(Value::as_array).expect("a list");
        list.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn keyed_lists_merge_by_their_key() {
        let containers = json!([{"name": "two", "image": "i:3"}, {"name": "new", "image": "n"}]);
        let out = patched(json!({"spec": {"containers": containers}})).expect("applies");
        assert_eq!(names(&out, "/spec/containers"), ["one", "two", "new"]);
        assert_eq!(out["spec"]["containers"][1]["image"], "i:3");
        let out = patched(json!({"spec": {"containers": [{"name": "new"}]}})).expect("applies");
        assert_eq!(names(&out, "/spec/containers"), ["new", "one", "two"]);
        let env = json!([{"name": "B", "value": "2"}]);
        let out = patched(json!({"spec": {"containers": [{"name": "one", "env": env}]}}))
            .expect("applies");
        assert_eq!(names(&out, "/spec/containers/0/env"), ["B", "A"]);
    }

    #[test]
    fn the_selector_of_a_budget_is_replaced_as_a_whole() {
        let kinds = crate::kinds::builtin();
        let kind = kinds.get("policy", "v1", "poddisruptionbudgets").expect("served");
        let budget = |selector: Value| json!({"spec": {"minAvailable": 1, "selector": selector}});
        let old = budget(json!({"matchLabels": {"a": "b"}}));
        let new = budget(json!({"matchLabels": {"c": "d"}}));
        let patch = new.as_object().cloned().expect("a patch");
        assert_eq!(apply(old, patch, &kind.schema).expect("applies"), new);
    }

    #[test]
    fn directives_act_on_lists_and_maps() {
        let delete = json!({"spec": {"containers": [{"name": "two", "$patch": "delete"}]}});
        assert_eq!(names(&patched(delete).expect("applies"), "/spec/containers"), ["one"]);
        let replace = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "only"}]}});
        assert_eq!(names(&patched(replace).expect("applies"), "/spec/containers"), ["only"]);
        let map = json!({"metadata": {"labels": {"$patch": "replace", "c": "d"}}});
        assert_eq!(patched(map).expect("applies")["metadata"]["labels"], json!({"c": "d"}));
        let primitive = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/1"]}});
        let out = patched(primitive).expect("applies");
        assert_eq!(out["metadata"]["finalizers"], json!(["x/2"]));
        let order =
            json!({"spec": {"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}]}});
        assert_eq!(names(&patched(order).expect("applies"), "/spec/containers"), ["two", "one"]);
        let retain = json!({"spec": {"$retainKeys": ["containers"], "containers": []}});
        assert_eq!(patched(retain).expect("applies")["spec"].get("tolerations"), None);
    }

    #[test]
    fn other_lists_are_replaced_and_sets_are_joined() {
        let out = patched(json!({"spec": {"tolerations": [{"key": "y"}]}})).expect("applies");
        assert_eq!(out["spec"]["tolerations"], json!([{"key": "y"}]));
        let out = patched(json!({"metadata": {"finalizers": ["x/3"]}})).expect("applies");
        assert_eq!(out["metadata"]["finalizers"], json!(["x/3", "x/1", "x/2"]));
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        for (patch, message) in [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"containers": [{"name": "one", "$patch": "explode"}]}}),
                "unknown patch type: explode in map: map[$patch:explode name:one]",
            ),
            (
                json!({"spec": {"containers": [{"name": "one", "$patch": 1}]}}),
                "unknown patch type: %!s(int64=1) in map: map[$patch:1 name:one]",
            ),
            (
                json!({"spec": {"$setElementOrder/foo": []}}),
                "unable to find api field in struct PodSpec for the json field \"foo\"",
            ),
            (
                json!({"metadata": {"$setElementOrder/finalizers": "x"}}),
                "expected a []interface {}, but received a string",
            ),
            (
                json!({"spec": {"$setElementOrder/containers": [{"x": 1}]}}),
                "map: map[x:1] does not contain declared merge key: name",
            ),
            (
                json!({"metadata": {"finalizers": [null]}}),
                "list element types are not identical: [[x/1 x/2] [<nil>]]",
            ),
            (json!({"spec": {"$retainKeys": "x"}}), "invalid patch format of retainKeys"),
            (
                json!([1]),
                "json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
        ] {
            assert_eq!(patched(patch).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn damaged_patches_never_panic() {
        let seed = br#"{"spec":{"containers":[{"name":"one","$patch":"delete"},{"name":"z","ports":[{"containerPort":80}]}],"$setElementOrder/containers":[{"name":"z"}],"$retainKeys":["containers"]},"metadata":{"$deleteFromPrimitiveList/finalizers":["x/1"]}}"#;
        let schema = struct_named("core.v1.Pod").expect("known");
        mutation::each(seed, 5_000, |patch| {
            let document = pod(json!([{"name": "one", "ports": [{"containerPort": 80}]}]));
            if let Ok((patch, _)) = read(patch) {
                let _ = apply(document, patch, schema);
            }
        });
    }
}
