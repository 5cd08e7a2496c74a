//! Places inside an object and what is wrong there.
//!
//! Validation walks an object with a borrowed [`Path`] and pushes [`FieldError`]s; the API edge
//! turns them into the causes of one Status. Counterpart: `apimachinery/pkg/util/validation/field`.
//! Invariant: paths and messages read exactly as upstream prints them (`spec.ports[0].name`).

use std::fmt;

use serde_json::Value;

/// A place in an object, built on the stack while walking down.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    /// The object itself; printed as `<nil>` when nothing follows.
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

/// Upstream's `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

/// One fault of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorType,
    pub field: String,
    pub bad_value: Option<Value>,
    /// How the bad value reads where that is not its JSON: upstream's internal structs.
    pub printed: Option<String>,
    pub detail: String,
}

/// The faults found so far, in the order upstream reports them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<FieldError>, Vec<String>);

// === impl Path ===

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Child(name) }
    }

    pub fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Child(name) }
    }

    pub fn index(&self, at: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(at) }
    }

    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// The object itself.
    pub fn is_root(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Root)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = match self.parent {
            Some(Path { step: Step::Root, parent: None }) | None => false,
            Some(parent) => {
                write!(f, "{parent}")?;
                true
            }
        };
        match self.step {
            Step::Root => f.write_str("<nil>"),
            Step::Child(name) if inside => write!(f, ".{name}"),
            Step::Child(name) => f.write_str(name),
            Step::Index(at) => write!(f, "[{at}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

// === impl ErrorList ===

impl ErrorList {
    /// Something that is wrong but forgiven: the client is warned, whatever becomes of the request.
    pub fn warn(&mut self, text: String) {
        self.1.push(text);
    }

    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(ErrorType::Required, path, None, detail);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(ErrorType::Duplicate, path, Some(value.into()), "");
    }

    pub fn duplicate_because(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.push(ErrorType::Duplicate, path, Some(value.into()), detail);
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, Some(value.into()), detail);
    }

    /// As [`ErrorList::invalid`], with nothing shown.
    pub fn invalid_unshown(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, None, detail);
    }

    pub fn type_invalid(
        &mut self,
        path: &Path<'_>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(ErrorType::TypeInvalid, path, Some(value.into()), detail);
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(ErrorType::NotFound, path, Some(value.into()), "");
    }

    pub fn not_found_because(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: String) {
        self.push(ErrorType::NotFound, path, Some(value.into()), detail);
    }

    pub fn internal(&mut self, path: &Path<'_>, detail: String) {
        self.push(ErrorType::Internal, path, None, detail);
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(ErrorType::Forbidden, path, None, detail);
    }

    /// As [`ErrorList::invalid`], for a value whose print is not its JSON.
    pub fn invalid_printed(&mut self, path: &Path<'_>, printed: String, detail: impl Into<String>) {
        self.invalid(path, Value::Null, detail);
        self.print_last(printed);
    }

    /// Lets the last fault show a value that prints in another form than its JSON.
    pub fn print_last(&mut self, printed: String) {
        if let Some(last) = self.0.last_mut() {
            last.printed = Some(printed);
        }
    }

    /// `Unsupported value: "x": supported values: "a", "b"`; the values are printed in the given order.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = match list.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", list.join(", ")),
        };
        self.push(ErrorType::NotSupported, path, Some(value.into()), detail);
    }

    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.push(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.push(ErrorType::TooMany, path, Some(actual.into()), detail);
    }

    fn push(
        &mut self,
        kind: ErrorType,
        path: &Path<'_>,
        bad_value: Option<Value>,
        detail: impl Into<String>,
    ) {
        let (field, detail) = (path.to_string(), detail.into());
        self.0.push(FieldError { kind, field, bad_value, printed: None, detail });
    }
}

// === impl ErrorType ===

impl ErrorType {
    /// The reason of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }
}

// === impl FieldError ===

impl FieldError {
    /// The message without the field, as a cause carries it.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let Some(value) = &self.bad_value {
            text.push_str(": ");
            text.push_str(&match &self.printed {
                Some(printed) => html_safe(printed),
                None => shown(value),
            });
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A bad value as upstream prints it: text quoted, everything else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => html_safe(&other.to_string()),
    }
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..' ' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// Go's JSON keeps markup out of texts.
fn html_safe(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_upstream_prints_them() {
        let spec = Path::new("spec");
        let ports = spec.child("ports");
        let port = ports.index(0);
        assert_eq!(port.child("name").to_string(), "spec.ports[0].name");
        let annotations = Path::new("metadata");
        let annotations = annotations.child("annotations");
        assert_eq!(annotations.key("a/b").to_string(), "metadata.annotations[a/b]");
        assert_eq!(Path::ROOT.child("spec").to_string(), "spec");
    }

    #[test]
    fn messages_read_as_upstream_prints_them() {
        let mut errors = ErrorList::default();
        errors.invalid(&Path::new("replicas"), -1, "must be greater than or equal to 0");
        errors.not_supported(&Path::new("type"), "x", &["A", "B"]);
        errors.required(&Path::new("name"), "");
        let texts: Vec<String> = errors.0.iter().map(FieldError::to_string).collect();
        assert_eq!(texts[0], "replicas: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(texts[1], r#"type: Unsupported value: "x": supported values: "A", "B""#);
        assert_eq!(texts[2], "name: Required value");
    }

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(shown(&"a\"b\u{1}\n\u{e9}'".into()), "\"a\\\"b\\x01\\n\u{e9}'\"");
        assert_eq!(shown(&serde_json::json!({"a": "<&>"})), r#"{"a":"\u003c\u0026\u003e"}"#);
    }
}
