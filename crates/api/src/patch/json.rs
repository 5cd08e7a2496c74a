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

/// Why an operation does not fit the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("{0}")]
    DoesNotApply(String),
    #[error("testing value {0} failed: test failed")]
    FailedTest(String),
}

/// Applies a JSON patch.
pub fn apply(document: Value, patch: &[u8]) -> Result<Value, PatchError> {
    apply_operations(document, &operations(patch)?).map_err(|_| PatchError::DoesNotApply)
}

/// Applies operations that are read already, saying what is wrong with one that does not fit.
pub fn apply_operations(
    document: Value,
    operations: &[Map<String, Value>],
) -> Result<Value, Misfit> {
    let mut editor = Editor { document, copied: 0 };
    for operation in operations {
        editor.perform(operation)?;
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
    fn perform(&mut self, operation: &Map<String, Value>) -> Result<(), Misfit> {
        let name = operation.get("op").and_then(Value::as_str).unwrap_or("");
        let pointer = |field: &str| {
            let text = operation.get(field).and_then(Value::as_str);
            let parsed = text.and_then(|text| Some((text, Pointer::parse(text)?)));
            parsed.ok_or_else(|| {
                misfit(format!("{name} operation failed to decode {field}"), MISSING)
            })
        };
        let (text, path) = pointer("path")?;
        let value = || {
            let given = operation.get("value").cloned();
            given.ok_or_else(|| misfit("operation, missing value field", MISSING))
        };
        match name {
            "add" => add(&mut self.document, text, &path, value()?),
            "remove" => remove(&mut self.document, text, &path).map(drop),
            "replace" => replace(&mut self.document, text, &path, value()?),
            "move" => {
                let (from, source) = pointer("from")?;
                let value = remove(&mut self.document, from, &source)?;
                add(&mut self.document, text, &path, value)
            }
            "copy" => {
                let (from, source) = pointer("from")?;
                let value = get(&self.document, &source).cloned().ok_or_else(|| {
                    misfit(
                        format!("copy operation does not apply: doc is missing from path: {from}"),
                        MISSING,
                    )
                })?;
                self.copied += value.to_string().len();
                if self.copied > MAX_COPIED {
                    return Err(misfit("copy", "the copied values are too large"));
                }
                add(&mut self.document, text, &path, value)
            }
            "test" => {
                let wanted = operation.get("value").unwrap_or(&Value::Null);
                let found = get(&self.document, &path).unwrap_or(&Value::Null);
                (found == wanted).then_some(()).ok_or_else(|| Misfit::FailedTest(text.to_owned()))
            }
            other => Err(Misfit::DoesNotApply(format!("Unexpected kind: {other}"))),
        }
    }
}

const MISSING: &str = "missing value";
const BAD_INDEX: &str = "invalid index referenced";

fn misfit(what: impl std::fmt::Display, why: &str) -> Misfit {
    Misfit::DoesNotApply(format!("{what}: {why}"))
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
    (parent.is_object() || parent.is_array()).then_some((parent, last))
}

fn bad_index(operation: &str, text: &str, step: &str) -> Misfit {
    let what =
        format!("error in {operation} for path: '{text}': Unable to access invalid index: {step}");
    misfit(what, BAD_INDEX)
}

fn add(document: &mut Value, text: &str, path: &Pointer, value: Value) -> Result<(), Misfit> {
    if path.0.is_empty() {
        *document = value;
        return Ok(());
    }
    match parent(document, path) {
        Some((Value::Object(map), key)) => drop(map.insert(key.to_owned(), value)),
        Some((Value::Array(items), "-")) => items.push(value),
        Some((Value::Array(items), step)) => {
            let at = index(step, items.len() + 1).filter(|at| *at <= items.len());
            items.insert(at.ok_or_else(|| bad_index("add", text, step))?, value);
        }
        _ => {
            let what = format!("add operation does not apply: doc is missing path: {text:?}");
            return Err(misfit(what, MISSING));
        }
    }
    Ok(())
}

fn remove(document: &mut Value, text: &str, path: &Pointer) -> Result<Value, Misfit> {
    match parent(document, path) {
        Some((Value::Object(map), key)) => map.remove(key).ok_or_else(|| {
            let what = format!(
                "error in remove for path: '{text}': Unable to remove nonexistent key: {key}"
            );
            misfit(what, MISSING)
        }),
        Some((Value::Array(items), step)) => {
            let at = index(step, items.len()).filter(|at| *at < items.len());
            Ok(items.remove(at.ok_or_else(|| bad_index("remove", text, step))?))
        }
        _ => {
            let what = format!("remove operation does not apply: doc is missing path: {text:?}");
            Err(misfit(what, MISSING))
        }
    }
}

fn replace(document: &mut Value, text: &str, path: &Pointer, value: Value) -> Result<(), Misfit> {
    if path.0.is_empty() {
        *document = value;
        return Ok(());
    }
    match parent(document, path) {
        Some((Value::Object(map), key)) => drop(map.insert(key.to_owned(), value)),
        Some((Value::Array(items), step)) => {
            let item = index(step, items.len()).and_then(|at| items.get_mut(at));
            let missing = format!("replace operation does not apply: doc is missing key: {text}");
            *item.ok_or_else(|| misfit(missing, MISSING))? = value;
        }
        _ => {
            let what = format!("replace operation does not apply: doc is missing path: {text}");
            return Err(misfit(what, MISSING));
        }
    }
    Ok(())
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
    fn a_misfit_says_what_is_missing() {
        let misfit = |patch: Value| {
            let operations: Vec<Map<String, Value>> =
                serde_json::from_value(patch).expect("operations");
            let document = json!({"data": {"k": "v"}, "list": [1]});
            apply_operations(document, &operations).expect_err("does not fit").to_string()
        };
        for (patch, wanted) in [
            (
                json!([{"op": "remove", "path": "/data/none"}]),
                "error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
            ),
            (
                json!([{"op": "add", "path": "/none/x", "value": 1}]),
                r#"add operation does not apply: doc is missing path: "/none/x": missing value"#,
            ),
            (
                json!([{"op": "add", "path": "/list/7", "value": 1}]),
                "error in add for path: '/list/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!([{"op": "test", "path": "/data/k", "value": "w"}]),
                "testing value /data/k failed: test failed",
            ),
        ] {
            assert_eq!(misfit(patch), wanted);
        }
    }

    #[test]
    fn damaged_patches_never_panic() {
        let seed = br#"[{"op":"copy","from":"/a/0","path":"/b~1c/-"},{"op":"test","path":"/a/-1","value":1}]"#;
        mutation::each(seed, 10_000, |patch| {
            let _ = apply(json!({"a": [1, 2], "b/c": []}), patch);
        });
    }
}
