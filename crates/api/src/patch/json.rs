//! RFC 6902: a patch is a list of operations on places of a document.
//!
//! Differs from the RFC as upstream does: `replace` of a map key that does not exist adds it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{PatchError, Strictness};
use crate::codec::{self, Node};

/// Upstream's limit against amplification by `copy`.
pub const MAX_OPERATIONS: usize = 10_000;

/// Upstream's limit on the bytes that `copy` operations may add.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// One step of a patch, as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation(Map<String, Value>);

/// Why an operation does not fit a document, as the library upstream uses says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("{0}")]
    DoesNotApply(String),
    #[error("testing value {0} failed: test failed")]
    FailedTest(String),
}

impl From<Map<String, Value>> for Operation {
    fn from(fields: Map<String, Value>) -> Operation {
        Operation(fields)
    }
}

impl Operation {
    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    pub fn path(&self) -> Option<&str> {
        self.text("path")
    }

    pub fn from(&self) -> Option<&str> {
        self.text("from")
    }

    pub fn value(&self) -> Option<&Value> {
        self.0.get("value")
    }
}

/// Reads a JSON patch, and what strict decoding finds in it.
pub fn read(
    text: &[u8],
    strictness: Strictness,
) -> Result<(Vec<Operation>, Vec<String>), PatchError> {
    let typed = strictness != Strictness::Ignore;
    let fault = |text: String| {
        let prefix = if typed { "error decoding patch: " } else { "" };
        PatchError::Malformed(format!("{prefix}{text}"))
    };
    let names = if typed { TYPED } else { UNTYPED };
    let node = super::parse(text).map_err(fault)?;
    let mut findings = Vec::new();
    let items = match node {
        Node::List(items) => items,
        Node::Null => Vec::new(),
        other => return Err(fault(mismatch(&other, names.patch))),
    };
    let mut operations = Vec::with_capacity(items.len().min(MAX_OPERATIONS));
    if items.len() > MAX_OPERATIONS {
        let count = items.len();
        return Err(PatchError::TooManyOperations { limit: MAX_OPERATIONS, count });
    }
    for (at, item) in items.into_iter().enumerate() {
        if typed {
            check_types(&item).map_err(fault)?;
            findings.extend(find(&item, at));
        }
        operations.push(match item.into_value() {
            Value::Object(map) => Operation(map),
            Value::Null => Operation(Map::new()),
            other => return Err(fault(mismatch(&Node::from(other), names.operation))),
        });
    }
    Ok((operations, findings))
}

/// Applies a JSON patch.
pub fn apply(document: Value, operations: &[Operation]) -> Result<Value, PatchError> {
    apply_or_explain(document, operations).map_err(|_| PatchError::DoesNotApply)
}

/// As [`apply`], for those who may be told why not.
pub fn apply_or_explain(document: Value, operations: &[Operation]) -> Result<Value, Misfit> {
    let mut editor = Editor { document, copied: 0 };
    for operation in operations {
        editor.perform(operation).ok_or_else(|| explain(&mut editor.document, operation))?;
    }
    Ok(editor.document)
}

/// What keeps an operation from being performed.
fn explain(document: &mut Value, operation: &Operation) -> Misfit {
    const MISSING: &str = "missing value";
    let name = operation.text("op").unwrap_or("");
    let path = operation.path().unwrap_or("");
    let because = |what: String, why: &str| Misfit::DoesNotApply(format!("{what}: {why}"));
    // What is moved is taken first; what is copied is looked for first.
    let place = match (name, operation.from()) {
        ("move" | "copy", Some(from)) => from,
        _ => path,
    };
    let found = steps(place);
    let parent = found.as_ref().and_then(|steps| parent(document, steps));
    match (name, parent) {
        ("test", _) => Misfit::FailedTest(path.to_owned()),
        ("copy", _) => because(
            format!("copy operation does not apply: doc is missing from path: {place}"),
            MISSING,
        ),
        ("move", None) => because(
            format!("move operation does not apply: doc is missing from path: {place}"),
            MISSING,
        ),
        ("add" | "remove" | "replace", None) => because(
            format!("{name} operation does not apply: doc is missing path: {path:?}"),
            MISSING,
        ),
        ("replace", Some(_)) => because(
            format!("replace operation does not apply: doc is missing key: {path}"),
            MISSING,
        ),
        ("add" | "remove" | "move", Some((Value::Array(_), step))) => because(
            format!("error in {name} for path: '{place}': Unable to access invalid index: {step}"),
            "invalid index referenced",
        ),
        ("move", Some((_, key))) => because(
            format!("error in move for path: '{key}': Unable to remove nonexistent key: {key}"),
            MISSING,
        ),
        ("add" | "remove", Some((_, key))) => because(
            format!("error in {name} for path: '{place}': Unable to remove nonexistent key: {key}"),
            MISSING,
        ),
        _ => Misfit::DoesNotApply(format!("Unexpected kind: {name}")),
    }
}

