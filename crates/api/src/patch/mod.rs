//! The three kinds of patch that change a document directly.
//!
//! Patch text -> [`Patch`], read once; document + patch -> object, or a [`PatchError`] that becomes
//! upstream's Status. Server-side apply is in [`crate::apply`], as it needs to know who owns what.
//! Counterpart: `apiserver/pkg/endpoints/handlers/patch.go`.

pub mod json;
mod merge;
mod shown;
mod strategic;

use serde_json::{Map, Value};

use crate::codec::{self, Decoded, Node, Target};
use crate::field::{ErrorList, Path};
use crate::kind::GroupKind;
use crate::status::{Reason, Status};

/// The language a patch is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Json,
    Merge,
    Strategic,
}

/// What becomes of unknown and repeated fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// They are not looked for, in the patch itself.
    Ignore,
    /// They are findings.
    Report,
    /// They refuse the patch.
    Refuse,
}

/// A patch that could be read.
pub struct Patch {
    change: Change,
    /// What strict decoding finds in the patch itself.
    findings: Vec<String>,
    strictness: Strictness,
}

enum Change {
    Json(Vec<json::Operation>),
    Merge(Value),
    Strategic(Map<String, Value>),
}

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no JSON or of the wrong shape.
    #[error("{0}")]
    Malformed(String),
    /// A JSON patch that does not fit the document; upstream hides the reason from the client.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply,
    #[error(
        "Request entity too large: The allowed maximum operations in a JSON patch is {limit}, got {count}"
    )]
    TooManyOperations { limit: usize, count: usize },
    /// A strategic merge patch that the schema has no sense for.
    #[error("{0}")]
    Unusable(String),
}

impl PatchError {
    pub fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            PatchError::Malformed(_) => Status::bad_request(message),
            PatchError::DoesNotApply => {
                Status::new(422, Reason::Invalid, message).with_details(Default::default())
            }
            PatchError::TooManyOperations { .. } => {
                Status::new(413, Reason::RequestEntityTooLarge, message)
            }
            PatchError::Unusable(_) => Status::new(500, Reason::Unknown, message),
        }
    }
}

// === impl Patch ===

impl Patch {
    /// Reads a patch; the words of a refusal depend on how strictly it was to be read.
    pub fn read(
        language: Language,
        text: &[u8],
        strictness: Strictness,
    ) -> Result<Patch, PatchError> {
        let (change, findings) = match language {
            Language::Json => {
                let (operations, findings) = json::read(text, strictness)?;
                (Change::Json(operations), findings)
            }
            Language::Merge => {
                let (patch, findings) = merge::read(text, strictness)?;
                (Change::Merge(patch), findings)
            }
            Language::Strategic => {
                let (patch, findings) = strategic::read(text)?;
                (Change::Strategic(patch), findings)
            }
        };
        let findings = if strictness == Strictness::Ignore { Vec::new() } else { findings };
        Ok(Patch { change, findings, strictness })
    }

    /// What the patch makes of a document, held against its kind.
    pub fn apply(&self, document: Value, target: &Target<'_>) -> Result<Decoded, Status> {
        let (patched, strategic) = match &self.change {
            Change::Json(operations) => (json::apply(document, operations), false),
            Change::Merge(patch) => (Ok(merge::apply(document, patch.clone())), false),
            Change::Strategic(patch) => {
                (strategic::apply(document, patch.clone(), &target.schema), true)
            }
        };
        let patched = patched.map_err(PatchError::into_status)?;
        let invalid = |patched: &Value, why: &str| invalid_result(self.shown(patched, target), why);
        let result = match strategic {
            true => decode_tree(&patched, target),
            false => codec::decode_patched(patched.clone(), target).map_err(|it| it.to_string()),
        };
        let mut decoded = result.map_err(|why| invalid(&patched, &why))?;
        decoded.strict.splice(0..0, self.findings.iter().cloned());
        match (self.strictness, codec::strict_text(&decoded.strict)) {
            (Strictness::Refuse, Some(found)) => Err(invalid(&patched, &found)),
            _ => Ok(decoded),
        }
    }

    /// How an error shows what is wrong: the patched document, or a strategic patch itself.
    fn shown(&self, patched: &Value, target: &Target<'_>) -> String {
        let schema = (!target.custom).then_some(&*target.schema);
        match &self.change {
            Change::Json(operations) => {
                shown::shown(patched, schema, &shown::Touched::by_operations(operations))
            }
            Change::Merge(patch) => shown::shown(patched, schema, &shown::Touched::by_merge(patch)),
            Change::Strategic(patch) => go_syntax(&Value::Object(patch.clone())),
        }
    }
}

/// A strategic patch makes a tree that never becomes JSON again: its kind is not read, its faults
/// have words of their own, and findings come sorted.
fn decode_tree(patched: &Value, target: &Target<'_>) -> Result<Decoded, String> {
    if let Some(fault) = codec::unstructured_fault(patched, &target.schema) {
        return Err(fault);
    }
    let node = Node::from(patched.clone());
    let mut decoded = codec::decode_as(node, target).map_err(|error| error.to_string())?;
    decoded.strict.sort();
    Ok(decoded)
}

/// The answer when a patched document does not fit its kind: `"" is invalid: patch: ...`.
fn invalid_result(shown: String, error: &str) -> Status {
    let mut errors = ErrorList::default();
    errors.invalid(&Path::new("patch"), shown, error);
    let mut status = Status::invalid(&GroupKind::new("", ""), "", errors);
    if let Some(details) = &mut status.details {
        details.kind.clear();
    }
    status
}

/// A value as Go's `%v` prints it: `map[spec:map[replicas:five]]`.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_syntax(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        Value::Number(number) if number.is_f64() => go_float(number.as_f64().unwrap_or_default()),
        scalar => scalar.to_string(),
    }
}

/// A value's type as Go's `%T` names it.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A float as Go's `%v` prints it: short, with an exponent when it is very large or small.
fn go_float(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-4..1e21).contains(&size) {
        return float.to_string();
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn parse(patch: &[u8]) -> Result<Node, String> {
    codec::parse_json(patch).map_err(|error| error.to_string())
}
