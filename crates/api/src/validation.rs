//! Rules for names, labels, annotations and object metadata, with upstream's messages.
//!
//! Text -> what is wrong with it (no message: nothing). Counterparts: `apimachinery/pkg/util/validation`
//! and `pkg/api/validation` (`ValidateObjectMeta`, `ValidateObjectMetaUpdate`).

mod meta;

pub use meta::{
    drop_repeated_owners, validate_annotations, validate_embedded_meta, validate_kind_meta_update,
    validate_label, validate_meta, validate_meta_update,
};
/// A label key is any qualified name, and upstream's message calls both label keys.
pub use qualified_name as label_key;

use crate::kind::NameRule;

pub const DNS_LABEL_MAX: usize = 63;
pub const DNS_SUBDOMAIN_MAX: usize = 253;

const LABEL_FORMAT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_FORMAT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_FORMAT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME_FORMAT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_FORMAT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const WILDCARD_FORMAT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Faults of a DNS label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut faults = name_too_long(text, DNS_LABEL_MAX, "characters");
    if !is_label(text) {
        let subdomain = is_subdomain(text);
        faults.push(match subdomain {
            true => "must not contain dots".to_owned(),
            false => LABEL_FORMAT.to_owned(),
        });
    }
    faults
}

/// Faults of a DNS subdomain: labels joined by dots, at most 253.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut faults = name_too_long(text, DNS_SUBDOMAIN_MAX, "characters");
    if !is_subdomain(text) {
        faults.push(SUBDOMAIN_FORMAT.to_owned());
    }
    faults
}

/// Faults of a DNS-1035 label: a DNS label that starts with a letter.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut faults = name_too_long(text, DNS_LABEL_MAX, "characters");
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        faults.push(LABEL_1035_FORMAT.to_owned());
    }
    faults
}

/// Faults of `*.example.com`.
pub fn wildcard_dns_subdomain(text: &str) -> Vec<String> {
    let mut faults = name_too_long(text, DNS_SUBDOMAIN_MAX, "characters");
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        faults.push(WILDCARD_FORMAT.to_owned());
    }
    faults
}

/// Faults of a label key or the like: `prefix/name` or `name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (mut faults, name) = match parts[..] {
        [name] => (Vec::new(), name),
        ["", name] => (vec!["prefix part must be non-empty".to_owned()], name),
        [prefix, name] => {
            // Counted in bytes here, and in characters where a subdomain stands alone.
            let mut about_prefix = name_too_long(prefix, DNS_SUBDOMAIN_MAX, "bytes");
            if !is_subdomain(prefix) {
                about_prefix.push(SUBDOMAIN_FORMAT.to_owned());
            }
            (about_prefix.into_iter().map(|fault| format!("prefix part {fault}")).collect(), name)
        }
        _ => {
            return vec![format!(
                "a valid label key {QUALIFIED_NAME_FORMAT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS_LABEL_MAX {
        faults.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name_part(name) {
        faults.push(format!("name part {QUALIFIED_NAME_FORMAT}"));
    }
    faults
}

/// Faults of a label value: empty or a name part, at most 63.
pub fn label_value(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        faults.push(format!("must be no more than {DNS_LABEL_MAX} bytes"));
    }
    if !text.is_empty() && !is_name_part(text) {
        faults.push(LABEL_VALUE_FORMAT.to_owned());
    }
    faults
}

/// Faults of a name that must fit into one segment of a path.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let bad = ["/", "%"].into_iter().filter(|part| text.contains(part));
    bad.map(|part| format!("may not contain '{part}'")).collect()
}

/// Faults of an object's name. A generated name's prefix may end in `-`.
pub fn object_name(rule: NameRule, name: &str, is_prefix: bool) -> Vec<String> {
    // Upstream masks the character before the hyphen as well.
    let masked = match name.strip_suffix('-') {
        Some(start) if is_prefix && !start.is_empty() => {
            let last = start.char_indices().next_back().map_or(0, |(at, _)| at);
            format!("{}a", &start[..last])
        }
        _ => name.to_owned(),
    };
    match rule {
        NameRule::DnsSubdomain => dns_subdomain(&masked),
        NameRule::DnsLabel => dns_label(&masked),
        NameRule::Dns1035Label => dns_1035_label(&masked),
        NameRule::PathSegment => path_segment(name),
        NameRule::Custom => Vec::new(),
    }
}

/// Faults of a port number.
pub fn port_number(port: i64) -> Vec<String> {
    match (1..=65535).contains(&port) {
        true => Vec::new(),
        false => vec!["must be between 1 and 65535, inclusive".to_owned()],
    }
}

/// Faults of a port name (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 15 {
        faults.push("must be no more than 15 characters".to_owned());
    }
    let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if text.is_empty() || !text.bytes().all(fits) {
        faults
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

fn name_too_long(text: &str, max: usize, unit: &str) -> Vec<String> {
    match text.len() > max {
        true => vec![format!("must be no more than {max} {unit}")],
        false => Vec::new(),
    }
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_against_their_rule() {
        assert!(dns_subdomain("a.b-c.9").is_empty());
        assert_eq!(dns_subdomain("a..b"), [SUBDOMAIN_FORMAT]);
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns_1035_label("9a"), [LABEL_1035_FORMAT]);
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
        assert!(object_name(NameRule::DnsSubdomain, "web-", true).is_empty());
        assert!(!object_name(NameRule::DnsSubdomain, "web-", false).is_empty());
        let masked = "the character before the hyphen of a prefix is not looked at";
        assert!(object_name(NameRule::DnsSubdomain, "webX-", true).is_empty(), "{masked}");
    }

    #[test]
    fn label_keys_and_values() {
        assert!(label_key("example.com/Name_1").is_empty());
        assert_eq!(label_key("/x"), ["prefix part must be non-empty"]);
        let long = format!("{}z/x", "z.".repeat(127));
        assert_eq!(label_key(&long), ["prefix part must be no more than 253 bytes"]);
        let shape = label_key("a/b/c");
        assert!(shape[0].starts_with("a valid label key must consist of"), "{shape:?}");
        assert!(shape[0].ends_with("(e.g. 'example.com/MyName')"));
        assert!(label_value("").is_empty());
        assert_eq!(label_value("a/b"), [LABEL_VALUE_FORMAT]);
        assert_eq!(
            port_name("-a--b"),
            ["must not contain consecutive hyphens", "must not begin or end with a hyphen"]
        );
    }
}