/// Go's names of what a patch is read into.
struct Names {
    patch: &'static str,
    operation: &'static str,
}

const TYPED: Names = Names { patch: "[]handlers.jsonPatchOp", operation: "handlers.jsonPatchOp" };
const UNTYPED: Names = Names { patch: "jsonpatch.Patch", operation: "jsonpatch.Operation" };

fn mismatch(found: &Node, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", found.type_name())
}

fn check_types(item: &Node) -> Result<(), String> {
    let Node::Map(entries) = item else { return Ok(()) };
    let wrong = entries.iter().find(|(name, value)| {
        matches!(name.as_str(), "op" | "path" | "from")
            && !matches!(value, Node::String(_) | Node::Null)
    });
    match wrong {
        None => Ok(()),
        Some((name, value)) => Err(format!(
            "json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
            value.type_name()
        )),
    }
}

/// Unknown and repeated fields of one operation, in the order in which they stand there.
fn find(item: &Node, at: usize) -> Vec<String> {
    let Node::Map(entries) = item else { return Vec::new() };
    let mut findings = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in entries {
        let known = matches!(name.as_str(), "op" | "path" | "from" | "value");
        match seen.insert(name) {
            true if !known => findings.push(format!("unknown field \"[{at}].{name}\"")),
            false if known => findings.push(format!("duplicate field \"[{at}].{name}\"")),
            _ => {}
        }
        if known && matches!(value, Node::Map(_) | Node::List(_)) {
            // Places count from the list on, in which this operation has its own.
            let alone = Node::List(vec![Node::Map(vec![(name.clone(), value.clone())])]);
            let there = format!("[{at}]");
            let moved = |found: String| found.replacen("[0]", &there, 1);
            findings.extend(codec::repeated_fields(alone).into_iter().map(moved));
        }
    }
    let mut told = HashSet::new();
    findings.retain(|finding| told.insert(finding.clone()));
    findings.into_iter().map(|finding| format!("json patch {finding}")).collect()
}

struct Editor {
    document: Value,
    copied: usize,
}

impl Editor {
    /// `None` if the operation does not fit the document.
    fn perform(&mut self, operation: &Operation) -> Option<()> {
        let path = steps(operation.path()?)?;
        let from = || steps(operation.from()?);
        let value = || operation.value().cloned().unwrap_or_default();
        match operation.text("op")? {
            // A value that is left out is null.
            "add" if path.is_empty() => None,
            "add" => add(&mut self.document, &path, value()),
            "remove" => remove(&mut self.document, &path).map(drop),
            "replace" => replace(&mut self.document, &path, value()),
            "move" => {
                let value = remove(&mut self.document, &from()?)?;
                add(&mut self.document, &path, value)
            }
            "copy" => {
                let value = copied(&self.document, &from()?)?;
                self.copied += value.to_string().len();
                (self.copied <= MAX_COPIED).then_some(())?;
                add(&mut self.document, &path, value)
            }
            "test" => {
                let wanted = operation.value().unwrap_or(&Value::Null);
                let found = get(&self.document, &path).unwrap_or(&Value::Null);
                (found == wanted).then_some(())
            }
            _ => None,
        }
    }
}

fn get<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(items) => items.get(index(step, items.len())?),
        _ => None,
    })
}

/// What a copy takes: null where an object has no such member.
fn copied(document: &Value, from: &[String]) -> Option<Value> {
    match from.split_last() {
        Some((last, above)) if get(document, above)?.is_object() => {
            Some(get(document, above)?.get(last).cloned().unwrap_or_default())
        }
        _ => get(document, from).cloned(),
    }
}

