//! The small rules of the group: names, identifiers, and lists that are bounded and hold nothing twice.
//!
//! Counterpart: the generic helpers of `pkg/apis/resource/validation`. Invariant: a list beyond its bound is reported as
//! that and not looked into.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kinds::at::At;
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::validation::dns_subdomain;

pub const SELECTORS_MAX: usize = 32;
pub const CONFIG_MAX: usize = 32;
/// The longest opaque text: parameters of a driver, data of a device.
pub const RAW_MAX: usize = 10 * 1024;
const POOL_NAME_MAX: usize = 253;
const IDENTIFIER_MAX: usize = 32;
const SHOWN_KEY_MAX: usize = 63 + 1 + IDENTIFIER_MAX;

/// Checks each of at most `max` elements; false if there are more.
pub fn each(
    list: &At,
    max: usize,
    errors: &mut ErrorList,
    mut check: impl FnMut(&At, &mut ErrorList),
) -> bool {
    let length = list.list().len();
    if length > max {
        errors.too_many(&list.path, length, max);
        return false;
    }
    list.items().for_each(|item| check(&item, errors));
    true
}

/// As [`each`], of elements that differ in their key.
pub fn set(
    list: &At,
    max: usize,
    key: impl Fn(&Value) -> String,
    errors: &mut ErrorList,
    check: impl FnMut(&At, &mut ErrorList),
) {
    if !each(list, max, errors, check) {
        return;
    }
    let mut seen = HashSet::new();
    for item in list.items() {
        let key = key(item.value);
        if seen.contains(&key) {
            errors.duplicate(&item.path, key);
        } else {
            seen.insert(key);
        }
    }
}

/// The key of elements that have a name.
pub fn by_name(item: &Value) -> String {
    text_in(item, "name")
}

pub fn text_in(item: &Value, field: &str) -> String {
    item[field].as_str().unwrap_or_default().to_owned()
}

/// The key of elements that are text.
pub fn itself(item: &Value) -> String {
    item.as_str().unwrap_or_default().to_owned()
}

/// A key of a map as paths show it: with the middle cut out of one that is too long.
pub fn shown_key(key: &str, max: usize) -> String {
    if key.len() <= max {
        return key.to_owned();
    }
    let kept = max - "...".len();
    let start = (0..=kept.div_ceil(2)).rev().find(|at| key.is_char_boundary(*at)).unwrap_or(0);
    let end = (key.len() - kept / 2..=key.len()).find(|at| key.is_char_boundary(*at));
    format!("{}...{}", &key[..start], &key[end.unwrap_or(key.len())..])
}

/// Checks the entries of a map by qualified name: names at the map, values beneath their key.
pub fn by_qualified_name(
    map: &At,
    errors: &mut ErrorList,
    mut check: impl FnMut(&At, &mut ErrorList),
) {
    for (key, value) in map.map().into_iter().flatten() {
        qualified_name(key, &map.path, errors);
        let shown = shown_key(key, SHOWN_KEY_MAX);
        check(&At::new(value, map.path.key(&shown)), errors);
    }
}

// === names ===

pub fn pool_name(name: &At, errors: &mut ErrorList) {
    if !name.needed(errors) {
        return;
    }
    if name.text().len() > POOL_NAME_MAX {
        errors.too_long(&name.path, POOL_NAME_MAX);
    }
    for part in name.text().split('/') {
        dns_subdomain(part).into_iter().for_each(|fault| name.invalid_as(errors, part, fault));
    }
}

/// `name`, or `domain/name`.
pub fn qualified_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [name] => identifier(name, path, errors),
        [domain, name] => {
            match domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => validate_driver_name(&At::new(&Value::from(domain), *path), errors),
            }
            match name {
                "" => errors.invalid(path, "", "the name must not be empty"),
                name => identifier(name, path, errors),
            }
        }
        // As upstream, which looks at names with one slash at most.
        _ => {}
    }
}

pub fn fully_qualified_name(name: &At, errors: &mut ErrorList) {
    qualified_name(name.text(), &name.path, errors);
    if !name.text().contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        name.invalid(errors, detail);
    }
}

fn identifier(text: &str, path: &Path<'_>, errors: &mut ErrorList) {
    const FORMAT: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if text.len() > IDENTIFIER_MAX {
        errors.too_long(path, IDENTIFIER_MAX);
    }
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        errors.invalid(path, text, FORMAT);
    }
}

/// A UUID, written in the one normal way.
pub fn uid(uid: &At, errors: &mut ErrorList) {
    const NORMAL: &str = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    let text = uid.text();
    match uuid_fault(text) {
        Some(fault) => uid.invalid(errors, format!("error validating uid: {fault}")),
        None if text.len() != 36 || text != text.to_lowercase() => uid.invalid(errors, NORMAL),
        None => {}
    }
}

/// What is wrong with a UUID, plain or as a URN, in braces or without dashes.
fn uuid_fault(text: &str) -> Option<String> {
    const URN: &str = "urn:uuid:";
    let plain = match text.len() {
        32 | 36 => text,
        38 if text.starts_with('{') && text.ends_with('}') => &text[1..37],
        38 => return Some("invalid bracketed UUID format".to_owned()),
        45 => match text.get(..9) {
            Some(prefix) if prefix.eq_ignore_ascii_case(URN) => &text[9..],
            prefix => {
                return Some(format!("invalid urn prefix: {:?}", prefix.unwrap_or_default()));
            }
        },
        length => return Some(format!("invalid UUID length: {length}")),
    };
    let dash = |at: usize| plain.len() == 36 && matches!(at, 8 | 13 | 18 | 23);
    let fine = plain.bytes().enumerate().all(|(at, byte)| match dash(at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    });
    (!fine).then(|| "invalid UUID format".to_owned())
}

/// A JSON object that only a driver understands. `length` is not looked at if it was let in before.
pub fn raw_object(raw: &At, stored: bool, errors: &mut ErrorList) {
    if !raw.is_set() {
        raw.required(errors, "");
    } else if !stored && raw.value.to_string().len() > RAW_MAX {
        errors.too_long(&raw.path, RAW_MAX);
    } else if raw.map().is_none() {
        raw.invalid_as(errors, "<value omitted>", "must be a valid JSON object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_keep_both_ends() {
        assert_eq!(shown_key("short", 16), "short");
        assert_eq!(shown_key("0123456789abcdefgh", 16), "0123456...cdefgh");
        assert!(shown_key(&"ü".repeat(60), 96).contains("..."));
    }

    #[test]
    fn uuids_are_taken_in_four_forms_by_the_parser() {
        let plain = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        for fine in [plain, &format!("{{{plain}}}"), &format!("urn:uuid:{plain}")] {
            assert_eq!(uuid_fault(fine), None, "{fine}");
        }
        assert_eq!(uuid_fault("x").as_deref(), Some("invalid UUID length: 1"));
        assert_eq!(uuid_fault(&"x".repeat(36)).as_deref(), Some("invalid UUID format"));
    }
}
