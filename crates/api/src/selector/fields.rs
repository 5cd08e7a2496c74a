//! Field selectors: `metadata.name=a,status.phase!=Running`, on the fields a kind supports.
//!
//! Upstream words the refusal of an unknown field in three ways, depending on how a kind came to
//! have selectable fields; [`unsupported`] keeps them apart.

use serde_json::Value;

use crate::kind::KindDef;
use crate::schema::Schema;
use crate::status::Status;

/// Terms that must all hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub field: String,
    /// Where the value is, as a JSON pointer.
    pub pointer: String,
    /// Where it is when it is not there.
    pub instead: Option<String>,
    pub value: String,
    pub equal: bool,
    /// What an absent field reads as: a built-in boolean or number that is false or zero is left out of JSON.
    pub absent: &'static str,
}

/// One term of a selector, whatever kind it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// Whether the field must have the value, or must not.
    pub equal: bool,
}

impl FieldRequirement {
    /// Reads a selector for those who do not know the kind, such as authorisation.
    pub fn parse_all(text: &str) -> Result<Vec<FieldRequirement>, String> {
        let parts = split_terms(text).into_iter().filter(|part| !part.is_empty());
        parts
            .map(|part| {
                let (field, value, equal) = split_term(part).ok_or_else(|| {
                    format!("invalid selector: '{text}'; can't understand '{part}'")
                })?;
                let value = unescape(value)?;
                Ok(FieldRequirement { field: field.to_owned(), value, equal })
            })
            .collect()
    }
}

impl Fields {
    /// Reads the text of a `fieldSelector` parameter for a kind.
    pub fn parse(text: &str, kind: &KindDef) -> Result<Fields, Status> {
        let mut terms = Vec::new();
        for part in split_terms(text).into_iter().filter(|part| !part.is_empty()) {
            let (field, value, equal) = split_term(part).ok_or_else(|| {
                Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            let value = unescape(value).map_err(Status::bad_request)?;
            if field.is_empty() && value.is_empty() {
                continue;
            }
            let pointer = pointer_of(field, kind)
                .ok_or_else(|| Status::bad_request(unsupported(field, kind)))?;
            let (pointer, instead) = match pointer.split_once('|') {
                Some((first, instead)) => (first.to_owned(), Some(instead.to_owned())),
                None => (pointer, None),
            };
            let absent = absent(&pointer, kind);
            terms.push(Term { field: field.to_owned(), pointer, instead, value, equal, absent });
        }
        Ok(Fields { terms })
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let instead = || object.pointer(term.instead.as_deref()?);
            let value = object.pointer(&term.pointer).or_else(instead);
            (text_of(value, term.absent) == term.value.as_str()) == term.equal
        })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must have, such as the one name a list is about.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.field == field && term.equal)
            .map(|term| term.value.as_str())
    }

    pub(super) fn terms(&self) -> &[Term] {
        &self.terms
    }
}

/// A field's value as selectors compare it: text as it is, other scalars printed.
fn text_of<'a>(value: Option<&'a Value>, absent: &'a str) -> std::borrow::Cow<'a, str> {
    match value {
        Some(Value::String(text)) => text.as_str().into(),
        None | Some(Value::Null) => absent.into(),
        Some(other) => other.to_string().into(),
    }
}

/// A custom resource's absent field is empty text whatever its type.
fn absent(pointer: &str, kind: &KindDef) -> &'static str {
    if kind.custom {
        return "";
    }
    let mut schema = Schema::Struct(kind.schema.clone());
    for step in pointer.split('/').skip(1) {
        let Schema::Struct(fields) = &schema else { return "" };
        let Some(field) = fields.field(step) else { return "" };
        schema = field.schema.clone();
    }
    match schema {
        Schema::Bool => "false",
        Schema::Int32 | Schema::Int64 => "0",
        _ => "",
    }
}

fn pointer_of(field: &str, kind: &KindDef) -> Option<String> {
    match field {
        "metadata.name" => Some("/metadata/name".to_owned()),
        "metadata.namespace" if kind.namespaced || !has_own_fields(kind) => {
            Some("/metadata/namespace".to_owned())
        }
        _ => {
            let own = kind.strategy.selectable_fields().iter().copied();
            let declared = kind.selectable.iter().map(|(name, at)| (name.as_str(), at.as_str()));
            own.chain(declared).find(|(name, _)| *name == field).map(|(_, at)| at.to_owned())
        }
    }
}