fn parent<'a, 'p>(document: &'a mut Value, path: &'p [String]) -> Option<(&'a mut Value, &'p str)> {
    let (last, above) = path.split_last()?;
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

fn add(document: &mut Value, path: &[String], value: Value) -> Option<()> {
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

fn remove(document: &mut Value, path: &[String]) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(map), key) => map.remove(key),
        (Value::Array(items), step) => {
            let at = index(step, items.len())?;
            (at < items.len()).then(|| items.remove(at))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    if path.is_empty() {
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

/// The steps of a pointer, by RFC 6901.
pub fn steps(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    let steps = pointer.strip_prefix('/')?.split('/');
    Some(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    #[test]
    fn keys_that_a_value_repeats_are_told_with_their_place() {
        let patch =
            br#"[{"op":"test","path":"/a"},{"op":"add","path":"/b","value":{"c":1,"c":2}}]"#;
        let (_, findings) = read(patch, Strictness::Report).expect("readable");
        assert_eq!(findings, ["json patch duplicate field \"[1].value.c\""]);
    }

    #[test]
    fn a_patch_has_so_many_operations_and_no_more() {
        let of = |count: usize| {
            Value::from(vec![json!({"op": "test", "path": "/a"}); count]).to_string()
        };
        assert!(read(of(MAX_OPERATIONS).as_bytes(), Strictness::Report).is_ok());
        let refused = read(of(MAX_OPERATIONS + 1).as_bytes(), Strictness::Report);
        assert!(matches!(refused, Err(PatchError::TooManyOperations { .. })));
    }

    fn patched(patch: Value) -> Result<Value, PatchError> {
        let document = json!({"data": {"k": "v", "a/b": "c"}, "list": [1, 2, 3]});
        let (operations, _) = read(patch.to_string().as_bytes(), Strictness::Report)?;
        apply(document, &operations)
    }

    #[test]
    fn a_copy_of_a_member_that_is_not_there_is_null() {
        let copy = |from: &str| patched(json!([{"op": "copy", "from": from, "path": "/data/k"}]));
        assert_eq!(copy("/none").expect("copied")["data"]["k"], Value::Null);
        assert_eq!(copy("/data/none").expect("copied")["data"]["k"], Value::Null);
        assert!(copy("/list/7").is_err());
        assert!(copy("/none/below").is_err());
    }

    #[test]
    fn unknown_and_repeated_fields_of_operations_are_found() {
        let patch = br#"[{"op":"test"},{"op":"add","why":1,"op":"add","value":{"a":1,"a":2},"x":2,"why":1}]"#;
        let (_, findings) = read(patch, Strictness::Report).expect("readable");
        assert_eq!(
            findings,
            [
                r#"json patch unknown field "[1].why""#,
                r#"json patch duplicate field "[1].op""#,
                r#"json patch duplicate field "[1].value.a""#,
                r#"json patch unknown field "[1].x""#,
            ]
        );
    }

    #[test]
    fn faults_depend_on_what_the_patch_is_read_into() {
        for (patch, strictness, message) in [
            (
                "5",
                Strictness::Ignore,
                "json: cannot unmarshal number into Go value of type jsonpatch.Patch",
            ),
            (
                "[5]",
                Strictness::Refuse,
                "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp",
            ),
            (
                r#"[{"op":5}]"#,
                Strictness::Refuse,
                "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
            ),
        ] {
            let error = read(patch.as_bytes(), strictness).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
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
            json!([{"op": "add", "path": "", "value": {}}]),
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
        let misfit = |operation: Value| {
            let Value::Object(operation) = operation else { unreachable!("written below") };
            let document = json!({"data": {"k": "v"}, "list": [1]});
            let fault = apply_or_explain(document, &[Operation(operation)]);
            fault.expect_err("does not fit").to_string()
        };
        for (operation, wanted) in [
            (
                json!({"op": "remove", "path": "/data/none"}),
                "error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
            ),
            (
                json!({"op": "add", "path": "/none/x", "value": 1}),
                r#"add operation does not apply: doc is missing path: "/none/x": missing value"#,
            ),
            (
                json!({"op": "add", "path": "/list/7", "value": 1}),
                "error in add for path: '/list/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!({"op": "test", "path": "/data/k", "value": "w"}),
                "testing value /data/k failed: test failed",
            ),
        ] {
            assert_eq!(misfit(operation), wanted);
        }
    }

    #[test]
    fn damaged_patches_never_panic() {
        let seed = br#"[{"op":"copy","from":"/a/0","path":"/b~1c/-"},{"op":"test","path":"/a/-1","value":1}]"#;
        mutation::each(seed, 10_000, |patch| {
            if let Ok((operations, _)) = read(patch, Strictness::Report) {
                let _ = apply(json!({"a": [1, 2], "b/c": []}), &operations);
            }
        });
    }
}
