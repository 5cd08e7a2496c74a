//! Named formats: `format.dns1123Label().validate(text)`. Counterpart: `library/format.go` of
//! `k8s.io/apiserver`.
//!
//! Invariant: no answer means that the text has the format.

use std::any::Any;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::library::compile_regex;
use crate::types::Type;
use crate::value::{Evaluated, Opaque, Value};

macro_rules! formats {
    ($($name:literal $full:literal $size:literal $check:expr;)*) => {
        pub(super) const TABLE: &[Row] = &[
            $(row($full, $full, "() -> kubernetes.NamedFormat", |_| {
                Ok(Value::opaque(Format { name: $name, size: $size, check: $check }))
            }),)*
            row("format.named", "format-named", "(string) -> optional(kubernetes.NamedFormat)", named),
            row(
                "validate",
                "format-validate",
                "kubernetes.NamedFormat.(string) -> optional(list(string))",
                validate,
            )
            .costs(Cost::Validate),
        ];
        const FORMATS: &[Format] = &[$(Format { name: $name, size: $size, check: $check }),*];
    };
}

formats! {
    "dns1123Label" "format.dns1123Label" 30 dns1123_label;
    "dns1123Subdomain" "format.dns1123Subdomain" 60 dns1123_subdomain;
    "dns1035Label" "format.dns1035Label" 30 dns1035_label;
    "qualifiedName" "format.qualifiedName" 60 qualified_name;
    "dns1123LabelPrefix" "format.dns1123LabelPrefix" 30 |text| dns1123_label(&as_prefix(text));
    "dns1123SubdomainPrefix" "format.dns1123SubdomainPrefix" 60 |text| dns1123_subdomain(&as_prefix(text));
    "dns1035LabelPrefix" "format.dns1035LabelPrefix" 30 |text| dns1035_label(&as_prefix(text));
    "labelValue" "format.labelValue" 40 label_value;
    "uri" "format.uri" 1104 |text| super::url::Url::read(text).err().into_iter().collect();
    "uuid" "format.uuid" 72 |text| unless(matches(UUID, text), "does not match the UUID format");
    "byte" "format.byte" 84 |text| unless(STANDARD.decode(text).is_ok(), "invalid base64");
    "date" "format.date" 72 |text| unless(is_date(text), "invalid date");
    "datetime" "format.datetime" 72 |text| unless(matches(DATE_TIME, text), "invalid datetime");
}

const UUID: &str = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
const DATE_TIME: &str = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$";

#[derive(Clone, Copy, Debug)]
struct Format {
    name: &'static str,
    /// Length of the pattern costs are reckoned with.
    size: u64,
    check: fn(&str) -> Vec<String>,
}

impl Opaque for Format {
    fn cel_type(&self) -> Type {
        Type::object("kubernetes.NamedFormat")
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Format>().is_some_and(|other| other.name == self.name)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// === functions ===

fn named<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(name)] = args else { return no_overload() };
    let found = FORMATS.iter().find(|format| format.name == &**name);
    Ok(found.map_or(Value::Optional(None), |format| Value::some(Value::opaque(*format))))
}

fn validate<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [format, Value::String(text)] = args else { return no_overload() };
    let Some(format) = format.downcast::<Format>() else { return no_overload() };
    let mistakes: Vec<_> = (format.check)(text).into_iter().map(Value::string).collect();
    Ok(match mistakes.is_empty() {
        true => Value::Optional(None),
        false => Value::some(Value::list(mistakes)),
    })
}

// === formats ===

fn unless(holds: bool, mistake: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![mistake.to_owned()] }
}

fn matches(pattern: &str, text: &str) -> bool {
    compile_regex(pattern).is_ok_and(|regex| regex.is_match(text))
}

/// The beginning of a name may end in what names may not.
fn as_prefix(text: &str) -> String {
    match text.len() > 1 && text.ends_with('-') {
        true => format!("{}a", &text[..text.len() - 2]),
        false => text.to_owned(),
    }
}

/// A name of limited length that matches a pattern.
struct Name {
    limit: usize,
    unit: &'static str,
    pattern: &'static str,
    rule: &'static str,
    examples: &'static [&'static str],
}

impl Name {
    fn check(&self, text: &str) -> Vec<String> {
        let Name { limit, unit, pattern, rule, examples } = self;
        let mut mistakes = Vec::new();
        if text.len() > *limit {
            mistakes.push(format!("must be no more than {limit} {unit}"));
        }
        if !matches(&format!("^(?:{pattern})$"), text) {
            let examples: Vec<_> =
                examples.iter().map(|example| format!("'{example}', ")).collect();
            let examples = examples.join(" or ");
            mistakes
                .push(format!("{rule} (e.g. {examples}regex used for validation is '{pattern}')"));
        }
        mistakes
    }
}

fn dns1123_label(text: &str) -> Vec<String> {
    let name = Name {
        limit: 63,
        unit: "bytes",
        pattern: "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        rule: "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
               '-', and must start and end with an alphanumeric character",
        examples: &["my-name", "123-abc"],
    };
    name.check(text)
}

fn dns1123_subdomain(text: &str) -> Vec<String> {
    let name = Name {
        limit: 253,
        unit: "bytes",
        pattern: r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        rule: "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
               '-' or '.', and must start and end with an alphanumeric character",
        examples: &["example.com"],
    };
    name.check(text)
}

fn dns1035_label(text: &str) -> Vec<String> {
    let name = Name {
        limit: 63,
        unit: "characters",
        pattern: "[a-z]([-a-z0-9]*[a-z0-9])?",
        rule: "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
               with an alphabetic character, and end with an alphanumeric character",
        examples: &["my-name", "abc-123"],
    };
    name.check(text)
}

fn label_value(text: &str) -> Vec<String> {
    let name = Name {
        limit: 63,
        unit: "bytes",
        pattern: "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
        rule: "a valid label must be an empty string or consist of alphanumeric characters, '-', \
               '_' or '.', and must start and end with an alphanumeric character",
        examples: &["MyValue", "my_value", "12345"],
    };
    name.check(text)
}

/// A name with an optional DNS name before it.
fn qualified_name(text: &str) -> Vec<String> {
    let key = Name {
        limit: 63,
        unit: "bytes",
        pattern: "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
        rule: "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
               with an alphanumeric character",
        examples: &["MyName", "my.name", "123-abc"],
    };
    let (prefix, name) = match text.matches('/').count() {
        0 => (None, text),
        1 => text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name)),
        _ => {
            let whole = Name {
                rule: "a valid label key must consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character",
                ..key
            };
            let mistake = whole.check("").pop().unwrap_or_default();
            return vec![
                mistake
                    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ];
        }
    };
    let mut mistakes = Vec::new();
    match prefix {
        Some("") => mistakes.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            mistakes.extend(dns1123_subdomain(prefix).iter().map(|m| format!("prefix part {m}")));
        }
        None => {}
    }
    if name.is_empty() {
        mistakes.push("name part must be non-empty".to_owned());
    }
    mistakes.extend(key.check(name).iter().map(|mistake| format!("name part {mistake}")));
    mistakes
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

pub(super) fn is_service_account_name(name: &str) -> bool {
    dns1123_subdomain(name).is_empty()
}

pub(super) fn is_namespace_name(name: &str) -> bool {
    dns1123_label(name).is_empty()
}
