//! RFC 6902: a patch is a list of operations on places of a document.
//!
//! Differs from the RFC as upstream does: `replace` of a map key that does not exist adds it.

use serde_json::{Map, Value};

use super::PatchError;
use crate::codec::Node;

/// Upstream's limit against amplification by `copy`.
pub const MAX_OPERATIONS: usize = 10_000;

/// Upstream's limit on the bytes that `copy` operations may add.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
pub fn apply(document: Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations = operations(patch)?;
    let mut editor = Editor { document, copied: 0 };
    for operation in &operations {
        editor.perform(operation).ok_or(PatchError::DoesNotApply)?;
    }
    Ok(editor.document)
}

fn operations(patch: &[u8]) -> Result<Vec<Map<String, Value>>, PatchError> {
    let fault = |text: String| PatchError::Malformed(format!("error decoding patch: {text}"));
    let items = match super::parse(patch).map_err(fault)? {
        Node::List(items) => items,
        Node::Null => Vec::new(),
        other => {
            let name = other.type_name();
            return Err(fault(format!(
                "json: cannot unmarshal {name} into Go value of type []handlers.jsonPatchOp"
            )));
        }
    };
    if items.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { limit: MAX_OPERATIONS, count: items.len() });
    }
    let operation = |item: Node| match item.into_value() {
        Value::Object(map) => Ok(map),
        _ => Err(fault(
            "json: cannot unmarshal value into Go value of type handlers.jsonPatchOp".into(),
        )),
    };
    items.into_iter().map(operation).collect()
}

struct Editor {
    document: Value,
    copied: usize,
}

impl Editor {
    /// `None` if the operation does not fit the document.
    fn perform(&mut self, operation: &Map<String, Value>) -> Option<()> {
        let path = Pointer::parse(operation.get("path")?.as_str()?)?;
        let from = || Pointer::parse(operation.get("from")?.as_str()?);
        match operation.get("op")?.as_str()? {
            "add" => add(&mut self.document, &path, operation.get("value")?.clone()),
            "remove" => remove(&mut self.document, &path).map(drop),
            "replace" => replace(&mut self.document, &path, operation.get("value")?.clone()),
            "move" => {
                let value = remove(&mut self.document, &from()?)?;
                add(&mut self.document, &path, value)
            }
            "copy" => {
                let value = get(&self.document, &from()?)?.clone();
                self.copied += value.to_string().len();
                (self.copied <= MAX_COPIED).then_some(())?;
                add(&mut self.document, &path, value)
            }
            "test" => {
                let wanted = operation.get("value").unwrap_or(&Value::Null);
                let found = get(&self.document, &path).unwrap_or(&Value::Null);
                (found == wanted).then_some(())
            }
            _ => None,
        }
    }
}

fn get<'a>(document: &'a Value, path: &Pointer) -> Option<&'a Value> {
    path.0.iter().try_fold(document, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(items) => items.get(index(step, items.len())?),
        _ => None,
    })
}

fn parent<'a, 'p>(document: &'a mut Value, path: &'p Pointer) -> Option<(&'a mut Value, &'p str)> {
    let (last, above) = path.0.split_last()?;
    let parent = above.iter().try_fold(document, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(items) => {
            let at = index(step, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })?;
    Some((parent, last))
}

fn add(document: &mut Value, path: &Pointer, value: Value) -> Option<()> {
    if path.0.is_empty() {
        *document = value;
        return Some(());
    }
    match parent(document, path)? {
        (Value::Object(map), key) => drop(map.insert(key.to_owned(), value)),
        (Value::Array(items), "-") => items.push(value),
        (Value::Array(items), step) => {
            let at = index(step, items.len() + 1)?;
            (at <= items.len()).then(|| items.insert(at, value))?;
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &Pointer) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(map), key) => map.remove(key),
        (Value::Array(items), step) => {
            let at = index(step, items.len())?;
            (at < items.len()).then(|| items.remove(at))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &Pointer, value: Value) -> Option<()> {
    if path.0.is_empty() {
        *document = value;
        return Some(());
    }
    match parent(document, path)? {
        (Value::Object(map), key) => drop(map.insert(key.to_owned(), value)),
        (Value::Array(items), step) => {
            let at = index(step, items.len())?;
            *items.get_mut(at)? = value;
        }
        _ => return None,
    }
    Some(())
}

/// A list index; a negative one counts from the end.
fn index(step: &str, len: usize) -> Option<usize> {
    let at: i64 = step.parse().ok()?;
    match at < 0 {
        true => usize::try_from(at + len as i64).ok(),
        false => usize::try_from(at).ok(),
    }
}

/// RFC 6901.
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Option<Pointer> {
        if text.is_empty() {
            return Some(Pointer(Vec::new()));
        }
        let steps = text.strip_prefix('/')?.split('/');
        Some(Pointer(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    fn patched(patch: Value) -> Result<Value, PatchError> {
        let document = json!({"data": {"k": "v", "a/b": "c"}, "list": [1, 2, 3]});
        apply(document, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_edit_the_document() {
        for (patch, wanted) in [
            (
                json!([{"op": "add", "path": "/data/n", "value": "1"}]),
                json!({"data": {"k": "v", "a/b": "c", "n": "1"}, "list": [1, 2, 3]}),
            ),
            (
                json!([{"op": "remove", "path": "/data/a~1b"}]),
                json!({"data": {"k": "v"}, "list": [1, 2, 3]}),
            ),
            (
                json!([{"op": "replace", "path": "/data/none", "value": "x"}, {"op": "remove", "path": "/data/a~1b"}]),
                json!({"data": {"k": "v", "none": "x"}, "list": [1, 2, 3]}),
            ),
            (
                json!([{"op": "move", "from": "/data/k", "path": "/list/-"}]),
                json!({"data": {"a/b": "c"}, "list": [1, 2, 3, "v"]}),
            ),
            (
                json!([{"op": "add", "path": "/list/1", "value": 9}, {"op": "remove", "path": "/list/-1"}]),
                json!({"data": {"k": "v", "a/b": "c"}, "list": [1, 9, 2]}),
            ),
            (
                json!([{"op": "test", "path": "/data/k", "value": "v"}, {"op": "replace", "path": "", "value": {}}]),
                json!({}),
            ),
        ] {
            assert_eq!(patched(patch.clone()), Ok(wanted), "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for patch in [
            json!([{"op": "test", "path": "/data/k", "value": "zzz"}]),
            json!([{"op": "remove", "path": "/data/none"}]),
            json!([{"op": "add", "path": "/none/x", "value": "x"}]),
            json!([{"op": "frob", "path": "/data/k"}]),
            json!([{"op": "add", "value": "x"}]),
            json!([{"op": "add", "path": "/list/9", "value": "x"}]),
        ] {
            assert_eq!(patched(patch.clone()), Err(PatchError::DoesNotApply), "{patch}");
        }
        assert_eq!(
            patched(json!({"op": "add"})).unwrap_err().to_string(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        let many = vec![json!({"op": "test", "path": ""}); MAX_OPERATIONS + 1];
        let error = patched(many.into()).unwrap_err();
        assert_eq!(error.into_status().code, 413);
    }

    #[test]
    fn damaged_patches_never_panic() {
        let seed = br#"[{"op":"copy","from":"/a/0","path":"/b~1c/-"},{"op":"test","path":"/a/-1","value":1}]"#;
        mutation::each(seed, 10_000, |patch| {
            let _ = apply(json!({"a": [1, 2], "b/c": []}), patch);
        });
    }
}