fn has_own_fields(kind: &KindDef) -> bool {
    !kind.strategy.selectable_fields().is_empty()
}

/// How upstream refuses a field that cannot be selected.
fn unsupported(field: &str, kind: &KindDef) -> String {
    match kind.group.as_str() {
        _ if !has_own_fields(kind) && !kind.custom => {
            format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        }
        "resource.k8s.io" => {
            let version = kind.api_version();
            format!("field label not supported for {version}, Kind={}: {field}", kind.kind)
        }
        "batch" => format!("field label {field:?} not supported for {}", kind.kind),
        _ => format!("field label not supported: {field}"),
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find('=').into_iter().chain(term.find("!=")).min()?;
    let rest = &term[at..];
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((&term[..at], value, equal));
        }
    }
    None
}

/// `\\`, `\,` and `\=` stand for themselves; nothing else may be escaped.
fn unescape(value: &str) -> Result<String, String> {
    let fault = |what: String| Err(format!("invalid field selector: {what}"));
    let mut out = String::new();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return fault(format!("invalid escape sequence: \\{other}"));
                }
            },
            ',' | '=' => return fault(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::selector::{Labels, Scanner};
    use crate::{kinds, mutation};

    fn parse(text: &str, resource: &str) -> Result<Fields, Status> {
        let kinds = kinds::builtin();
        Fields::parse(text, kinds.get("", "v1", resource).expect("served"))
    }

    #[test]
    fn terms_select_by_text() {
        let object = json!({"metadata": {"name": "one", "namespace": "n"}});
        for (text, wanted) in [
            ("", true),
            ("metadata.name=one", true),
            ("metadata.name==one,metadata.namespace!=m", true),
            ("metadata.name!=one", false),
            ("metadata.namespace=m", false),
        ] {
            assert_eq!(parse(text, "configmaps").expect(text).matches(&object), wanted, "{text}");
        }
        let one = parse("metadata.name=a\\,b", "configmaps").expect("valid");
        assert_eq!(one.required("metadata.name"), Some("a,b"));
    }

    #[test]
    fn an_event_without_a_source_is_of_its_reporter() {
        let of =
            |reporter: &str| json!({"metadata": {"name": "e"}, "reportingComponent": reporter});
        let fields = parse("source=kubelet", "events").expect("valid");
        for (event, wanted) in [
            (of("kubelet"), true),
            (of("scheduler"), false),
            (json!({"source": {"component": "kubelet"}, "reportingComponent": "other"}), true),
            (json!({"source": {"component": "other"}, "reportingComponent": "kubelet"}), false),
        ] {
            assert_eq!(fields.matches(&event), wanted, "{event}");
            let (labels, bytes) = (Labels::default(), event.to_string());
            let scanned = Scanner::new(&labels, &fields).matches(bytes.as_bytes());
            assert_eq!(scanned, wanted, "{event}, by its bytes");
        }
    }

    #[test]
    fn a_boolean_that_is_left_out_is_false() {
        let node = json!({"metadata": {"name": "n"}, "spec": {}});
        for (text, wanted) in [
            ("spec.unschedulable=false", true),
            ("spec.unschedulable!=true", true),
            ("spec.unschedulable=true", false),
        ] {
            let fields = parse(text, "nodes").expect(text);
            assert_eq!(fields.matches(&node), wanted, "{text}");
            let (labels, bytes) = (Labels::default(), node.to_string());
            let scanned = Scanner::new(&labels, &fields).matches(bytes.as_bytes());
            assert_eq!(scanned, wanted, "{text}, by its bytes");
        }
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        for (text, message) in [
            (
                "metadata.name",
                "invalid selector: 'metadata.name'; can't understand 'metadata.name'",
            ),
            (
                "metadata.name>one",
                "invalid selector: 'metadata.name>one'; can't understand 'metadata.name>one'",
            ),
            ("metadata.name=a\\", "invalid field selector: invalid escape sequence: \\"),
            ("metadata.name=\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("metadata.name=a=b", "invalid field selector: unescaped character in value: 61"),
            (
                "data.n=1",
                "\"data.n\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
        ] {
            assert_eq!(parse(text, "configmaps").unwrap_err().message, message);
        }
        assert!(parse("=", "configmaps").expect("selects everything").is_everything());
    }

    #[test]
    fn damaged_selectors_never_panic() {
        mutation::each(b"metadata.name=a\\,b,metadata.namespace!=c==d", 5_000, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = parse(text, "configmaps");
            }
        });
    }
}
